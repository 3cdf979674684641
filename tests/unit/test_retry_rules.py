"""When a delivery with a temporary error is retried, and when it expires instead."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import retry
from gateway.domain.delivery import Expired, Retry
from gateway.domain.retry import FIRST_DELAY, MAX_DELAY, MAX_TRUSTED_RETRIES, RETRY_GRID, backoff, next_attempt

NOW = datetime(2026, 7, 1, 12, 0, 0, 250_000, tzinfo=UTC)
FAR_EXPIRY = NOW + timedelta(days=28)
FAULT = Retry("the push service has a temporary error (503)")


@given(st.integers(1, 10_000))
def test_back_off_doubles_within_its_jitter_up_to_an_hour(tries: int) -> None:
    """The delay is between half of the back-off and all of it; the back-off doubles up to MAX_DELAY."""
    ceiling = MAX_DELAY if tries > 12 else min(FIRST_DELAY * 2 ** (tries - 1), MAX_DELAY)
    assert ceiling / 2 <= backoff(tries) <= ceiling


def test_back_off_spreads_retries() -> None:
    """Random jitter distributes the retries of many messages over time."""
    assert len({backoff(5) for _ in range(100)}) > 90


@given(st.integers(1, MAX_TRUSTED_RETRIES), st.floats(0, 86_400))
def test_retry_after_is_rounded_up_to_a_whole_second(tries: int, seconds: float) -> None:
    """The due time is the end of Retry-After, rounded up to RETRY_GRID."""
    after = timedelta(seconds=seconds)
    due = next_attempt(Retry("slow down", after), tries, NOW, FAR_EXPIRY)
    assert isinstance(due, datetime)
    assert NOW + after <= due < NOW + after + RETRY_GRID
    assert due.microsecond == 0
    assert due.tzinfo is not None


def test_retries_due_in_one_second_are_due_together() -> None:
    """Retries that are due within the same second get the same due time, so that they form one job."""
    dues = {next_attempt(Retry("x", timedelta(milliseconds=ms)), 1, NOW, FAR_EXPIRY) for ms in range(0, 700, 50)}
    assert len(dues) == 1


@given(st.integers(MAX_TRUSTED_RETRIES + 1, 40))
def test_repeated_retry_after_0_is_backed_off(tries: int) -> None:
    """After MAX_TRUSTED_RETRIES immediate retries, a Retry-After of 0 no longer shortens the back-off."""
    due = next_attempt(Retry("try again at once", timedelta(0)), tries, NOW, FAR_EXPIRY)
    assert isinstance(due, datetime)
    assert due - NOW >= min(FIRST_DELAY * 2 ** (tries - 1), MAX_DELAY) / 2


def test_retry_after_longer_than_back_off_applies() -> None:
    """A Retry-After of 5 h, which is longer than MAX_DELAY, applies also at the thirtieth attempt."""
    due = next_attempt(Retry("x", timedelta(hours=5)), 30, NOW, FAR_EXPIRY)
    assert isinstance(due, datetime)
    assert due >= NOW + timedelta(hours=5)


@given(st.integers(1, 50), st.one_of(st.none(), st.floats(0, 90_000)), st.floats(-10, 90_000))
def test_no_retry_at_or_after_expiry(tries: int, after: float | None, life: float) -> None:
    """A message whose next attempt would be at or after its expiry expires at once."""
    expires_at = NOW + timedelta(seconds=life)
    retry_after = None if after is None else timedelta(seconds=after)
    due = next_attempt(Retry("overloaded", retry_after), tries, NOW, expires_at)
    if isinstance(due, datetime):
        assert NOW <= due < expires_at
    else:
        assert isinstance(due, Expired)
        assert "overloaded" in due.cause


@pytest.mark.parametrize(("life", "expired"), [(1.0, True), (1.75, True), (1.76, False)])
def test_expiry_is_compared_with_the_rounded_due_time(life: float, expired: bool) -> None:
    """NOW is 0.25 s after a full second, so a retry after 1 s is rounded up to 1.75 s from NOW."""
    due = next_attempt(Retry("x", timedelta(seconds=1)), 1, NOW, NOW + timedelta(seconds=life))
    assert isinstance(due, Expired) == expired


def test_expiry_names_the_cause_of_the_last_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause of the expiry begins with the cause of the last attempt's failure."""
    monkeypatch.setattr(retry, "FIRST_DELAY", timedelta(hours=1))
    due = next_attempt(FAULT, 1, NOW, NOW + timedelta(seconds=1))
    assert isinstance(due, Expired)
    assert due.cause.startswith(FAULT.cause)
