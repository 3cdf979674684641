"""Settling many batches of one application at once in Postgres."""

import asyncio
from datetime import timedelta

from sqlalchemy import func, select, text

from gateway.domain.ids import new_id
from gateway.domain.notification import Lane
from gateway.queue.postgres import MAX_CONCURRENT_NON_URGENT, PostgresQueue
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import open_engine
from gateway.records.postgres.schema import applications, jobs
from tests.support.queues import PostgresEngine, accepted_batch

LEASE, NO_WAIT = timedelta(minutes=1), timedelta(0)
WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def test_waiting_batches_leave_connections_for_an_alert(database_url: str) -> None:
    """Every batch locks the row of its application; batches that wait for the lock must not take all connections."""
    pool, batches = MAX_CONCURRENT_NON_URGENT + 1, MAX_CONCURRENT_NON_URGENT + 4
    small_pool = open_engine(database_url, pool_size=pool)
    async with PostgresEngine.open(database_url) as engine, asyncio.timeout(30):
        queue = PostgresQueue(small_pool, notifier.Notifier(database_url))
        await engine.put([new_id() for _ in range(batches)], lane=Lane.BULK, job_size=1)
        claimed_jobs = [*await queue.claim(lanes=(Lane.BULK,), limit=batches, lease=LEASE, wait=NO_WAIT)]
        assert len(claimed_jobs) == batches

        other = open_engine(database_url, pool_size=2)
        async with other.begin() as conn:
            await conn.execute(select(applications.c.id).with_for_update(key_share=True))
            settling = [
                asyncio.create_task(queue.settle(job, accepted_batch(*job.device_ids), [])) for job in claimed_jobs
            ]
            async with other.connect() as observer:
                while (await observer.execute(WAITING)).scalar_one() < MAX_CONCURRENT_NON_URGENT:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # Postgres has no event for a waiting lock
            alert = await engine.put([new_id()], lane=Lane.URGENT)
            more = asyncio.create_task(queue.claim(lanes=tuple(Lane), limit=1, lease=LEASE, wait=NO_WAIT))
            [claimed] = await queue.claim(lanes=(Lane.URGENT,), limit=1, lease=LEASE, wait=NO_WAIT)
            assert claimed.notification_id == alert
            assert not more.done()  # a worker claims no more than it can settle
        assert await more == []
        await asyncio.gather(*settling)
        async with other.connect() as conn:
            left = select(func.count()).select_from(jobs).where(jobs.c.lane == Lane.BULK)
            assert (await conn.execute(left)).scalar_one() == 0
        await other.dispose()
        await small_pool.dispose()
