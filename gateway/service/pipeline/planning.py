"""Plan a notification: resolve its audience once, and cut it into send jobs.

One transaction does it all, so a planner that dies leaves the plan job as it was, and the next one starts over.
Every device has a time when it is due: now, when its own clock shows the time asked for, or when the winning
variant is known. Devices that are due together share jobs; a job is a row that comes due.
"""

import time
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Select, any_, case, func, literal, not_, select
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from gateway import metrics, tracing
from gateway.domain import clock
from gateway.domain.audience import Audience, Notified, iter_leaves
from gateway.domain.job import Job, chunk_size
from gateway.domain.notification import Notification, Status
from gateway.domain.schedule import to_utc, zone_or_utc
from gateway.domain.send_policy import sample_size
from gateway.queue import postgres as queue
from gateway.queue.protocol import LeaseLost
from gateway.records import notifications
from gateway.records.audiences import make_room, reachable
from gateway.records.postgres.schema import devices
from gateway.records.recipients import bucket
from gateway.service.audience import segments
from gateway.service.automation import reminders
from gateway.service.context import Context

# What a worker has in its hands is with the push service about this long after it was told to stop.
IN_FLIGHT = timedelta(milliseconds=250)

log = structlog.get_logger(__name__)


async def plan(context: Context, job: Job) -> int:
    """Turn a plan job into send jobs; answers how many devices they hold. Raises LeaseLost."""
    began = time.time_ns()
    async with context.engine.begin() as conn:
        in_time = await reminders.schedule_next_occurrence(conn, context, job)
        [*found] = await notifications.load(conn, [job.notification_id], lock=True)
        if not found:  # its reminder was changed meanwhile
            raise LeaseLost
        [notification], now = found, clock.now()
        if not in_time:
            await queue.drop(conn, job)
            return 0
        if notification.status is Status.PAUSED and now < notification.delivery.expires_at:
            await queue.suspend(conn, job, notification.delivery.expires_at)
            return 0
        if notification.status not in (Status.SCHEDULED, Status.PAUSED):  # cancelled while the job was on its way
            await queue.drop(conn, job)
            return 0
        audience = await segments.read(conn, notification.application_id, notification.audience)
        if await _still_in_flight(conn, audience):
            await queue.reschedule(conn, job, now + IN_FLIGHT)
            return 0
        await make_room(conn)
        who = _audience(notification, audience)
        rate = await _rate(conn, notification, who)
        targets = await queue.fan_out(conn, job, now.date(), await _due(conn, notification, who, now), chunk_size(rate))
        await notifications.start(conn, notification.id, now.date(), targets, rate)
    with tracing.span(
        "plan",
        {"notification.id": job.log_fields["notification_id"], "job.id": job.id, "targets": targets},
        kind="consumer",
        parent=notification.trace,
        start_ns=began,
    ):
        pass
    metrics.PLANNED.labels(notification.kind).inc()
    metrics.TARGETS.labels(notification.kind).inc(targets)
    log.info("notification.planned", **job.log_fields, targets=targets)
    return targets


async def _still_in_flight(conn: AsyncConnection, audience: Audience) -> bool:
    """Whether a notification that was withdrawn, and that the audience asks about, may yet reach someone."""
    asked = [id_ for leaf in iter_leaves(audience) if isinstance(leaf, Notified) for id_ in leaf.notification_ids]
    withdrawn = [one.id for one in await notifications.load(conn, asked) if one.status is Status.CANCELLED]
    return any([await queue.is_held(conn, id_) for id_ in withdrawn])


def _audience(notification: Notification, audience: Audience) -> ColumnElement[bool]:
    who = reachable(notification.application_id, audience)
    category = notification.policy.category
    return who if category is None else who & not_(literal(category) == any_(devices.c.muted))


async def _rate(conn: AsyncConnection, notification: Notification, who: ColumnElement[bool]) -> float | None:
    """Messages per second that the throttle allows; None without one."""
    throttle = notification.policy.throttle
    if throttle is None:
        return None
    count = select(func.count()).select_from(devices).where(who)
    return throttle.rate((await conn.execute(count)).scalar_one())


async def _due(
    conn: AsyncConnection, notification: Notification, who: ColumnElement[bool], now: datetime
) -> Select[tuple[UUID, datetime]]:
    """(id, due) of every device in the audience."""
    steering = notification.policy
    due: ColumnElement[datetime] = literal(now, TIMESTAMP(timezone=True))
    source: Select[tuple[UUID, datetime]] = select(devices.c.id)
    if steering.local_at is not None:
        # Python knows the zones, also those that the database's system does not; Postgres joins them to the devices.
        zones = (await conn.execute(select(devices.c.timezone).where(who).distinct())).scalars().all()
        moments = [max(now, to_utc(steering.local_at, zone_or_utc(name))) for name in zones]
        local = (
            func.unnest(
                literal(["" if name is None else name for name in zones], ARRAY(Text)),
                literal(moments, ARRAY(TIMESTAMP(timezone=True))),
            )
            .table_valued("zone", "due", name="local_times")
            .render_derived()
        )
        source = source.join(local, func.coalesce(devices.c.timezone, "") == local.c.zone)
        due = local.c.due
    if steering.winner is not None:
        sampled = bucket(notification.id) < sample_size(steering.winner.sample)
        due = case((sampled, due), else_=due + steering.winner.after)
    return source.add_columns(due.label("due")).where(who)
