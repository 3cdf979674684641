"""Read the log: pages newest first, what came after a position, and one delivery with its attempts.

Pages are in the order in which deliveries settled, so that `since` and `until` are bounds of the same index that gives
the order: a page is read from where it begins and no further, however large the log is. What is common (accepted, FCM)
is found on the way; what is rarer has an index of its own, which leaves the common out and so costs next to nothing to
write. Followers go by position instead: that is the order of commits, in which nothing is ever missed.
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

# How far the clocks of two machines may be apart.
MAX_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class LogFilters:
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
class LogEntry:
    """One delivery's row, with the receipts that came for it by event."""

    row: Row[Any]
    receipts: dict[str, Receipt]


async def list_page(
    conn: AsyncConnection, application_id: UUID, filters: LogFilters, *, before: int | None, limit: int
) -> list[LogEntry]:
    """Newest first; `before` is the position of the last of the page before."""
    d = deliveries.c
    wanted = _filtered(application_id, filters)
    if filters.notification_id is not None:
        life = await _life(conn, filters.notification_id)
        if life is None:
            return []
        wanted += life
    if before is not None:
        mark = select(d.settled_at).where(d.application_id == application_id, d.position == before)
        settled_at = (await conn.execute(mark)).scalar()
        if settled_at is None:  # retention has come to it, and to all before it
            return []
        wanted += [tuple_(d.settled_at, d.position) < tuple_(settled_at, before), d.day <= _last_day(settled_at)]
    query = select(deliveries).where(*wanted).order_by(d.settled_at.desc(), d.position.desc())
    return await _entries(conn, query.limit(limit))


async def read_between(
    conn: AsyncConnection, application_id: UUID, filters: LogFilters, *, after: int, upto: int, limit: int
) -> list[LogEntry]:
    """What came after one position and up to another, oldest first."""
    d = deliveries.c
    wanted = [*_filtered(application_id, filters), d.position > after, d.position <= upto]
    if filters.notification_id is not None:
        wanted.append(d.day == _day(filters.notification_id))
    return await _entries(conn, select(deliveries).where(*wanted).order_by(d.position).limit(limit))


async def read_ended(
    conn: AsyncConnection,
    application_id: UUID,
    outcomes: Collection[OutcomeName],
    *,
    after: int,
    upto: int,
    limit: int | None = None,
) -> list[LogEntry]:
    """Like `between`, but as they were when they ended: nothing that the browser told later."""
    d = deliveries.c
    query = select(deliveries).where(
        d.application_id == application_id, d.position > after, d.position <= upto, d.outcome.in_(outcomes)
    )
    return [LogEntry(row, {}) for row in await conn.execute(query.order_by(d.position).limit(limit))]


async def get(
    conn: AsyncConnection, application_id: UUID, notification_id: UUID, device_id: UUID
) -> tuple[LogEntry | None, Sequence[Row[Any]]]:
    """The delivery's row, None while it has no end yet, and the attempts that came to nothing final."""
    wanted = _filtered(application_id, LogFilters(notification_id=notification_id, device_id=device_id))
    this = select(deliveries).where(*wanted, deliveries.c.day == _day(notification_id))
    entries = await _entries(conn, this)
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


async def find_position(conn: AsyncConnection, application_id: UUID, since: datetime) -> int:
    """The position after which comes everything that ended since then."""
    first = select(func.min(deliveries.c.position)).where(*_filtered(application_id, LogFilters(since=since)))
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
    await outbox.append_delivery_event(conn, f"delivery.{event}", notification_id, device_id, action)
    counted = update(progress).where(progress.c.notification_id == notification_id)
    await conn.execute(counted.values({event: progress.c[event] + 1}))
    if variant is not None:
        this = (variants.c.notification_id == notification_id, variants.c.number == variant)
        await conn.execute(update(variants).where(*this).values({event: variants.c[event] + 1}))
    return True


async def count_clicks(conn: AsyncConnection, notification_id: UUID) -> dict[str, int]:
    """How many clicked which action; the notification itself is the empty one."""
    r = receipts.c
    query = select(func.coalesce(r.action, ""), func.count()).where(
        r.day == _day(notification_id), r.notification_id == notification_id, r.event == "clicked"
    )
    return {row[0]: row[1] for row in await conn.execute(query.group_by(r.action))}


def _filtered(application_id: UUID, filters: LogFilters) -> list[ColumnElement[bool]]:
    d = deliveries.c
    wanted: list[ColumnElement[bool]] = [d.application_id == application_id]
    if filters.notification_id is not None:
        wanted.append(d.notification_id == filters.notification_id)
    if filters.device_id is not None:
        wanted.append(d.device_id == filters.device_id)
    if filters.user_id is not None:
        wanted.append(d.user_id == filters.user_id)
    # A plan for any value could not use an index that leaves one of them out: outcomes, of which there are few, are
    # part of the statement, and of a host it is said that it is not that one.
    if filters.outcome is not None:
        wanted.append(d.outcome == literal_column(f"'{filters.outcome.value}'"))
    if filters.host is not None:
        wanted.append(d.host == filters.host)
        if filters.host != COMMON_HOST:
            wanted.append(d.host != literal_column(f"'{COMMON_HOST}'"))
    # A delivery settles on its notification's day or up to its longest life later: other partitions need no look.
    if filters.since is not None:
        wanted += [d.settled_at >= filters.since, d.day >= (filters.since - MAX_TTL).astimezone(UTC).date()]
    if filters.until is not None:
        wanted += [d.settled_at < filters.until, d.day <= _last_day(filters.until)]
    return wanted


async def _life(conn: AsyncConnection, notification_id: UUID) -> list[ColumnElement[bool]] | None:
    """Where and when its deliveries settled; None when it has none."""
    n, d = notifications.c, deliveries.c
    row = (await conn.execute(select(n.day, n.created_at, n.finished_at).where(n.id == notification_id))).first()
    if row is None or row.day is None:
        return None
    within = [d.day == row.day, d.settled_at >= row.created_at - MAX_CLOCK_SKEW]
    return within if row.finished_at is None else [*within, d.settled_at <= row.finished_at + MAX_CLOCK_SKEW]


def _last_day(settled_at: datetime) -> date:
    """The last day whose notifications may have settled by then."""
    return (settled_at + MAX_CLOCK_SKEW).astimezone(UTC).date()


def _day(notification_id: UUID) -> Any:
    return select(notifications.c.day).where(notifications.c.id == notification_id).scalar_subquery()


async def _entries(conn: AsyncConnection, query: Select[Any]) -> list[LogEntry]:
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
    # One look into the index for each; OFFSET keeps the planner from reading whole partitions instead.
    theirs = select(receipts).where(
        r.day == keys.c.day, r.notification_id == keys.c.notification_id, r.device_id == keys.c.device_id
    )
    each = theirs.offset(literal_column("0")).lateral("told")
    told = await conn.execute(select(each).select_from(keys.join(each, true())))
    by_key: dict[tuple[UUID, UUID], dict[str, Receipt]] = {}
    for receipt in told:
        events = by_key.setdefault((receipt.notification_id, receipt.device_id), {})
        events[receipt.event] = Receipt(receipt.at, receipt.action)
    return [LogEntry(row, by_key.get((row.notification_id, row.device_id), {})) for row in rows]
