"""The send policy of a campaign: throttle, variants, failure limit, and the displayed rate."""

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


def policy_with_variants(weights: list[float], winner: WinnerSelection | None = None) -> SendPolicy:
    return SendPolicy(variants=tuple(Variant(str(i), weight, {}) for i, weight in enumerate(weights)), winner=winner)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=10))
def test_variants_divide_the_audience_by_weight(weights: list[float]) -> None:
    """Each variant gets a share of the buckets in proportion to its weight."""
    policy = policy_with_variants(weights)
    counts = Counter(policy.variant_for(bucket, None) for bucket in range(BUCKETS))
    for index, weight in enumerate(weights):
        assert counts[index] == pytest.approx(weight / sum(weights) * BUCKETS, abs=2)


def test_devices_outside_the_sample_get_the_winner() -> None:
    """Only the sample of 10 % is divided among the variants; the winner is variant 1."""
    policy = policy_with_variants([1, 1], WinnerSelection(0.1, timedelta(hours=1)))
    counts = Counter(policy.variant_for(bucket, 1) for bucket in range(BUCKETS))
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
def test_slower_of_rate_and_spread_applies(throttle: Throttle, targets: int, rate: float) -> None:
    """A throttle may have a rate, a spread over a time, or both."""
    assert throttle.rate(targets) == pytest.approx(rate)


@pytest.mark.parametrize(("rate", "size"), [(None, MAX_CHUNK_SIZE), (0.2, 1), (7.9, 7), (100_000, MAX_CHUNK_SIZE)])
def test_throttled_job_has_the_messages_of_one_second(rate: float | None, size: int) -> None:
    """A job has at most as many messages as the campaign may send in one second, so that the rate is even."""
    assert chunk_size(rate) == size


def test_failure_limit_needs_share_and_minimum() -> None:
    """FailureLimit(0.3, 10) is exceeded by more than 30 % failures among at least 10 deliveries."""
    limit = FailureLimit(0.3, 10)
    assert not limit.is_exceeded(accepted=0, failed=9)
    assert not limit.is_exceeded(accepted=7, failed=3)
    assert limit.is_exceeded(accepted=7, failed=4)


def test_policy_round_trips_through_json() -> None:
    """A policy read from its JSON is unchanged; the policy for the urgent lane has only local time and category."""
    policy = SendPolicy(
        local_at=datetime.fromisoformat("2026-12-01T09:00"),
        category="offers",
        throttle=Throttle(10, timedelta(hours=2)),
        quiet_hours=QuietHours(time(22), time(7, 30), "Europe/Vienna"),
        cap=FrequencyCap(2, timedelta(days=7)),
        variants=(Variant("a", 1, {"title": "A"}), Variant("b", 2, {})),
        winner=WinnerSelection(0.2, timedelta(hours=1)),
        pause_when=FailureLimit(0.3, 100),
    )
    assert SendPolicy.from_json(policy.to_json()) == policy
    assert SendPolicy.from_json({}) == SendPolicy()
    assert policy.for_urgent_lane() == SendPolicy(local_at=policy.local_at, category="offers")


@given(st.integers(20, 2000))
def test_rate_follows_a_steady_stream(per_second: int) -> None:
    """The displayed rate is within 5 % of a steady rate.

    The test stores the rate as the database does: each batch decays the stored rate and then adds its own part.
    """
    start = now = datetime(2026, 11, 24, tzinfo=UTC)
    rate, rated_at = 0.0, now
    for second in range(1, 60):
        now = start + timedelta(seconds=second)
        decayed = Progress(rate=rate, rated_at=rated_at, began_at=datetime(2020, 1, 1, tzinfo=UTC)).current_rate(now)
        rate, rated_at = decayed + per_second / 15, now
        displayed = Progress(rate=rate, rated_at=rated_at, began_at=start).current_rate(now)
        assert displayed == pytest.approx(per_second, rel=0.05)


def test_rate_decays_without_new_outcomes() -> None:
    """Five minutes after the last outcome, the displayed rate has fallen from 100 to less than 0.1."""
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    progress = Progress(rate=100.0, rated_at=moment, began_at=moment - timedelta(hours=1))
    assert progress.current_rate(moment) == pytest.approx(100)
    assert progress.current_rate(moment + timedelta(minutes=5)) < 0.1
    assert Progress().current_rate(moment) == 0
