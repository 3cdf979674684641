"""Claiming in Postgres, beside others that hold its rows."""

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


async def test_a_due_job_that_somebody_has_locked_keeps_no_other_application_waiting(database_url: str) -> None:
    """As one whose planning takes longer than its lease."""
    engine = open_engine(database_url)
    queue = PostgresQueue(engine, notifier.Notifier(database_url))
    async with PostgresEngine.opened(database_url) as first, PostgresEngine.opened(database_url) as second:
        locked = await first.put([new_id()])
        others = [await second.put([new_id()]) for _ in range(2)]
        async with engine.begin() as conn:
            await conn.execute(select(jobs.c.id).where(jobs.c.notification_id == locked).with_for_update())
            for wanted in others:
                async with asyncio.timeout(10):
                    [claimed] = await queue.claim(lanes=(Lane.NORMAL,), limit=1, lease=LEASE, wait=NO_WAIT)
                assert claimed.notification_id == wanted
            assert await queue.claim(lanes=(Lane.NORMAL,), limit=1, lease=LEASE, wait=NO_WAIT) == []
        [claimed] = await queue.claim(lanes=(Lane.NORMAL,), limit=1, lease=LEASE, wait=NO_WAIT)
        assert claimed.notification_id == locked
    await engine.dispose()
