"""The inbox of a device: its deliveries in the log, and its read marks.

An entry belongs to the user to whom it was sent, and is in the inbox of a device only while the device has that user.
Entries that were sent while the device had no user belong to the device.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, and_, any_, cast, delete, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from gateway.domain import clock
from gateway.domain.delivery import OutcomeName
from gateway.domain.notification import MAX_TTL
from gateway.domain.page import Page
from gateway.records.bound_deliveries import valid_user_id
from gateway.records.postgres.paging import fetch_page
from gateway.records.postgres.schema import deliveries, devices, inbox_reads, notifications

# Outcomes of the deliveries in the inbox: all but cancelled and skipped. So the inbox includes messages that never
# reached the device.
INBOX_OUTCOMES = (OutcomeName.ACCEPTED, OutcomeName.GONE, OutcomeName.REJECTED, OutcomeName.EXPIRED)

_d = deliveries.c


async def list_page_of_device(
    conn: AsyncConnection, application_id: UUID, device_id: UUID, *, before: int | None, after: int | None, limit: int
) -> Page[Row[Any]]:
    """Return a page of inbox entries (notification_id, position, variant, settled_at, read_at).

    The newest entry comes first, except with `after`: then the oldest does. `before` and `after` are log positions.
    """
    query = _select_entries(application_id, device_id).add_columns(
        _d.notification_id, _d.position, _d.variant, _d.settled_at, inbox_reads.c.read_at
    )
    if before is not None:
        query = query.where(_d.position < before)
    if after is not None:
        query = query.where(_d.position > after)
    # The page has a size limit, which includes the notifications that the caller loads for its entries.
    content, audience = (cast(notifications.c[name], Text) for name in ("content", "audience"))
    octets = func.octet_length(content) + func.octet_length(audience)
    return await fetch_page(conn, query, _d.position, limit=limit, ascending=after is not None, other_octets=octets)


async def count_unread(conn: AsyncConnection, application_id: UUID, device_id: UUID) -> tuple[int, int]:
    """Return the number of unread entries, and the log position of the newest entry, 0 if there is no entry."""
    query = _select_entries(application_id, device_id).add_columns(
        func.count().filter(inbox_reads.c.read_at.is_(None)), func.coalesce(func.max(_d.position), 0)
    )
    unread, newest_position = (await conn.execute(query)).one()
    return unread, newest_position


async def last_position(conn: AsyncConnection, application_id: UUID, device_id: UUID) -> int:
    """Return the log position of the newest entry; 0 if there is none."""
    query = select(func.coalesce(func.max(_d.position), 0)).where(*_in_inbox(application_id, device_id))
    position: int = (await conn.execute(query)).scalar_one()
    return position


async def find_devices_with_new_entries(
    conn: AsyncConnection, application_id: UUID, device_ids: Collection[UUID], *, after: int, upto: int
) -> set[UUID]:
    """Return which of the devices have inbox entries after one log position and up to another."""
    # `day` is the day of the notification. Its deliveries end on that day or up to MAX_TTL later.
    since = (clock.now() - MAX_TTL).date()
    query = select(_d.device_id.distinct()).where(
        _d.application_id == application_id,
        _d.day >= since,
        _d.position > after,
        _d.position <= upto,
        _d.device_id == any_(cast(list(device_ids), ARRAY(PG_UUID))),
        _d.outcome.in_(INBOX_OUTCOMES),
    )
    return set((await conn.execute(query)).scalars())


async def mark_read(
    conn: AsyncConnection, application_id: UUID, device_id: UUID, *, upto: int, notification_id: UUID | None = None
) -> int:
    """Mark the entries up to a log position as read; return how many of them were unread.

    With `notification_id`, only the entry of this notification is marked.
    """
    query = select(literal(device_id, PG_UUID), _d.notification_id, _d.day)
    query = query.where(*_in_inbox(application_id, device_id), _d.position <= upto)
    if notification_id is not None:
        query = query.where(_d.notification_id == notification_id)
    marked = insert(inbox_reads).from_select(["device_id", "notification_id", "day"], query)
    return (await conn.execute(marked.on_conflict_do_nothing())).rowcount


async def contains(conn: AsyncConnection, application_id: UUID, device_id: UUID, notification_id: UUID) -> bool:
    """Return whether the inbox contains a notification."""
    query = select(_d.position).where(*_in_inbox(application_id, device_id), _d.notification_id == notification_id)
    return (await conn.execute(query)).first() is not None


async def prune(conn: AsyncConnection, before: datetime) -> int:
    """Delete the read marks of entries whose day is older than `before`; return the number deleted.

    The partitions of these days have been dropped from the log.
    """
    return (await conn.execute(delete(inbox_reads).where(inbox_reads.c.day < before.date()))).rowcount


def _in_inbox(application_id: UUID, device_id: UUID) -> tuple[ColumnElement[bool], ...]:
    user_id = select(valid_user_id()).where(devices.c.id == device_id).scalar_subquery()
    return (
        _d.application_id == application_id,
        _d.device_id == device_id,
        _d.outcome.in_(INBOX_OUTCOMES),
        or_(_d.user_id.is_(None), _d.user_id == user_id),
    )


def _select_entries(application_id: UUID, device_id: UUID) -> Select[Any]:
    read = and_(inbox_reads.c.device_id == _d.device_id, inbox_reads.c.notification_id == _d.notification_id)
    source = deliveries.join(notifications, notifications.c.id == _d.notification_id).outerjoin(inbox_reads, read)
    return select().select_from(source).where(*_in_inbox(application_id, device_id))
