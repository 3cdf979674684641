"""The gateway's clock follows the clock of the database."""

import time
from collections.abc import Iterator

import pytest

from gateway.domain import clock


@pytest.fixture(autouse=True)
def reset_clock() -> Iterator[None]:
    """Reset the offset of the gateway's clock before and after each test."""
    clock.reset()
    yield
    clock.reset()


def test_system_clock_is_used_before_the_first_sync() -> None:
    """Before the first sync the gateway's clock has the time of the system clock."""
    assert clock.timestamp() == pytest.approx(time.time(), abs=5)


def test_sync_sets_the_database_time_and_returns_the_offset() -> None:
    """The system clock is 300 s ahead of the database."""
    database_time = time.time() - 300
    monotonic_time = time.monotonic()
    assert clock.set_from_database(database_time, monotonic_time, monotonic_time) == pytest.approx(300, abs=5)
    assert clock.timestamp() == pytest.approx(database_time, abs=5)
    assert clock.now().timestamp() == pytest.approx(database_time, abs=5)


def test_step_of_the_system_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's clock advances with the monotonic clock."""
    database_time = monotonic_time = time.monotonic()
    clock.set_from_database(database_time, monotonic_time, monotonic_time)
    monkeypatch.setattr(time, "time", lambda: database_time + 86_400)
    assert clock.timestamp() == pytest.approx(database_time, abs=5)
