"""Limit the messages in flight to one push-service host, and stop sending to a host that fails.

The limit works like a congestion window of TCP. A round is about as many results as the limit. The limit starts at
INITIAL_LIMIT, but a new host gets only FIRST_LIMIT messages until it has accepted some. A round with many failures
halves the limit, at most once a round, and so do refusals of several applications at once. (The refusals of a single
application are handled by its `ApplicationLimiter`.) Below INITIAL_LIMIT, successes increase the limit by one a round.
Above INITIAL_LIMIT, it grows by GROWTH_FACTOR a round, but only if it is used up and latency is near its baseline:
otherwise more messages in flight would only wait at the host.

After a run of failures (`is_conclusive`), the circuit breaker opens. Nothing is sent for a pause, which doubles each
time. Then one message is sent as a probe. After a successful probe, the limit doubles each round, up to half of the
value that it had when the breaker opened.

The module only makes decisions: it does no I/O, and callers pass the time as an argument.
"""

import math
from enum import Enum
from uuid import UUID

from gateway.service.pipeline.key_health import is_conclusive

# Initial limit of messages in flight.
INITIAL_LIMIT = 64
# Maximum number of non-urgent messages in flight to a new host, until the host has accepted FIRST_ACCEPTED messages: a
# host that allows few messages (ntfy: 60) would otherwise refuse a full window of them before its first refusal is
# known. A message counts for more if its response is late, so this phase lasts a second at most.
FIRST_LIMIT, FIRST_ACCEPTED = 8, 100
# Factor by which the limit grows or shrinks after a round.
GROWTH_FACTOR = 1.25
# The limit shrinks if latency exceeds its baseline by this factor.
LATENCY_TOLERANCE = 1.5
# The latency baseline rises by this factor each round, so that it adapts to a network path that has become longer.
BASELINE_DRIFT = 1.001
# Minimum number of results in a round.
MIN_ROUND_RESULTS = 16
# Share of failures in a round above which the limit is halved.
MAX_FAILURE_SHARE = 0.1
# First and longest pause of the open breaker.
INITIAL_PAUSE_S, MAX_PAUSE_S = 5.0, 300.0
# Minimum interval between urgent probes of one application while the breaker is open and another probe is in flight.
URGENT_PROBE_INTERVAL_S = 1.0
# Maximum number of urgent probes in flight, of one application.
MAX_URGENT_PROBES = 4
# Weight of a new value in the moving averages.
EWMA_WEIGHT = 1 / 64
# Latency above which a host counts as late.
LATE_S = 0.5


class Feedback(Enum):
    """The conclusion from a response about its host, independent of the outcome of the message."""

    SUCCESS = "the host works"
    REFUSAL = "the host works, and asks the application for fewer messages"
    FAILURE = "the host failed or did not respond"


