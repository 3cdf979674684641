"""Plan a notification: resolve its audience once, and fan it out into send jobs.

Planning is one transaction. If a worker crashes while planning, the plan job does not change, and another worker starts
over. Every device has a due time: now, a local time in its time zone, or the time at which the winning variant is
decided. Devices that are due at the same time share jobs.

If the notification is bound to persons (`_is_person_bound`), a delivery is planned for the present user of its device.
"""

import time
from datetime import timedelta

import structlog

from gateway import metrics, tracing
from gateway.content.templates import uses_personal_data
from gateway.domain import clock
from gateway.domain.audience import Audience, Notified, iter_leaves, selects_users
from gateway.domain.job import Job, LeaseLost, chunk_size
from gateway.domain.notification import Notification, Status
from gateway.records import jobs, notifications, send_plan
from gateway.records.audiences import raise_work_mem
from gateway.records.postgres.engine import Connection
from gateway.service.audience import segments
from gateway.service.automation import reminders
from gateway.service.context import Context, Engine

# Delay before planning is tried again while requests of a cancelled notification are in flight.
IN_FLIGHT_DELAY = timedelta(milliseconds=250)

log = structlog.get_logger(__name__)


async def plan(context: Context, job: Job, engine: Engine | None = None) -> int:
    """Replace a plan job by send jobs.

    Args:
        context: the dependencies of the service layer.
        job: the claimed plan job.
        engine: the engine for the transaction; None uses the context's engine for the job's lane.

    Returns:
        The number of devices in the send jobs.

    Raises:
        LeaseLost: another worker has planned the notification.
    """
    started_ns = time.time_ns()
    async with (engine or context.engine_for(job.lane)).begin() as conn:
        is_in_time = await reminders.schedule_next_occurrence(conn, context, job)
        rows = await notifications.load(conn, [job.notification_id], lock=True)
        if not rows:  # a change of the reminder has deleted this occurrence meanwhile
            raise LeaseLost
        [notification], now = rows, clock.now()
        if not is_in_time:
            await jobs.delete_job(conn, job)
            return 0
        if notification.status is Status.PAUSED and now < notification.delivery.expires_at:
            await jobs.suspend(conn, job, notification.delivery.expires_at)
            return 0
        if notification.status not in (Status.SCHEDULED, Status.PAUSED):  # cancelled since the job was claimed
            await jobs.delete_job(conn, job)
            return 0
        audience = await segments.resolve_audience(conn, notification.application_id, notification.audience)
        if await _has_cancelled_in_flight(conn, audience):
            await jobs.reschedule(conn, job, now + IN_FLIGHT_DELAY)
            return 0
        await raise_work_mem(conn)
        condition = send_plan.match_devices(notification, audience)
        throttle, rate = notification.policy.throttle, None
        if throttle is not None:
            rate = throttle.rate(await send_plan.count_devices(conn, condition))
        due_times = await send_plan.select_due_times(conn, notification, condition, now)
        person_bound = _is_person_bound(notification, audience)
        targets = await jobs.fan_out(conn, job, now.date(), due_times, chunk_size(rate), person_bound=person_bound)
        await notifications.start(conn, notification.id, now.date(), targets, rate, person_bound=person_bound)
    with tracing.span(
        "plan",
        {"notification.id": job.log_fields["notification_id"], "job.id": job.id, "targets": targets},
        kind="consumer",
        parent=notification.trace,
        start_ns=started_ns,
    ):
        pass
    metrics.PLANNED.labels(notification.kind).inc()
    metrics.TARGETS.labels(notification.kind).inc(targets)
    log.info("notification.planned", **job.log_fields, targets=targets)
    return targets


def _is_person_bound(notification: Notification, audience: Audience) -> bool:
    """Return whether the notification is bound to persons: its audience selects users, or its content uses their data.

    A delivery of such a notification is sent only while its device still has the user that it has at planning.
    """
    if selects_users(audience):
        return True
    contents = [notification.content, *(variant.content for variant in notification.policy.variants)]
    return notification.templating is not None and any(map(uses_personal_data, contents))


async def _has_cancelled_in_flight(conn: Connection, audience: Audience) -> bool:
    """Return whether the audience refers to a cancelled notification that may still reach devices."""
    ids = [id_ for leaf in iter_leaves(audience) if isinstance(leaf, Notified) for id_ in leaf.notification_ids]
    referenced = await notifications.load(conn, ids)
    cancelled = [notification.id for notification in referenced if notification.status is Status.CANCELLED]
    return any([await jobs.is_leased(conn, id_) for id_ in cancelled])
