"""A crash of Postgres may undo a claim: the worker with the undone claim must not settle another job."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update

from gateway.domain.job import Job
from gateway.domain.notification import Lane
from gateway.embedded import EmbeddedPostgres
from gateway.queue.protocol import LeaseLost
from gateway.records.postgres import migrate
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.records.postgres.schema import jobs
from gateway.service.pipeline import planning
from gateway.sim import Vendor
from tests.support.gateway_parts import Parts, gateway
from tests.support.queues import accepted_batch, retry_batch

# Postgres writes asynchronous commits to disk after 10 s, which is later than the crash in the test.
DELAYED_WAL_SETTINGS = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB", "shared_buffers": "64MB"}


@pytest.fixture
async def crashing(reachable_tmp: Path) -> AsyncIterator[Parts]:
    """A gateway on a Postgres server that no other test uses."""
    postgres = EmbeddedPostgres(reachable_tmp / "crashing", DELAYED_WAL_SETTINGS)
    url = await asyncio.to_thread(postgres.start)
    try:
        await asyncio.to_thread(migrate.upgrade, url)
        async with gateway(url) as parts:
            yield parts
    finally:
        await asyncio.to_thread(postgres.stop)


async def test_database_crash_undoes_claims_but_no_plan(crashing: Parts) -> None:
    """Claims are committed asynchronously, plans are not: after the crash the claimed job exists, unclaimed.

    If the plan were lost, another job could get the same id, and the worker with the old claim would settle it.
    """
    await crashing.register(crashing.subscribe(Vendor.FCM, 3))
    sent = await crashing.submit()
    [plan] = await claim(crashing)
    await planning.plan(crashing.context, plan)
    [before] = await claim(crashing)

    await crash(crashing)

    async with crashing.engine.begin() as conn:
        rows = (await conn.execute(select(jobs.c.id, jobs.c.device_ids))).all()
        assert rows == [(before.id, list(before.device_ids))]
        # On a slow machine the claim may have been written before the crash; undo it.
        await conn.execute(update(jobs).values(attempt=0, run_at=func.now()))
    [reclaimed] = await claim(crashing)
    assert reclaimed == before, "two workers now have the same job with the same lease generation"
    *first, last = before.device_ids
    await crashing.queue().settle(reclaimed, retry_batch(datetime.now(UTC) + timedelta(hours=1), *first), [last])
    with pytest.raises(LeaseLost):
        await crashing.queue().settle(before, accepted_batch(*before.device_ids[1:]), before.device_ids[:1])
    await crashing.queue().settle(reclaimed, accepted_batch(last), [])
    assert {*await crashing.list_deliveries(sent.id)} == {last}
    assert await crashing.scalar("SELECT sum(cardinality(device_ids)) FROM jobs") == len(first)


async def claim(parts: Parts) -> list[Job]:
    """Claim one job of any lane, and wait for it for up to 30 s."""
    return await parts.queue().claim(lanes=tuple(Lane), limit=1, lease=timedelta(minutes=5), wait=timedelta(seconds=30))


async def crash(parts: Parts) -> None:
    """Kill a Postgres process, as the kernel does without memory; Postgres then restarts itself."""
    async with parts.engine.connect() as conn:
        pid = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DATABASE_ERRORS):
            await conn.execute(text("SELECT 1"))
        await conn.invalidate()
    async with asyncio.timeout(60):
        while True:
            try:
                await parts.scalar("SELECT 1")
                return
            except DATABASE_ERRORS:
                await asyncio.sleep(0.05)  # a restart of Postgres raises no event
