"""Segments (saved audiences), and the resources that refer to them."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import Text, cast, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from gateway.domain import ids
from gateway.domain.notification import Status
from gateway.records.postgres.schema import applications, feeds, notifications, reminders, segments, triggers

# JSON path that matches an audience with a reference to the segment, at any depth.
SEGMENT_PATH = "$.**.segment ? (@ == $segment)"


async def load(conn: AsyncConnection, application_id: UUID, segment_ids: Collection[UUID]) -> dict[UUID, Any]:
    """Return the audiences of the existing segments as JSON, by id.

    Locks the segments until the transaction ends, so that no other transaction removes them.
    """
    query = select(segments.c.id, segments.c.audience).where(
        segments.c.application_id == application_id, segments.c.id.in_(sorted(segment_ids))
    )
    return {
        row.id: row.audience for row in await conn.execute(query.order_by(segments.c.id).with_for_update(read=True))
    }


async def lock_all(conn: AsyncConnection, application_id: UUID) -> None:
    """Lock all segments of an application, so that one transaction at a time changes them."""
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"segments {application_id}", 0))))


async def find_usage(conn: AsyncConnection, application_id: UUID, id_: UUID) -> str | None:
    """Return a description of a resource that refers to the segment, or None if there is none."""
    query = select(segments.c.name).where(
        segments.c.application_id == application_id, _refers_to(segments.c.audience, id_)
    )
    if (name := (await conn.execute(query.limit(1))).scalar()) is not None:
        return f"the segment {name!r}"
    alert_audience = select(applications.c.id).where(
        applications.c.id == application_id, _refers_to(applications.c.alert_audience, id_)
    )
    if (await conn.execute(alert_audience)).first() is not None:
        return "the audience of the application's alerts"
    feed = select(feeds.c.name).where(feeds.c.application_id == application_id, _refers_to(feeds.c.audience, id_))
    if (name := (await conn.execute(feed.limit(1))).scalar()) is not None:
        return f"the feed {name!r}"
    trigger = select(triggers.c.name).where(
        triggers.c.application_id == application_id, _refers_to(triggers.c.draft["audience"], id_)
    )
    if (name := (await conn.execute(trigger.limit(1))).scalar()) is not None:
        return f"the trigger {name!r}"
    reminder = select(reminders.c.name).where(
        reminders.c.application_id == application_id,
        reminders.c.status != "ended",
        _refers_to(reminders.c.draft["audience"], id_),
    )
    if (name := (await conn.execute(reminder.limit(1))).scalar()) is not None:
        return f"the reminder {name!r}"
    scheduled = select(notifications.c.id).where(
        notifications.c.application_id == application_id,
        notifications.c.status.in_((Status.SCHEDULED, Status.PAUSED)),
        _refers_to(notifications.c.audience, id_),
    )
    if (notification_id := (await conn.execute(scheduled.limit(1))).scalar()) is not None:
        return f"the scheduled notification {ids.format_id(ids.NOTIFICATION, notification_id)}"
    return None


def _refers_to(audience: ColumnElement[Any], id_: UUID) -> ColumnElement[bool]:
    variables = literal({"segment": ids.format_id(ids.SEGMENT, id_)}, JSONB)
    return func.jsonb_path_exists(audience, cast(literal(SEGMENT_PATH, Text), JSONPATH), variables)
