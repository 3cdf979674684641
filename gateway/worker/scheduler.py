"""Which message is sent next: urgent before normal before bulk, applications in turn, and no host beyond what it bears.

Senders take from here. Some of them only ever take urgent messages, so that an alert finds a free one even
when a campaign fills all others. Within a lane applications take turns, and within an application the hosts
it sends to. Messages for a host that is full wait at that host, where applications take turns too, and hold up
nobody else: neither another host's messages, nor the claiming of jobs with more of those. What would wait there for
long, or meets an open breaker, is put off: it goes back into the queue until its time has come.

Several hosts that are slow at the same time leave some of all places free for the others: one may hold no more than
twice what is free.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import structlog

from gateway import metrics
from gateway.domain.job import CHUNK
from gateway.domain.notification import Lane
from gateway.push.endpoints import vendor_name
from gateway.worker.concurrency import ConcurrencyLimit
from gateway.worker.host_limiter import Feedback, HostLimiter

log = structlog.get_logger(__name__)

# A host that needs longer than this for what waits for it is slow: its messages no longer count as work at hand.
SLOW_S = 2.0
# What one application would have waiting at a host for longer than this is put off, for so long at the most.
PATIENCE_S = 10.0
PUT_OFF_S = {Lane.URGENT: 5.0, Lane.NORMAL: 30.0, Lane.BULK: 300.0}
# With an open breaker an alert comes back sooner than anything else would.
URGENT_PAUSE_S = 15.0
# For every job full of messages that are not to be sent now, claiming waits so long.
FRUITLESS_S = 0.1
# The claiming of jobs looks again after so many messages.
STEP = 16
# Hosts remembered, however many names a vendor's wildcard lets in.
MAX_HOSTS = 1000


class Schedulable(Protocol):
    @property
    def lane(self) -> Lane: ...
    @property
    def host(self) -> str: ...

    def defer(self, seconds: float) -> None:
        """Not now: it is given back, to be put here again then."""
        ...


L = TypeVar("L", bound=Schedulable)

URGENT, ALL = (Lane.URGENT,), tuple(Lane)


class _Queue(Generic[L]):
    """What waits of one application for one host in one lane. It is in its application's ring, or blocked."""

    __slots__ = ("application", "lane", "letters", "stop")

    def __init__(self, stop: "_HostQueue[L]", lane: Lane, application: "_Application[L]", letters: Iterable[L]) -> None:
        self.stop = stop
        self.lane = lane
        self.application = application
        self.letters = deque(letters)


class _Application(Generic[L]):
    """The hosts one application has messages for in one lane, in turn."""

    __slots__ = ("id", "queues", "ready")

    def __init__(self, id_: UUID) -> None:
        self.id = id_
        self.queues = 0
        self.ready: deque[_Queue[L]] = deque()


class _HostQueue(Generic[L]):
    """One host and what waits for it."""

    __slots__ = ("blocked", "host", "queues", "resume_at", "slow_since", "waiting")

    def __init__(self, host: HostLimiter) -> None:
        self.host = host
        self.queues: dict[tuple[Lane, UUID], _Queue[L]] = {}
        self.blocked: dict[Lane, deque[_Queue[L]]] = {lane: deque() for lane in Lane}
        self.waiting = dict.fromkeys(Lane, 0)
        self.slow_since = 0.0
        """Since when what waits for it is more than it soon takes; 0 while it is not."""
        self.resume_at = 0.0
        """When what has been put off until now will have had its turn."""


