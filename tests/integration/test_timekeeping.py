"""Synchronisation of the gateway's clock with the database clock."""

import time
from datetime import UTC, datetime

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain import clock
from gateway.records.postgres import clock_sync
from gateway.sim import Rule, Vendor
from tests.support.gateway_parts import gateway

pytestmark = pytest.mark.usefixtures("own_clock")


async def test_wrong_clock_is_logged_and_corrected(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong system clock is logged, and the database clock is used."""
    actual = datetime.now(UTC)
    wrong_time = time.time() + 600
    monkeypatch.setattr(time, "time", lambda: wrong_time)
    with structlog.testing.capture_logs() as logs:
        await clock_sync.sync_clock(engine)
    assert abs((clock.now() - actual).total_seconds()) < 60
    [entry] = [entry for entry in logs if entry["event"] == "clock.wrong"]
    assert entry["ahead_s"] == pytest.approx(600, abs=60)


async def test_slow_query_does_not_set_the_clock(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the query for the database's time takes too long, its result does not set the gateway's clock."""
    monkeypatch.setattr(clock_sync, "MAX_QUERY_S", -1.0)
    monkeypatch.setattr(time, "time", lambda: 12.0)
    await clock_sync.sync_clock(engine)
    assert clock.timestamp() == 12


async def test_wrong_clock_neither_delays_nor_expires_messages(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a system clock that is a day ahead, plans and retries are on time and no message expires."""
    async with gateway(database_url) as parts:
        devices = await parts.register(parts.subscribe(Vendor.FCM, 20))
        parts.sim.behave(Rule(status=503, share=0.5, times=1, retry_after=1))
        wrong_time = time.time() + 86_400
        monkeypatch.setattr(time, "time", lambda: wrong_time)
        await clock_sync.sync_clock(parts.engine)
        async with parts.run_worker():
            progress = await parts.wait_until_done((await parts.submit()).id)
    assert (progress.accepted, progress.pending) == (len(devices), 0)
    assert progress.retries > 0
