"""A local push service: RFC 8030 for senders, simulated devices and a real Firefox for receivers.

Four origins behave like FCM, Mozilla, Apple and WNS, return errors on demand, and store messages so that a test can
read them decrypted. The package shares no code with `gateway.push`: it is an independent implementation of the RFCs.

    async with Sim() as sim:
        device = sim.subscribe(Vendor.APPLE, vapid_public_key)
        ...                                    # the gateway posts to device.endpoint
        await sim.wait_for(count=1)
        assert device.messages[0].json()["web_push"] == 8030
"""

from gateway.sim.behaviour import DEMO, Rule
from gateway.sim.keys import DeviceKeys, Undecryptable
from gateway.sim.messages import Message
from gateway.sim.profiles import PROFILES, Vendor
from gateway.sim.service import Sim
from gateway.sim.subscribers import Subscriber

__all__ = ["DEMO", "PROFILES", "DeviceKeys", "Message", "Rule", "Sim", "Subscriber", "Undecryptable", "Vendor"]
