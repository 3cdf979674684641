"""The entry point of the client.

This sends a notification to one user:

    async with Gateway("https://push.example.org", "sk_...") as gateway:
        await gateway.notifications.send(content={"title": "Your order has shipped"}, audience={"user_id": "u-42"})
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
    """Client of one gateway with one API key, for one event loop.

    Use it with `async with`, or call `close()` at the end. Requests that are safe to repeat are retried.

    Args:
        url: base URL of the gateway.
        key: API key; not needed for `check_readiness`.
        timeout: seconds for each attempt.
        max_attempts: attempts per request, including the first.
        max_wait: the longest pause before a retry, in seconds. If the gateway asks for a longer one, the error is
            raised.
        tls: TLS context, for a private certificate authority.

    Raises:
        ValueError: `url` is not an http or https URL.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        max_attempts: int = 4,
        max_wait: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create the client; connections are opened on first use."""
        self._transport = Transport(url, key, timeout=timeout, max_attempts=max_attempts, max_wait=max_wait, tls=tls)
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

    async def check_readiness(self) -> Readiness:
        """Return the readiness of the gateway and its parts.

        Raises:
            Unavailable: the gateway is not ready.
        """
        return decode(Readiness, (await self._transport.call("GET", "/readyz")).body)

    async def get_vapid_public_key(self) -> str:
        """Return the VAPID public key that pages need to subscribe."""
        return decode(VapidKey, (await self._transport.call("GET", "/v1/vapid-public-key")).body).vapid_public_key

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self.close()
