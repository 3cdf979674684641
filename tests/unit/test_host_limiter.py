"""The in-flight limit and the circuit breaker of a push-service host, and the concurrency limit of a worker."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.service.pipeline import key_health
from gateway.worker import concurrency, host_limiter
from gateway.worker.concurrency import ConcurrencyLimit
from gateway.worker.host_limiter import Feedback, HostLimiter


@pytest.fixture(autouse=True)
def _no_first_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a new host INITIAL_LIMIT at once; by default it gets FIRST_LIMIT until it has accepted some messages."""
    monkeypatch.setattr(host_limiter, "FIRST_LIMIT", 1000)


class SaturatedHost:
    """A host for which more messages wait than its limit; a round begins as many as fit and then completes them."""

    def __init__(self, max_limit: int = 1000) -> None:
        self.host = HostLimiter("one.example", max_limit)
        self.now = 100.0

    def round(
        self, feedback: Feedback | None = Feedback.SUCCESS, seconds: float = 0.1, *, throttle: bool = False
    ) -> int:
        """Play one round whose messages take `seconds` and give `feedback`; return the number of its messages."""
        count = 0
        while self.host.has_room(self.now, urgent=False):
            self.host.begin(self.now)
            count += 1
        self.host.was_full = True
        self.now += seconds
        for _ in range(count):
            self.host.end(self.now, feedback, seconds, demanded=True)
            if throttle:
                self.host.throttle()
        return count


def test_limit_grows_while_latency_is_steady() -> None:
    """The limit of a saturated host rises from INITIAL_LIMIT to its maximum."""
    saturated = SaturatedHost()
    sizes = [saturated.round() for _ in range(20)]
    assert sizes[0] == host_limiter.INITIAL_LIMIT
    assert sizes[-1] == 1000


def test_limit_stops_growing_when_latency_rises() -> None:
    """The limit of a host with a constant throughput of 100 messages/s stays below twice INITIAL_LIMIT."""
    saturated = SaturatedHost()
    for _ in range(30):
        saturated.round(seconds=int(saturated.host.limit) / 100)
    assert host_limiter.INITIAL_LIMIT <= saturated.host.limit <= host_limiter.INITIAL_LIMIT * 2


def test_limit_stays_while_it_is_not_reached() -> None:
    """500 messages one after the other leave the limit at INITIAL_LIMIT."""
    host = HostLimiter("one.example", 1000)
    for number in range(500):
        host.begin(number)
        host.end(number, Feedback.SUCCESS, 0.1)
    assert host.limit == host_limiter.INITIAL_LIMIT


def test_refusals_of_one_application_keep_the_limit() -> None:
    """Refusals are charged to the application; they also prove that the host works, and close its breaker."""
    saturated = SaturatedHost()
    saturated.round(Feedback.FAILURE)
    saturated.now = saturated.host.probe_at
    assert saturated.round(Feedback.REFUSAL) == 1
    assert not saturated.host.probe_at
    sizes = [saturated.round(limit_feedback) for limit_feedback in [Feedback.SUCCESS] * 6 + [Feedback.REFUSAL] * 3]
    assert sizes[-3:] == [sizes[-1]] * 3


def test_throttled_host_halves_its_limit_once_a_round() -> None:
    """Refusals of several applications throttle the host; its limit never falls below one message."""
    saturated = SaturatedHost()
    assert [saturated.round(Feedback.REFUSAL, throttle=True) for _ in range(8)] == [64, 32, 16, 8, 4, 2, 1, 1]