class SendScheduler(Generic[L]):
    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`most`: messages in flight at the most, beside what urgent senders take."""
        self._most = most
        self._clock = clock
        self._load = ConcurrencyLimit(most)
        self._out = 0
        self._waiting_on_slow_hosts = 0
        """Of those, what lies with hosts that answer late: it keeps nobody busy."""
        self._taken = 0
        self._round_robin: dict[Lane, deque[_Application[L]]] = {lane: deque() for lane in Lane}
        self._applications: dict[tuple[Lane, UUID], _Application[L]] = {}
        self._stops: dict[str, _HostQueue[L]] = {}
        self._over_share: deque[_Queue[L]] = deque()
        self._at_hand = dict.fromkeys(Lane, 0)
        self._undeliverable_since_claim = dict.fromkeys(Lane, 0)
        self._idle: deque[asyncio.Future[None]] = deque()
        self._idle_urgent: deque[asyncio.Future[None]] = deque()
        self._capacity_freed = asyncio.Event()
        self._turning = 0.0
        self._making_way = False
        self._urgent_came = asyncio.Event()

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Let `/metrics` see our hosts."""

        def by_service(read: Callable[[HostLimiter], float]) -> Callable[[], metrics.Reading]:
            def total() -> metrics.Reading:
                found: dict[metrics.Labels, float] = {}
                for stop in self._stops.values():
                    labels = (vendor_name(stop.host.name),)
                    found[labels] = found.get(labels, 0.0) + read(stop.host)
                return found

            return total

        with (
            metrics.IN_FLIGHT.set_callback(by_service(lambda host: host.in_flight)),
            metrics.LIMIT.set_callback(by_service(lambda host: int(host.limit))),
            metrics.BREAKER_OPEN.set_callback(by_service(lambda host: bool(host.probe_at))),
        ):
            yield

    def open_breakers(self) -> set[str]:
        """Return the push services with a host whose circuit breaker is open."""
        return {vendor_name(stop.host.name) for stop in self._stops.values() if stop.host.probe_at}

    def put(self, lane: Lane, application: UUID, letters: Sequence[L]) -> None:
        """Messages of one application. Some of them may be put off at once."""
        now = self._clock()
        by_host: dict[str, list[L]] = {}
        for letter in letters:
            by_host.setdefault(letter.host, []).append(letter)
        at_hand = self._at_hand[lane]
        for name, some in by_host.items():
            stop = self._stop(name)
            if stop.host.is_open(now):
                self._probe(stop, lane, application, some, now)
            elif (pause := self._pause(stop, lane, application, len(some), now)) > 0:
                _put_off(some, pause, "slow")
            else:
                self._add(stop, lane, application, some, now)
        if self._at_hand[lane] <= at_hand:
            self._undeliverable_since_claim[lane] += len(letters)
        if lane is Lane.URGENT:
            self._urgent_came.set()

    async def pause_non_urgent(self, seconds: float) -> bool:
        """Give out nothing but urgent messages, and ask for no others, until more of them have come.

        False when none have come after `seconds`.
        """
        self._urgent_came.clear()
        self._making_way = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._urgent_came.wait()
        finally:
            self._making_way = False
            self._capacity_freed.set()
            self._wake_all(self._most)
        return self._urgent_came.is_set()

    async def next(self, *, urgent_only: bool) -> L:
        """The next message to send; the caller must give it back with `done`, and then take the next at once."""
        idle = self._idle_urgent if urgent_only else self._idle
        while (letter := self._pop(urgent_only)) is None:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            idle.append(turn)
            await turn
        if not self._turning:
            self._turning = self._clock()
            asyncio.get_running_loop().call_soon(self._turned)
        return letter

    def done(self, letter: L, sign: Feedback | None = None, seconds: float = 0.0) -> None:
        """The message was answered after `seconds`: the host's place is free again, and it is better known."""
        now = self._clock()
        stop = self._stops[letter.host]
        host = stop.host
        probe_at = host.probe_at
        self._out -= 1
        host.end(now, sign, seconds, wanted=bool(stop.queues))
        if host.probe_at != probe_at:
            self._changed(stop, now, was_open=probe_at > 0)
        if stop.queues:
            # The first of them is for who calls.
            self._wake_all(self._unblock(stop, now) - 1)
        if self._over_share:
            self._ready(self._over_share.popleft())
            self._wake_all(1)
        if letter.lane is Lane.URGENT:  # who calls may have no use for the others
            self._wake_all(1)

    def limit(self, host: str) -> int:
        return int(self._stop(host).host.limit)

    async def wait_until_below(self, lanes: Sequence[Lane], most: int) -> None:
        """Wait until no more than `most` messages of these lanes are at hand. What a slow host holds up is not."""
        if fruitless := sum(self._undeliverable_since_claim[lane] for lane in lanes):
            # Whole jobs of what cannot be sent now: not to be looked through as fast as the queue gives them.
            self._undeliverable_since_claim.update(dict.fromkeys(lanes, 0))
            await asyncio.sleep(FRUITLESS_S * fruitless / CHUNK)
        gives_way = tuple(lanes) != URGENT  # what is urgent is claimed by who claims nothing else
        while (gives_way and self._making_way) or sum(self._at_hand[lane] for lane in lanes) > most:
            self._capacity_freed.clear()
            await self._capacity_freed.wait()

    def reassess_hosts(self) -> None:
        """See which hosts are stuck, or may be tried again: to be called now and then, since nothing tells it."""
        now = self._clock()
        stops = list(self._stops.values())
        self._waiting_on_slow_hosts = sum(
            stop.host.in_flight for stop in stops if stop.slow_since or stop.host.answers_late(now)
        )
        for stop in stops:
            if stop.queues or stop.slow_since:
                self._judge(stop, now)
                self._unblock(stop, now)
        if any(self._round_robin.values()):
            self._wake_all(self._most)

    def _pop(self, urgent_only: bool) -> L | None:
        if not urgent_only and self._out - self._waiting_on_slow_hosts >= self._load.limit:
            self._load.wanted = True
            return None
        now = self._clock()
        for lane in URGENT if urgent_only or self._making_way else ALL:
            turns = self._round_robin[lane]
            urgent = lane is Lane.URGENT
            while turns:
                application = turns[0]
                ready = application.ready
                queue = ready[0]
                stop = queue.stop
                host = stop.host
                if not host.has_room(now, urgent=urgent):
                    host.full = True
                    stop.blocked[lane].append(queue)
                elif not urgent and host.in_flight >= 2 * (self._most - self._out):
                    self._over_share.append(queue)
                else:
                    letter = queue.letters.popleft()
                    self._out += 1
                    host.begin(now)
                    self._less(stop, lane, 1)
                    if queue.letters:
                        ready.rotate(-1)
                    else:
                        ready.popleft()
                        self._end(queue)
                    if ready:
                        turns.rotate(-1)
                    else:
                        turns.popleft()
                    return letter
                ready.popleft()
                if not ready:
                    turns.popleft()
        return None

    def _add(self, stop: _HostQueue[L], lane: Lane, application: UUID, letters: list[L], now: float) -> None:
        stop.waiting[lane] += len(letters)
        if not stop.slow_since:
            self._at_hand[lane] += len(letters)
        queue = stop.queues.get((lane, application))
        if queue is not None:
            queue.letters.extend(letters)
        else:
            sender = self._applications.get((lane, application))
            if sender is None:
                sender = self._applications[lane, application] = _Application(application)
            sender.queues += 1
            queue = stop.queues[lane, application] = _Queue(stop, lane, sender, letters)
            self._ready(queue)
        self._wake(lane, len(letters))
        self._judge(stop, now)

    def _end(self, queue: _Queue[L]) -> None:
        """Nothing more waits in it."""
        application = queue.application
        del queue.stop.queues[queue.lane, application.id]
        application.queues -= 1
        if not application.queues:
            del self._applications[queue.lane, application.id]

    def _less(self, stop: _HostQueue[L], lane: Lane, count: int) -> None:
        stop.waiting[lane] -= count
        if not stop.slow_since:
            self._at_hand[lane] -= count
            self._taken += count
            if self._taken >= STEP or not self._at_hand[lane]:
                self._taken = 0
                self._capacity_freed.set()

    def _judge(self, stop: _HostQueue[L], now: float) -> None:
        """Is it slow?"""
        seconds = stop.host.wait(sum(stop.waiting.values()), now)
        slow = bool(stop.host.probe_at) or seconds > (SLOW_S / 2 if stop.slow_since else SLOW_S)
        if slow is not bool(stop.slow_since):
            stop.slow_since = now if slow else 0.0
            for lane, waiting in stop.waiting.items():
                self._at_hand[lane] += -waiting if slow else waiting
            self._capacity_freed.set()

    def _pause(self, stop: _HostQueue[L], lane: Lane, application: UUID, count: int, now: float) -> float:
        """Seconds that `count` messages are put off because the host has enough of this application's; 0 for not."""
        queue = stop.queues.get((lane, application))
        if queue is None:
            return 0
        if stop.host.wait(len(queue.letters) * len(stop.queues), now) <= PATIENCE_S:
            return 0
        # Not for longer than it has been slow already: a bad moment does not cost minutes.
        longest = min(PUT_OFF_S[lane], max(PATIENCE_S, now - (stop.slow_since or now)))
        # Those put off before come first, as fast as it has been of late.
        pause = max(PATIENCE_S / 2, stop.resume_at - now)
        if pause >= longest:
            return longest * random.uniform(0.5, 1)  # noqa: S311 - to spread them, not a secret
        stop.resume_at = now + pause + stop.host.wait(count, now)
        return pause

    def _probe(self, stop: _HostQueue[L], lane: Lane, application: UUID, letters: list[L], now: float) -> None:
        """Put off what an open breaker does not let through. One message of an alert goes ahead to see."""
        may = lane is Lane.URGENT and not stop.waiting[lane] and stop.host.has_room(now, urgent=True)
        if may:
            self._add(stop, lane, application, letters[:1], now)
        if later := letters[may:]:
            _put_off(later, _until_open(stop.host, lane, now), "unreachable")

    def _changed(self, stop: _HostQueue[L], now: float, *, was_open: bool) -> None:
        """The breaker has opened, stays open for longer, or has closed."""
        host = stop.host
        if not host.probe_at:
            log.warning("host.answers_again", host=host.name, after_s=round(now - host.opened_at, 1))
        elif not was_open:
            metrics.BREAKER_OPENED.labels(vendor_name(host.name)).inc()
            log.error("host.unreachable", host=host.name, paused_s=host.pause)
        if host.probe_at:
            self._clear(stop, now)
        self._judge(stop, now)

    def _clear(self, stop: _HostQueue[L], now: float) -> None:
        """Put off all that waits for it."""
        for queue in list(stop.queues.values()):
            application = queue.application
            if queue in application.ready:
                application.ready.remove(queue)
                if not application.ready:
                    self._round_robin[queue.lane].remove(application)
            elif queue in self._over_share:
                self._over_share.remove(queue)
            self._end(queue)
            self._less(stop, queue.lane, len(queue.letters))
            _put_off(queue.letters, _until_open(stop.host, queue.lane, now), "unreachable")
        for blocked in stop.blocked.values():
            blocked.clear()

    def _unblock(self, stop: _HostQueue[L], now: float) -> int:
        """Let what waits for the host's places have those that are free, urgent messages first; answers how many."""
        host = stop.host
        free = 0
        for lane, blocked in stop.blocked.items():
            if blocked and host.has_room(now, urgent=lane is Lane.URGENT):
                free = max(1, int(host.limit) - host.in_flight)
                for _ in range(min(free, len(blocked))):
                    self._ready(blocked.popleft())
                if lane is Lane.URGENT:
                    self._wake(lane, free)
                break
        return free

    def _ready(self, queue: _Queue[L]) -> None:
        application = queue.application
        if not application.ready:
            self._round_robin[queue.lane].append(application)
        application.ready.append(queue)

    def _stop(self, name: str) -> _HostQueue[L]:
        stop = self._stops.get(name)
        if stop is None:
            if len(self._stops) >= MAX_HOSTS:
                self._forget()
            stop = self._stops[name] = _HostQueue(HostLimiter(name, self._most))
        return stop

    def _forget(self) -> None:
        """Leave out the hosts that nothing is to be remembered of: some vendors have no end of names."""
        for name, stop in list(self._stops.items()):
            if not (stop.queues or stop.host.in_flight or stop.host.probe_at):
                del self._stops[name]

    def _turned(self) -> None:
        """The event loop has come round once."""
        limit = self._load.limit
        self._load.record_turn(self._clock() - self._turning)
        self._turning = 0.0
        self._wake_all(self._load.limit - limit)

    def _wake(self, lane: Lane, count: int) -> None:
        if lane is Lane.URGENT:
            count -= _call(self._idle_urgent, count)
        self._wake_all(count)

    def _wake_all(self, count: int) -> None:
        """Call senders who take anything; not more than may have messages in flight."""
        _call(self._idle, min(count, self._load.limit + self._waiting_on_slow_hosts - self._out))


def _call(idle: deque[asyncio.Future[None]], count: int) -> int:
    """Who went idle last is called first; answers how many."""
    called = 0
    while called < count and idle:
        turn = idle.pop()
        if not turn.done():
            turn.set_result(None)
            called += 1
    return called


def _put_off(letters: Iterable[Schedulable], seconds: float, cause: str) -> None:
    count = 0
    for letter in letters:
        letter.defer(seconds)
        count += 1
    metrics.DEFERRED.labels(cause).inc(count)


def _until_open(host: HostLimiter, lane: Lane, now: float) -> float:
    """Seconds to leave a host alone, spread so that not everybody comes back at once."""
    if lane is Lane.URGENT:
        return random.uniform(1, max(1, min(host.pause, URGENT_PAUSE_S)))  # noqa: S311 - not a secret
    return host.probe_at - now + random.uniform(0, host.pause)  # noqa: S311 - not a secret
