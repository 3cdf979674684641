"""Postgres's LISTEN/NOTIFY as wake-up calls within one process.

One connection listens for everybody. A signal is only ever a hint: it may be lost while the connection is being
made again, so who waits always waits with a limit and then looks for itself.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import asyncpg
import structlog
from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.engine import plain_url

JOBS = "gateway_jobs"
"""Jobs may have come due. Payload: the lane `urgent` when they are in it, else empty."""
LOG = "gateway_log"
"""Payload: the application whose log has grown."""
STATUS = "gateway_control"
"""Payload: a notification's id and its new status, with a space between."""
OUTBOX = "gateway_happenings"
"""Payload: the application to which something happened that a webhook asks for."""
FEEDS = "gateway_feeds"
"""Feeds may have come due."""
LIVE = "gateway_live"
"""Payload: an application and one of its devices, for whose open page there is something; a space between."""

RECONNECT_S = 1.0

_NOTIFY = select(func.pg_notify(bindparam("channel"), bindparam("payload")))

log = structlog.get_logger(__name__)


async def notify(conn: AsyncConnection, channel: str, payload: str = "") -> None:
    """Signal when the running transaction commits."""
    await conn.execute(_NOTIFY, {"channel": channel, "payload": payload})


class Subscription:
    """One interest in one channel or several: what has been heard since the last look."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()
        self._payloads: set[str] = set()

    def publish(self, payload: str) -> None:
        self._payloads.add(payload)
        self._heard.set()

    async def wait(self, seconds: float) -> set[str]:
        """The distinct payloads heard, as soon as there is one; empty after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation (CPython 3.11)
                await self._heard.wait()
        self._heard.clear()
        heard, self._payloads = self._payloads, set()
        return heard


class Notifier:
    def __init__(self, url: str) -> None:
        self._url = plain_url(url)
        self._waiters: dict[str, set[Subscription]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Notifier"]:
        self._task = asyncio.create_task(self._keep_listening(), name="signals")
        try:
            yield self
        finally:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @contextmanager
    def subscribe(self, *channels: str) -> Iterator[Subscription]:
        waiter = Subscription()
        for channel in channels:
            self._waiters[channel].add(waiter)
        try:
            yield waiter
        finally:
            for channel in channels:
                self._waiters[channel].discard(waiter)

    async def _keep_listening(self) -> None:
        while True:
            lost = asyncio.Event()
            try:
                conn = await asyncpg.connect(self._url, timeout=10)
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("signals.unavailable", error=type(error).__name__)
                await asyncio.sleep(RECONNECT_S)  # a pause between tries, not a wait for an event
                continue
            try:
                conn.add_termination_listener(lambda _, lost=lost: lost.set())
                for channel in (JOBS, LOG, STATUS, OUTBOX, FEEDS, LIVE):
                    await conn.add_listener(channel, self._heard)
                self._wake_all()
                await lost.wait()
                log.warning("signals.lost")
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("signals.lost", error=type(error).__name__)
            finally:
                with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                    await conn.close(timeout=2)

    def _heard(self, _conn: object, _pid: int, channel: str, payload: object) -> None:
        for waiter in self._waiters[channel]:
            waiter.publish(str(payload))

    def _wake_all(self) -> None:
        """Something may have been missed: everyone looks for themselves."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.publish("")