def test_new_host_gets_few_messages_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new host has FIRST_LIMIT non-urgent messages in flight until it has accepted some."""
    monkeypatch.undo()
    new, slow = SaturatedHost(), SaturatedHost()
    assert new.host.has_room(0, urgent=True)
    sizes = [new.round(seconds=0.01) for _ in range(20)]
    small = [size for size in sizes if size == host_limiter.FIRST_LIMIT]
    assert sizes[: len(small)] == small
    assert sum(small) >= host_limiter.FIRST_ACCEPTED
    assert sizes[len(small)] >= host_limiter.INITIAL_LIMIT
    assert [slow.round(seconds=2) for _ in range(2)] == [host_limiter.FIRST_LIMIT, host_limiter.INITIAL_LIMIT]


def test_limit_grows_by_one_a_round_after_a_cut() -> None:
    """Below INITIAL_LIMIT the limit grows by one message a round and does not double."""
    saturated = SaturatedHost()
    for _ in range(3):
        saturated.round(Feedback.REFUSAL, throttle=True)
    sizes = [saturated.round() for _ in range(9)]
    assert sizes[0] == 8
    assert 15 <= sizes[-1] <= 17


def test_round_with_many_failures_halves_the_limit() -> None:
    """13 failures among 64 messages halve the limit; 4 failures do not."""
    few_failures, many_failures = SaturatedHost(), SaturatedHost()
    for saturated, period in ((few_failures, 20), (many_failures, 5)):
        for _ in range(64):
            saturated.host.begin(saturated.now)
        for number in range(64):
            saturated.host.end(saturated.now, Feedback.FAILURE if number % period == 0 else Feedback.SUCCESS, 0.1)
    assert few_failures.host.limit == 64
    assert many_failures.host.limit == 32


def test_unsent_messages_leave_the_limit_unchanged() -> None:
    """A message that ends without a POST has no feedback (None)."""
    saturated = SaturatedHost()
    for _ in range(20):
        saturated.round(None)
    assert saturated.host.limit == host_limiter.INITIAL_LIMIT


def test_consecutive_failures_open_the_breaker() -> None:
    """The pause doubles with each failed probe up to 300 s; one success closes the breaker."""
    saturated = SaturatedHost()
    host = saturated.host
    saturated.round(Feedback.FAILURE)
    pauses = []
    for _ in range(9):
        assert host.is_open(saturated.now)
        assert not host.has_room(saturated.now, urgent=False)
        pauses.append(host.probe_at - saturated.now)
        saturated.now = host.probe_at
        assert saturated.round(Feedback.FAILURE) == 1
    assert pytest.approx(pauses) == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    saturated.now = host.probe_at
    assert [saturated.round() for _ in range(8)][:6] == [1, 2, 4, 8, 16, 32]
    assert not host.probe_at
    saturated.round(Feedback.FAILURE, seconds=key_health.SUCCESS_WINDOW_S)
    assert host.probe_at - saturated.now == pytest.approx(5)


def test_failures_between_successes_open_no_breaker() -> None:
    """The breaker stays closed when a success interrupts the failures before FAILURES_TO_OPEN."""
    host = HostLimiter("one.example", 1000)
    for number in range(1000):
        host.begin(number)
        host.end(number, Feedback.FAILURE if number % key_health.FAILURES_TO_OPEN else Feedback.SUCCESS, 0.1)
    assert not host.probe_at


def test_recent_success_delays_the_opening() -> None:
    """Just after a success, it takes MAX_CONSECUTIVE_FAILURES, because failures of some devices can come in a row."""
    host = HostLimiter("one.example", 1000)
    host.begin(0)
    host.end(0, Feedback.SUCCESS, 0.1)
    for number in range(key_health.MAX_CONSECUTIVE_FAILURES):
        assert not host.probe_at, number
        host.begin(0.5)
        host.end(0.5, Feedback.FAILURE, 0.1)
    assert host.is_open(0.5)


def test_urgent_probes_are_counted_per_application() -> None:
    """The urgent messages of one application do not use up the probes of another."""
    host = HostLimiter("one.example", 1000)
    application, other = UUID(int=1), UUID(int=2)
    for _ in range(key_health.FAILURES_TO_OPEN):
        host.begin(0, application)
        host.end(0, Feedback.FAILURE, application_id=application)
    now = 0.0
    for number in range(host_limiter.MAX_URGENT_PROBES):
        assert host.has_room(now, urgent=True, application_id=application), number
        host.begin(now, application)
        assert not host.has_room(now, urgent=True, application_id=application)
        now += host_limiter.URGENT_PROBE_INTERVAL_S
    assert not host.has_room(now, urgent=True, application_id=application)
    assert host.has_room(now, urgent=True, application_id=other)
    host.end(now, Feedback.FAILURE, application_id=application)
    assert host.has_room(now, urgent=True, application_id=application)


def test_probe_does_not_wait_for_messages_in_flight() -> None:
    """Messages that are in flight when the breaker opens do not count as its probe."""
    host = HostLimiter("one.example", 1000)
    for _ in range(64):
        host.begin(0)
    for _ in range(key_health.FAILURES_TO_OPEN):
        host.end(30, Feedback.FAILURE, 30)
    assert host.is_open(30)
    assert host.has_room(35, urgent=False)
    host.begin(35)
    assert not host.has_room(35, urgent=False)
    host.end(36, Feedback.SUCCESS, 1)
    assert not host.probe_at


def test_wait_is_estimated_before_the_first_response() -> None:
    """While no message has completed, the estimate assumes that messages take as long as those in flight."""
    host = HostLimiter("one.example", 1000)
    for _ in range(64):
        host.begin(0)
    assert host.estimate_wait_s(640, 0.1) == pytest.approx(1)
    assert host.estimate_wait_s(640, 5) == pytest.approx(50)


@given(
    st.lists(
        st.tuples(st.sampled_from([*Feedback, None]), st.floats(0, 60), st.booleans(), st.integers(0, 100)),
        max_size=300,
    )
)
def test_limit_and_breaker_stay_within_bounds(
    script: list[tuple[Feedback | None, float, bool, int]],
) -> None:
    """The limit, the number of messages in flight and the pause stay within bounds for any responses."""
    host = HostLimiter("one.example", 200)
    now = 0.0
    for feedback, seconds, urgent, batch in script:
        for _ in range(batch):
            if host.has_room(now, urgent=urgent):
                host.begin(now)
        if host.in_flight:
            now += seconds
            host.end(now, feedback, seconds, demanded=True)
        assert 1 <= host.limit <= 200
        assert 0 <= host.in_flight <= 200 * 1.25
        assert host.probe_at == 0 or host.probe_at <= now + host_limiter.MAX_PAUSE_S


def test_concurrency_follows_the_event_loop() -> None:
    """A worker's concurrency limit grows while it is reached and event-loop iterations are short, and else falls."""
    limit = ConcurrencyLimit(1000)
    for _ in range(concurrency.ITERATIONS_PER_UPDATE * 3):
        limit.record_iteration(0.001)
    assert limit.limit == concurrency.INITIAL_LIMIT, "the limit was not reached"
    for _ in range(concurrency.ITERATIONS_PER_UPDATE * 20):
        limit.was_reached = True
        limit.record_iteration(0.001)
    assert limit.limit == 1000
    for _ in range(concurrency.ITERATIONS_PER_UPDATE * 20):
        limit.record_iteration(0.05)
    assert limit.limit == concurrency.INITIAL_LIMIT


def test_messages_sent_before_the_opening_are_no_urgent_probes() -> None:
    """Late failures of messages that were in flight at the opening free no slot for an urgent probe."""
    host, application = HostLimiter("one.example", 1000), UUID(int=1)
    for _ in range(64):
        host.begin(0, application)
    for _ in range(key_health.FAILURES_TO_OPEN):
        host.end(30, Feedback.FAILURE, 30, application_id=application)
    now = 30.0
    for _ in range(host_limiter.MAX_URGENT_PROBES):
        assert host.has_room(now, urgent=True, application_id=application)
        host.begin(now, application)
        host.end(now, Feedback.FAILURE, now, application_id=application)  # sent at 0
        now += host_limiter.URGENT_PROBE_INTERVAL_S
    assert not host.has_room(now, urgent=True, application_id=application)
