"""Throttle a notification: each of its jobs is sent in a time slot of its own.

The start of the next free slot is one value per notification in the database, so all workers together observe the rate.
A job that is claimed reserves a slot. If the slot starts later, the job returns to the queue until then.
"""

from datetime import timedelta

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.notification import Status
from gateway.records import jobs, notifications
from gateway.records.postgres.engine import Connection

# A job that is claimed later than this after its slot, because workers were busy or down, reserves a new slot.
# Otherwise all jobs of a backlog would be sent at once.
MAX_SLOT_DELAY = timedelta(seconds=2)
# A slot that starts within this time counts as now.
SLOT_TOLERANCE = timedelta(milliseconds=50)


async def has_slot(conn: Connection, job: Job) -> bool:
    """Return whether a throttled job may be sent now. If not, the job was rescheduled to its slot.

    A job needs no slot if its notification was cancelled or paused, since nothing is sent then.
    """
    now = clock.now()
    if job.slot is not None and now - job.slot < MAX_SLOT_DELAY:
        return True
    # The lock makes a concurrent cancellation wait until the job is back in the queue, so that it cancels the job too.
    [notification] = await notifications.load(conn, [job.notification_id], lock=True)
    if notification.status is not Status.SENDING:
        return True
    expires_at = notification.delivery.expires_at
    slot = await notifications.reserve_slot(conn, job.notification_id, len(job.device_ids), expires_at)
    if slot <= now + SLOT_TOLERANCE:
        return True
    await jobs.reschedule(conn, job, slot)
    return False
