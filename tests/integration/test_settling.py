"""Settling in Postgres, when many batches of one application come at once."""

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


async def test_a_campaign_s_batches_that_wait_for_each_other_leave_connections_for_an_alert(database_url: str) -> None:
    """Every batch of an application takes its row; those that cannot have it yet must not hold all connections."""
    pool, batches = MAX_CONCURRENT_NON_URGENT + 1, MAX_CONCURRENT_NON_URGENT + 4
    ours = open_engine(database_url, pool_size=pool)
    async with PostgresEngine.opened(database_url) as engine, asyncio.timeout(30):
        queue = PostgresQueue(ours, notifier.Notifier(database_url))
        await engine.put([new_id() for _ in range(batches)], lane=Lane.BULK, job_size=1)
        held = [*await queue.claim(lanes=(Lane.BULK,), limit=batches, lease=LEASE, wait=NO_WAIT)]
        assert len(held) == batches

        other = open_engine(database_url, pool_size=2)
        async with other.begin() as conn:
            await conn.execute(select(applications.c.id).with_for_update(key_share=True))
            settling = [asyncio.create_task(queue.settle(job, accepted_batch(*job.device_ids), [])) for job in held]
            async with other.connect() as looking:
                while (await looking.execute(WAITING)).scalar_one() < MAX_CONCURRENT_NON_URGENT:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # Postgres does not tell that somebody waits
            alert = await engine.put([new_id()], lane=Lane.URGENT)
            more = asyncio.create_task(queue.claim(lanes=tuple(Lane), limit=1, lease=LEASE, wait=NO_WAIT))
            [claimed] = await queue.claim(lanes=(Lane.URGENT,), limit=1, lease=LEASE, wait=NO_WAIT)
            assert claimed.notification_id == alert
            assert not more.done()  # what cannot be settled is not sent on and on
        assert await more == []
        await asyncio.gather(*settling)
        async with other.connect() as conn:
            left = select(func.count()).select_from(jobs).where(jobs.c.lane == Lane.BULK)
            assert (await conn.execute(left)).scalar_one() == 0
        await other.dispose()
        await ours.dispose()
