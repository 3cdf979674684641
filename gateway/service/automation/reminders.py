"""Reminders: a notification for every time that a cron expression names.

There is no scheduler to keep alive. The next occurrence is a notification like any other that waits for its time, and
the transaction that plans it also makes the one after it. A plan job is held by lease and ends once, so that
however many workers there are and whenever they die, every occurrence is started once; a unique index sees to it too.

What says what an occurrence is (content, audience and so on) is a `Draft`, kept as JSON.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import structlog
from sqlalchemy import delete, func, select

from gateway.domain import clock, ids
from gateway.domain.errors import FieldError, GatewayError, ValidationError
from gateway.domain.job import Job
from gateway.domain.notification import Kind, Notification, Status
from gateway.domain.schedule import Recurrence
from gateway.records import notifications, outbox
from gateway.records.postgres import named_resources
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import notifications as notifications_table
from gateway.records.postgres.schema import reminders as table
from gateway.service.context import Context
from gateway.service.notifications import spec_codec
from gateway.service.notifications.submission import Draft, submit

Missed = Literal["send", "skip"]

# An occurrence that starts later than this was missed: workers were down, not merely busy.
PUNCTUAL = timedelta(minutes=5)

log = structlog.get_logger(__name__)


async def create(
    conn: Connection,
    context: Context,
    application_id: UUID,
    name: str,
    recurrence: Recurrence,
    *,
    ends_at: datetime | None,
    missed: Missed,
    draft: Draft,
) -> dict[str, Any]:
    """Raises Invalid and Conflict."""
    _check(recurrence)
    row = await named_resources.add(
        conn,
        table,
        application_id=application_id,
        name=name,
        status="active",
        cron=recurrence.cron,
        timezone=recurrence.timezone,
        ends_at=ends_at,
        missed=missed,
        draft=spec_codec.to_json(draft),
    )
    if not await _schedule(conn, context, row, clock.now()):
        raise ValidationError([FieldError("/ends_at", "is before the first occurrence")])
    return await to_json(conn, row)


async def change(
    conn: Connection,
    context: Context,
    application_id: UUID,
    id_: UUID,
    values: dict[str, Any],
    said: dict[str, Any],
    steered: dict[str, Any],
) -> dict[str, Any]:
    """`values` by column, `said` and `steered` by the fields of Draft and Steering.

    What has been started goes on as it was.

    Raises NotFound, Invalid and Conflict.
    """
    row = await named_resources.find(conn, table, application_id, id_, lock=True)
    draft = spec_codec.changed(spec_codec.from_json(Kind.REMINDER, row.draft), said, steered)
    # One that has ended goes on with what is changed; who paused one has not yet asked for it to go on.
    values = {"status": "paused" if row.status == "paused" else "active", **values}
    row = await named_resources.change(conn, table, id_, **values, cause=None, draft=spec_codec.to_json(draft))
    _check(_recurrence(row))
    await _unschedule(conn, id_)
    if row.status == "active" and not await _schedule(conn, context, row, clock.now()):
        raise ValidationError([FieldError("/ends_at", "is before the next occurrence")])
    return await to_json(conn, row)


async def remove(conn: Connection, application_id: UUID, id_: UUID) -> None:
    """What has been started goes on. Raises NotFound."""
    await named_resources.find(conn, table, application_id, id_, lock=True)
    await _unschedule(conn, id_)
    await named_resources.remove(conn, table, id_)


async def schedule_next_occurrence(conn: Connection, context: Context, job: Job) -> bool:
    """Before an occurrence is planned: make the one after it. False when this one was missed and is to be skipped.

    Does nothing for other notifications, and nothing twice.
    """
    # The reminder is locked before its notification, as whoever changes it does.
    held = (
        select(table)
        .join(notifications_table, notifications_table.c.reminder_id == table.c.id)
        .where(notifications_table.c.id == job.notification_id)
        .with_for_update(of=table)
    )
    row = (await conn.execute(held)).first()
    if row is None:
        return True
    [*found] = await notifications.load(conn, [job.notification_id], lock=True)
    if not found or row.status != "active" or await _has_later(conn, found[0]):
        return True
    [occurrence], now = found, clock.now()
    try:
        async with conn.begin_nested():
            # One that was cancelled comes here before its time, and is not to be made again.
            if not await _schedule(conn, context, row, max(now, occurrence.start_at)):
                await named_resources.change(conn, table, row.id, status="ended", cause="its end was reached")
    except GatewayError as refusal:
        # Something it needs is no longer there. This occurrence was accepted and is sent.
        await named_resources.change(conn, table, row.id, status="ended", cause=refusal.detail)
        log.warning("reminder.ended", reminder_id=ids.format_id(ids.REMINDER, row.id), cause=refusal.detail)
    late = now - occurrence.start_at
    if occurrence.status is not Status.SCHEDULED or late <= PUNCTUAL:
        return True
    if row.missed == "skip":
        await notifications.end_missed_occurrence(conn, occurrence.id, f"could not start in time, and was {late} late")
        return False
    life = occurrence.delivery.expires_at - occurrence.start_at
    await notifications.set_expiry(conn, occurrence.id, now + life)
    return True


async def get(conn: Connection, application_id: UUID, id_: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    return await to_json(conn, await named_resources.find(conn, table, application_id, id_))


async def list_page(
    conn: Connection, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    rows = await named_resources.list_page(conn, table, application_id, before=before, limit=limit)
    return [await to_json(conn, row) for row in rows]


async def to_json(conn: Connection, row: Row[Any]) -> dict[str, Any]:
    n = notifications_table.c
    pending = select(n.id, n.start_at).where(n.reminder_id == row.id, n.status == Status.SCHEDULED)
    started = select(func.count(), func.max(n.start_at)).where(n.reminder_id == row.id, n.day.is_not(None))
    coming = (await conn.execute(pending.order_by(n.occurrence.desc()).limit(1))).first()
    occurrences, last = (await conn.execute(started)).one()
    return {
        "id": ids.format_id(ids.REMINDER, row.id),
        "name": row.name,
        "status": row.status,
        "cause": row.cause,
        "cron": row.cron,
        "explained": _recurrence(row).explain(),
        "timezone": row.timezone,
        "ends_at": row.ends_at,
        "missed": row.missed,
        **spec_codec.show(row.draft),
        "throttle": row.draft["steering"].get("throttle"),
        "quiet_hours": row.draft["steering"].get("quiet_hours"),
        "next_at": None if coming is None else coming.start_at,
        "next_notification_id": None if coming is None else ids.format_id(ids.NOTIFICATION, coming.id),
        "last_at": last,
        "occurrences": occurrences,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


async def _schedule(conn: Connection, context: Context, row: Row[Any], after: datetime) -> bool:
    """Make the next occurrence; False when there is none any more. Raises what `submit` does."""
    occurrence = _recurrence(row).next_occurrence(after)
    if occurrence is None or (row.ends_at is not None and occurrence.at > row.ends_at):
        return False
    draft = spec_codec.from_json(Kind.REMINDER, row.draft)
    steering = replace(draft.steering, local_at=occurrence.local_at)
    await submit(
        conn,
        context,
        row.application_id,
        replace(draft, name=row.name, start_at=occurrence.at, steering=steering, reminder_id=row.id),
    )
    return True


async def _unschedule(conn: Connection, id_: UUID) -> None:
    """Take back the occurrence that waits for its time: nothing of it was sent, and another takes its place."""
    n = notifications_table.c
    waiting = (n.reminder_id == id_, n.day.is_(None), n.status.in_((Status.SCHEDULED, Status.PAUSED)))
    await outbox.append_notification_events(conn, "notification.cancelled", *waiting)
    await conn.execute(delete(notifications_table).where(*waiting))


async def _has_later(conn: Connection, notification: Notification) -> bool:
    n = notifications_table.c
    later = select(n.id).where(n.reminder_id == notification.reminder_id, n.occurrence > notification.occurrence)
    return (await conn.execute(later.limit(1))).first() is not None


def _recurrence(row: Row[Any]) -> Recurrence:
    return Recurrence(row.cron, row.timezone)


def _check(recurrence: Recurrence) -> None:
    if (fault := recurrence.find_error()) is not None:
        raise ValidationError([FieldError("/cron", fault)])
