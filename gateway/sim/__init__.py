"""A local push service (RFC 8030) for tests and demos. Its receivers are simulated devices, or a real Firefox.

Four origins behave like FCM, Mozilla, Apple and WNS. They return the errors that a test sets, and store messages, which
a test can read decrypted. The package shares no code with `gateway.push`: it implements the RFCs independently.

    async with Sim() as sim:
        device = sim.subscribe(Vendor.APPLE, vapid_public_key)
        ...                                    # the gateway posts to device.endpoint
        await sim.wait_for(count=1)
        assert device.messages[0].json()["web_push"] == 8030
"""

from gateway.sim.behaviour import DEMO, SITE_LIMIT, Limit, Rule
from gateway.sim.keys import DeviceKeys, Undecryptable
from gateway.sim.messages import Message
from gateway.sim.profiles import PROFILES, Vendor
from gateway.sim.service import Sim
from gateway.sim.subscribers import Subscriber

__all__ = [
    "DEMO",
    "PROFILES",
    "SITE_LIMIT",
    "DeviceKeys",
    "Limit",
    "Message",
    "Rule",
    "Sim",
    "Subscriber",
    "Undecryptable",
    "Vendor",
]
