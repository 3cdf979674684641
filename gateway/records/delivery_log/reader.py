"""Read the delivery log: pages, entries after a position, and one delivery with its attempts.

Pages are ordered by the time at which deliveries ended. One index gives this order and applies `since` and `until`, so
the cost of a page does not depend on the size of the log. Filters by the most common outcome (accepted) or host (FCM)
drop rows of the scan of this index. Filters by other outcomes and hosts have partial indexes. These exclude the common
values, so they cost little when the log is written.

Live streams read in the order of positions. Positions are the order of commits, so a stream misses no entry.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Date,
    Row,
    Select,
    Text,
    Uuid,
    cast,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.delivery import OutcomeName
from gateway.domain.notification import MAX_TTL
from gateway.records import outbox
from gateway.records.postgres.schema import (
    COMMON_HOST,
    applications,
    attempts,
    deliveries,
    notifications,
    progress,
    receipts,
    variants,
)

# Maximum difference between the clocks of two machines.
MAX_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class LogFilters:
    """Filters of the delivery log; None disables a filter. `since` is inclusive, `until` exclusive."""

    notification_id: UUID | None = None
    device_id: UUID | None = None
    user_id: str | None = None
    outcome: OutcomeName | None = None
    host: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Receipt(NamedTuple):
    """A receipt from a browser. `action` is the clicked action button, None if no button was clicked."""

    at: datetime
    action: str | None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """The row of a delivery with its receipts, by event (displayed, clicked, dismissed)."""

    row: Row[Any]
    receipts: dict[str, Receipt]


async def list_page(
    conn: AsyncConnection, application_id: UUID, filters: LogFilters, *, before: int | None, limit: int
) -> list[LogEntry]:
    """Return a page of entries, newest first; `before` is the last position of the previous page."""
    d = deliveries.c
    conditions = _conditions(application_id, filters)
    if filters.notification_id is not None:
        bounds = await _notification_bounds(conn, filters.notification_id)
        if bounds is None:
            return []
        conditions += bounds
    if before is not None:
        query = select(d.settled_at).where(d.application_id == application_id, d.position == before)
        settled_at = (await conn.execute(query)).scalar()
        if settled_at is None:  # retention has removed the entry at `before`, and all older ones
            return []
        conditions += [tuple_(d.settled_at, d.position) < tuple_(settled_at, before), d.day <= _last_day(settled_at)]
    query = select(deliveries).where(*conditions).order_by(d.settled_at.desc(), d.position.desc())
    return await _entries(conn, query.limit(limit))


async def read_between(
    conn: AsyncConnection, application_id: UUID, filters: LogFilters, *, after: int, upto: int, limit: int
) -> list[LogEntry]:
    """Return the entries after one position and up to another, oldest first."""
    d = deliveries.c
    conditions = [*_conditions(application_id, filters), d.position > after, d.position <= upto]
    if filters.notification_id is not None:
        conditions.append(d.day == _day(filters.notification_id))
    return await _entries(conn, select(deliveries).where(*conditions).order_by(d.position).limit(limit))


async def read_ended(
    conn: AsyncConnection,
    application_id: UUID,
    outcomes: Collection[OutcomeName],
    *,
    after: int,
    upto: int,
    limit: int | None = None,
) -> list[LogEntry]:
    """Return the entries with one of the outcomes after one position and up to another, oldest first.

    Receipts are not loaded: they arrive later than the entries.
    """
    d = deliveries.c
    query = select(deliveries).where(
        d.application_id == application_id, d.position > after, d.position <= upto, d.outcome.in_(outcomes)
    )
    return [LogEntry(row, {}) for row in await conn.execute(query.order_by(d.position).limit(limit))]


async def get(
    conn: AsyncConnection, application_id: UUID, notification_id: UUID, device_id: UUID
) -> tuple[LogEntry | None, Sequence[Row[Any]]]:
    """Return the log entry of a delivery, and its attempts that were followed by a retry.

    The entry is None until the delivery has ended. The last attempt of the delivery is part of the entry.
    """
    conditions = _conditions(application_id, LogFilters(notification_id=notification_id, device_id=device_id))
    delivery = select(deliveries).where(*conditions, deliveries.c.day == _day(notification_id))
    entries = await _entries(conn, delivery)
    attempts_query = (
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
    return (entries[0] if entries else None), (await conn.execute(attempts_query)).all()


async def find_position(conn: AsyncConnection, application_id: UUID, since: datetime) -> int:
    """Return the position just before the first delivery that ended at or after `since`.

    Without such a delivery, returns the last position in the log.
    """
    first = select(func.min(deliveries.c.position)).where(*_conditions(application_id, LogFilters(since=since)))
    position: int | None = (await conn.execute(first)).scalar()
    return await last_position(conn, application_id) if position is None else position - 1


async def last_position(conn: AsyncConnection, application_id: UUID) -> int:
    """Return the last position in an application's log.

    All entries up to it are visible, since positions are assigned under a lock.
    """
    query = select(applications.c.log_position).where(applications.c.id == application_id)
    position: int = (await conn.execute(query)).scalar_one()
    return position


async def add_receipt(
    conn: AsyncConnection, notification_id: UUID, device_id: UUID, variant: int | None, event: str, action: str | None
) -> bool:
    """Insert a receipt and increment its counters; return False if the receipt was recorded before."""
    statement = postgresql.insert(receipts).from_select(
        ["day", "notification_id", "device_id", "event", "action"],
        select(
            notifications.c.day,
            notifications.c.id,
            literal(device_id, Uuid),
            literal(event, Text),
            literal(action, Text),
        ).where(notifications.c.id == notification_id, notifications.c.day.is_not(None)),
    )
    if (await conn.execute(statement.on_conflict_do_nothing())).rowcount != 1:
        return False
    await outbox.append_delivery_event(conn, f"delivery.{event}", notification_id, device_id, action)
    counters = update(progress).where(progress.c.notification_id == notification_id)
    await conn.execute(counters.values({event: progress.c[event] + 1}))
    if variant is not None:
        same_variant = (variants.c.notification_id == notification_id, variants.c.number == variant)
        await conn.execute(update(variants).where(*same_variant).values({event: variants.c[event] + 1}))
    return True


async def count_clicks(conn: AsyncConnection, notification_id: UUID) -> dict[str, int]:
    """Return the number of clicks by action; the key "" counts clicks on the notification itself."""
    r = receipts.c
    query = select(func.coalesce(r.action, ""), func.count()).where(
        r.day == _day(notification_id), r.notification_id == notification_id, r.event == "clicked"
    )
    return {row[0]: row[1] for row in await conn.execute(query.group_by(r.action))}


def _conditions(application_id: UUID, filters: LogFilters) -> list[ColumnElement[bool]]:
    """Return the conditions for the filters, in a form that uses the indexes and bounds the partitions."""
    d = deliveries.c
    conditions: list[ColumnElement[bool]] = [d.application_id == application_id]
    if filters.notification_id is not None:
        conditions.append(d.notification_id == filters.notification_id)
    if filters.device_id is not None:
        conditions.append(d.device_id == filters.device_id)
    if filters.user_id is not None:
        conditions.append(d.user_id == filters.user_id)
    # A generic plan uses a partial index only if the statement itself implies the index's condition. There are few
    # outcomes, so they are literals in the statement. For a rare host, the statement excludes the common host.
    if filters.outcome is not None:
        conditions.append(d.outcome == literal_column(f"'{filters.outcome.value}'"))
    if filters.host is not None:
        conditions.append(d.host == filters.host)
        if filters.host != COMMON_HOST:
            conditions.append(d.host != literal_column(f"'{COMMON_HOST}'"))
    # `day` is the day of the notification. Its deliveries end on that day or up to MAX_TTL later, so the bounds of
    # `settled_at` also bound the partitions.
    if filters.since is not None:
        conditions += [d.settled_at >= filters.since, d.day >= (filters.since - MAX_TTL).astimezone(UTC).date()]
    if filters.until is not None:
        conditions += [d.settled_at < filters.until, d.day <= _last_day(filters.until)]
    return conditions


async def _notification_bounds(conn: AsyncConnection, notification_id: UUID) -> list[ColumnElement[bool]] | None:
    """Return the partition and time bounds of a notification's deliveries; None if sending has not started."""
    n, d = notifications.c, deliveries.c
    row = (await conn.execute(select(n.day, n.created_at, n.finished_at).where(n.id == notification_id))).first()
    if row is None or row.day is None:
        return None
    bounds = [d.day == row.day, d.settled_at >= row.created_at - MAX_CLOCK_SKEW]
    return bounds if row.finished_at is None else [*bounds, d.settled_at <= row.finished_at + MAX_CLOCK_SKEW]


