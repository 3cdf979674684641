"""Retention drops partitions of the delivery log without blocking other queries, and resumes after a kill."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.domain.delivery import Accepted, DeliveryResult, ResultBatch
from gateway.domain.ids import new_id
from gateway.domain.job import Job, JobKind
from gateway.domain.notification import Kind
from gateway.records.delivery_log import writer
from gateway.records.postgres import partitions
from gateway.records.postgres.schema import PARTITIONED
from gateway.worker import maintenance
from gateway.worker.maintenance import log_retention
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from tests.support.gateway_parts import Parts

POLICY = RetentionPolicy()
LONG, SHORT = timedelta(seconds=30), timedelta(seconds=0.2)
# With this setting, a statement that has to wait for a lock fails.
SHORT_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '500ms'"


@pytest.fixture
def pool_size() -> int:
    return 20


@pytest.fixture
async def expired_day(engine: AsyncEngine, today: date) -> date:
    """A day before the retention limit, with partitions."""
    day = today - POLICY.log - timedelta(days=1)
    async with engine.begin() as conn:
        await partitions.create_partitions(conn, day, 1)
    return day


async def drop_partitions(engine: AsyncEngine, limit: date) -> list[str]:
    """Drop the partitions of all days before `limit`; return the names of the dropped tables."""
    async with engine.connect() as conn:
        await conn.execution_options(isolation_level="AUTOCOMMIT")
        return await partitions.drop_before(conn, limit, wait=LONG)


async def list_tables(engine: AsyncEngine, day: date) -> list[str]:
    """Return the tables of a day, attached or detached."""
    async with engine.connect() as conn:
        relations = await conn.execute(
            text("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ CAST(:pattern AS text)"),
            {"pattern": f"_{day:%Y%m%d}$"},
        )
        return sorted(relations.scalars())


async def is_detaching(engine: AsyncEngine) -> bool:
    """Return whether a concurrent detach of a partition has begun and not ended."""
    async with engine.connect() as conn:
        count_pending = text("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")
        return bool((await conn.execute(count_pending)).scalar_one())


async def wait_until_detaching(engine: AsyncEngine) -> None:
    """Wait until a concurrent detach of a partition has begun."""
    async with asyncio.timeout(20):
        while not await is_detaching(engine):  # noqa: ASYNC110 - the catalogue raises no event
            await asyncio.sleep(0.01)


async def settle_20_deliveries(conn: AsyncConnection, job: Job) -> None:
    """Record 20 deliveries of a job in the log."""
    now = datetime.now(UTC)
    result = DeliveryResult(new_id(), "u-1", "push.example.org", Accepted(), 1, 201, now, 20, now)
    await writer.record(conn, job, ResultBatch(settled=[result._replace(device_id=new_id()) for _ in range(20)]))


async def create_job(parts: Parts, day: date) -> Job:
    """Return a job whose deliveries belong to the partition of a day."""
    sent = await parts.submit(Kind.DIRECT)
    return Job(0, JobKind.SEND, sent.id, parts.application_id, sent.delivery.lane, 1, 0, day, ())


async def test_partition_is_dropped_without_blocking(parts: Parts, expired_day: date, today: date) -> None:
    """During the drop, readers and writers with a short lock_timeout succeed.

    The drop waits for a reader with an old snapshot, whose transaction includes the partition.
    """
    job = await create_job(parts, today)
    settled_count = 0
    async with parts.engine.connect() as reader:
        await reader.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await reader.execute(text(SHORT_LOCK_TIMEOUT))
        count = text("SELECT count(*) FROM deliveries")
        before = (await reader.execute(count)).scalar_one()
        dropping = asyncio.create_task(drop_partitions(parts.engine, today - POLICY.log))
        await wait_until_detaching(parts.engine)
        for _ in range(20):
            async with parts.engine.begin() as writer:
                await writer.execute(text(SHORT_LOCK_TIMEOUT))
                await settle_20_deliveries(writer, job)
                settled_count += 20
            assert (await reader.execute(count)).scalar_one() == before
            async with parts.engine.begin() as other:
                await other.execute(text(SHORT_LOCK_TIMEOUT))
                assert (await other.execute(count)).scalar_one() == before + settled_count
        assert not dropping.done()
        assert await list_tables(parts.engine, expired_day)
    dropped = await asyncio.wait_for(dropping, 20)
    assert sorted(dropped) == sorted(f"{table.name}_{expired_day:%Y%m%d}" for table in PARTITIONED)
    assert await list_tables(parts.engine, expired_day) == []


async def test_blocked_drop_is_retried_and_blocks_nothing(
    engine: AsyncEngine, expired_day: date, today: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocked drop is left for the next run and does not prevent new partitions."""
    monkeypatch.setattr(log_retention, "LOCK_TIMEOUT", SHORT)
    new_day = today + timedelta(days=50)
    async with engine.connect() as reader:
        await reader.execute(text("SELECT count(*) FROM deliveries"))
        counts = await maintenance.run_once(engine, POLICY)
        assert counts["log_retention"] == len(PARTITIONED) - 1
        assert await is_detaching(engine)
        async with engine.begin() as conn:
            await conn.execute(text(SHORT_LOCK_TIMEOUT))
            assert len(await partitions.create_partitions(conn, new_day, 1)) == len(PARTITIONED)
        assert await list_tables(engine, expired_day) == [f"deliveries_{expired_day:%Y%m%d}"]
    assert (await maintenance.run_once(engine, POLICY))["log_retention"] == 1
    assert await list_tables(engine, expired_day) == []


