"""Maintenance tasks: partitions, deletion of old rows and gauges; each task runs on one worker at a time."""

import asyncio
from datetime import date, timedelta
from uuid import UUID

from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain.notification import Lane
from gateway.records.postgres import partitions
from gateway.records.postgres.advisory_locks import lock_id
from gateway.records.postgres.schema import PARTITIONED
from gateway.sim import Vendor
from gateway.worker import maintenance
from gateway.worker.maintenance import log_partitions
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from tests.support.gateway_parts import Parts

POLICY = RetentionPolicy()


async def list_partition_days(engine: AsyncEngine, table: str) -> set[date]:
    """Return the days for which a table has partitions."""
    async with engine.connect() as conn:
        return await partitions.list_days(conn, table)


async def drop_all_partitions(engine: AsyncEngine) -> None:
    """Drop the partitions of all days."""
    async with engine.connect() as conn:
        await conn.execution_options(isolation_level="AUTOCOMMIT")
        await partitions.drop_before(conn, date.max, wait=timedelta(seconds=5))


async def execute(engine: AsyncEngine, sql: str, **values: object) -> None:
    """Execute a statement in a transaction."""
    async with engine.begin() as conn:
        await conn.execute(text(sql), values)


async def test_partitions_are_created_a_week_ahead(engine: AsyncEngine, today: date) -> None:
    """Maintenance creates the partitions of the next seven days."""
    await drop_all_partitions(engine)
    counts = await maintenance.run_once(engine, POLICY)
    week = {today + timedelta(days=offset) for offset in range(log_partitions.DAYS_AHEAD)}
    for table in PARTITIONED:
        assert await list_partition_days(engine, table.name) == week
    assert counts["log_partitions"] == len(PARTITIONED) * log_partitions.DAYS_AHEAD
    assert (await maintenance.run_once(engine, POLICY))["log_partitions"] == 0


async def test_expired_partitions_are_dropped(engine: AsyncEngine, today: date) -> None:
    """Only partitions past the retention are dropped."""
    retained, dropped = today - POLICY.log, today - POLICY.log - timedelta(days=1)
    async with engine.begin() as conn:
        await partitions.create_partitions(conn, dropped, 2)
    await maintenance.run_once(engine, POLICY)
    for table in PARTITIONED:
        existing = await list_partition_days(engine, table.name)
        assert retained in existing
        assert dropped not in existing
        assert today in existing


async def test_partition_has_the_indexes_of_its_table(engine: AsyncEngine, today: date) -> None:
    """A new partition has as many indexes as the partitioned table."""
    await maintenance.run_once(engine, POLICY)
    count = text("SELECT count(*) FROM pg_indexes WHERE tablename = :name")
    async with engine.connect() as conn:
        for table in PARTITIONED:
            table_count, partition_count = [
                (await conn.execute(count, {"name": name})).scalar_one()
                for name in (table.name, f"{table.name}_{today:%Y%m%d}")
            ]
            assert table_count == partition_count > 0


async def test_partitions_are_created_while_rows_are_written(parts: Parts, today: date) -> None:
    """A partition is attached while another transaction has written to the table and not committed."""
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
            created = await partitions.create_partitions(conn, today + timedelta(days=50), 1)
    assert len(created) == len(PARTITIONED)


async def test_devices_gone_for_30_days_are_deleted(parts: Parts) -> None:
    """Only devices that have been gone for 30 days are deleted."""
    devices: list[UUID] = list(await parts.register(parts.subscribe(Vendor.FCM, 4)))
    set_age = (
        "UPDATE devices SET status = :status, updated_at = now() - CAST(:days AS int) * interval '1 day' WHERE id = :id"
    )
    for device_id, status, days in zip(
        devices, ("gone", "gone", "quarantined", "active"), (31, 29, 400, 400), strict=True
    ):
        await execute(parts.engine, set_age, id=device_id, status=status, days=days)
    assert (await maintenance.run_once(parts.engine, POLICY))["gone_devices"] == 1
    async with parts.engine.connect() as conn:
        remaining = set((await conn.execute(text("SELECT id FROM devices"))).scalars())
    assert remaining == set(devices[1:])


async def test_idempotency_keys_are_deleted_after_a_day(engine: AsyncEngine) -> None:
    """Idempotency keys are deleted after a day."""
    insert_key = (
        "INSERT INTO idempotency_keys (owner, key, request_digest, created_at)"
        " VALUES ('admin', :key, '\\x00', now() - CAST(:hours AS int) * interval '1 hour')"
    )
    await execute(engine, insert_key, key="old", hours=25)
    await execute(engine, insert_key, key="recent", hours=23)
    assert (await maintenance.run_once(engine, POLICY))["idempotency_keys"] == 1
    async with engine.connect() as conn:
        assert (await conn.execute(text("SELECT key FROM idempotency_keys"))).scalars().all() == ["recent"]


async def test_queue_depth_and_age_are_measured(parts: Parts) -> None:
    """Maintenance exports the number of due jobs and the age of the oldest one for each lane."""
    await parts.submit()
    await execute(parts.engine, "UPDATE jobs SET run_at = now() - interval '90 seconds'")
    await maintenance.run_once(parts.engine, POLICY)
    lane = {"lane": Lane.BULK.label}
    assert REGISTRY.get_sample_value("gateway_queue_jobs", lane) == 1
    age = REGISTRY.get_sample_value("gateway_queue_age_seconds", lane)
    assert age is not None
    assert 90 <= age < 120
    assert REGISTRY.get_sample_value("gateway_queue_jobs", {"lane": Lane.URGENT.label}) == 0


async def test_task_of_another_worker_is_skipped(engine: AsyncEngine) -> None:
    """A task whose lock another worker holds is skipped."""
    # A negative retention: every partition has expired, also those of future days.
    no_retention = RetentionPolicy(log=timedelta(days=-400))
    async with engine.begin() as conn:
        key = lock_id("gateway.maintenance.log_retention")
        await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        counts = await asyncio.wait_for(maintenance.run_once(engine, no_retention), 5)
    assert counts["log_retention"] == 0
    assert (await maintenance.run_once(engine, no_retention))["log_retention"] > 0


async def test_concurrent_maintenance_does_the_work_once(engine: AsyncEngine, today: date) -> None:
    """Of two concurrent maintenance runs, one does the work of each task."""
    await drop_all_partitions(engine)
    counts = await asyncio.gather(*(maintenance.run_once(engine, POLICY) for _ in range(5)))
    assert sum(counts["log_partitions"] for counts in counts) == len(PARTITIONED) * log_partitions.DAYS_AHEAD


def test_task_keys_and_lock_ids_never_change() -> None:
    """Workers of two versions run concurrently, so the keys and lock ids must be equal in all versions."""
    assert {task.key: lock_id(f"gateway.maintenance.{task.key}") for task in maintenance.TASKS} == {
        "log_partitions": 3546580998,
        "log_retention": 248550234,
        "gone_devices": 623707032,
        "frequency_caps": 4238629924,
        "bound_deliveries": 1098476715,
        "events": 1664770434,
        "inbox": 1993921238,
        "outbox": 1515905976,
        "idempotency_keys": 538598352,
        "audit_log": 1435588985,
        "erasure_tombstones": 585521456,
        "sessions": 1459185009,
        "quarantine": 1132060598,
        "queue_gauges": 3805706802,
    }
