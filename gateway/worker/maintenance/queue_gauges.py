"""Measure the queue's depth and age for `/metrics`.

Runs on every worker; otherwise the last one to measure would export stale values forever.
"""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.domain.notification import Lane
from gateway.queue.postgres import depth
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.maintenance.task import Isolation, MaintenanceTask


async def measure_queue(conn: AsyncConnection, _: RetentionPolicy) -> int:
    """Set the queue's gauges; return 0, since nothing is changed."""
    measured = {lane: values for lane, *values in await depth(conn)}
    for lane in Lane:
        count, due, age = measured.get(lane, (0, 0, 0.0))
        metrics.QUEUE_JOBS.labels(lane.label).set(count)
        metrics.QUEUE_DUE.labels(lane.label).set(due)
        metrics.QUEUE_AGE_SECONDS.labels(lane.label).set(age)
    return 0


TASK = MaintenanceTask("queue_gauges", timedelta(seconds=10), measure_queue, Isolation.SHARED)
