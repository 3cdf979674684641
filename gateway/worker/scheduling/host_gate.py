"""Gates of push-service hosts: they decide whether messages may be sent to a host, and hold those that must wait.

A gate combines the limiter of a host (congestion window and circuit breaker) with the queues that wait for the host.
Messages for a full host wait at its gate. They delay neither messages for other hosts nor the claiming of more jobs.
Messages that would wait for too long, or whose host has an open breaker, are deferred: they return to the job queue
until the host is expected to accept them.

If a host refuses the messages of an application, the gate of the host gets a gate for the application
(`ApplicationGate`), with a limiter and queues. The application's messages wait there, and do not count as waiting for
the host.
"""

import random
from collections import deque
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from gateway.domain.job import MAX_CHUNK_SIZE
from gateway.domain.notification import Lane
from gateway.worker.application_limiter import ApplicationLimiter
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
# Maximum number of gates of applications at one host. At this number, those without messages are removed.
MAX_REFUSED_APPLICATIONS = 1000
# Minimum number of urgent messages of a limited application that may wait, so that probes are available.
MIN_WAITING_URGENT = 16
# Maximum deferral because of the pace of an application: in seconds, and as a multiple of the time for which the
# application has been limited.
MAX_PACED_DEFERRAL_S, DEFERRAL_GROWTH = 300.0, 4
# Maximum deferral because of a hold. A Retry-After may be up to a day.
MAX_HOLD_DEFERRAL_S = 3600.0

M = TypeVar("M")


class Unblocked(NamedTuple, Generic[M]):
    """The queues of one lane that need not wait for their host any longer, and the number of its free slots."""

    lane: Lane
    queues: list[MessageQueue[M]]
    free_slots: int


class ApplicationGate(Generic[M]):
    """The limiter of one application at one host and, while the application is limited, its queues.

    There is one gate per host and application: only refusals of this application make its messages wait, and other
    applications do not wait for them.
    """

    __slots__ = ("blocked", "limiter", "queues", "resume_at")

    def __init__(self) -> None:
        """Create a gate without queues."""
        self.limiter = ApplicationLimiter()
        self.queues: dict[Lane, MessageQueue[M]] = {}
        # Queues that wait until the limiter admits a message, by lane.
        self.blocked: dict[Lane, MessageQueue[M]] = {}
        # When the messages that are deferred now are expected to have been sent.
        self.resume_at = 0.0

    def admits(self, queue: MessageQueue[M], now: float) -> bool:
        """Return whether a message of the queue may be sent now; if not, add the queue to the blocked ones.

        Other messages wait while urgent ones do.
        """
        if self._admits_lane(queue.lane, now):
            return True
        self.blocked[queue.lane] = queue
        return False

    def unblock(self, now: float) -> list[MessageQueue[M]]:
        """Remove the queues whose next message is admitted from the blocked ones, and return them."""
        if not self.blocked:
            return []
        admitted = [lane for lane in self.blocked if self._admits_lane(lane, now)]
        return [self.blocked.pop(lane) for lane in admitted]

    def _admits_lane(self, lane: Lane, now: float) -> bool:
        urgent = lane is Lane.URGENT
        return (urgent or Lane.URGENT not in self.queues) and self.limiter.admits(now, urgent=urgent)

    def waiting_limit(self, lane: Lane, now: float) -> int:
        """Return the maximum number of messages of a lane that may wait. Others are deferred."""
        limiter = self.limiter
        if lane is Lane.URGENT:
            return max(MIN_WAITING_URGENT, int(limiter.pace(urgent=True) * MAX_HOST_WAIT_S))
        if limiter.held_until - now > MAX_HOST_WAIT_S:
            return 0
        if not limiter.is_learnt:
            return MAX_CHUNK_SIZE  # the pace is only assumed; it doubles within a second if the host accepts messages
        return max(1, int(limiter.pace(urgent=False) * MAX_HOST_WAIT_S))

    def deferral_s(self, lane: Lane, count: int, now: float) -> float:
        """Return the number of seconds by which to defer `count` messages of a lane."""
        limiter = self.limiter
        if lane is Lane.URGENT:
            return random.uniform(MAX_DEFERRAL_S[lane] / 2, MAX_DEFERRAL_S[lane])  # noqa: S311 - jitter, not a secret
        hold_s = min(MAX_HOLD_DEFERRAL_S, max(0.0, limiter.held_until - now))
        if not limiter.is_learnt:
            # By then a pace is usually learnt: a second deferral of all jobs would slow down other applications.
            return hold_s + random.uniform(MAX_HOST_WAIT_S, 2 * MAX_HOST_WAIT_S)  # noqa: S311 - jitter, not a secret
        # A short disturbance must not cost minutes, and the deferrals of a long one must not keep the queue busy.
        limited_s = now - limiter.limited_at
        longest = hold_s + min(MAX_PACED_DEFERRAL_S, max(MAX_HOST_WAIT_S, limited_s * DEFERRAL_GROWTH))
        deferral = max(hold_s, MAX_HOST_WAIT_S / 2, self.resume_at - now)
        if deferral >= longest:
            return hold_s + (longest - hold_s) * random.uniform(0.9, 1)  # noqa: S311 - jitter, not a secret
        # `rate` exceeds the pace of non-urgent messages, so this estimate is early: the pace may grow meanwhile.
        self.resume_at = now + deferral + count / limiter.rate
        return deferral


