"""Measure the depth and the age of the queue for `/metrics`.

Every worker measures. If only one worker at a time did, the others would go on exporting the values that they measured
last.
"""

from datetime import timedelta

from gateway import metrics
from gateway.domain.notification import Lane
from gateway.records.jobs import measure_depth
from gateway.records.postgres.engine import Connection
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.maintenance.task import Isolation, MaintenanceTask


async def measure_queue(conn: Connection, _: RetentionPolicy) -> int:
    """Set the gauges of the queue; return 0, since no rows change."""
    depths = {lane: values for lane, *values in await measure_depth(conn)}
    for lane in Lane:
        count, due, age = depths.get(lane, (0, 0, 0.0))
        metrics.QUEUE_JOBS.labels(lane.label).set(count)
        metrics.QUEUE_DUE.labels(lane.label).set(due)
        metrics.QUEUE_AGE_SECONDS.labels(lane.label).set(age)
    return 0


TASK = MaintenanceTask("queue_gauges", timedelta(seconds=10), measure_queue, Isolation.SHARED)
