"""Concurrent settlement of many batches of one application in Postgres."""

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
COUNT_WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def test_waiting_batches_leave_connections_for_an_alert(database_url: str) -> None:
    """Batches that wait for the row lock of their application leave connections for the claim of an alert."""
    pool, batches = MAX_CONCURRENT_NON_URGENT + 1, MAX_CONCURRENT_NON_URGENT + 4
    small_pool = open_engine(database_url, pool_size=pool)
    async with PostgresEngine.open(database_url) as engine, asyncio.timeout(30):
        queue = PostgresQueue(small_pool, notifier.Notifier(database_url))
        await engine.put([new_id() for _ in range(batches)], lane=Lane.BULK, job_size=1)
        claimed_jobs = [*await queue.claim(lanes=(Lane.BULK,), limit=batches, lease=LEASE, wait=NO_WAIT)]
        assert len(claimed_jobs) == batches

        lock_engine = open_engine(database_url, pool_size=2)
        async with lock_engine.begin() as conn:
            await conn.execute(select(applications.c.id).with_for_update(key_share=True))
            settling = [
                asyncio.create_task(queue.settle(job, accepted_batch(*job.device_ids), [])) for job in claimed_jobs
            ]
            async with lock_engine.connect() as observer:
                while (await observer.execute(COUNT_WAITING)).scalar_one() < MAX_CONCURRENT_NON_URGENT:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # a waiting lock raises no event
            alert = await engine.put([new_id()], lane=Lane.URGENT)
            claiming_all = asyncio.create_task(queue.claim(lanes=tuple(Lane), limit=1, lease=LEASE, wait=NO_WAIT))
            [claimed] = await queue.claim(lanes=(Lane.URGENT,), limit=1, lease=LEASE, wait=NO_WAIT)
            assert claimed.notification_id == alert
            assert not claiming_all.done()  # a worker that cannot settle does not claim non-urgent jobs
        assert await claiming_all == []
        await asyncio.gather(*settling)
        async with lock_engine.connect() as conn:
            count_bulk = select(func.count()).select_from(jobs).where(jobs.c.lane == Lane.BULK)
            assert (await conn.execute(count_bulk)).scalar_one() == 0
        await lock_engine.dispose()
        await small_pool.dispose()
