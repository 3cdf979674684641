"""The time comes from the database, over a connection that may be slow."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain import clock
from gateway.records import timekeeping


@pytest.fixture(autouse=True)
def own_clock() -> Iterator[None]:
    clock.forget()
    yield
    clock.forget()


async def test_a_machine_whose_clock_is_wrong_says_so_and_takes_the_database_s(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = datetime.now(UTC)
    wrong = time.time() + 600
    monkeypatch.setattr(time, "time", lambda: wrong)
    with structlog.testing.capture_logs() as logs:
        await timekeeping.look(engine)
    assert abs((clock.now() - right).total_seconds()) < 60
    [said] = [entry for entry in logs if entry["event"] == "clock.wrong"]
    assert said["ahead_s"] == pytest.approx(600, abs=60)


async def test_an_answer_that_took_long_sets_no_clock(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timekeeping, "LONGEST_S", -1.0)
    monkeypatch.setattr(time, "time", lambda: 12.0)
    await timekeeping.look(engine)
    assert clock.seconds() == 12
