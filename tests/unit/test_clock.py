"""The installation's clock is the database's."""

import time
from collections.abc import Iterator

import pytest

from gateway.domain import clock


@pytest.fixture(autouse=True)
def own_clock() -> Iterator[None]:
    clock.reset()
    yield
    clock.reset()


def test_before_the_first_look_the_machine_s_clock_is_taken() -> None:
    assert clock.timestamp() == pytest.approx(time.time(), abs=5)


def test_afterwards_the_database_s_is_and_how_wrong_ours_was_is_known() -> None:
    told = time.time() - 300
    asked = time.monotonic()
    assert clock.set_from_database(told, asked, asked) == pytest.approx(300, abs=5)
    assert clock.timestamp() == pytest.approx(told, abs=5)
    assert clock.now().timestamp() == pytest.approx(told, abs=5)


def test_a_step_of_the_machine_s_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told = asked = time.monotonic()
    clock.set_from_database(told, asked, asked)
    monkeypatch.setattr(time, "time", lambda: told + 86_400)
    assert clock.timestamp() == pytest.approx(told, abs=5)
