"""The gateway as a back end sees it.

async with Gateway("https://push.example.org", "sk_...") as gateway:
    await gateway.notifications.send(content={"title": "Your parcel is here"}, audience={"user_id": "u-42"})
"""

import ssl
from types import TracebackType
from typing import Self

from gateway.client.audience import Audiences, Categories, Devices, Segments, Topics, Users
from gateway.client.decoding import decode
from gateway.client.operations import Applications, Audit, Deliveries, Webhooks
from gateway.client.responses import Readiness, VapidKey
from gateway.client.sending import (
    Alerts,
    Campaigns,
    Events,
    Feeds,
    Notifications,
    Reminders,
    Templates,
    Triggers,
)
from gateway.client.transport import Transport


class Gateway:
    """One gateway by one key, for one event loop. `async with` closes its connections; so does `close()`.

    `tries` are made of a request that may be repeated, as long as no pause between them is longer than `patience`
    seconds; each may take `timeout` seconds. `tls` is for a certificate of your own authority.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        tries: int = 4,
        patience: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raises ValueError when `url` is none of http or https."""
        self._transport = Transport(url, key, timeout=timeout, tries=tries, patience=patience, tls=tls)
        self.alerts = Alerts(self._transport)
        self.applications = Applications(self._transport)
        self.audiences = Audiences(self._transport)
        self.audit = Audit(self._transport)
        self.campaigns = Campaigns(self._transport)
        self.categories = Categories(self._transport)
        self.deliveries = Deliveries(self._transport)
        self.devices = Devices(self._transport)
        self.events = Events(self._transport)
        self.feeds = Feeds(self._transport)
        self.notifications = Notifications(self._transport)
        self.reminders = Reminders(self._transport)
        self.segments = Segments(self._transport)
        self.templates = Templates(self._transport)
        self.topics = Topics(self._transport)
        self.triggers = Triggers(self._transport)
        self.users = Users(self._transport)
        self.webhooks = Webhooks(self._transport)

    async def ready(self) -> Readiness:
        """Whether it can do its work. Raises Unavailable when it cannot."""
        return decode(Readiness, (await self._transport.call("GET", "/readyz")).body)

    async def vapid_public_key(self) -> str:
        """The key that pages subscribe with."""
        return decode(VapidKey, (await self._transport.call("GET", "/v1/vapid-public-key")).body).vapid_public_key

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
