"""Wake up senders that wait for a message, and claim loops that wait for the backlog to shrink.

A worker has a fixed number of sender tasks. Some of them are reserved for urgent messages, so that there is a free
sender for an alert even if a campaign occupies all others.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gateway.domain.job import MAX_CHUNK_SIZE
from gateway.domain.notification import Lane

# Delay before the next claim, per MAX_CHUNK_SIZE messages of jobs whose messages were all deferred.
UNDELIVERABLE_DELAY_S = 0.1
# Number of messages that senders take between two wake-ups of the claim loops.
WAKE_INTERVAL = 16

# The lanes of senders and claim loops that are reserved for urgent messages.
URGENT = (Lane.URGENT,)


class IdleSenders:
    """The senders that wait for a message. The sender that became idle last is woken first."""

    __slots__ = ("_all_lanes", "_urgent_only")

    def __init__(self) -> None:
        """Create an instance without idle senders."""
        self._all_lanes: deque[asyncio.Future[None]] = deque()
        self._urgent_only: deque[asyncio.Future[None]] = deque()

    async def wait(self, *, urgent_only: bool) -> None:
        """Wait, as an idle sender, until `wake` or `wake_urgent_only` wakes this sender."""
        wakeup: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._urgent_only if urgent_only else self._all_lanes).append(wakeup)
        await wakeup

    def wake(self, count: int) -> int:
        """Wake up to `count` senders that take messages of every lane; return the number of woken senders."""
        return _wake(self._all_lanes, count)

    def wake_urgent_only(self, count: int) -> int:
        """Wake up to `count` senders that take urgent messages only; return the number of woken senders."""
        return _wake(self._urgent_only, count)


class Backlog:
    """The number of messages in each lane that are ready to be sent. Claim loops wait until it is small enough.

    Messages for slow hosts are not counted. They keep no sender busy, and must not prevent the claiming of other jobs.
    """

    __slots__ = ("_changed", "_taken", "_undeliverable", "_urgent_arrived", "non_urgent_paused", "ready")

    def __init__(self) -> None:
        """Create an empty backlog."""
        self.ready: dict[Lane, int] = dict.fromkeys(Lane, 0)
        # While true, only urgent messages are sent and claimed.
        self.non_urgent_paused = False
        # Number of messages since the last claim that were deferred as soon as they were put into the scheduler.
        self._undeliverable: dict[Lane, int] = dict.fromkeys(Lane, 0)
        # Number of messages that were taken or deferred since the claim loops were last woken.
        self._taken = 0
        self._changed = asyncio.Event()
        self._urgent_arrived = asyncio.Event()

    def add(self, lane: Lane, count: int) -> None:
        """Count messages that are ready to be sent."""
        self.ready[lane] += count

    def remove(self, lane: Lane, count: int) -> None:
        """Subtract messages that were taken or deferred; wake the claim loops after WAKE_INTERVAL messages."""
        self.ready[lane] -= count
        self._taken += count
        if self._taken >= WAKE_INTERVAL or not self.ready[lane]:
            self._taken = 0
            self._changed.set()

    def exclude(self, waiting: Mapping[Lane, int]) -> None:
        """Subtract the messages of a host that has become slow."""
        for lane, count in waiting.items():
            self.ready[lane] -= count
        self._changed.set()

    def include(self, waiting: Mapping[Lane, int]) -> None:
        """Add the messages of a host that is no longer slow."""
        for lane, count in waiting.items():
            self.ready[lane] += count
        self._changed.set()

    def record_undeliverable(self, lane: Lane, count: int) -> None:
        """Record that none of the `count` messages of a job has become ready. This delays the next claim."""
        self._undeliverable[lane] += count

    def announce_urgent(self) -> None:
        """End a pause of the non-urgent lanes: urgent messages have arrived."""
        self._urgent_arrived.set()

    async def wait_until_below(self, lanes: Sequence[Lane], limit: int) -> None:
        """Wait until at most `limit` messages of these lanes are ready."""
        if count := sum(self._undeliverable[lane] for lane in lanes):
            # Without this delay, jobs for hosts that accept nothing would be claimed as fast as the database allows.
            self._undeliverable.update(dict.fromkeys(lanes, 0))
            await asyncio.sleep(UNDELIVERABLE_DELAY_S * count / MAX_CHUNK_SIZE)
        pausable = tuple(lanes) != URGENT
        while (pausable and self.non_urgent_paused) or sum(self.ready[lane] for lane in lanes) > limit:
            self._changed.clear()
            await self._changed.wait()

    async def pause_non_urgent(self, seconds: float) -> bool:
        """Pause the non-urgent lanes while an urgent job is loaded.

        The pause ends when urgent messages arrive, at the latest after `seconds`.

        Returns:
            Whether urgent messages have arrived.
        """
        self._urgent_arrived.clear()
        self.non_urgent_paused = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._urgent_arrived.wait()
        finally:
            self.non_urgent_paused = False
            self._changed.set()
        return self._urgent_arrived.is_set()


def _wake(idle: deque[asyncio.Future[None]], count: int) -> int:
    """Wake up to `count` idle senders, the last one first; return the number of woken senders."""
    woken = 0
    while woken < count and idle:
        wakeup = idle.pop()
        if not wakeup.done():  # the wakeup of a cancelled sender is done
            wakeup.set_result(None)
            woken += 1
    return woken
