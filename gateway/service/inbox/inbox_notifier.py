"""Wake whoever waits for a device's mail: long polls of inboxes, and open pages.

However many wait, the new part of an application's log is read once for all of them in this process, when a signal
says that it has grown. Waiting holds no connection to the database. A wake-up is a hint: who is woken looks for itself.
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

LOOK_S = 15.0
"""A signal may be lost; after so long everyone looks for themselves."""

logger = structlog.get_logger(__name__)


class InboxSubscription:
    """One interest in one device's mail."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, seconds: float) -> bool:
        """True as soon as there may be something new; False after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        rung = self._rung.is_set()
        self._rung.clear()
        return rung


class InboxNotifier:
    """One for a process. It reads the log only while somebody waits."""

    def __init__(self, engine: Engine, bell: notifier.Notifier) -> None:
        self._engine = engine
        self._bell = bell
        self._watches: dict[UUID, dict[UUID, set[InboxSubscription]]] = defaultdict(dict)
        self._read: dict[UUID, int] = {}
        self._reader: asyncio.Task[None] | None = None
        self.closed = False

    @contextmanager
    def watch(self, application_id: UUID, device_id: UUID) -> Iterator[InboxSubscription]:
        """Listen before looking, so that nothing falls between."""
        watch = InboxSubscription()
        watches = self._watches[application_id]
        watches.setdefault(device_id, set()).add(watch)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._keep_reading(), name="mailroom")
        try:
            yield watch
        finally:
            watches[device_id].discard(watch)
            if not watches[device_id]:
                del watches[device_id]
            if not watches and self._watches.get(application_id) is watches:
                del self._watches[application_id]
                self._read.pop(application_id, None)

    def waiting(self, application_id: UUID, device_id: UUID) -> int:
        """How many wait for this device now."""
        return len(self._watches.get(application_id, {}).get(device_id, ()))

    async def close(self) -> None:
        """Nobody waits any longer."""
        self.closed = True
        self._ring_all()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    async def _keep_reading(self) -> None:
        with self._bell.subscribe(notifier.LOG, notifier.LIVE) as waiter:
            while self._watches:
                heard = await waiter.wait(LOOK_S)
                self._ring_pages(heard)
                try:
                    if not heard or "" in heard:
                        self._ring_all()
                    for application_id in [id_ for id_ in self._watches if str(id_) in heard]:
                        await self._distribute(application_id)
                except DATABASE_ERRORS as error:
                    logger.warning("mailroom.database_unavailable", error=type(error).__name__)
                    self._ring_all()

    async def _distribute(self, application_id: UUID) -> None:
        watches = self._watches[application_id]
        async with self._engine.connect() as conn:
            newest = await reader.last_position(conn, application_id)
            after = self._read.get(application_id)
            if after is None:
                concerned = set(watches)
            else:
                concerned = await inbox.find_devices_with_news(
                    conn, application_id, list(watches), after=after, upto=newest
                )
        self._read[application_id] = newest
        for device_id in concerned:
            for watch in watches.get(device_id, ()):
                watch.ring()

    def _ring_pages(self, heard: set[str]) -> None:
        for said in heard:
            application_id, space, device_id = said.partition(" ")
            if space:
                for watch in self._watches.get(UUID(application_id), {}).get(UUID(device_id), ()):
                    watch.ring()

    def _ring_all(self) -> None:
        for watches in self._watches.values():
            for several in watches.values():
                for watch in several:
                    watch.ring()
