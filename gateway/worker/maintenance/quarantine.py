"""Release devices from quarantine at intervals, to find out whether their push service still refuses them.

Only devices whose refusals may have been temporary are released: those whose push service responded with 401 or 403 for
a day without reporting a key mismatch. A device that is refused again returns to quarantine with its next message.
"""

from datetime import timedelta

from gateway.records import devices
from gateway.records.postgres.engine import Connection
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.maintenance.task import MaintenanceTask

# Time in quarantine until a device is tried again.
RETRY_AFTER = timedelta(days=1)
# Maximum number of devices that are released in one run.
MAX_RELEASED = 5000


async def release_refused_devices(conn: Connection, _: RetentionPolicy) -> int:
    """Release devices from quarantine; return how many."""
    return await devices.release_refused(conn, RETRY_AFTER, limit=MAX_RELEASED)


TASK = MaintenanceTask("quarantine", timedelta(hours=1), release_refused_devices)
