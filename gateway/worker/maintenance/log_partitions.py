"""Create the partitions of the delivery log for the coming days."""

from datetime import timedelta

from gateway.domain import clock
from gateway.records.postgres import partitions
from gateway.records.postgres.engine import Connection
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.maintenance.task import MaintenanceTask

# Number of days, from today on, for which partitions are created.
DAYS_AHEAD = 7


async def create_partitions(conn: Connection, _: RetentionPolicy) -> int:
    """Create missing partitions, today's first; return the number of new partitions."""
    return len(await partitions.create_partitions(conn, clock.now().date(), DAYS_AHEAD))


TASK = MaintenanceTask("log_partitions", timedelta(hours=1), create_partitions)
