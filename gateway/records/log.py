"""Read the log: pages newest first, what came after a position, and one delivery with its attempts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, Text, Uuid, func, literal, select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.delivery import OutcomeName
from gateway.domain.notification import LONGEST_TTL
from gateway.records import happenings
from gateway.records.schema import applications, attempts, deliveries, notifications, progress, receipts, variants


@dataclass(frozen=True, slots=True)
class Filters:
    """What to show of an application's log; None does not filter. `since` is inclusive, `until` exclusive."""

    notification_id: UUID | None = None
    device_id: UUID | None = None
    user_id: str | None = None
    outcome: OutcomeName | None = None
    host: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Receipt(NamedTuple):
    at: datetime
    action: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One delivery's row, with the receipts that came for it by event."""

    row: Row[Any]
    receipts: dict[str, Receipt]


async def page(
    conn: AsyncConnection, application_id: UUID, filters: Filters, *, before: int | None, limit: int
) -> list[Entry]:
    """Newest first; `before` is the last position of the page before."""
    query = _filtered(application_id, filters)
    if before is not None:
        query = query.where(deliveries.c.position < before)
    return await _entries(conn, query.order_by(deliveries.c.position.desc()).limit(limit))


async def between(
    conn: AsyncConnection, application_id: UUID, filters: Filters, *, after: int, upto: int, limit: int
) -> list[Entry]:
    """What came after one position and up to another, oldest first."""
    query = _filtered(application_id, filters).where(deliveries.c.position > after, deliveries.c.position <= upto)
    return await _entries(conn, query.order_by(deliveries.c.position).limit(limit))


async def ends(
    conn: AsyncConnection,
    application_id: UUID,
    outcomes: Collection[OutcomeName],
    *,
    after: int,
    upto: int,
    limit: int | None = None,
) -> list[Entry]:
    """Like `between`, but as they were when they ended: nothing that the browser told later."""
    d = deliveries.c
    query = select(deliveries).where(
        d.application_id == application_id, d.position > after, d.position <= upto, d.outcome.in_(outcomes)
    )
    return [Entry(row, {}) for row in await conn.execute(query.order_by(d.position).limit(limit))]


async def one(
    conn: AsyncConnection, application_id: UUID, notification_id: UUID, device_id: UUID
) -> tuple[Entry | None, Sequence[Row[Any]]]:
    """The delivery's row, None while it has no end yet, and the attempts that came to nothing final."""
    filters = Filters(notification_id=notification_id, device_id=device_id)
    entries = await _entries(conn, _filtered(application_id, filters))
    tried = (
        select(attempts)
        .join(notifications, notifications.c.id == attempts.c.notification_id)
        .where(
            notifications.c.application_id == application_id,
            attempts.c.day == _day(notification_id),
            attempts.c.notification_id == notification_id,
            attempts.c.device_id == device_id,
        )
        .order_by(attempts.c.at)
    )
    return (entries[0] if entries else None), (await conn.execute(tried)).all()


async def position_at(conn: AsyncConnection, application_id: UUID, since: datetime) -> int:
    """The position after which comes everything that ended since then."""
    d = deliveries.c
    first = _filtered(application_id, Filters(since=since)).with_only_columns(func.min(d.position))
    found: int | None = (await conn.execute(first)).scalar()
    return await last_position(conn, application_id) if found is None else found - 1


async def last_position(conn: AsyncConnection, application_id: UUID) -> int:
    """Everything up to here is visible: positions are handed out under the application's lock."""
    newest = select(applications.c.log_position).where(applications.c.id == application_id)
    position: int = (await conn.execute(newest)).scalar_one()
    return position


async def add_receipt(
    conn: AsyncConnection, notification_id: UUID, device_id: UUID, variant: int | None, event: str, action: str | None
) -> bool:
    """Note what the browser told us; False when it was known already."""
    noted = postgresql.insert(receipts).from_select(
        ["day", "notification_id", "device_id", "event", "action"],
        select(
            notifications.c.day,
            notifications.c.id,
            literal(device_id, Uuid),
            literal(event, Text),
            literal(action, Text),
        ).where(notifications.c.id == notification_id, notifications.c.day.is_not(None)),
    )
    if (await conn.execute(noted.on_conflict_do_nothing())).rowcount != 1:
        return False
    await happenings.of_delivery(conn, f"delivery.{event}", notification_id, device_id, action)
    counted = update(progress).where(progress.c.notification_id == notification_id)
    await conn.execute(counted.values({event: progress.c[event] + 1}))
    if variant is not None:
        this = (variants.c.notification_id == notification_id, variants.c.number == variant)
        await conn.execute(update(variants).where(*this).values({event: variants.c[event] + 1}))
    return True


async def clicks(conn: AsyncConnection, notification_id: UUID) -> dict[str, int]:
    """How many clicked which action; the notification itself is the empty one."""
    r = receipts.c
    query = select(func.coalesce(r.action, ""), func.count()).where(
        r.day == _day(notification_id), r.notification_id == notification_id, r.event == "clicked"
    )
    return {row[0]: row[1] for row in await conn.execute(query.group_by(r.action))}


def _filtered(application_id: UUID, filters: Filters) -> Select[Any]:
    d = deliveries.c
    wanted: list[ColumnElement[bool]] = [d.application_id == application_id]
    if filters.notification_id is not None:
        wanted += [d.notification_id == filters.notification_id, d.day == _day(filters.notification_id)]
    if filters.device_id is not None:
        wanted.append(d.device_id == filters.device_id)
    if filters.user_id is not None:
        wanted.append(d.user_id == filters.user_id)
    if filters.outcome is not None:
        wanted.append(d.outcome == filters.outcome)
    if filters.host is not None:
        wanted.append(d.host == filters.host)
    # A delivery settles on its notification's day or up to its longest life later: other partitions need no look.
    if filters.since is not None:
        wanted += [d.settled_at >= filters.since, d.day >= (filters.since - LONGEST_TTL).astimezone(UTC).date()]
    if filters.until is not None:
        wanted += [d.settled_at < filters.until, d.day <= filters.until.astimezone(UTC).date()]
    return select(deliveries).where(*wanted)


def _day(notification_id: UUID) -> Any:
    return select(notifications.c.day).where(notifications.c.id == notification_id).scalar_subquery()


async def _entries(conn: AsyncConnection, query: Select[Any]) -> list[Entry]:
    rows = (await conn.execute(query)).all()
    if not rows:
        return []
    keys = [(row.day, row.notification_id, row.device_id) for row in rows]
    told = await conn.execute(
        select(receipts).where(tuple_(receipts.c.day, receipts.c.notification_id, receipts.c.device_id).in_(keys))
    )
    by_key: dict[tuple[UUID, UUID], dict[str, Receipt]] = {}
    for receipt in told:
        events = by_key.setdefault((receipt.notification_id, receipt.device_id), {})
        events[receipt.event] = Receipt(receipt.at, receipt.action)
    return [Entry(row, by_key.get((row.notification_id, row.device_id), {})) for row in rows]
