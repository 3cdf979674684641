"""Drop the delivery log's partitions past retention.

A task apart from creating partitions: dropping waits for readers of the log, and must not keep tomorrow's partition
from being created. A waiting drop blocks other changes of the partitions, so it gives up soon and the next run tries
again.
"""

from datetime import timedelta

from gateway.domain import clock
from gateway.records.postgres.engine import Connection
from gateway.records.postgres.partitions import drop_before
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.maintenance.task import Isolation, MaintenanceTask

LOCK_TIMEOUT = timedelta(seconds=2)


async def drop_partitions(conn: Connection, policy: RetentionPolicy) -> int:
    """Drop partitions older than the policy; return how many."""
    return len(await drop_before(conn, clock.now().date() - policy.log, wait=LOCK_TIMEOUT))


# Detaching a partition concurrently is not possible inside a transaction.
TASK = MaintenanceTask("log_retention", timedelta(minutes=10), drop_partitions, Isolation.SESSION)
