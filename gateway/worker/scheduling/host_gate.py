"""Gates of push-service hosts: they decide whether messages may be sent to a host, and hold those that must wait.

A gate combines the limiter of a host (congestion window and circuit breaker) with the queues that wait for the host.
Messages for a full host wait at its gate. They delay neither messages for other hosts nor the claiming of more jobs.
Messages that would wait for too long, or whose host has an open breaker, are deferred: they return to the job queue
until the host is expected to accept them.
"""

import random
from collections import deque
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from gateway.domain.notification import Lane
from gateway.worker.host_limiter import HostLimiter
from gateway.worker.scheduling.fair_queue import MessageQueue

# A host is slow if sending its waiting messages would take longer than this. Messages for a slow host do not count as
# ready to be sent.
SLOW_S = 2.0
# Messages are deferred if the messages of their tenant would wait at the host for longer than this.
MAX_HOST_WAIT_S = 10.0
# Maximum deferral because a host is slow.
MAX_DEFERRAL_S: Mapping[Lane, float] = {Lane.URGENT: 5.0, Lane.NORMAL: 30.0, Lane.BULK: 300.0}
# Maximum deferral of urgent messages because a breaker is open.
MAX_URGENT_PAUSE_S = 15.0
# Vendors use wildcards, so the number of host names is unbounded. If there are this many gates, those of idle hosts are
# removed.
MAX_HOSTS = 1000

M = TypeVar("M")


class Unblocked(NamedTuple, Generic[M]):
    """The queues of one lane that need not wait for their host any longer, and the number of its free slots."""

    lane: Lane
    queues: list[MessageQueue[M]]
    free_slots: int


class HostGate(Generic[M]):
    """The limiter of one host, and the queues of messages for the host.

    Keyed by host. Within a host, queues are keyed by lane and tenant: the messages of a tenant are deferred because of
    the length of its own queue, so a tenant with many messages does not delay others.
    """

    __slots__ = ("blocked", "limiter", "queues", "resume_at", "slow_since", "waiting")

    def __init__(self, limiter: HostLimiter) -> None:
        """Create a gate without queues."""
        self.limiter = limiter
        self.queues: dict[tuple[Lane, UUID], MessageQueue[M]] = {}
        # The queues that wait for a slot of the host, in the order in which they began to wait.
        self.blocked: dict[Lane, deque[MessageQueue[M]]] = {lane: deque() for lane in Lane}
        # Number of messages in the queues.
        self.waiting: dict[Lane, int] = dict.fromkeys(Lane, 0)
        # When the host became slow; 0 if it is not slow.
        self.slow_since = 0.0
        # When the host is expected to have sent all messages that are deferred now.
        self.resume_at = 0.0

    def update_slow_state(self, now: float) -> bool:
        """Decide whether the host is slow; return whether the decision has changed."""
        wait_s = self.limiter.estimate_wait_s(sum(self.waiting.values()), now)
        # Hysteresis: a slow host stays slow until the wait is below half of the threshold.
        is_slow = bool(self.limiter.probe_at) or wait_s > (SLOW_S / 2 if self.slow_since else SLOW_S)
        if is_slow is bool(self.slow_since):
            return False
        self.slow_since = now if is_slow else 0.0
        return True

    def unblock(self, now: float) -> Unblocked[M] | None:
        """Return as many blocked queues as the host has free slots, from the first lane that has blocked queues.

        Returns None if no queue is blocked, or the host has no free slot.
        """
        limiter = self.limiter
        for lane, blocked in self.blocked.items():
            if blocked and limiter.has_room(now, urgent=lane is Lane.URGENT):
                free_slots = max(1, int(limiter.limit) - limiter.in_flight)
                queues = [blocked.popleft() for _ in range(min(free_slots, len(blocked)))]
                return Unblocked(lane, queues, free_slots)
        return None

    def deferral_s(self, lane: Lane, application_id: UUID, count: int, now: float) -> float:
        """Return the seconds to defer `count` more messages of a tenant; 0 if they may wait at the host."""
        queue = self.queues.get((lane, application_id))
        if queue is None:
            return 0
        # The queues of the host take turns, so a message waits for equally many messages of each queue.
        if self.limiter.estimate_wait_s(len(queue.messages) * len(self.queues), now) <= MAX_HOST_WAIT_S:
            return 0
        # A deferral is not longer than the host has been slow, so that a short disturbance does not cost minutes.
        max_deferral = min(MAX_DEFERRAL_S[lane], max(MAX_HOST_WAIT_S, now - (self.slow_since or now)))
        # Messages that were deferred earlier are sent first, at the recent rate of the host.
        deferral = max(MAX_HOST_WAIT_S / 2, self.resume_at - now)
        if deferral >= max_deferral:
            return max_deferral * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
        self.resume_at = now + deferral + self.limiter.estimate_wait_s(count, now)
        return deferral

    def admits_probe(self, lane: Lane, now: float) -> bool:
        """Return whether one message may be sent as a probe although the breaker is open. It must be urgent."""
        return lane is Lane.URGENT and not self.waiting[lane] and self.limiter.has_room(now, urgent=True)

    def breaker_deferral_s(self, lane: Lane, now: float) -> float:
        """Return the seconds to defer messages while the breaker is open.

        The deferral has jitter, so that not all messages come due at once.
        """
        pause = self.limiter.pause
        if lane is Lane.URGENT:
            return random.uniform(1, max(1, min(pause, MAX_URGENT_PAUSE_S)))  # noqa: S311 - jitter, not a secret
        return self.limiter.probe_at - now + random.uniform(0, pause)  # noqa: S311 - jitter, not a secret

    @property
    def is_idle(self) -> bool:
        """Whether the gate has no messages, waiting or in flight, and its breaker is closed."""
        return not (self.queues or self.limiter.in_flight or self.limiter.probe_at)


class HostGates(Generic[M]):
    """The gates of all hosts, and the limit on the share of in-flight messages that one host may have.

    A host may have at most twice as many messages in flight as there are free slots. So even several slow hosts leave
    slots for other hosts.
    """

    __slots__ = ("_max_in_flight", "by_host", "in_flight", "in_flight_at_slow_hosts", "over_share")

    def __init__(self, max_in_flight: int) -> None:
        """Create gates for at most `max_in_flight` messages in flight, and urgent messages beyond that."""
        self._max_in_flight = max_in_flight
        self.by_host: dict[str, HostGate[M]] = {}
        self.in_flight = 0
        # The part of `in_flight` at hosts that respond late. It takes no CPU time.
        self.in_flight_at_slow_hosts = 0
        # Queues whose host has used up its share of the slots. They wait until any message completes.
        self.over_share: deque[MessageQueue[M]] = deque()

    def get_or_create(self, host: str) -> HostGate[M]:
        """Return the gate of a host, or create it. If there are MAX_HOSTS gates, first remove those of idle hosts."""
        gate = self.by_host.get(host)
        if gate is None:
            if len(self.by_host) >= MAX_HOSTS:
                self.by_host = {name: gate for name, gate in self.by_host.items() if not gate.is_idle}
            gate = self.by_host[host] = HostGate(HostLimiter(host, self._max_in_flight))
        return gate

    def admits(self, gate: HostGate[M], queue: MessageQueue[M], now: float) -> bool:
        """Return whether a message of the queue may be sent now.

        If not, the queue is appended to the queues that wait for a slot of the host, or for the share of the host.
        """
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
        """Update the number of messages in flight at slow hosts."""
        self.in_flight_at_slow_hosts = sum(
            gate.limiter.in_flight for gate in self.by_host.values() if gate.slow_since or gate.limiter.is_late(now)
        )
