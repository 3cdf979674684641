"""Drop the partitions of the delivery log whose retention has ended.

Creating partitions is another task: dropping waits for readers of the log, and must not delay new partitions. Dropping
also blocks other changes of the partitions while it waits, so it gives up after LOCK_TIMEOUT, and the next run tries
again.
"""

from datetime import timedelta

from gateway.domain import clock
from gateway.records.postgres.engine import Connection
from gateway.records.postgres.partitions import drop_before
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.maintenance.task import Isolation, MaintenanceTask

# Maximum time for which dropping a partition waits for a lock.
LOCK_TIMEOUT = timedelta(seconds=2)


async def drop_partitions(conn: Connection, policy: RetentionPolicy) -> int:
    """Drop the partitions that are older than the policy allows; return the number of dropped partitions."""
    return len(await drop_before(conn, clock.now().date() - policy.log, wait=LOCK_TIMEOUT))


# Not in a transaction: there a partition cannot be detached concurrently.
TASK = MaintenanceTask("log_retention", timedelta(minutes=10), drop_partitions, Isolation.SESSION)
