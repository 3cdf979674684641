"""Limit the messages in flight to one push-service host, and stop sending to a host that fails.

The limit is a congestion window as in TCP. It starts at INITIAL_LIMIT. Backpressure (429, for example), or a round with
many failures, halves it, at most once a round. Each success grows it by one a round. Above INITIAL_LIMIT it grows
faster, but only while it is used up and latency stays near its baseline: otherwise more messages in flight would only
wait at the host.

After FAILURES_TO_OPEN consecutive failures the circuit breaker opens. Nothing is sent for a pause, which doubles each
time; then one message probes the host. When the probe succeeds, the limit doubles each round up to half of its former
value.

Decisions only: callers pass the time in, and nothing is awaited.
"""

from enum import Enum

INITIAL_LIMIT = 64
GROWTH_FACTOR = 1.25
# The limit shrinks when latency exceeds its baseline by this factor.
LATENCY_TOLERANCE = 1.5
# The latency baseline rises by this factor each round, so that a longer network path is learnt eventually.
BASELINE_DRIFT = 1.001
MIN_ROUND_RESULTS = 16
# Share of failures in a round above which the limit is halved.
MAX_FAILURE_SHARE = 0.1
# So many consecutive failures are attributed to the host; fewer may be caused by single devices or the network.
FAILURES_TO_OPEN = 10
INITIAL_PAUSE_S, MAX_PAUSE_S = 5.0, 300.0
# Minimum interval between urgent probes while the breaker is open.
URGENT_PROBE_INTERVAL_S = 1.0
# Urgent probes in flight at once.
MAX_URGENT_PROBES = 4
# Weight of a new value in the moving averages.
EWMA_WEIGHT = 1 / 64
# A host that responds later than this is late.
LATE_S = 0.5


class Feedback(Enum):
    """What a response says of its host, whatever it says of the message. A message without a POST gives none."""

    SUCCESS = "the host works"
    BACKPRESSURE = "the host asks for fewer messages"
    FAILURE = "the host failed or did not respond"


class HostLimiter:
    """The limit and the circuit breaker of one host, as one worker sees it.

    Keyed by host and shared by all tenants, since a push service limits the sender as a whole. Only what the host
    itself reports counts: refusals that concern a tenant's key or a single device are no failures.
    """

    __slots__ = (
        "_baseline_latency",
        "_consecutive_failures",
        "_ignored_responses",
        "_in_flight_before_open",
        "_latency_ewma",
        "_pause",
        "_round_failures",
        "_round_latency",
        "_round_results",
        "_service_time_ewma",
        "_slow_start_threshold",
        "_urgent_probe_at",
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
        """Start with a closed breaker; the limit never exceeds `max_limit`."""
        self.name = name
        self.max_limit = max_limit
        self.limit = float(min(INITIAL_LIMIT, max_limit))
        self.in_flight = 0
        # Whether a message had to wait for a slot since the last round.
        self.was_full = False
        # When a message last completed, or was sent to the idle host.
        self.progress_at = 0.0
        self.opened_at = 0.0
        # When the open breaker lets a probe through; 0 while it is closed.
        self.probe_at = 0.0
        self._slow_start_threshold = self.limit
        # Responses still to come to messages that were sent before the last cut of the limit.
        self._ignored_responses = 0
        self._consecutive_failures = 0
        self._pause = INITIAL_PAUSE_S
        self._in_flight_before_open = 0
        self._urgent_probe_at = 0.0
        self._round_results = self._round_failures = 0
        self._round_latency = 0.0
        self._baseline_latency = 0.0
        self._service_time_ewma = 0.0
        self._latency_ewma = 0.0

    def is_open(self, now: float) -> bool:
        """Whether the breaker is open and its pause is not over."""
        return self.probe_at > now

    def has_room(self, now: float, *, urgent: bool) -> bool:
        """Whether a message may be sent. Urgent messages have a quarter more slots, which a campaign cannot occupy."""
        if self.probe_at:
            probes = self.in_flight - self._in_flight_before_open
            if urgent:
                return probes < MAX_URGENT_PROBES and (probes < 1 or now >= self._urgent_probe_at)
            return probes < 1 and now >= self.probe_at
        if urgent:
            return self.in_flight < int(self.limit) + max(1, int(self.limit) // 4)
        return self.in_flight < int(self.limit)

    def begin(self, now: float) -> None:
        """Record that a message is being sent."""
        self.in_flight += 1
        if self.in_flight == 1:
            self.progress_at = now
        if self.probe_at:
            self._urgent_probe_at = now + URGENT_PROBE_INTERVAL_S

    def end(self, now: float, feedback: Feedback | None, seconds: float = 0.0, *, demanded: bool = False) -> None:
        """Record that a message completed.

        Args:
            now: the time.
            feedback: what the response says of the host; None when nothing was sent.
            seconds: the time until the response.
            demanded: whether other messages wait for the slot.
        """
        self.in_flight -= 1
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
        # Messages in flight at the last cut were sent under the old limit: their responses must not cut it again.
        may_cut = not self._ignored_responses
        if not may_cut:
            self._ignored_responses -= 1
        if feedback is None:
            return
        self._latency_ewma += (seconds - self._latency_ewma) * EWMA_WEIGHT
        self._round_results += 1
        if feedback is Feedback.SUCCESS:
            self._consecutive_failures = 0
            self._round_latency += seconds
            if self.probe_at:
                self._close()
            if self.limit < self._slow_start_threshold:
                self.limit = min(self._slow_start_threshold, self.limit + 1)
            elif self.limit < INITIAL_LIMIT:
                self.limit = min(float(self.max_limit), self.limit + 1 / self.limit)
        elif feedback is Feedback.BACKPRESSURE:
            self._consecutive_failures = 0
            if self.probe_at:
                self._close()
            if may_cut:
                self._cut()
        else:
            self._consecutive_failures += 1
            self._round_failures += 1
            if self._consecutive_failures >= FAILURES_TO_OPEN and now >= self.probe_at:
                self._open(now)
        if not self.probe_at and self._round_results >= max(self.limit, MIN_ROUND_RESULTS):
            self._end_round(may_cut=may_cut)

    def is_late(self, now: float) -> bool:
        """Whether the host responds so late that its messages in flight mostly wait, and cost this worker no work."""
        return max(self._latency_ewma, now - self.progress_at) > LATE_S

    def estimate_wait_s(self, count: int, now: float) -> float:
        """Return the seconds until the host has taken `count` more messages, at its recent rate."""
        service_time = self._service_time_ewma
        if self.in_flight:
            # Divided by INITIAL_LIMIT at least: with a limit that was cut, any late response would look like a stall.
            service_time = max(service_time, (now - self.progress_at) / max(INITIAL_LIMIT, self.limit))
        return count * service_time

    def _end_round(self, *, may_cut: bool) -> None:
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
        self._start_round()

    @property
    def pause(self) -> float:
        """Seconds for which the open breaker stops sending."""
        return self._pause
