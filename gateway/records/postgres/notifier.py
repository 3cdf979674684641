"""Wake up waiting tasks in all processes through Postgres's LISTEN/NOTIFY.

One connection per process listens on all channels. Messages are only hints. They are lost while the connection is
down, so subscribers wait with a timeout and then query the database.
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

# Jobs may be due. Payload: `urgent` if a job of the urgent lane is among them, else empty.
JOBS = "gateway_jobs"
# Entries were added to a delivery log. Payload: the application id.
LOG = "gateway_log"
# The status of a notification changed. Payload: the notification's id and new status, separated by a space.
STATUS = "gateway_control"
# Events were added to the outbox. Payload: the application id.
OUTBOX = "gateway_happenings"
# Feeds may be due. No payload.
FEEDS = "gateway_feeds"
# A delivery was offered to an open page. Payload: application id and device id, separated by a space.
LIVE = "gateway_live"

# Pause before each attempt to reconnect.
RECONNECT_S = 1.0

# Prepared once: building the statement takes longer than running it.
_NOTIFY = select(func.pg_notify(bindparam("channel"), bindparam("payload")))

log = structlog.get_logger(__name__)


async def notify(conn: AsyncConnection, channel: str, payload: str = "") -> None:
    """Send a message to a channel when the running transaction commits."""
    await conn.execute(_NOTIFY, {"channel": channel, "payload": payload})


class ChannelSubscription:
    """A subscription to one or more channels. It collects the payloads received since the last wait."""

    def __init__(self) -> None:
        """Create a subscription without payloads."""
        self._received = asyncio.Event()
        self._payloads: set[str] = set()

    def publish(self, payload: str) -> None:
        """Add a payload and wake the waiter."""
        self._payloads.add(payload)
        self._received.set()

    async def wait(self, seconds: float) -> set[str]:
        """Wait for a payload, for at most `seconds`; return the distinct payloads received, or an empty set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation (CPython 3.11)
                await self._received.wait()
        self._received.clear()
        payloads, self._payloads = self._payloads, set()
        return payloads


class Notifier:
    """Listens on all channels and wakes the subscribers in this process."""

    def __init__(self, url: str) -> None:
        """Create a notifier for the database at `url`. It listens within the context `running`."""
        self._url = plain_url(url)
        self._subscriptions: dict[str, set[ChannelSubscription]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Notifier"]:
        """Listen until the context ends."""
        self._task = asyncio.create_task(self._listen(), name="notifier")
        try:
            yield self
        finally:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @contextmanager
    def subscribe(self, *channels: str) -> Iterator[ChannelSubscription]:
        """Subscribe to channels until the context ends."""
        subscription = ChannelSubscription()
        for channel in channels:
            self._subscriptions[channel].add(subscription)
        try:
            yield subscription
        finally:
            for channel in channels:
                self._subscriptions[channel].discard(subscription)

    async def _listen(self) -> None:
        """Keep a connection that listens on all channels; open a new one when it is lost."""
        while True:
            lost = asyncio.Event()
            try:
                conn = await asyncpg.connect(self._url, timeout=10)
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("notifier.unavailable", error=type(error).__name__)
                await asyncio.sleep(RECONNECT_S)
                continue
            try:
                conn.add_termination_listener(lambda _, lost=lost: lost.set())
                for channel in (JOBS, LOG, STATUS, OUTBOX, FEEDS, LIVE):
                    await conn.add_listener(channel, self._dispatch)
                self._wake_all()
                await lost.wait()
                log.warning("notifier.connection_lost")
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("notifier.connection_lost", error=type(error).__name__)
            finally:
                with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                    await conn.close(timeout=2)

    def _dispatch(self, _conn: object, _pid: int, channel: str, payload: object) -> None:
        for subscription in self._subscriptions[channel]:
            subscription.publish(str(payload))

    def _wake_all(self) -> None:
        """Wake all subscribers with an empty payload: messages may have been lost while there was no connection."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.publish("")