async def test_drop_resumes_after_a_kill_while_detaching(
    engine: AsyncEngine, database_url: str, expired_day: date, today: date
) -> None:
    """The retention resumes after it was killed while detaching."""
    async with engine.connect() as reader:
        await reader.execute(text("SELECT count(*) FROM deliveries"))
        connection = await asyncpg.connect(database_url)
        statement = f"ALTER TABLE deliveries DETACH PARTITION deliveries_{expired_day:%Y%m%d} CONCURRENTLY"
        detaching = asyncio.create_task(connection.execute(statement))
        await wait_until_detaching(engine)
        async with engine.connect() as conn:
            await conn.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": connection.get_server_pid()})
        with pytest.raises((asyncpg.PostgresError, ConnectionError)):
            await detaching
    assert await is_detaching(engine)
    assert len(await drop_partitions(engine, today - POLICY.log)) == len(PARTITIONED)
    assert await list_tables(engine, expired_day) == []


async def test_stopped_worker_leaves_the_rest_to_the_next(
    engine: AsyncEngine, expired_day: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stops while detaching leaves the rest to the next run."""
    monkeypatch.setattr(log_retention, "LOCK_TIMEOUT", LONG)
    async with engine.connect() as reader:
        await reader.execute(text("SELECT count(*) FROM deliveries"))
        task = asyncio.create_task(maintenance.run_once(engine, POLICY))
        await wait_until_detaching(engine)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await maintenance.run_once(engine, POLICY))["log_retention"] == len(PARTITIONED)
    assert await list_tables(engine, expired_day) == []


async def test_drop_resumes_after_a_kill_before_dropping(
    engine: AsyncEngine, database_url: str, expired_day: date, today: date
) -> None:
    """The retention drops a partition that was detached before a kill, and no other table with a similar name."""
    conn = await asyncpg.connect(database_url)
    await conn.execute(f"ALTER TABLE deliveries DETACH PARTITION deliveries_{expired_day:%Y%m%d} CONCURRENTLY")
    await conn.execute("CREATE TABLE deliveries_copy (LIKE deliveries)")
    await conn.close()
    assert len(await drop_partitions(engine, today - POLICY.log)) == len(PARTITIONED)
    assert await list_tables(engine, expired_day) == []
    async with engine.connect() as reader:
        assert (await reader.execute(text("SELECT to_regclass('deliveries_copy') IS NOT NULL"))).scalar_one()


async def test_log_has_no_default_partition(engine: AsyncEngine) -> None:
    """The log has no default partition, because Postgres could then not detach partitions concurrently."""
    async with engine.connect() as conn:
        count_defaults = text("SELECT count(*) FROM pg_partitioned_table WHERE partdefid <> 0")
        assert (await conn.execute(count_defaults)).scalar_one() == 0
