"""Upkeep: partitions, devices that are gone, idempotency keys; one worker at a time."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain.notification import Lane
from gateway.records.postgres import partitions
from gateway.records.postgres.schema import PARTITIONED
from gateway.sim import Vendor
from gateway.worker import upkeep
from gateway.worker.upkeep.limits import Limits
from tests.support.gateway_parts import Parts, gateway

LIMITS = Limits()


@pytest.fixture
async def parts(database_url: str) -> AsyncIterator[Parts]:
    async with gateway(database_url) as parts:
        yield parts


@pytest.fixture
def today() -> date:
    return datetime.now(UTC).date()


async def days(engine: AsyncEngine, table: str) -> set[date]:
    async with engine.connect() as conn:
        return await partitions._existing(conn, table)


async def drop_all(engine: AsyncEngine) -> None:
    async with engine.connect() as conn:
        await conn.execution_options(isolation_level="AUTOCOMMIT")
        await partitions.drop_before(conn, date.max, wait=timedelta(seconds=5))


async def change(engine: AsyncEngine, sql: str, **values: object) -> None:
    async with engine.begin() as conn:
        await conn.execute(text(sql), values)


async def test_partitions_are_made_a_week_ahead(engine: AsyncEngine, today: date) -> None:
    await drop_all(engine)
    done = await upkeep.once(engine, LIMITS)
    week = {today + timedelta(days=offset) for offset in range(upkeep.partitions.AHEAD)}
    for table in PARTITIONED:
        assert await days(engine, table.name) == week
    assert done["partitions"] == len(PARTITIONED) * upkeep.partitions.AHEAD
    assert (await upkeep.once(engine, LIMITS))["partitions"] == 0


async def test_partitions_past_retention_are_dropped_and_no_others(engine: AsyncEngine, today: date) -> None:
    kept, dropped = today - LIMITS.log, today - LIMITS.log - timedelta(days=1)
    async with engine.begin() as conn:
        await partitions.ensure(conn, dropped, 2)
    await upkeep.once(engine, LIMITS)
    for table in PARTITIONED:
        found = await days(engine, table.name)
        assert kept in found
        assert dropped not in found
        assert today in found


async def test_a_partition_is_as_indexed_as_its_table(engine: AsyncEngine, today: date) -> None:
    await upkeep.once(engine, LIMITS)
    count = text("SELECT count(*) FROM pg_indexes WHERE tablename = :name")
    async with engine.connect() as conn:
        for table in PARTITIONED:
            parent, child = [
                (await conn.execute(count, {"name": name})).scalar_one()
                for name in (table.name, f"{table.name}_{today:%Y%m%d}")
            ]
            assert parent == child > 0


async def test_partitions_are_made_while_deliveries_are_written(parts: Parts, today: date) -> None:
    """Attaching waits for no writer, and writers do not wait for it."""
    async with parts.engine.begin() as writing:
        await writing.execute(
            text(
                "INSERT INTO receipts (day, notification_id, device_id, event)"
                " VALUES (:day, gen_random_uuid(), gen_random_uuid(), 'clicked')"
            ),
            {"day": today},
        )
        async with parts.engine.begin() as conn:
            await conn.execute(text("SET LOCAL lock_timeout = '2s'"))
            made = await partitions.ensure(conn, today + timedelta(days=50), 1)
    assert len(made) == len(PARTITIONED)


async def test_devices_gone_for_30_days_are_deleted_and_no_others(parts: Parts) -> None:
    devices: list[UUID] = list(await parts.register(parts.subscribe(Vendor.FCM, 4)))
    age = (
        "UPDATE devices SET status = :status, updated_at = now() - CAST(:days AS int) * interval '1 day' WHERE id = :id"
    )
    for device_id, status, old in zip(
        devices, ("gone", "gone", "quarantined", "active"), (31, 29, 400, 400), strict=True
    ):
        await change(parts.engine, age, id=device_id, status=status, days=old)
    assert (await upkeep.once(parts.engine, LIMITS))["devices"] == 1
    async with parts.engine.connect() as conn:
        left = set((await conn.execute(text("SELECT id FROM devices"))).scalars())
    assert left == set(devices[1:])


async def test_idempotency_keys_are_forgotten_after_their_day(engine: AsyncEngine) -> None:
    add = (
        "INSERT INTO idempotency_keys (owner, key, request_digest, created_at)"
        " VALUES ('admin', :key, '\\x00', now() - CAST(:hours AS int) * interval '1 hour')"
    )
    await change(engine, add, key="old", hours=25)
    await change(engine, add, key="young", hours=23)
    assert (await upkeep.once(engine, LIMITS))["idempotency"] == 1
    async with engine.connect() as conn:
        assert (await conn.execute(text("SELECT key FROM idempotency_keys"))).scalars().all() == ["young"]


async def test_the_queue_s_depth_and_age_are_measured(parts: Parts) -> None:
    await parts.submit()
    await change(parts.engine, "UPDATE jobs SET run_at = now() - interval '90 seconds'")
    await upkeep.once(parts.engine, LIMITS)
    lane = {"lane": Lane.BULK.label}
    assert REGISTRY.get_sample_value("gateway_queue_jobs", lane) == 1
    age = REGISTRY.get_sample_value("gateway_queue_age_seconds", lane)
    assert age is not None
    assert 90 <= age < 120
    assert REGISTRY.get_sample_value("gateway_queue_jobs", {"lane": Lane.URGENT.label}) == 0


async def test_a_duty_that_another_worker_does_is_left_to_it(engine: AsyncEngine) -> None:
    everything = Limits(log=timedelta(days=-400))
    async with engine.begin() as conn:
        key = zlib.crc32(upkeep.retention.__name__.encode())
        await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        done = await asyncio.wait_for(upkeep.once(engine, everything), 5)
    assert done["retention"] == 0
    assert (await upkeep.once(engine, everything))["retention"] > 0


async def test_all_workers_doing_their_rounds_at_once_is_harmless(engine: AsyncEngine, today: date) -> None:
    await drop_all(engine)
    done = await asyncio.gather(*(upkeep.once(engine, LIMITS) for _ in range(5)))
    assert sum(one["partitions"] for one in done) == len(PARTITIONED) * upkeep.partitions.AHEAD
