"""The transactional outbox: events for webhooks that are not in the delivery log.

An event is written in the transaction of the change that it reports. Nothing is written if no webhook of the
application subscribes to the event's type. Disabled webhooks count as subscribers: once enabled again, they receive the
missed events.

Ids are assigned before transactions commit, so a reader that ordered events by id alone would skip events that commit
late. Readers therefore read only events of transactions that are older than every running transaction. The order
(txid, id) of these events is final. The price is that a long transaction, in any database of the Postgres server,
delays all events.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.webhook_event import matching_patterns
from gateway.records.postgres import notifier
from gateway.records.postgres.schema import devices, notifications, outbox_events, progress, webhooks


class Cursor(NamedTuple):
    """A position in the outbox. The reader has read all events up to it, including the event at the position."""

    txid: int
    id: int


# Postgres has no cast from xid8 to bigint, and asyncpg has no type for xid8.
_CURRENT_TXID = cast(cast(func.pg_current_xact_id(), Text), BigInteger)
_ANY_WEBHOOK = text("SELECT EXISTS (SELECT FROM webhooks WHERE application_id = ANY (CAST(:ids AS uuid[])))")
# The id of the oldest running transaction: every transaction with a smaller id has ended.
MIN_RUNNING_TXID = cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)


async def has_subscribers(conn: AsyncConnection, application_ids: Collection[UUID]) -> bool:
    """Return whether any of the applications has a webhook.

    Check this before the events of many devices are appended: without subscribers, that work is saved.
    """
    return bool((await conn.execute(_ANY_WEBHOOK, {"ids": list(application_ids)})).scalar_one())


async def append_registration_events(conn: AsyncConnection, type_: str, device_ids: Sequence[UUID]) -> None:
    """Append an event for each device of a large batch, with a prepared statement."""
    await _append(conn, _registration_events_statement(type_), {"ids": device_ids})


async def append_device_events(conn: AsyncConnection, type_: str, *conditions: ColumnElement[bool]) -> None:
    """Append an event for each device that matches the conditions. Call it before devices are deleted."""
    await _append(conn, _device_events_statement(type_, *conditions))


async def append_notification_events(conn: AsyncConnection, type_: str, *conditions: ColumnElement[bool]) -> None:
    """Append an event for each notification that matches the conditions."""
    n = notifications.c
    data = _object(
        id=_format_id(ids.NOTIFICATION, n.id),
        kind=n.kind,
        name=n.name,
        status=n.status,
        auto_paused=n.auto_paused,
        targets=progress.c.targets,
        **{name.value: progress.c[name.value] for name in OutcomeName},
    )
    source = select(notifications).join(progress).where(*conditions)
    await _append(conn, _append_statement(type_, n.application_id, data, source))


async def append_delivery_event(
    conn: AsyncConnection, type_: str, notification_id: UUID, device_id: UUID, action: str | None
) -> None:
    """Append the event for a receipt: a delivery was displayed, clicked or dismissed."""
    n = notifications.c
    user_id = select(devices.c.user_id).where(devices.c.id == device_id).scalar_subquery()
    data = _object(
        id=_text(ids.format_id(ids.DELIVERY, notification_id, device_id)),
        notification_id=_text(ids.format_id(ids.NOTIFICATION, notification_id)),
        device_id=_text(ids.format_id(ids.DEVICE, device_id)),
        user_id=user_id,
        action=_text(action),
    )
    await _append(
        conn, _append_statement(type_, n.application_id, data, select(notifications).where(n.id == notification_id))
    )


async def read_after(
    conn: AsyncConnection, application_id: UUID, cursor: Cursor, types: Collection[str], *, limit: int
) -> tuple[Sequence[Row[Any]], Cursor]:
    """Return the events of these types after the cursor in order, and the cursor at the end of the readable outbox."""
    e = outbox_events.c
    min_running_txid = (await conn.execute(select(MIN_RUNNING_TXID))).scalar_one()
    query = select(outbox_events).where(
        e.application_id == application_id,
        e.type.in_(types),
        tuple_(e.txid, e.id) > tuple_(*cursor),
        e.txid < min_running_txid,
    )
    rows = (await conn.execute(query.order_by(e.txid, e.id).limit(limit))).all()
    return rows, max(cursor, Cursor(min_running_txid, 0))


async def read_between(
    conn: AsyncConnection, application_id: UUID, after: Cursor, upto: Cursor, types: Collection[str]
) -> Sequence[Row[Any]]:
    """Return the events of these types after one cursor and up to another, in order."""
    e = outbox_events.c
    position = tuple_(e.txid, e.id)
    query = select(outbox_events).where(
        e.application_id == application_id, e.type.in_(types), position > tuple_(*after), position <= tuple_(*upto)
    )
    return (await conn.execute(query.order_by(e.txid, e.id))).all()


async def find_cursor(conn: AsyncConnection, application_id: UUID, since: datetime | None) -> Cursor:
    """Return the cursor just before the first stored event at or after `since`.

    Without `since`, or without such an event, returns the cursor at the current end of the readable outbox.
    """
    e = outbox_events.c
    if since is not None:
        first = select(e.txid, e.id).where(e.application_id == application_id, e.at >= since).order_by(e.txid, e.id)
        if (row := (await conn.execute(first.limit(1))).first()) is not None:
            return Cursor(row.txid, row.id - 1)
    return Cursor((await conn.execute(select(MIN_RUNNING_TXID))).scalar_one(), 0)


async def erase_user(
    conn: AsyncConnection, application_id: UUID, user_id: str, notification_ids: Collection[UUID]
) -> None:
    """Erase a user id from events, and the names of the given notifications, which were sent to this user only."""
    e = outbox_events.c
    formatted_ids = [ids.format_id(ids.NOTIFICATION, id_) for id_ in notification_ids]
    for condition, field in (
        (e.data["user_id"].astext == user_id, "user_id"),
        (e.data["id"].astext == any_(literal(formatted_ids, ARRAY(Text))), "name"),
    ):
        erased = e.data.op("||")(literal({field: None}, JSONB))
        conditions = (e.application_id == application_id, condition)
        await conn.execute(update(outbox_events).where(*conditions).values(data=erased))


# Whether any event or cursor has a transaction id that this server has not assigned yet. Such ids come from a backup of
# another server.
_HAS_FOREIGN_TXIDS = text("""
    WITH here AS (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next)
    SELECT EXISTS (SELECT FROM happenings, here WHERE txid >= next)
        OR EXISTS (SELECT FROM webhooks, here WHERE outbox_txid > next)
