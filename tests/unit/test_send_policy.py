"""Throttles, variants and limits as plain rules."""

from collections import Counter
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.job import MAX_CHUNK_SIZE, chunk_size
from gateway.domain.notification import Progress
from gateway.domain.schedule import QuietHours
from gateway.domain.send_policy import (
    BUCKETS,
    FailureLimit,
    FrequencyCap,
    SendPolicy,
    Throttle,
    Variant,
    WinnerSelection,
)


def steering(weights: list[float], winner: WinnerSelection | None = None) -> SendPolicy:
    return SendPolicy(variants=tuple(Variant(str(i), weight, {}) for i, weight in enumerate(weights)), winner=winner)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=10))
def test_variants_share_the_audience_by_their_weights(weights: list[float]) -> None:
    steered = steering(weights)
    counts = Counter(steered.variant_for(bucket, None) for bucket in range(BUCKETS))
    for index, weight in enumerate(weights):
        assert counts[index] == pytest.approx(weight / sum(weights) * BUCKETS, abs=2)


def test_those_outside_the_sample_get_the_winner() -> None:
    steered = steering([1, 1], WinnerSelection(0.1, timedelta(hours=1)))
    counts = Counter(steered.variant_for(bucket, 1) for bucket in range(BUCKETS))
    assert counts == {0: 500, 1: 9500}


@pytest.mark.parametrize(
    ("throttle", "targets", "rate"),
    [
        (Throttle(per_second=10), 1_000_000, 10),
        (Throttle(spread=timedelta(hours=1)), 36_000, 10),
        (Throttle(5, timedelta(hours=1)), 36_000, 5),
        (Throttle(50, timedelta(hours=1)), 36_000, 10),
        (Throttle(spread=timedelta(seconds=10)), 0, 0.1),
    ],
)
def test_the_slower_of_rate_and_spread_counts(throttle: Throttle, targets: int, rate: float) -> None:
    assert throttle.rate(targets) == pytest.approx(rate)


@pytest.mark.parametrize(("rate", "size"), [(None, MAX_CHUNK_SIZE), (0.2, 1), (7.9, 7), (100_000, MAX_CHUNK_SIZE)])
def test_a_throttled_job_is_about_a_second_of_messages(rate: float | None, size: int) -> None:
    assert chunk_size(rate) == size


def test_a_limit_of_failures_is_passed_by_more_than_its_share_of_enough_deliveries() -> None:
    limit = FailureLimit(0.3, 10)
    assert not limit.is_exceeded(accepted=0, failed=9)
    assert not limit.is_exceeded(accepted=7, failed=3)
    assert limit.is_exceeded(accepted=7, failed=4)


def test_everything_said_comes_back_from_json() -> None:
    whole = SendPolicy(
        local_at=datetime.fromisoformat("2026-12-01T09:00"),
        category="offers",
        throttle=Throttle(10, timedelta(hours=2)),
        quiet_hours=QuietHours(time(22), time(7, 30), "Europe/Vienna"),
        cap=FrequencyCap(2, timedelta(days=7)),
        variants=(Variant("a", 1, {"title": "A"}), Variant("b", 2, {})),
        winner=WinnerSelection(0.2, timedelta(hours=1)),
        pause_when=FailureLimit(0.3, 100),
    )
    assert SendPolicy.from_json(whole.to_json()) == whole
    assert SendPolicy.from_json({}) == SendPolicy()
    assert whole.for_urgent_lane() == SendPolicy(local_at=whole.local_at, category="offers")


@given(st.integers(20, 2000))
def test_the_rate_follows_a_steady_stream_from_its_first_seconds(per_second: int) -> None:
    """Kept as the database keeps it: faded, then raised by every batch."""
    began = now = datetime(2026, 11, 24, tzinfo=UTC)
    rate, rated_at = 0.0, now
    for second in range(1, 60):
        now = began + timedelta(seconds=second)
        faded = Progress(rate=rate, rated_at=rated_at, began_at=datetime(2020, 1, 1, tzinfo=UTC)).current_rate(now)
        rate, rated_at = faded + per_second / 15, now
        shown = Progress(rate=rate, rated_at=rated_at, began_at=began).current_rate(now)
        assert shown == pytest.approx(per_second, rel=0.05)


def test_the_rate_fades_when_nothing_more_ends() -> None:
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    progress = Progress(rate=100.0, rated_at=moment, began_at=moment - timedelta(hours=1))
    assert progress.current_rate(moment) == pytest.approx(100)
    assert progress.current_rate(moment + timedelta(minutes=5)) < 0.1
    assert Progress().current_rate(moment) == 0
