"""Segments (saved audiences), and the resources that refer to them."""

from collections.abc import AsyncIterator, Collection
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import CompoundSelect, Text, cast, func, literal, null, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY, JSONPATH
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from gateway.domain import ids
from gateway.domain.notification import Status
from gateway.records.postgres.schema import applications, feeds, notifications, reminders, segments, triggers

# JSON path of the references to segments in an audience, at any depth.
SEGMENT_PATH = "$.**.segment"
# Number of rows that a streamed query keeps in memory. Each may contain a large audience.
STREAM_BUFFER_ROWS = 10


class SegmentUse(NamedTuple):
    """A resource that refers to a segment.

    Attributes:
        description: the kind and name of the resource, for error messages.
        audience: the audience of the resource, as JSON.
    """

    description: str
    audience: Any


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


async def count_octets(conn: AsyncConnection, application_id: UUID, segment_ids: Collection[UUID]) -> int:
    """Return the total size of the audiences of these segments, as JSON, in octets."""
    octets = func.coalesce(func.sum(func.octet_length(cast(segments.c.audience, Text))), 0)
    query = select(octets).where(segments.c.application_id == application_id, segments.c.id.in_(sorted(segment_ids)))
    return int((await conn.execute(query)).scalar_one())


async def lock_all(conn: AsyncConnection, application_id: UUID) -> None:
    """Lock all segments of an application, so that one transaction at a time changes them."""
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"segments {application_id}", 0))))


async def find_use(conn: AsyncConnection, application_id: UUID, id_: UUID) -> SegmentUse | None:
    """Return a resource that refers to the segment, or None if there is none."""
    row = (await conn.execute(_select_uses(application_id, [id_]).limit(1))).first()
    return None if row is None else _use(*row)


async def list_containing(conn: AsyncConnection, application_id: UUID, id_: UUID) -> set[UUID]:
    """Return the ids of the segment, and of the segments that contain it at any depth."""
    containing, pending = {id_}, {id_}
    while pending:
        query = select(segments.c.id).where(
            segments.c.application_id == application_id, _refers_to(segments.c.audience, pending)
        )
        pending = set((await conn.execute(query)).scalars()) - containing
        containing |= pending
    return containing


async def stream_uses(
    conn: AsyncConnection, application_id: UUID, segment_ids: Collection[UUID]
) -> AsyncIterator[SegmentUse]:
    """Yield the resources that refer to any of the segments."""
    query = _select_uses(application_id, segment_ids)
    options = {"max_row_buffer": STREAM_BUFFER_ROWS}
    async with conn.stream(query, execution_options=options) as rows:
        async for row in rows:
            yield _use(*row)


def _select_uses(application_id: UUID, segment_ids: Collection[UUID]) -> CompoundSelect[Any]:
    """Select (kind, name, audience) of the resources that refer to any of the segments."""
    trigger_audience, reminder_audience = triggers.c.draft["audience"], reminders.c.draft["audience"]
    in_segment = select(literal("the segment"), segments.c.name, segments.c.audience).where(
        segments.c.application_id == application_id, _refers_to(segments.c.audience, segment_ids)
    )
    in_alerts = select(
        literal("the audience of the application's alerts"), cast(null(), Text), applications.c.alert_audience
    ).where(applications.c.id == application_id, _refers_to(applications.c.alert_audience, segment_ids))
    in_feed = select(literal("the feed"), feeds.c.name, feeds.c.audience).where(
        feeds.c.application_id == application_id, _refers_to(feeds.c.audience, segment_ids)
    )
    in_trigger = select(literal("the trigger"), triggers.c.name, trigger_audience).where(
        triggers.c.application_id == application_id, _refers_to(trigger_audience, segment_ids)
    )
    in_reminder = select(literal("the reminder"), reminders.c.name, reminder_audience).where(
        reminders.c.application_id == application_id,
        reminders.c.status != "ended",
        _refers_to(reminder_audience, segment_ids),
    )
    scheduled = select(
        literal("the scheduled notification"), cast(notifications.c.id, Text), notifications.c.audience
    ).where(
        notifications.c.application_id == application_id,
        notifications.c.status.in_((Status.SCHEDULED, Status.PAUSED)),
        _refers_to(notifications.c.audience, segment_ids),
    )
    return union_all(in_segment, in_alerts, in_feed, in_trigger, in_reminder, scheduled)


def _use(kind: str, name: str | None, audience: Any) -> SegmentUse:
    if kind == "the scheduled notification":
        return SegmentUse(f"{kind} {ids.format_id(ids.NOTIFICATION, UUID(name))}", audience)
    return SegmentUse(kind if name is None else f"{kind} {name!r}", audience)


def _refers_to(audience: ColumnElement[Any], segment_ids: Collection[UUID]) -> ColumnElement[bool]:
    references = func.jsonb_path_query_array(audience, cast(literal(SEGMENT_PATH, Text), JSONPATH))
    formatted_ids = [ids.format_id(ids.SEGMENT, id_) for id_ in segment_ids]
    return references.op("?|", is_comparison=True)(literal(formatted_ids, ARRAY(Text)))
