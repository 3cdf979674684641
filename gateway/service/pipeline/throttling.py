"""Throttle a notification: its jobs are sent one after the other, each at its slot.

The time of the next free slot is one value in the database, so all workers together keep to the rate. A job that is
claimed too early takes a slot and returns to the queue until then.
"""

from datetime import timedelta

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.notification import Status
from gateway.records import jobs, notifications
from gateway.records.postgres.engine import Connection

# A job that is claimed later than this after its slot, because workers were busy or down, takes a new one: a backlog
# must not be sent in one burst.
MAX_SLOT_DELAY = timedelta(seconds=2)
# A slot this soon counts as now.
SLOT_TOLERANCE = timedelta(milliseconds=50)


async def has_slot(conn: Connection, job: Job) -> bool:
    """Whether a throttled job may be processed now; if not, it was rescheduled to its slot.

    A job whose notification is no longer being sent needs no slot: its devices are only settled.
    """
    now = clock.now()
    if job.slot is not None and now - job.slot < MAX_SLOT_DELAY:
        return True
    # The lock delays a concurrent cancellation until the job is back in the queue, where it finds the job.
    [notification] = await notifications.load(conn, [job.notification_id], lock=True)
    if notification.status is not Status.SENDING:
        return True
    slot = await notifications.reserve_slot(conn, job.notification_id, len(job.device_ids))
    if slot <= now + SLOT_TOLERANCE:
        return True
    await jobs.reschedule(conn, job, slot)
    return False
