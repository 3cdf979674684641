"""The occurrences of reminders. Each is a notification with a `reminder_id`; at most one waits for its start time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, delete, func, select

from gateway.domain.notification import Notification, Status
from gateway.records import outbox
from gateway.records.postgres.engine import Connection
from gateway.records.postgres.schema import notifications, reminders


class Occurrences(NamedTuple):
    """The occurrences of a reminder.

    Attributes:
        next_id: the id of the scheduled occurrence.
        next_at: its start time.
        started: the number of occurrences that have started.
        last_at: the start time of the last occurrence that has started.
    """

    next_id: UUID | None = None
    next_at: datetime | None = None
    started: int = 0
    last_at: datetime | None = None


async def load_occurrences(conn: Connection, reminder_ids: Sequence[UUID]) -> dict[UUID, Occurrences]:
    """Return the occurrences by reminder id; reminders without occurrences are left out."""
    n = notifications.c
    of_reminders = n.reminder_id.in_(reminder_ids)
    scheduled = select(n.reminder_id, n.id, n.start_at).where(of_reminders, n.status == Status.SCHEDULED)
    scheduled = scheduled.order_by(n.occurrence)  # the dict below keeps the latest one per reminder
    started = select(n.reminder_id, func.count().label("started"), func.max(n.start_at).label("last_at"))
    started = started.where(of_reminders, n.day.is_not(None)).group_by(n.reminder_id)
    occurrences = {row.reminder_id: Occurrences(row.id, row.start_at) for row in await conn.execute(scheduled)}
    for row in await conn.execute(started):
        occurrence = occurrences.get(row.reminder_id, Occurrences())
        occurrences[row.reminder_id] = occurrence._replace(started=row.started, last_at=row.last_at)
    return occurrences


async def lock_by_notification(conn: Connection, notification_id: UUID) -> Row[Any] | None:
    """Lock and return the reminder of an occurrence, or None if the notification is not an occurrence."""
    query = (
        select(reminders)
        .join(notifications, notifications.c.reminder_id == reminders.c.id)
        .where(notifications.c.id == notification_id)
        .with_for_update(of=reminders)
    )
    return (await conn.execute(query)).first()


async def has_later_occurrence(conn: Connection, occurrence: Notification) -> bool:
    """Return whether the reminder of this occurrence has a later occurrence."""
    n = notifications.c
    later = select(n.id).where(n.reminder_id == occurrence.reminder_id, n.occurrence > occurrence.occurrence)
    return (await conn.execute(later.limit(1))).first() is not None


async def delete_waiting_occurrences(conn: Connection, reminder_id: UUID) -> None:
    """Delete the occurrence that waits for its start time. Nothing of it was sent."""
    n = notifications.c
    waiting = (n.reminder_id == reminder_id, n.day.is_(None), n.status.in_((Status.SCHEDULED, Status.PAUSED)))
    await outbox.append_notification_events(conn, "notification.cancelled", *waiting)
    await conn.execute(delete(notifications).where(*waiting))
