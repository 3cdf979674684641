"""Claims from Postgres while another transaction locks a row of the jobs table."""

import asyncio
from datetime import timedelta

from sqlalchemy import select

from gateway.domain.ids import new_id
from gateway.domain.notification import Lane
from gateway.queue.postgres import PostgresQueue
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import open_engine
from gateway.records.postgres.schema import jobs
from tests.support.queues import PostgresEngine

LEASE, NO_WAIT = timedelta(minutes=1), timedelta(0)


async def test_locked_job_does_not_delay_other_applications(database_url: str) -> None:
    """Planning locks its job, possibly for longer than the lease; claims skip the locked job."""
    engine = open_engine(database_url)
    queue = PostgresQueue(engine, notifier.Notifier(database_url))
    async with PostgresEngine.open(database_url) as first, PostgresEngine.open(database_url) as second:
        locked_id = await first.put([new_id()])
        unlocked_ids = [await second.put([new_id()]) for _ in range(2)]
        async with engine.begin() as conn:
            await conn.execute(select(jobs.c.id).where(jobs.c.notification_id == locked_id).with_for_update())
            for expected_id in unlocked_ids:
                async with asyncio.timeout(10):
                    [claimed] = await queue.claim(lanes=(Lane.NORMAL,), limit=1, lease=LEASE, wait=NO_WAIT)
                assert claimed.notification_id == expected_id
            assert await queue.claim(lanes=(Lane.NORMAL,), limit=1, lease=LEASE, wait=NO_WAIT) == []
        [claimed] = await queue.claim(lanes=(Lane.NORMAL,), limit=1, lease=LEASE, wait=NO_WAIT)
        assert claimed.notification_id == locked_id
    await engine.dispose()
