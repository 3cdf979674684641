"""A local push service: RFC 8030 on one side, simulated devices and a real Firefox on the other.

Four origins answer as FCM, Mozilla, Apple and WNS do, misbehave on demand, and keep what arrived so that a
test can read it decrypted. It shares no code with `gateway.push`: it is the other opinion on the RFCs.

    async with Sim() as sim:
        device = sim.subscribe(Vendor.APPLE, vapid_public_key)
        ...                                    # the gateway posts to device.endpoint
        await sim.wait_for(count=1)
        assert device.messages[0].json()["web_push"] == 8030
"""

from gateway.sim.behaviour import DEMO, Rule
from gateway.sim.keys import Keys, Undecryptable
from gateway.sim.messages import Message
from gateway.sim.profiles import PROFILES, Vendor
from gateway.sim.service import Sim
from gateway.sim.subscribers import Subscriber

__all__ = ["DEMO", "PROFILES", "Keys", "Message", "Rule", "Sim", "Subscriber", "Undecryptable", "Vendor"]
