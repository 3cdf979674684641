"""Segments: the filters behind their ids, and who names them."""

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

NAMES_IT = "$.**.segment ? (@ == $named)"


async def load(conn: AsyncConnection, application_id: UUID, segment_ids: Collection[UUID]) -> dict[UUID, Any]:
    """The filters of those that exist, as JSON. They cannot be removed before the transaction ends."""
    query = select(segments.c.id, segments.c.audience).where(
        segments.c.application_id == application_id, segments.c.id.in_(sorted(segment_ids))
    )
    return {
        row.id: row.audience for row in await conn.execute(query.order_by(segments.c.id).with_for_update(read=True))
    }


async def lock_all(conn: AsyncConnection, application_id: UUID) -> None:
    """Let one transaction at a time change the segments of an application."""
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"segments {application_id}", 0))))


async def find_user(conn: AsyncConnection, application_id: UUID, id_: UUID) -> str | None:
    """What still needs the segment, in words; None when nothing does."""
    query = select(segments.c.name).where(segments.c.application_id == application_id, _names(segments.c.audience, id_))
    if (name := (await conn.execute(query.limit(1))).scalar()) is not None:
        return f"the segment {name!r}"
    narrowed = select(applications.c.id).where(
        applications.c.id == application_id, _names(applications.c.alert_audience, id_)
    )
    if (await conn.execute(narrowed)).first() is not None:
        return "the audience of the application's alerts"
    fed = select(feeds.c.name).where(feeds.c.application_id == application_id, _names(feeds.c.audience, id_))
    if (name := (await conn.execute(fed.limit(1))).scalar()) is not None:
        return f"the feed {name!r}"
    triggered = select(triggers.c.name).where(
        triggers.c.application_id == application_id, _names(triggers.c.draft["audience"], id_)
    )
    if (name := (await conn.execute(triggered.limit(1))).scalar()) is not None:
        return f"the trigger {name!r}"
    recurring = select(reminders.c.name).where(
        reminders.c.application_id == application_id,
        reminders.c.status != "ended",
        _names(reminders.c.draft["audience"], id_),
    )
    if (name := (await conn.execute(recurring.limit(1))).scalar()) is not None:
        return f"the reminder {name!r}"
    waiting = select(notifications.c.id).where(
        notifications.c.application_id == application_id,
        notifications.c.status.in_((Status.SCHEDULED, Status.PAUSED)),
        _names(notifications.c.audience, id_),
    )
    if (notification_id := (await conn.execute(waiting.limit(1))).scalar()) is not None:
        return f"the scheduled notification {ids.format_id(ids.NOTIFICATION, notification_id)}"
    return None


def _names(audience: ColumnElement[Any], id_: UUID) -> ColumnElement[bool]:
    named = literal({"named": ids.format_id(ids.SEGMENT, id_)}, JSONB)
    return func.jsonb_path_exists(audience, cast(literal(NAMES_IT, Text), JSONPATH), named)
