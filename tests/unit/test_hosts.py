"""How many messages at once a push service bears, as its answers tell, and when it is left alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.worker import concurrency, host_limiter
from gateway.worker.concurrency import ConcurrencyLimit
from gateway.worker.host_limiter import Feedback, HostLimiter


class Driven:
    """A host that is kept full, in rounds: all in flight, then all answered."""

    def __init__(self, most: int = 1000) -> None:
        self.host = HostLimiter("one.example", most)
        self.now = 100.0

    def round(self, sign: Feedback | None = Feedback.SUCCESS, seconds: float = 0.1) -> int:
        count = 0
        while self.host.has_room(self.now, urgent=False):
            self.host.begin(self.now)
            count += 1
        self.host.full = True
        self.now += seconds
        for _ in range(count):
            self.host.end(self.now, sign, seconds, wanted=True)
        return count


def test_a_host_that_answers_steadily_is_given_more_and_more() -> None:
    driven = Driven()
    sizes = [driven.round() for _ in range(20)]
    assert sizes[0] == host_limiter.START
    assert sizes[-1] == 1000


def test_a_host_that_answers_later_the_more_it_is_given_is_given_no_more() -> None:
    """It takes 100 a second, whatever is in flight: waiting there is waiting here."""
    driven = Driven()
    for _ in range(30):
        driven.round(seconds=int(driven.host.limit) / 100)
    assert host_limiter.START <= driven.host.limit <= host_limiter.START * 2


def test_a_host_that_is_not_kept_full_keeps_its_limit() -> None:
    host = HostLimiter("one.example", 1000)
    for number in range(500):
        host.begin(number)
        host.end(number, Feedback.SUCCESS, 0.1)
    assert host.limit == host_limiter.START


def test_a_host_that_asks_for_less_is_given_half_once_a_round_and_never_less_than_one() -> None:
    driven = Driven()
    assert [driven.round(Feedback.BACKPRESSURE) for _ in range(8)] == [64, 32, 16, 8, 4, 2, 1, 1]


def test_its_limit_grows_again_by_one_a_round() -> None:
    driven = Driven()
    for _ in range(3):
        driven.round(Feedback.BACKPRESSURE)
    sizes = [driven.round() for _ in range(9)]
    assert sizes[0] == 8
    assert 15 <= sizes[-1] <= 17


def test_a_round_with_many_faults_halves_it_and_one_with_few_does_not() -> None:
    few, many = Driven(), Driven()
    for driven, every in ((few, 20), (many, 5)):
        for _ in range(64):
            driven.host.begin(driven.now)
        for number in range(64):
            driven.host.end(driven.now, Feedback.FAILURE if number % every == 0 else Feedback.SUCCESS, 0.1)
    assert few.host.limit == 64
    assert many.host.limit == 32


def test_what_came_to_nothing_says_nothing() -> None:
    driven = Driven()
    for _ in range(20):
        driven.round(None)
    assert driven.host.limit == host_limiter.START


def test_a_run_of_faults_opens_the_breaker_for_a_pause_that_doubles_and_one_success_closes_it() -> None:
    driven = Driven()
    host = driven.host
    driven.round(Feedback.FAILURE)
    pauses = []
    for _ in range(9):
        assert host.is_open(driven.now)
        assert not host.has_room(driven.now, urgent=False)
        pauses.append(host.probe_at - driven.now)
        driven.now = host.probe_at
        assert driven.round(Feedback.FAILURE) == 1
    assert pytest.approx(pauses) == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    driven.now = host.probe_at
    assert [driven.round() for _ in range(8)][:6] == [1, 2, 4, 8, 16, 32]
    assert not host.probe_at
    driven.round(Feedback.FAILURE)
    assert host.probe_at - driven.now == pytest.approx(5)


def test_faults_among_successes_do_not_open_it() -> None:
    host = HostLimiter("one.example", 1000)
    for number in range(1000):
        host.begin(number)
        host.end(number, Feedback.FAILURE if number % host_limiter.FAULTS else Feedback.SUCCESS, 0.1)
    assert not host.probe_at


def test_what_was_in_flight_when_the_breaker_opened_does_not_hold_up_the_probe() -> None:
    host = HostLimiter("one.example", 1000)
    for _ in range(64):
        host.begin(0)
    for _ in range(host_limiter.FAULTS):
        host.end(30, Feedback.FAILURE, 30)
    assert host.is_open(30)
    assert host.has_room(35, urgent=False)
    host.begin(35)
    assert not host.has_room(35, urgent=False)
    host.end(36, Feedback.SUCCESS, 1)
    assert not host.probe_at


def test_how_long_its_messages_wait_is_known_before_the_first_answer() -> None:
    host = HostLimiter("one.example", 1000)
    for _ in range(64):
        host.begin(0)
    assert host.wait(640, 0.1) == pytest.approx(1)
    assert host.wait(640, 5) == pytest.approx(50)


@given(
    st.lists(
        st.tuples(st.sampled_from([*Feedback, None]), st.floats(0, 60), st.booleans(), st.integers(0, 100)),
        max_size=300,
    )
)
@settings(deadline=None)
def test_the_limit_stays_within_its_bounds_whatever_is_answered(
    script: list[tuple[Feedback | None, float, bool, int]],
) -> None:
    host = HostLimiter("one.example", 200)
    now = 0.0
    for sign, seconds, urgent, batch in script:
        for _ in range(batch):
            if host.has_room(now, urgent=urgent):
                host.begin(now)
        if host.in_flight:
            now += seconds
            host.end(now, sign, seconds, wanted=True)
        assert 1 <= host.limit <= 200
        assert 0 <= host.in_flight <= 200 * 1.25
        assert host.probe_at == 0 or host.probe_at <= now + host_limiter.LONGEST_PAUSE_S


def test_a_worker_has_more_in_flight_while_its_loop_turns_quickly_and_less_when_it_does_not() -> None:
    crew = ConcurrencyLimit(1000)
    for _ in range(concurrency.ROUNDS * 3):
        crew.record_turn(0.001)
    assert crew.limit == concurrency.START, "nobody has asked for more"
    for _ in range(concurrency.ROUNDS * 20):
        crew.wanted = True
        crew.record_turn(0.001)
    assert crew.limit == 1000
    for _ in range(concurrency.ROUNDS * 20):
        crew.record_turn(0.05)
    assert crew.limit == concurrency.START