""")
# All restored events were committed, so they can be ordered by id alone. A webhook resumes at the first event that it
# has not received. It may receive some events after that one a second time.
_REBASE_CURSORS = text("""
    UPDATE webhooks AS w SET pending = NULL, claim = claim + 1, outbox_txid = 0, outbox_id = coalesce(
        (SELECT min(h.id) - 1 FROM happenings AS h
         WHERE h.application_id = w.application_id AND (h.txid, h.id) > (w.outbox_txid, w.outbox_id)),
        (SELECT max(h.id) FROM happenings AS h), 0
    )
""")
_REBASE_EVENTS = text("UPDATE happenings SET txid = 0")


async def rebase_restored_outbox(conn: AsyncConnection) -> bool:
    """Renumber events that were restored from another database server, so that they precede all events of this server.

    Each server numbers its own transactions. Readers would wait for transaction ids of the other server that this
    server may never reach.

    Returns:
        Whether there were such events or webhook cursors.
    """
    if not (await conn.execute(_HAS_FOREIGN_TXIDS)).scalar_one():
        return False
    await conn.execute(text("LOCK TABLE webhooks, happenings IN SHARE ROW EXCLUSIVE MODE"))
    if (await conn.execute(_HAS_FOREIGN_TXIDS)).scalar_one():
        await conn.execute(_REBASE_CURSORS)
        await conn.execute(_REBASE_EVENTS)
    return True


async def prune(conn: AsyncConnection, before: datetime) -> int:
    """Delete events older than `before`; return the number deleted."""
    return (await conn.execute(delete(outbox_events).where(outbox_events.c.at < before))).rowcount


def _format_id(kind: str, id_: ColumnElement[UUID]) -> ColumnElement[str]:
    """Format an id like `ids.format_id`, in SQL."""
    return _text(f"{kind}_").concat(func.replace(cast(id_, Text), "-", ""))


def _object(**fields: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.jsonb_build_object(*(part for name, value in fields.items() for part in (_text(name), value)))


def _text(value: str | None) -> ColumnElement[str]:
    """Cast to text: Postgres cannot infer the type of a bare parameter in jsonb_build_object."""
    return cast(value, Text)


@cache
def _registration_events_statement(type_: str) -> ReturningInsert[Any]:
    return _device_events_statement(type_, devices.c.id == any_(bindparam("ids", type_=ARRAY(PG_UUID))))


def _device_events_statement(type_: str, *conditions: ColumnElement[bool]) -> ReturningInsert[Any]:
    d = devices.c
    data = _object(id=_format_id(ids.DEVICE, d.id), user_id=d.user_id, status=d.status, push_service=d.host)
    return _append_statement(type_, d.application_id, data, select(devices).where(*conditions))


def _append_statement(
    type_: str,
    application_id: ColumnElement[UUID],
    data: ColumnElement[Any],
    source: Select[Any],
) -> ReturningInsert[Any]:
    """Return the INSERT of one event per row of `source` whose application has a webhook for the type."""
    subscribed = exists().where(
        webhooks.c.application_id == application_id,
        webhooks.c.events.overlap(cast(matching_patterns(type_), ARRAY(Text))),
    )
    rows = source.with_only_columns(_CURRENT_TXID, application_id, _text(type_), data).where(subscribed)
    statement = insert(outbox_events).from_select(["txid", "application_id", "type", "data"], rows)
    return statement.returning(outbox_events.c.application_id)


async def _append(conn: AsyncConnection, statement: ReturningInsert[Any], values: dict[str, Any] | None = None) -> None:
    application_ids = (await conn.execute(statement, values)).scalars().all()
    for application_id in sorted(set(application_ids)):
        await notifier.notify(conn, notifier.OUTBOX, str(application_id))
