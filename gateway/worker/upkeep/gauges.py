"""Measure the queue's depth and age, for `/metrics`.

Every worker does by itself: whoever measured last would go on telling what was true then.
"""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.domain.notification import Lane
from gateway.queue.postgres import depth
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(seconds=10)
ALONE = False


async def run(conn: AsyncConnection, limits: Limits) -> int:
    del limits
    measured = {lane: seen for lane, *seen in await depth(conn)}
    for lane in Lane:
        count, due, age = measured.get(lane, (0, 0, 0.0))
        metrics.QUEUE_JOBS.labels(lane.label).set(count)
        metrics.QUEUE_DUE.labels(lane.label).set(due)
        metrics.QUEUE_AGE_SECONDS.labels(lane.label).set(age)
    return 0