class HostLimiter:
    """The limit and the circuit breaker of one host, in one worker.

    All tenants share the limiter of a host. A refusal that concerns one application, its key or a single device does
    not count as a failure of the host.
    """

    __slots__ = (
        "_accepted",
        "_baseline_latency",
        "_consecutive_failures",
        "_ignored_responses",
        "_in_flight_before_open",
        "_latency_ewma",
        "_may_cut",
        "_pause",
        "_round_failures",
        "_round_latency",
        "_round_results",
        "_service_time_ewma",
        "_slow_start_threshold",
        "_urgent_probes",
        "_worked_at",
        "in_flight",
        "limit",
        "max_limit",
        "name",
        "opened_at",
        "probe_at",
        "progress_at",
        "was_full",
    )

    def __init__(self, name: str, max_limit: int) -> None:
        """Create a limiter with a closed breaker. Its limit never exceeds `max_limit`."""
        self.name = name
        self.max_limit = max_limit
        self.limit = float(min(INITIAL_LIMIT, max_limit))
        self.in_flight = 0
        # Whether a message has had to wait for a slot in the current round.
        self.was_full = False
        # When a message last completed, or was sent to an idle host.
        self.progress_at = 0.0
        # When the breaker last opened.
        self.opened_at = 0.0
        # When the open breaker allows a probe; 0 while the breaker is closed.
        self.probe_at = 0.0
        self._slow_start_threshold = self.limit
        # Number of accepted messages, weighted by their latency; counted up to FIRST_ACCEPTED.
        self._accepted = 0
        # Number of messages in flight that were sent before the last cut of the limit.
        self._ignored_responses = 0
        # Whether the message that completed last may cut the limit.
        self._may_cut = True
        self._consecutive_failures = 0
        self._pause = INITIAL_PAUSE_S
        # Number of messages in flight that were sent before the breaker opened; they are no probes.
        self._in_flight_before_open = 0
        # While the breaker is open: (urgent probes in flight, when the next may be sent), by application.
        self._urgent_probes: dict[UUID | None, tuple[int, float]] = {}
        # When the host last responded without a failure.
        self._worked_at = -math.inf
        self._round_results = self._round_failures = 0
        self._round_latency = 0.0
        self._baseline_latency = 0.0
        self._service_time_ewma = 0.0
        self._latency_ewma = 0.0

    def is_open(self, now: float) -> bool:
        """Return whether the breaker is open and its pause has not ended."""
        return self.probe_at > now

    def has_room(self, now: float, *, urgent: bool, application_id: UUID | None = None) -> bool:
        """Return whether a message may be sent. A quarter more slots are reserved for urgent messages.

        While the breaker is open, urgent probes are limited for each application.
        """
        if self.probe_at:
            if urgent:
                probes, next_at = self._urgent_probes.get(application_id, (0, 0.0))
                return probes < MAX_URGENT_PROBES and (probes < 1 or now >= next_at)
            return self.in_flight <= self._in_flight_before_open and now >= self.probe_at
        if urgent:
            return self.in_flight < int(self.limit) + max(1, int(self.limit) // 4)
        return self.free_slots > 0

    @property
    def free_slots(self) -> int:
        """The number of further non-urgent messages that may be in flight while the breaker is closed."""
        limit = int(self.limit)
        return (min(FIRST_LIMIT, limit) if self._accepted < FIRST_ACCEPTED else limit) - self.in_flight

    def begin(self, now: float, application_id: UUID | None = None) -> None:
        """Record that a message is being sent."""
        self.in_flight += 1
        if self.in_flight == 1:
            self.progress_at = now
        if self.probe_at:
            probes, _ = self._urgent_probes.get(application_id, (0, 0.0))
            self._urgent_probes[application_id] = (probes + 1, now + URGENT_PROBE_INTERVAL_S)

    def end(
        self,
        now: float,
        feedback: Feedback | None,
        seconds: float = 0.0,
        *,
        demanded: bool = False,
        application_id: UUID | None = None,
    ) -> None:
        """Record that a message completed.

        Args:
            now: the current time.
            feedback: the conclusion from the response about the host; None if no POST was sent.
            seconds: the time until the response.
            demanded: whether other messages wait for the slot.
            application_id: the application that sent the message.
        """
        self.in_flight -= 1
        is_probe = self.probe_at > 0 and now - seconds >= self.opened_at
        if is_probe and (probe := self._urgent_probes.get(application_id)):
            self._urgent_probes[application_id] = (max(0, probe[0] - 1), probe[1])
        if demanded:
            gap = now - self.progress_at
            self._service_time_ewma = (
                gap / max(1.0, self.limit)
                if not self._service_time_ewma
                else self._service_time_ewma + (gap - self._service_time_ewma) * EWMA_WEIGHT
            )
        self.progress_at = now
        if self._in_flight_before_open:
            self._in_flight_before_open -= 1
        # Messages that were in flight at the last cut were sent under the old limit. Their responses must not cause
        # another cut.
        self._may_cut = may_cut = not self._ignored_responses
        if not may_cut:
            self._ignored_responses -= 1
        if feedback is None:
            return
        self._latency_ewma += (seconds - self._latency_ewma) * EWMA_WEIGHT
        if feedback is not Feedback.FAILURE:
            self._worked_at = now
        if feedback is Feedback.REFUSAL:
            self._consecutive_failures = 0
            if self.probe_at:
                self._close()
            return
        self._round_results += 1
        if feedback is Feedback.SUCCESS:
            if self._accepted < FIRST_ACCEPTED:
                self._accepted += 1 + int(seconds * FIRST_ACCEPTED / FIRST_LIMIT)
            self._consecutive_failures = 0
            self._round_latency += seconds
            if self.probe_at:
                self._close()
            if self.limit < self._slow_start_threshold:
                self.limit = min(self._slow_start_threshold, self.limit + 1)
            elif self.limit < INITIAL_LIMIT:
                self.limit = min(float(self.max_limit), self.limit + 1 / self.limit)
        else:
            self._consecutive_failures += 1
            self._round_failures += 1
            if now >= self.probe_at and is_conclusive(self._consecutive_failures, now - self._worked_at):
                self._open(now)
        if not self.probe_at and self._round_results >= max(self.limit, MIN_ROUND_RESULTS):
            self._end_round(may_cut=may_cut)

    def throttle(self) -> None:
        """Halve the limit, at most once a round, because of the message that has just completed."""
        if self._may_cut:
            self._may_cut = False
            self._cut()

    def is_late(self, now: float) -> bool:
        """Return whether the host responds so late that its messages in flight cause almost no work in this worker."""
        return max(self._latency_ewma, now - self.progress_at) > LATE_S

    def estimate_wait_s(self, count: int, now: float) -> float:
        """Return the estimated seconds until the host has accepted `count` more messages, at its recent rate."""
        service_time = self._service_time_ewma
        if self.in_flight:
            # The divisor is at least INITIAL_LIMIT: with a limit that was cut, one late response would look like a
            # stalled host.
            service_time = max(service_time, (now - self.progress_at) / max(INITIAL_LIMIT, self.limit))
        return count * service_time

    def _end_round(self, *, may_cut: bool) -> None:
        """Adjust the limit by the failures and the latency of a round."""
        successes = self._round_results - self._round_failures
        if self._round_failures > self._round_results * MAX_FAILURE_SHARE:
            if may_cut:
                self._cut()
        elif self.limit >= INITIAL_LIMIT and successes:
            latency = self._round_latency / successes
            self._baseline_latency = (
                min(latency, self._baseline_latency * BASELINE_DRIFT) if self._baseline_latency else latency
            )
            if latency > self._baseline_latency * LATENCY_TOLERANCE:
                self.limit = max(float(INITIAL_LIMIT), self.limit / GROWTH_FACTOR)
            elif self.was_full:
                self.limit = min(float(self.max_limit), self.limit * GROWTH_FACTOR)
        self._start_round()

    def _start_round(self) -> None:
        self._round_results = self._round_failures = 0
        self._round_latency = 0.0
        self.was_full = False

    def _cut(self) -> None:
        self.limit = self._slow_start_threshold = max(1.0, self.limit / 2)
        self._ignored_responses = self.in_flight

    def _open(self, now: float) -> None:
        """Open the breaker, or extend it by another pause, twice as long."""
        if self.probe_at:
            self._pause = min(MAX_PAUSE_S, self._pause * 2)
        else:
            self.opened_at = now
            self._slow_start_threshold = max(1.0, self.limit / 2)
        self.limit = 1.0
        self.probe_at = now + self._pause
        self._in_flight_before_open = self.in_flight

    def _close(self) -> None:
        self.probe_at = 0.0
        self._pause = INITIAL_PAUSE_S
        self._in_flight_before_open = self._ignored_responses = 0
        self._urgent_probes.clear()
        self._start_round()

    @property
    def pause(self) -> float:
        """The pause of the open breaker in seconds."""
        return self._pause
