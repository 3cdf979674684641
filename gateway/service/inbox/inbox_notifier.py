"""Notify the subscribers of inboxes: long polls and live connections.

A process reads new entries of a delivery log once for all its subscribers, when a database notification announces them.
A subscriber uses no database connection while it waits. A notification is a hint: the subscriber reads its inbox.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import structlog

from gateway.records.delivery_log import inbox, reader
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import DATABASE_ERRORS, Engine

# Database notifications may be lost, so all subscribers are notified at least this often.
POLL_INTERVAL_S = 15.0

logger = structlog.get_logger(__name__)


class InboxSubscription:
    """A subscription to the inbox of one device."""

    def __init__(self) -> None:
        """Build a subscription without a pending notification."""
        self._notified = asyncio.Event()

    def notify(self) -> None:
        """Wake the subscriber."""
        self._notified.set()

    async def wait(self, seconds: float) -> bool:
        """Return True as soon as the inbox may have new items, False after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        notified = self._notified.is_set()
        self._notified.clear()
        return notified


class InboxNotifier:
    """Notifies the subscribers of a process; it reads delivery logs only while there are subscribers."""

    def __init__(self, engine: Engine, notifier_: notifier.Notifier) -> None:
        """Build a notifier that listens to database notifications."""
        self._engine = engine
        self._notifier = notifier_
        self._subscriptions: dict[UUID, dict[UUID, set[InboxSubscription]]] = defaultdict(dict)
        self._read: dict[UUID, int] = {}
        self._reader: asyncio.Task[None] | None = None
        self.closed = False

    @contextmanager
    def watch(self, application_id: UUID, device_id: UUID) -> Iterator[InboxSubscription]:
        """Subscribe to an inbox. Subscribe before reading the inbox, so that no item is missed."""
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
                self._read.pop(application_id, None)

    def waiting(self, application_id: UUID, device_id: UUID) -> int:
        """Return the number of subscribers of a device."""
        return len(self._subscriptions.get(application_id, {}).get(device_id, ()))

    async def close(self) -> None:
        """Notify all subscribers for the last time, and stop reading."""
        self.closed = True
        self._notify_all()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    async def _read_forever(self) -> None:
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
        subscriptions = self._subscriptions[application_id]
        async with self._engine.connect() as conn:
            last_position = await reader.last_position(conn, application_id)
            after = self._read.get(application_id)
            if after is None:
                device_ids = set(subscriptions)
            else:
                device_ids = await inbox.find_devices_with_news(
                    conn, application_id, list(subscriptions), after=after, upto=last_position
                )
        self._read[application_id] = last_position
        for device_id in device_ids:
            for subscription in subscriptions.get(device_id, ()):
                subscription.notify()

    def _notify_live_connections(self, payloads: set[str]) -> None:
        for payload in payloads:
            application_id, space, device_id = payload.partition(" ")
            if space:
                for subscription in self._subscriptions.get(UUID(application_id), {}).get(UUID(device_id), ()):
                    subscription.notify()

    def _notify_all(self) -> None:
        for subscriptions in self._subscriptions.values():
            for of_device in subscriptions.values():
                for subscription in of_device:
                    subscription.notify()