class HostGate(Generic[M]):
    """The limiter of one host, and the queues of messages for the host.

    There is one gate per host, with a queue per lane and tenant. Messages of a tenant are deferred because of the
    length of the tenant's queue, so a tenant with many messages does not delay other tenants.
    """

    __slots__ = (
        "applications",
        "blocked",
        "limiter",
        "queues",
        "refused_since_accepted",
        "resume_at",
        "slow_since",
        "waiting",
    )

    def __init__(self, limiter: HostLimiter) -> None:
        """Create a gate without queues."""
        self.limiter = limiter
        # Applications with recent refusals.
        self.applications: dict[UUID, ApplicationGate[M]] = {}
        # Applications for which a hold has begun since the host last accepted a message.
        self.refused_since_accepted: set[UUID] = set()
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
            urgent = lane is Lane.URGENT
            if urgent and limiter.probe_at:
                # Each application has its own limit of probes, so a queue behind the first one may send while the first
                # one has to wait.
                probing = [queue for queue in blocked if self._admits_urgent_probe(queue.tenant.application_id, now)]
                if probing:
                    for queue in probing:
                        blocked.remove(queue)
                    return Unblocked(lane, probing, len(probing))
            elif blocked and limiter.has_room(now, urgent=urgent):
                free_slots = max(1, limiter.free_slots)
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
        # Messages that are deferred already are sent first, at the recent rate of the host.
        deferral = max(MAX_HOST_WAIT_S / 2, self.resume_at - now)
        if deferral >= max_deferral:
            return max_deferral * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
        self.resume_at = now + deferral + self.limiter.estimate_wait_s(count, now)
        return deferral

    def admits_probe(self, lane: Lane, application_id: UUID, now: float) -> bool:
        """Return whether one message may be sent as a probe although the breaker is open.

        The message must be urgent, and no other message of its application may be waiting for a probe.
        """
        if lane is not Lane.URGENT or (lane, application_id) in self.queues:
            return False
        return self._admits_urgent_probe(application_id, now)

    def _admits_urgent_probe(self, application_id: UUID, now: float) -> bool:
        return self.limiter.has_room(now, urgent=True, application_id=application_id)

    def breaker_deferral_s(self, lane: Lane, now: float) -> float:
        """Return the seconds to defer messages while the breaker is open.

        The deferral has jitter, so that not all messages come due at once.
        """
        pause = self.limiter.pause
        if lane is Lane.URGENT:
            return random.uniform(1, max(1, min(pause, MAX_URGENT_PAUSE_S)))  # noqa: S311 - jitter, not a secret
        return self.limiter.probe_at - now + random.uniform(0, pause)  # noqa: S311 - jitter, not a secret

    def limited(self, application_id: UUID) -> ApplicationGate[M] | None:
        """Return the gate of an application if the host limits the application, else None."""
        application_gate = self.applications.get(application_id)
        return application_gate if application_gate is not None and application_gate.limiter.is_limited else None

    def get_or_create_application(self, application_id: UUID) -> ApplicationGate[M]:
        """Return the gate of an application, or create it."""
        application_gate = self.applications.get(application_id)
        if application_gate is None:
            if len(self.applications) >= MAX_REFUSED_APPLICATIONS:
                self.applications = {
                    id_: gate for id_, gate in self.applications.items() if gate.queues or gate.blocked
                }
            application_gate = self.applications[application_id] = ApplicationGate()
        return application_gate

    def record_held(self, application_id: UUID) -> None:
        """Record that a hold of an application begins.

        If the host refuses two applications and accepts nothing in between, the refusals count for the host.
        """
        self.refused_since_accepted.add(application_id)
        if len(self.refused_since_accepted) > 1:
            self.limiter.throttle()

    @property
    def is_idle(self) -> bool:
        """Return whether the gate has no messages, its breaker is closed, and no application is limited."""
        return not (self.is_used or self.limiter.probe_at or any(map(self.limited, self.applications)))

    @property
    def is_used(self) -> bool:
        """Return whether the gate has messages, waiting or in flight."""
        waits_for_pace = any(application_gate.queues for application_gate in self.applications.values())
        return bool(self.queues or self.limiter.in_flight) or waits_for_pace


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
        """Return the gate of a host, or create it.

        If there are MAX_HOSTS gates, first remove those of idle hosts, and if that is not enough, those of all hosts
        without messages: invented host names must not fill the memory.
        """
        gate = self.by_host.get(host)
        if gate is None:
            if len(self.by_host) >= MAX_HOSTS:
                self.by_host = {name: gate for name, gate in self.by_host.items() if not gate.is_idle}
            if len(self.by_host) >= MAX_HOSTS:
                self.by_host = {name: gate for name, gate in self.by_host.items() if gate.is_used}
            gate = self.by_host[host] = HostGate(HostLimiter(host, self._max_in_flight))
        return gate

    def admits(self, gate: HostGate[M], queue: MessageQueue[M], now: float) -> bool:
        """Return whether a message of the queue may be sent now.

        If not, the queue is appended to the queues that wait for a slot of the host, or for the share of the host.
        """
        limiter = gate.limiter
        urgent = queue.lane is Lane.URGENT
        if not limiter.has_room(now, urgent=urgent, application_id=queue.tenant.application_id):
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
