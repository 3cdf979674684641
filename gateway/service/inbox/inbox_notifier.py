"""Notify subscribers of new inbox items. Subscribers are long polls and live connections.

When Postgres announces new entries of a delivery log (NOTIFY), a process reads them once for all its subscribers. A
subscriber uses no database connection while it waits. A wake-up of a subscriber is only a hint: the subscriber then
reads its inbox.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import structlog

from gateway.domain.database_work import LIVE
from gateway.records.delivery_log import inbox, reader
from gateway.records.postgres import notifier
from gateway.records.postgres.connection_shares import ConnectionShares
from gateway.records.postgres.engine import DATABASE_ERRORS

# All subscribers are notified at least this often, because messages of Postgres may be lost.
POLL_INTERVAL_S = 15.0

logger = structlog.get_logger(__name__)


class InboxSubscription:
    """A subscription to the inbox of one device."""

    def __init__(self) -> None:
        """Create a subscription."""
        self._notified = asyncio.Event()

    def notify(self) -> None:
        """Wake the subscriber."""
        self._notified.set()

    async def wait(self, seconds: float) -> bool:
        """Wait until the inbox may have new items, and return True; return False after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        notified = self._notified.is_set()
        self._notified.clear()
        return notified


class InboxNotifier:
    """Notifies the subscribers in this process. It reads delivery logs only while there are subscribers."""

    def __init__(self, connections: ConnectionShares, notifier_: notifier.Notifier) -> None:
        """Create a notifier that is woken by messages of Postgres."""
        self._connections = connections
        self._notifier = notifier_
        # The subscriptions by application id and device id.
        self._subscriptions: dict[UUID, dict[UUID, set[InboxSubscription]]] = defaultdict(dict)
        # The log position up to which subscribers were notified, by application id.
        self._notified_upto: dict[UUID, int] = {}
        self._reader: asyncio.Task[None] | None = None
        self.closed = False

    @contextmanager
    def subscribe(self, application_id: UUID, device_id: UUID) -> Iterator[InboxSubscription]:
        """Subscribe to the inbox of a device. Subscribe before reading the inbox, so that no item is missed."""
        subscription = InboxSubscription()
        subscriptions = self._subscriptions[application_id]
        subscriptions.setdefault(device_id, set()).add(subscription)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_forever(), name="inbox-notifier")
        try:
            yield subscription
        finally:
            subscriptions[device_id].discard(subscription)
            if not subscriptions[device_id]:
                del subscriptions[device_id]
            if not subscriptions and self._subscriptions.get(application_id) is subscriptions:
                del self._subscriptions[application_id]
                self._notified_upto.pop(application_id, None)

    def count_subscribers(self, application_id: UUID, device_id: UUID) -> int:
        """Return the number of subscribers to the inbox of a device."""
        return len(self._subscriptions.get(application_id, {}).get(device_id, ()))

    async def close(self) -> None:
        """Notify all subscribers a last time, and stop reading delivery logs."""
        self.closed = True
        self._notify_all()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    async def _read_forever(self) -> None:
        """Notify subscribers of new inbox items and offers, as long as there are subscribers."""
        with self._notifier.subscribe(notifier.LOG, notifier.LIVE) as listener:
            while self._subscriptions:
                payloads = await listener.wait(POLL_INTERVAL_S)
                self._notify_live_connections(payloads)
                try:
                    if not payloads or "" in payloads:
                        self._notify_all()
                    for application_id in [id_ for id_ in self._subscriptions if str(id_) in payloads]:
                        await self._distribute(application_id)
                except DATABASE_ERRORS as error:
                    logger.warning("inbox_notifier.database_unavailable", error=type(error).__name__)
                    self._notify_all()

    async def _distribute(self, application_id: UUID) -> None:
        """Notify the subscribers of one application whose devices have new inbox entries."""
        subscriptions = self._subscriptions[application_id]
        async with self._connections.share(LIVE, application_id).connect() as conn:
            last_position = await reader.last_position(conn, application_id)
            after = self._notified_upto.get(application_id)
            if after is None:
                device_ids = set(subscriptions)
            else:
                device_ids = await inbox.find_devices_with_new_entries(
                    conn, application_id, list(subscriptions), after=after, upto=last_position
                )
        self._notified_upto[application_id] = last_position
        for device_id in device_ids:
            for subscription in subscriptions.get(device_id, ()):
                subscription.notify()

    def _notify_live_connections(self, payloads: set[str]) -> None:
        """Notify the subscribers of devices with new offers: payloads of the form `<application id> <device id>`."""
        for payload in payloads:
            application_id, space, device_id = payload.partition(" ")
            if space:
                for subscription in self._subscriptions.get(UUID(application_id), {}).get(UUID(device_id), ()):
                    subscription.notify()

    def _notify_all(self) -> None:
        for by_device in self._subscriptions.values():
            for subscriptions in by_device.values():
                for subscription in subscriptions:
                    subscription.notify()
