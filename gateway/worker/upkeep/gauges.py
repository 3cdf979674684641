"""Measure the queue's depth and age, for `/metrics`."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.domain.notification import Lane
from gateway.queue.postgres import depth
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(seconds=10)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    del limits
    measured = {lane: (count, age) for lane, count, age in await depth(conn)}
    for lane in Lane:
        count, age = measured.get(lane, (0, 0.0))
        metrics.QUEUE_JOBS.labels(lane.label).set(count)
        metrics.QUEUE_AGE_SECONDS.labels(lane.label).set(age)
    return 0
