"""Reminders: send a notification at every time of a cron expression.

There is no separate scheduler process. The next occurrence of a reminder is an ordinary scheduled notification. The
transaction that plans this notification also creates the occurrence after it. A plan job is leased and completes only
once, so every occurrence starts exactly once, however many workers run or crash. A unique index guarantees this.

A reminder stores the notification to send as a `Draft` in JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import structlog

from gateway.domain import clock, ids
from gateway.domain.errors import FieldError, GatewayError, ValidationError
from gateway.domain.job import Job
from gateway.domain.notification import Kind, Status
from gateway.domain.schedule import Recurrence
from gateway.records import notifications
from gateway.records import reminders as records
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import reminders as table
from gateway.records.reminders import Occurrences
from gateway.service import views
from gateway.service.context import Context
from gateway.service.named_resources import NamedResource
from gateway.service.notifications import spec_codec
from gateway.service.notifications.submission import Draft, submit

# What is done with an occurrence that could not start in time.
Missed = Literal["send", "skip"]

# An occurrence that starts later than this counts as missed: no worker was running at its time.
MAX_LATENESS = timedelta(minutes=5)

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
) -> views.Reminder:
    """Store a reminder and schedule its first occurrence.

    Raises:
        ValidationError: the recurrence or the draft is not valid, or `ends_at` is before the first occurrence.
        PayloadTooLarge: the content is too large for a push message.
        Conflict: the application has a reminder of this name.
    """
    _check_recurrence(recurrence)
    columns = {
        "name": name,
        "status": "active",
        "cron": recurrence.cron,
        "timezone": recurrence.timezone,
        "ends_at": ends_at,
        "missed": missed,
        "draft": spec_codec.to_json(draft),
    }
    row = await _reminders.insert(conn, application_id, columns)
    if not await _schedule(conn, context, row, clock.now()):
        raise ValidationError([FieldError("/ends_at", "is before the first occurrence")])
    return await _reminders.view(conn, row)


async def update(
    conn: Connection,
    context: Context,
    application_id: UUID,
    id_: UUID,
    columns: Mapping[str, Any],
    draft_fields: spec_codec.DraftChange,
    policy_fields: spec_codec.PolicyChange,
) -> views.Reminder:
    """Change a reminder, and replace its scheduled occurrence.

    `columns` are columns of the reminder, `draft_fields` fields of its draft, `policy_fields` fields of the draft's
    send policy. Occurrences that have started do not change. A reminder that has ended becomes active again.

    Raises:
        NotFound: the application has no such reminder.
        ValidationError: the recurrence or the draft is not valid, or `ends_at` is before the next occurrence.
        PayloadTooLarge: the content is too large for a push message.
        Conflict: another reminder has the new name.
    """
    row = await _reminders.find(conn, application_id, id_, lock=True)
    draft = spec_codec.patch(spec_codec.from_json(Kind.REMINDER, row.draft), draft_fields, policy_fields)
    status = "paused" if row.status == "paused" else "active"
    row = await _reminders.save(
        conn, id_, {"status": status, **columns, "cause": None, "draft": spec_codec.to_json(draft)}
    )
    _check_recurrence(_recurrence(row))
    await records.delete_waiting_occurrences(conn, id_)
    if row.status == "active" and not await _schedule(conn, context, row, clock.now()):
        raise ValidationError([FieldError("/ends_at", "is before the next occurrence")])
    return await _reminders.view(conn, row)


async def schedule_next_occurrence(conn: Connection, context: Context, job: Job) -> bool:
    """Create the occurrence after the one that a plan job is about to plan.

    Creates nothing if the job's notification is not an occurrence, or if a later occurrence exists already.

    Returns:
        False if the occurrence of the job was missed and must be skipped, otherwise True.
    """
    # Locks the reminder before its notification. Changes of the reminder lock in the same order, so no deadlock occurs.
    row = await records.lock_by_notification(conn, job.notification_id)
    if row is None:
        return True
    occurrences = await notifications.load(conn, [job.notification_id], lock=True)
    if not occurrences or row.status != "active" or await records.has_later_occurrence(conn, occurrences[0]):
        return True
    [occurrence], now = occurrences, clock.now()
    try:
        async with conn.begin_nested():
            # A cancelled occurrence is planned before its start time. Without max() it would be created again.
            if not await _schedule(conn, context, row, max(now, occurrence.start_at)):
                await _reminders.save(conn, row.id, {"status": "ended", "cause": "no occurrence is left"})
    except GatewayError as error:
        # The draft refers to a resource that no longer exists. The current occurrence was accepted, and is sent.
        await _reminders.save(conn, row.id, {"status": "ended", "cause": error.detail})
        log.warning("reminder.ended", reminder_id=ids.format_id(ids.REMINDER, row.id), cause=error.detail)
    delay = now - occurrence.start_at
    if occurrence.status is not Status.SCHEDULED or delay <= MAX_LATENESS:
        return True
    if row.missed == "skip":
        await notifications.end_missed_occurrence(conn, occurrence.id, f"could not start in time, and was {delay} late")
        return False
    lifetime = occurrence.delivery.expires_at - occurrence.start_at
    await notifications.set_expiry(conn, occurrence.id, now + lifetime)
    return True


def to_view(row: Row[Any], occurrences: Occurrences) -> views.Reminder:
    """Return the view of a reminder with its occurrences."""
    next_id = occurrences.next_id
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
        **spec_codec.to_view(row.draft),
        "throttle": row.draft["steering"].get("throttle"),
        "quiet_hours": row.draft["steering"].get("quiet_hours"),
        "next_at": occurrences.next_at,
        "next_notification_id": None if next_id is None else ids.format_id(ids.NOTIFICATION, next_id),
        "last_at": occurrences.last_at,
        "occurrences": occurrences.started,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


async def _schedule(conn: Connection, context: Context, row: Row[Any], after: datetime) -> bool:
    """Create the next occurrence, or return False if there is none. Raises the errors of `submit`."""
    occurrence = _recurrence(row).next_occurrence(after)
    if occurrence is None or (row.ends_at is not None and occurrence.at > row.ends_at):
        return False
    draft = spec_codec.from_json(Kind.REMINDER, row.draft)
    policy = replace(draft.policy, local_at=occurrence.local_at)
    await submit(
        conn,
        context,
        row.application_id,
        replace(draft, name=row.name, start_at=occurrence.at, policy=policy, reminder_id=row.id),
    )
    return True


async def _delete_waiting(conn: Connection, row: Row[Any]) -> None:
    await records.delete_waiting_occurrences(conn, row.id)


async def _to_views(conn: Connection, rows: Sequence[Row[Any]]) -> list[views.Reminder]:
    occurrences = await records.load_occurrences(conn, [row.id for row in rows])
    return [to_view(row, occurrences.get(row.id, Occurrences())) for row in rows]


def _recurrence(row: Row[Any]) -> Recurrence:
    return Recurrence(row.cron, row.timezone)


def _check_recurrence(recurrence: Recurrence) -> None:
    if (error := recurrence.find_error()) is not None:
        raise ValidationError([FieldError("/cron", error)])


_reminders = NamedResource(table, _to_views, before_delete=_delete_waiting)
get, list_page, delete = _reminders.get, _reminders.list_page, _reminders.delete