def _last_day(settled_at: datetime) -> date:
    """Return the last day whose notifications may have deliveries that ended by `settled_at`."""
    return (settled_at + MAX_CLOCK_SKEW).astimezone(UTC).date()


def _day(notification_id: UUID) -> Any:
    return select(notifications.c.day).where(notifications.c.id == notification_id).scalar_subquery()


async def _entries(conn: AsyncConnection, query: Select[Any]) -> list[LogEntry]:
    """Execute a query of deliveries, and load the receipts of the deliveries that it returns."""
    rows = (await conn.execute(query)).all()
    if not rows:
        return []
    r = receipts.c
    keys = (
        func.unnest(
            cast([row.day for row in rows], ARRAY(Date)),
            cast([row.notification_id for row in rows], ARRAY(Uuid)),
            cast([row.device_id for row in rows], ARRAY(Uuid)),
        )
        .table_valued("day", "notification_id", "device_id", name="keys")
        .render_derived()
    )
    # One index lookup per key. Without OFFSET 0 the planner may scan whole partitions instead.
    matching = select(receipts).where(
        r.day == keys.c.day, r.notification_id == keys.c.notification_id, r.device_id == keys.c.device_id
    )
    lookup = matching.offset(literal_column("0")).lateral("matching_receipts")
    receipt_rows = await conn.execute(select(lookup).select_from(keys.join(lookup, true())))
    by_key: dict[tuple[UUID, UUID], dict[str, Receipt]] = {}
    for receipt in receipt_rows:
        by_event = by_key.setdefault((receipt.notification_id, receipt.device_id), {})
        by_event[receipt.event] = Receipt(receipt.at, receipt.action)
    return [LogEntry(row, by_key.get((row.notification_id, row.device_id), {})) for row in rows]
