"""Whether a push-service host may be sent to now, and what waits for it.

A gate combines the host's limiter (AIMD window and circuit breaker) with the queues that wait at the host. Messages for
a full host wait there, and delay neither the messages of other hosts nor the claiming of more jobs. Messages that would
wait for long, or that meet an open breaker, are deferred: they go back into the database queue until the host is
expected to take them.
"""

import random
from collections import deque
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from gateway.domain.notification import Lane
from gateway.worker.host_limiter import HostLimiter
from gateway.worker.scheduling.fair_queue import MessageQueue

# A host is slow when its waiting messages would take longer than this. They no longer count as ready to be sent.
SLOW_S = 2.0
# Messages are deferred when their tenant's messages would wait at the host for longer than this.
MAX_HOST_WAIT_S = 10.0
# Longest deferral because a host is slow.
MAX_DEFERRAL_S: Mapping[Lane, float] = {Lane.URGENT: 5.0, Lane.NORMAL: 30.0, Lane.BULK: 300.0}
# Longest deferral of urgent messages because a breaker is open.
MAX_URGENT_PAUSE_S = 15.0
# Vendors use wildcards, so the number of host names is unbounded. Beyond this many, idle hosts are forgotten.
MAX_HOSTS = 1000

M = TypeVar("M")


class Unblocked(NamedTuple, Generic[M]):
    """The queues of one lane that stop waiting for their host, which has `free_slots`."""

    lane: Lane
    queues: list[MessageQueue[M]]
    free_slots: int


class HostGate(Generic[M]):
    """The limiter of one host and the queues of messages for it.

    Keyed by host. Within a host, the queues are keyed by lane and tenant: a tenant with many messages is deferred by
    its own queue length, and others keep their turn.
    """

    __slots__ = ("blocked", "limiter", "queues", "resume_at", "slow_since", "waiting")

    def __init__(self, limiter: HostLimiter) -> None:
        """Start without queues."""
        self.limiter = limiter
        self.queues: dict[tuple[Lane, UUID], MessageQueue[M]] = {}
        # Those of the queues that wait for a slot of the host, in the order in which they began to wait.
        self.blocked: dict[Lane, deque[MessageQueue[M]]] = {lane: deque() for lane in Lane}
        # Number of messages in the queues.
        self.waiting: dict[Lane, int] = dict.fromkeys(Lane, 0)
        # When the host became slow; 0 while it is not.
        self.slow_since = 0.0
        # When the messages that are deferred now are expected to have been sent.
        self.resume_at = 0.0

    def update_slow_state(self, now: float) -> bool:
        """Decide whether the host is slow; return whether that changed."""
        seconds = self.limiter.estimate_wait_s(sum(self.waiting.values()), now)
        # Hysteresis: a slow host is slow until half of the threshold is reached.
        slow = bool(self.limiter.probe_at) or seconds > (SLOW_S / 2 if self.slow_since else SLOW_S)
        if slow is bool(self.slow_since):
            return False
        self.slow_since = now if slow else 0.0
        return True

    def unblock(self, now: float) -> Unblocked[M] | None:
        """Release as many blocked queues as the host has free slots; urgent queues first, and then no others."""
        limiter = self.limiter
        for lane, blocked in self.blocked.items():
            if blocked and limiter.has_room(now, urgent=lane is Lane.URGENT):
                free_slots = max(1, int(limiter.limit) - limiter.in_flight)
                queues = [blocked.popleft() for _ in range(min(free_slots, len(blocked)))]
                return Unblocked(lane, queues, free_slots)
        return None

    def deferral_s(self, lane: Lane, application_id: UUID, count: int, now: float) -> float:
        """Return for how long to defer `count` more messages of a tenant; 0 when they may wait at the host."""
        queue = self.queues.get((lane, application_id))
        if queue is None:
            return 0
        # The host's queues take turns, so a message waits for as many of each.
        if self.limiter.estimate_wait_s(len(queue.messages) * len(self.queues), now) <= MAX_HOST_WAIT_S:
            return 0
        # Not longer than the host has been slow: a short disturbance must not cost minutes.
        longest = min(MAX_DEFERRAL_S[lane], max(MAX_HOST_WAIT_S, now - (self.slow_since or now)))
        # Messages deferred before come first, at the host's recent rate.
        deferral = max(MAX_HOST_WAIT_S / 2, self.resume_at - now)
        if deferral >= longest:
            return longest * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
        self.resume_at = now + deferral + self.limiter.estimate_wait_s(count, now)
        return deferral

    def admits_probe(self, lane: Lane, now: float) -> bool:
        """Whether one message may be sent though the breaker is open. Urgent messages probe early."""
        return lane is Lane.URGENT and not self.waiting[lane] and self.limiter.has_room(now, urgent=True)

    def breaker_deferral_s(self, lane: Lane, now: float) -> float:
        """Return for how long to defer messages that meet the open breaker, with jitter so that they come apart."""
        pause = self.limiter.pause
        if lane is Lane.URGENT:
            return random.uniform(1, max(1, min(pause, MAX_URGENT_PAUSE_S)))  # noqa: S311 - jitter, not a secret
        return self.limiter.probe_at - now + random.uniform(0, pause)  # noqa: S311 - jitter, not a secret

    @property
    def is_idle(self) -> bool:
        """Whether the gate has no messages, waiting or in flight, and its breaker is closed."""
        return not (self.queues or self.limiter.in_flight or self.limiter.probe_at)


class HostGates(Generic[M]):
    """The gates of all hosts, and the share of in-flight messages that one host may have.

    Hosts that are slow at the same time leave slots for the others: one host may have at most twice as many messages
    in flight as there are free slots.
    """

    __slots__ = ("_max_in_flight", "by_host", "in_flight", "in_flight_at_slow_hosts", "over_share")

    def __init__(self, max_in_flight: int) -> None:
        """Allow `max_in_flight` messages in total; urgent ones may exceed it."""
        self._max_in_flight = max_in_flight
        self.by_host: dict[str, HostGate[M]] = {}
        self.in_flight = 0
        # The part of `in_flight` at hosts that respond late. It waits for the network and costs no CPU time.
        self.in_flight_at_slow_hosts = 0
        # Queues whose host has its share of the slots; they wait for any message to complete.
        self.over_share: deque[MessageQueue[M]] = deque()

    def get_or_create(self, host: str) -> HostGate[M]:
        """Return the gate of a host. With MAX_HOSTS gates, those of idle hosts are forgotten first."""
        gate = self.by_host.get(host)
        if gate is None:
            if len(self.by_host) >= MAX_HOSTS:
                self.by_host = {name: gate for name, gate in self.by_host.items() if not gate.is_idle}
            gate = self.by_host[host] = HostGate(HostLimiter(host, self._max_in_flight))
        return gate

    def admits(self, gate: HostGate[M], queue: MessageQueue[M], now: float) -> bool:
        """Whether a message of the queue may be sent now; if not, the queue waits at the gate or for its share."""
        limiter = gate.limiter
        urgent = queue.lane is Lane.URGENT
        if not limiter.has_room(now, urgent=urgent):
            limiter.was_full = True
            gate.blocked[queue.lane].append(queue)
            return False
        if not urgent and limiter.in_flight >= 2 * (self._max_in_flight - self.in_flight):
            self.over_share.append(queue)
            return False
        return True

    def measure_slow_hosts(self, now: float) -> None:
        """Count the messages in flight at slow hosts anew."""
        self.in_flight_at_slow_hosts = sum(
            gate.limiter.in_flight for gate in self.by_host.values() if gate.slow_since or gate.limiter.is_late(now)
        )
