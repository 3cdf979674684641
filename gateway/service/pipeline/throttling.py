"""The throttle: a notification's jobs go one after the other, each at its slot.

The time of the next free slot is one value in the database, so that all workers together keep to the rate. A job that
comes too early takes a slot and waits in the queue until then.
"""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.notification import Status
from gateway.queue import postgres as queue
from gateway.records import notifications

# A job that comes later than this to its slot, since others went first or nobody worked, takes another one:
# what has gathered does not go out in one gush.
GRACE = timedelta(seconds=2)
AT_ONCE = timedelta(milliseconds=50)


async def has_slot(conn: AsyncConnection, job: Job) -> bool:
    """Whether a throttled job may go now, or only be accounted for; if not, it was put back until its slot."""
    now = clock.now()
    if job.slot is not None and now - job.slot < GRACE:
        return True
    # The lock keeps a cancellation out until the job is where that finds it.
    [notification] = await notifications.load(conn, [job.notification_id], lock=True)
    if notification.status is not Status.SENDING:
        return True
    slot = await notifications.take_slot(conn, job.notification_id, len(job.device_ids))
    if slot <= now + AT_ONCE:
        return True
    await queue.reschedule(conn, job, slot)
    return False
