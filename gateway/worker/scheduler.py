"""The send scheduler of a worker: it decides which message is sent next, and how many messages are in flight.

Urgent messages are sent before normal ones, and normal ones before bulk. Within a lane, tenants take turns, and so do
the hosts of one tenant. No host has more messages in flight than its limiter allows. The parts are in `scheduling`:

- `FairQueue`: the order of messages, by lane, tenant and host.
- `HostGates`: the limits of hosts and of applications at a host, and the messages that wait for them or are deferred.
- `IdleSenders` and `Backlog`: wake-ups of senders and of claim loops.

The scheduler combines them with a limit on all messages in flight (`ConcurrencyLimit`).
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import structlog

from gateway import metrics
from gateway.domain import ids
from gateway.domain.notification import Lane
from gateway.push.endpoints import service_label, vendor_name
from gateway.service.reporting.breakers import ApplicationLimit
from gateway.worker.concurrency import ConcurrencyLimit
from gateway.worker.host_limiter import Feedback, HostLimiter
from gateway.worker.scheduling.fair_queue import FairQueue, MessageQueue
from gateway.worker.scheduling.host_gate import ApplicationGate, HostGate, HostGates
from gateway.worker.scheduling.wakeups import URGENT, Backlog, IdleSenders

log = structlog.get_logger(__name__)


class Schedulable(Protocol):
    """The interface of a message for the scheduler."""

    @property
    def lane(self) -> Lane:
        """The lane in which the message is sent."""
        ...

    @property
    def host(self) -> str:
        """The push-service host to which the message is sent."""
        ...

    @property
    def application_id(self) -> UUID:
        """The application that sends the message."""
        ...

    @property
    def repeated(self) -> bool:
        """Whether the message has been sent to the device before, without success."""
        ...

    def defer(self, seconds: float) -> None:
        """Return the message to the queue, due again in `seconds`."""
        ...


M = TypeVar("M", bound=Schedulable)

# The lanes in order of priority.
ALL_LANES = tuple(Lane)


class SendScheduler(Generic[M]):
    """The scheduler of one worker.

    A sender takes a message with `next`, sends it, and reports the result with `complete`.
    """

    def __init__(self, max_in_flight: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a scheduler for at most `max_in_flight` messages in flight, and urgent messages beyond that."""
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._concurrency = ConcurrencyLimit(max_in_flight)
        self._iteration_started_at = 0.0
        self.fair_queue: FairQueue[M] = FairQueue()
        self.gates: HostGates[M] = HostGates(max_in_flight)
        self.senders = IdleSenders()
        self.backlog = Backlog()

    @contextmanager
    def export_metrics(self) -> Iterator[None]:
        """Export the state of the hosts until the context ends."""

        def sum_by_service(read: Callable[[HostLimiter], float]) -> Callable[[], metrics.Reading]:
            def reading() -> metrics.Reading:
                totals: dict[metrics.Labels, float] = {}
                for gate in self.gates.by_host.values():
                    labels = (service_label(gate.limiter.name),)
                    totals[labels] = totals.get(labels, 0.0) + read(gate.limiter)
                return totals

            return reading

        with (
            metrics.IN_FLIGHT.set_callback(sum_by_service(lambda limiter: limiter.in_flight)),
            metrics.LIMIT.set_callback(sum_by_service(lambda limiter: int(limiter.limit))),
            metrics.BREAKER_OPEN.set_callback(sum_by_service(lambda limiter: bool(limiter.probe_at))),
            metrics.APPLICATIONS_LIMITED.set_callback(self._count_limited),
        ):
            yield

    def open_breakers(self) -> set[str]:
        """Return the push services with a host whose circuit breaker is open."""
        return {vendor_name(gate.limiter.name) for gate in self.gates.by_host.values() if gate.limiter.probe_at}

    def limits(self, application_id: UUID) -> list[ApplicationLimit]:
        """Return the limits that push services put on an application: the lowest of each push service."""
        now = self._clock()
        by_service: dict[str, ApplicationLimit] = {}
        for gate in self.gates.by_host.values():
            if (application_gate := gate.limited(application_id)) is not None:
                limiter, name = application_gate.limiter, vendor_name(gate.limiter.name)
                limit = ApplicationLimit(name, round(limiter.rate, 3), max(0.0, limiter.held_until - now))
                by_service[name] = min(limit, by_service.get(name, limit), key=lambda item: item.per_second)
        return list(by_service.values())

    def host_limit(self, host: str) -> int:
        """Return the number of messages that a host may have in flight."""
        return int(self.gates.get_or_create(host).limiter.limit)

    def put(self, lane: Lane, application_id: UUID, messages: Sequence[M]) -> None:
        """Add messages of one tenant. Messages for slow or unreachable hosts are deferred at once if needed."""
        now = self._clock()
        by_host: dict[str, list[M]] = {}
        for message in messages:
            by_host.setdefault(message.host, []).append(message)
        ready_before = self.backlog.ready[lane]
        for host, host_messages in by_host.items():
            gate = self.gates.get_or_create(host)
            if gate.limiter.is_open(now):
                # The first message is sent as a probe, if that is allowed now.
                probe_count = int(gate.admits_probe(lane, application_id, now))
                if probe_count:
                    self._add(gate, lane, application_id, host_messages[:probe_count], now)
                if rest := host_messages[probe_count:]:
                    _defer(rest, gate.breaker_deferral_s(lane, now), "unreachable")
            elif gate.limited(application_id):
                self._add(gate, lane, application_id, host_messages, now)
            elif (deferral := gate.deferral_s(lane, application_id, len(host_messages), now)) > 0:
                _defer(host_messages, deferral, "slow")
            else:
                self._add(gate, lane, application_id, host_messages, now)
        if self.backlog.ready[lane] <= ready_before:
            self.backlog.record_undeliverable(lane, len(messages))
        if lane is Lane.URGENT:
            self.backlog.announce_urgent()

    async def next(self, *, urgent_only: bool) -> M:
        """Wait for the next message to send. The caller must report its result with `complete`."""
        while (message := self.next_nowait(urgent_only=urgent_only)) is None:
            await self.senders.wait(urgent_only=urgent_only)
        if not self._iteration_started_at:
            self._iteration_started_at = self._clock()
            asyncio.get_running_loop().call_soon(self._end_iteration)
        return message

    def next_nowait(self, *, urgent_only: bool) -> M | None:
        """Return the next message to send, or None if no message may be sent now."""
        gates = self.gates
        if not urgent_only and gates.in_flight - gates.in_flight_at_slow_hosts >= self._concurrency.limit:
            self._concurrency.was_reached = True
            return None
        now = self._clock()
        fair_queue = self.fair_queue
        for lane in URGENT if urgent_only or self.backlog.non_urgent_paused else ALL_LANES:
            while (queue := fair_queue.head(lane)) is not None:
                gate = gates.by_host[queue.host]
                application_gate = gate.applications.get(queue.tenant.application_id) if gate.applications else None
                if (application_gate and not application_gate.admits(queue, now)) or not gates.admits(gate, queue, now):
                    fair_queue.skip(lane)
                    continue
                if application_gate and application_gate.limiter.is_probing:
                    queue.messages.rotate(random.randrange(len(queue.messages)))  # noqa: S311 - a sample, not a secret
                message = fair_queue.pop(lane)
                gates.in_flight += 1
                gate.limiter.begin(now, queue.tenant.application_id)
                if application_gate:
                    application_gate.limiter.begin(now, urgent=lane is Lane.URGENT)
                if application_gate and lane in application_gate.queues:
                    if not queue.messages:
                        del application_gate.queues[lane]
                        fair_queue.close(queue)
                    return message
                gate.waiting[lane] -= 1
                if not gate.slow_since:
                    self.backlog.remove(lane, 1)
                if not queue.messages:
                    del gate.queues[lane, queue.tenant.application_id]
                    fair_queue.close(queue)
                return message
        return None

    def complete(
        self,
        message: M,
        feedback: Feedback | None = None,
        seconds: float = 0.0,
        retry_after_s: float | None = None,
    ) -> None:
        """Free the slot of a message, and pass the feedback to the limiters of its host and its application.

        The caller is expected to take the next message at once.

        Args:
            message: a message that `next` has returned.
            feedback: the conclusion from the response about the host; None if no POST was sent.
            seconds: the time until the response.
            retry_after_s: the Retry-After of a refusal.
        """
        now = self._clock()
        gates = self.gates
        gate = gates.by_host[message.host]
        limiter = gate.limiter
        probe_at = limiter.probe_at
        gates.in_flight -= 1
        limiter.end(now, feedback, seconds, demanded=bool(gate.queues), application_id=message.application_id)
        if limiter.probe_at != probe_at:
            self._on_breaker_change(gate, now, was_open=probe_at > 0)
        if gate.applications or feedback is Feedback.REFUSAL:
            self._inform_application(gate, message, now, feedback, seconds, retry_after_s)
        if gate.queues or gate.applications:
            # One fewer, since the calling sender takes a message itself.
            self._wake(self._unblock(gate, now) - 1)
        if gates.over_share:
            self.fair_queue.make_ready(gates.over_share.popleft())
            self._wake(1)
        if message.lane is Lane.URGENT:  # the calling sender may take urgent messages only, so wake another one
            self._wake(1)

    async def wait_until_below(self, lanes: Sequence[Lane], limit: int) -> None:
        """Wait until at most `limit` messages of these lanes are ready. Messages for slow hosts do not count."""
        await self.backlog.wait_until_below(lanes, limit)

    async def pause_non_urgent(self, seconds: float) -> bool:
        """Send and claim only urgent messages until more urgent messages arrive, at most for `seconds`.

        Returns:
            Whether urgent messages have arrived.
        """
        try:
            return await self.backlog.pause_non_urgent(seconds)
        finally:
            self._wake(self._max_in_flight)

    def reassess_hosts(self) -> None:
        """Find hosts that have stalled, and hosts to which messages may be sent again.

        Call it at intervals, since no event reports these changes.
        """
        now = self._clock()
        self.gates.measure_slow_hosts(now)
        for gate in list(self.gates.by_host.values()):
            if gate.applications:
                self._update_applications(gate, now)
            if gate.queues or gate.slow_since or gate.applications:
                self._update_slow_state(gate, now)
                self._unblock(gate, now)
        if self.fair_queue.has_ready:
            self._wake(self._max_in_flight)

    def _add(self, gate: HostGate[M], lane: Lane, application_id: UUID, messages: list[M], now: float) -> None:
        """Add messages to the queue of their lane and tenant at the host, or at the gate of a limited application."""
        if (application_gate := gate.limited(application_id)) is not None:
            self._add_limited(gate, application_gate, lane, messages, now)
            return
        gate.waiting[lane] += len(messages)
        if not gate.slow_since:
            self.backlog.add(lane, len(messages))
        queue = gate.queues.get((lane, application_id))
        if queue is not None:
            queue.messages.extend(messages)
        else:
            gate.queues[lane, application_id] = self.fair_queue.open(lane, application_id, gate.limiter.name, messages)
        self._wake_for(lane, len(messages))
        self._update_slow_state(gate, now)

    def _add_limited(
        self, gate: HostGate[M], application_gate: ApplicationGate[M], lane: Lane, messages: list[M], now: float
    ) -> None:
        """Add messages of a limited application; defer those that would wait for too long."""
        queue = application_gate.queues.get(lane)
        free_count = max(0, application_gate.waiting_limit(lane, now) - (len(queue.messages) if queue else 0))
        if added := messages[:free_count]:
            if queue:
                queue.messages.extend(added)
            else:
                application_id = added[0].application_id
                application_gate.queues[lane] = self.fair_queue.open(lane, application_id, gate.limiter.name, added)
            self._wake_for(lane, len(added))
        if deferred := messages[free_count:]:
            _defer(deferred, application_gate.deferral_s(lane, len(deferred), now), "limited")

    def _inform_application(
        self,
        gate: HostGate[M],
        message: M,
        now: float,
        feedback: Feedback | None,
        seconds: float,
        retry_after_s: float | None,
    ) -> None:
        """Pass the feedback to the limiter of an application, and handle the beginning or the end of a limit."""
        application_id = message.application_id
        if feedback is Feedback.SUCCESS:
            gate.refused_since_accepted.clear()
        if feedback is Feedback.REFUSAL:
            application_gate = gate.get_or_create_application(application_id)
        elif (existing := gate.applications.get(application_id)) is not None:
            application_gate = existing
        else:
            return
        limiter = application_gate.limiter
        was_limited = limiter.is_limited
        if limiter.end(now, feedback, seconds, retry_after_s, repeated=message.repeated):
            gate.record_held(application_id)
            if not was_limited:
                self._limit(gate, application_id, application_gate)
            application_gate.resume_at = 0.0  # the estimate was made with the former pace
            self._defer_excess(application_gate, now)
            log.warning(
                "host.limits_application",
                host=gate.limiter.name,
                application_id=ids.format_id(ids.APPLICATION, application_id),
                per_s=round(limiter.rate, 3),
                held_s=round(limiter.held_until - now, 1),
            )
        elif not was_limited and feedback is Feedback.SUCCESS:
            if limiter.is_clear:
                del gate.applications[application_id]
            self._make_ready(application_gate.unblock(now))

    def _limit(self, gate: HostGate[M], application_id: UUID, application_gate: ApplicationGate[M]) -> None:
        """Move the queues of an application that has become limited from the gate of the host to the application's."""
        for lane in Lane:
            queue = gate.queues.pop((lane, application_id), None)
            if queue is not None:
                application_gate.queues[lane] = queue
                gate.waiting[lane] -= len(queue.messages)
                if not gate.slow_since:
                    self.backlog.remove(lane, len(queue.messages))

    def _lift(self, gate: HostGate[M], application_id: UUID, application_gate: ApplicationGate[M], now: float) -> None:
        """Move the queues of an application that is no longer limited back to the gate of the host."""
        del gate.applications[application_id]
        gate.refused_since_accepted.discard(application_id)
        for lane, queue in application_gate.queues.items():
            gate.queues[lane, application_id] = queue
            gate.waiting[lane] += len(queue.messages)
            if not gate.slow_since:
                self.backlog.add(lane, len(queue.messages))
        self._make_ready(application_gate.blocked.values())
        log.warning(
            "host.limit_lifted",
            host=gate.limiter.name,
            application_id=ids.format_id(ids.APPLICATION, application_id),
            after_s=round(now - application_gate.limiter.limited_at, 1),
        )

    def _update_applications(self, gate: HostGate[M], now: float) -> None:
        """Make queues of limited applications ready again, and remove gates that are no longer needed."""
        for application_id, application_gate in list(gate.applications.items()):
            if application_gate.limiter.update(now):
                self._make_ready(application_gate.unblock(now))
            elif application_gate.limiter.is_limited:
                self._lift(gate, application_id, application_gate, now)
            else:
                del gate.applications[application_id]
                self._make_ready(application_gate.blocked.values())

    def _make_ready(self, queues: Iterable[MessageQueue[M]]) -> None:
        for queue in queues:
            self.fair_queue.make_ready(queue)
            self._wake_for(queue.lane, len(queue.messages))

    def _defer_excess(self, application_gate: ApplicationGate[M], now: float) -> None:
        """Defer the messages of an application that would wait for too long."""
        for lane, queue in list(application_gate.queues.items()):
            waiting_limit = application_gate.waiting_limit(lane, now)
            deferred = [queue.messages.pop() for _ in range(len(queue.messages) - waiting_limit)][::-1]
            if not queue.messages:
                self._remove(queue)
            if deferred:
                _defer(deferred, application_gate.deferral_s(lane, len(deferred), now), "limited")

    def _count_limited(self) -> metrics.Reading:
        counts: dict[metrics.Labels, float] = {}
        for gate in self.gates.by_host.values():
            labels = (service_label(gate.limiter.name),)
            limited = sum(application_gate.limiter.is_limited for application_gate in gate.applications.values())
            counts[labels] = counts.get(labels, 0) + limited
        return counts

    def _update_slow_state(self, gate: HostGate[M], now: float) -> None:
        if gate.update_slow_state(now):
            if gate.slow_since:
                self.backlog.exclude(gate.waiting)
            else:
                self.backlog.include(gate.waiting)

    def _on_breaker_change(self, gate: HostGate[M], now: float, *, was_open: bool) -> None:
        """Handle a breaker that has opened, has closed, or stays open for another pause."""
        limiter = gate.limiter
        if not limiter.probe_at:
            log.warning("host.recovered", host=limiter.name, after_s=round(now - limiter.opened_at, 1))
        elif not was_open:
            metrics.BREAKER_OPENED.labels(service_label(limiter.name)).inc()
            log.error("host.unreachable", host=limiter.name, paused_s=limiter.pause)
        if limiter.probe_at:
            self._defer_all(gate, now)
        self._update_slow_state(gate, now)

    def _defer_all(self, gate: HostGate[M], now: float) -> None:
        """Defer all messages that wait for a host whose breaker has opened."""
        for queue in list(gate.queues.values()):
            lane, count = queue.lane, len(queue.messages)
            self._remove(queue)
            gate.waiting[lane] -= count
            if not gate.slow_since:
                self.backlog.remove(lane, count)
            _defer(queue.messages, gate.breaker_deferral_s(lane, now), "unreachable")
        for application_gate in gate.applications.values():
            for queue in list(application_gate.queues.values()):
                self._remove(queue)
                _defer(queue.messages, gate.breaker_deferral_s(queue.lane, now), "unreachable")

    def _remove(self, queue: MessageQueue[M]) -> None:
        """Remove a queue, whether it is ready or blocked."""
        gate, application_id, lane = self.gates.by_host[queue.host], queue.tenant.application_id, queue.lane
        application_gate = gate.applications.get(application_id)
        if not self.fair_queue.remove(queue):
            waiting_at = [self.gates.over_share, gate.blocked[lane]]
            for blocked in waiting_at:
                if queue in blocked:
                    blocked.remove(queue)
            if application_gate:
                application_gate.blocked.pop(lane, None)
        if application_gate and application_gate.queues.get(lane) is queue:
            del application_gate.queues[lane]
        else:
            del gate.queues[lane, application_id]
        self.fair_queue.close(queue)

    def _unblock(self, gate: HostGate[M], now: float) -> int:
        """Make queues ready that have waited for the host; return the number of free slots of the host."""
        unblocked = gate.unblock(now)
        if unblocked is None:
            return 0
        for queue in unblocked.queues:
            self.fair_queue.make_ready(queue)
        if unblocked.lane is Lane.URGENT:
            self._wake_for(Lane.URGENT, unblocked.free_slots)
        return unblocked.free_slots

    def _end_iteration(self) -> None:
        """Record the duration of the iteration of the event loop that has just ended."""
        limit = self._concurrency.limit
        self._concurrency.record_iteration(self._clock() - self._iteration_started_at)
        self._iteration_started_at = 0.0
        self._wake(self._concurrency.limit - limit)

    def _wake_for(self, lane: Lane, count: int) -> None:
        """Wake senders for `count` messages of a lane. For urgent messages, wake the reserved senders first."""
        if lane is Lane.URGENT:
            count -= self.senders.wake_urgent_only(count)
        self._wake(count)

    def _wake(self, count: int) -> None:
        """Wake up to `count` senders that take messages of every lane, but not more than there are free slots."""
        gates = self.gates
        free_slots = self._concurrency.limit + gates.in_flight_at_slow_hosts - gates.in_flight
        self.senders.wake(min(count, free_slots))


def _defer(messages: Iterable[Schedulable], seconds: float, cause: str) -> None:
    count = 0
    for message in messages:
        message.defer(seconds)
        count += 1
    metrics.DEFERRED.labels(cause).inc(count)
