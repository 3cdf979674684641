"""The second tenant of the adversary suite: an application whose alerts must stay on time during an attack.

    bystander = await Bystander.create(parts, origin, http)
    async with attack():
        await bystander.check_alert()

The gateway runs in separate processes, so that an attack on it does not slow down the test that measures.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from gateway.domain import ids
from gateway.service.access import applications
from gateway.sim import Vendor
from tests.support.gateway_parts import APP_ORIGIN, Parts

DEVICES = 20
# The number of alerts that are timed on the idle gateway.
IDLE_ALERTS = 3
# The number of alerts of which one must be on time: a busy machine delays single alerts, an attack delays all of them.
ALERTS_DURING_ATTACK = 3
# The maximum duration of an alert on time, as a multiple of its duration on the idle gateway.
MAX_SLOWDOWN = 1.5
# Alerts below this duration are on time whatever their duration on the idle gateway is.
ON_TIME_S = 1.0


@dataclass(slots=True)
class Bystander:
    """An application with devices that nobody attacks.

    Attributes:
        parts: the gateway's parts with this application as their application.
        idle_s: the shortest duration of an alert on the idle gateway, from the request to the last delivery.
    """

    parts: Parts
    origin: str
    http: aiohttp.ClientSession
    idle_s: float = 0.0

    @classmethod
    async def create(
        cls, parts: Parts, origin: str, http: aiohttp.ClientSession, vendor: Vendor = Vendor.FCM
    ) -> "Bystander":
        """Create the application and its devices, and time alerts on the idle gateway."""
        async with parts.engine.begin() as conn:
            application = await applications.create(
                conn, parts.context.keyring, "Bystander", "mailto:ops@example.net", [APP_ORIGIN]
            )
        application_id = ids.parse(ids.APPLICATION, application["id"])
        assert application_id is not None
        bystander = cls(replace(parts, application_id=application_id, application=application), origin, http)
        await bystander.parts.register(bystander.parts.subscribe(vendor, DEVICES))
        bystander.idle_s = min([await bystander.time_alert() for _ in range(IDLE_ALERTS)])
        return bystander

    async def time_alert(self, **fields: Any) -> float:
        """Send an alert; return the seconds from the request until DEVICES devices have accepted it.

        `fields` are further fields of the request, such as an audience other than all devices.
        """
        body = {
            "event": "Storm",
            "headline": "Storm: stay inside",
            "severity": "Extreme",
            "urgency": "Immediate",
            "certainty": "Observed",
            "audience": {"everyone": True},
            **fields,
        }
        headers = {"Authorization": f"Bearer {self.parts.application['secret_key']}"}
        started = time.monotonic()
        async with self.http.post(f"{self.origin}/v1/alerts", json=body, headers=headers) as response:
            alert = await response.json()
            assert response.status < 300, (response.status, alert)
        notification_id = ids.parse(ids.NOTIFICATION, alert["id"])
        assert notification_id is not None
        progress = await self.parts.wait_until_done(notification_id)
        duration = time.monotonic() - started
        assert progress.accepted == DEVICES, progress
        return duration

    async def check_alert(self, **fields: Any) -> float:
        """Fail unless one of ALERTS_DURING_ATTACK alerts is on time; return its duration in seconds."""
        bound = max(MAX_SLOWDOWN * self.idle_s, ON_TIME_S)
        durations = []
        for _ in range(ALERTS_DURING_ATTACK):
            durations.append(await self.time_alert(**fields))
            if durations[-1] <= bound:
                return durations[-1]
        raise AssertionError(f"alerts took {durations} s during the attack, {self.idle_s:.2f} s on the idle gateway")
