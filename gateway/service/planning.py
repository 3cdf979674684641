"""Plan a notification: resolve its audience once, and cut it into send jobs.

One transaction does it all, so a planner that dies leaves the plan job as it was, and the next one starts over.
"""

from datetime import UTC, datetime

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain.job import Job
from gateway.domain.notification import Status
from gateway.queue import postgres as queue
from gateway.records import notifications
from gateway.records.audiences import reachable
from gateway.records.schema import devices
from gateway.service import segments

log = structlog.get_logger(__name__)


async def plan(engine: AsyncEngine, job: Job) -> int:
    """Turn a plan job into send jobs; answers how many devices they hold. Raises LeaseLost."""
    async with engine.begin() as conn:
        [notification] = await notifications.load(conn, [job.notification_id], lock=True)
        if notification.status is not Status.SCHEDULED:  # cancelled while the job was on its way
            await queue.drop(conn, job)
            return 0
        today = datetime.now(UTC).date()
        who = await segments.read(conn, notification.application_id, notification.audience)
        audience = select(devices.c.id).where(reachable(notification.application_id, who))
        targets = await queue.cut(conn, job, today, audience)
        await notifications.start(conn, notification.id, today, targets)
    log.info("notification.planned", notification_id=str(notification.id), targets=targets)
    return targets
