"""What happens to an application and is not in its log, written down for its webhooks.

A happening is written by the transaction that makes it so, in one statement that writes nothing where no webhook asks
for it. (One that is disabled still does: it may go on, and be told what it missed.) Ids are given out before commits,
so that a reader who went by them alone would pass over what commits late. Readers therefore take only what was written
by transactions older than any that still runs: the order (txid, id) is final by then. The price is that one long
transaction, anywhere in the database server, holds everybody's up.
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
    """Everything up to and with this one was seen."""

    txid: int
    id: int


# xid8 has no cast to bigint, and asyncpg no type for it.
_OURS = cast(cast(func.pg_current_xact_id(), Text), BigInteger)
_ANY_WEBHOOK = text("SELECT EXISTS (SELECT FROM webhooks WHERE application_id = ANY (CAST(:ids AS uuid[])))")
OLDEST_RUNNING_TXID = cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
"""Transactions before this one have all ended."""


async def has_subscribers(conn: AsyncConnection, application_ids: Collection[UUID]) -> bool:
    """Whether any of these applications has a webhook: what happens to many is written down for nobody else."""
    return bool((await conn.execute(_ANY_WEBHOOK, {"ids": list(application_ids)})).scalar_one())


async def append_registration_events(conn: AsyncConnection, type_: str, device_ids: Sequence[UUID]) -> None:
    """The same of devices by their ids, of which there may be many at once and often."""
    await _run(conn, _of_registered(type_), {"ids": device_ids})


async def append_device_events(conn: AsyncConnection, type_: str, *which: ColumnElement[bool]) -> None:
    """Something happened to these devices, `which` by a condition; before they are deleted, when that is it."""
    await _run(conn, _of_devices(type_, *which))


async def append_notification_events(conn: AsyncConnection, type_: str, *which: ColumnElement[bool]) -> None:
    """These notifications, `which` by a condition, came to their next step."""
    n = notifications.c
    data = _object(
        id=_shown(ids.NOTIFICATION, n.id),
        kind=n.kind,
        name=n.name,
        status=n.status,
        auto_paused=n.auto_paused,
        targets=progress.c.targets,
        **{name.value: progress.c[name.value] for name in OutcomeName},
    )
    await _run(conn, _noted(type_, n.application_id, data, select(notifications).join(progress).where(*which)))


async def append_delivery_event(
    conn: AsyncConnection, type_: str, notification_id: UUID, device_id: UUID, action: str | None
) -> None:
    """The browser told something of a delivery."""
    n = notifications.c
    user_id = select(devices.c.user_id).where(devices.c.id == device_id).scalar_subquery()
    data = _object(
        id=_text(ids.format_id(ids.DELIVERY, notification_id, device_id)),
        notification_id=_text(ids.format_id(ids.NOTIFICATION, notification_id)),
        device_id=_text(ids.format_id(ids.DEVICE, device_id)),
        user_id=user_id,
        action=_text(action),
    )
    await _run(conn, _noted(type_, n.application_id, data, select(notifications).where(n.id == notification_id)))


async def read_after(
    conn: AsyncConnection, application_id: UUID, cursor: Cursor, types: Collection[str], *, limit: int
) -> tuple[Sequence[Row[Any]], Cursor]:
    """The next of these types, in their order, and where whoever has seen all there is stands now."""
    h = outbox_events.c
    upto = (await conn.execute(select(OLDEST_RUNNING_TXID))).scalar_one()
    found = select(outbox_events).where(
        h.application_id == application_id,
        h.type.in_(types),
        tuple_(h.txid, h.id) > tuple_(*cursor),
        h.txid < upto,
    )
    rows = (await conn.execute(found.order_by(h.txid, h.id).limit(limit))).all()
    return rows, max(cursor, Cursor(upto, 0))


async def read_between(
    conn: AsyncConnection, application_id: UUID, after: Cursor, upto: Cursor, types: Collection[str]
) -> Sequence[Row[Any]]:
    """The same again: after one and up to another."""
    h = outbox_events.c
    place = tuple_(h.txid, h.id)
    found = select(outbox_events).where(
        h.application_id == application_id, h.type.in_(types), place > tuple_(*after), place <= tuple_(*upto)
    )
    return (await conn.execute(found.order_by(h.txid, h.id))).all()


async def find_cursor(conn: AsyncConnection, application_id: UUID, since: datetime | None) -> Cursor:
    """The cursor after which comes everything since then that is still kept; None is now."""
    h = outbox_events.c
    if since is not None:
        first = select(h.txid, h.id).where(h.application_id == application_id, h.at >= since).order_by(h.txid, h.id)
        if (found := (await conn.execute(first.limit(1))).first()) is not None:
            return Cursor(found.txid, found.id - 1)
    return Cursor((await conn.execute(select(OLDEST_RUNNING_TXID))).scalar_one(), 0)


async def erase_user(conn: AsyncConnection, application_id: UUID, user_id: str, sent: Collection[UUID]) -> None:
    """Take a user's name out, and what the notifications that were sent to nobody else are called."""
    h = outbox_events.c
    shown = [ids.format_id(ids.NOTIFICATION, id_) for id_ in sent]
    for which, name in ((h.data["user_id"].astext == user_id, "user_id"), (h.data["id"].astext.in_(shown), "name")):
        nameless = h.data.op("||")(literal({name: None}, JSONB))
        await conn.execute(update(outbox_events).where(h.application_id == application_id, which).values(data=nameless))


# Whether anything is of a transaction that this server has not had yet: it came with a backup from another.
_FOREIGN = text("""
    WITH here AS (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next)
    SELECT EXISTS (SELECT FROM happenings, here WHERE txid >= next)
        OR EXISTS (SELECT FROM webhooks, here WHERE outbox_txid > next)
""")
# All of it was committed, so that ids are order enough. A webhook goes on with the first that it has not seen, and may
# be told again of some after it.
_SETTLE_CURSORS = text("""
    UPDATE webhooks AS w SET pending = NULL, claim = claim + 1, outbox_txid = 0, outbox_id = coalesce(
        (SELECT min(h.id) - 1 FROM happenings AS h
         WHERE h.application_id = w.application_id AND (h.txid, h.id) > (w.outbox_txid, w.outbox_id)),
        (SELECT max(h.id) FROM happenings AS h), 0
    )
""")
_SETTLE_HAPPENINGS = text("UPDATE happenings SET txid = 0")


async def rebase_restored_outbox(conn: AsyncConnection) -> bool:
    """Make what was written in another database server, and restored here, come before all that is written here.

    Transactions are numbered by the server: restored as they are, those of the other one would be waited for.
    """
    if not (await conn.execute(_FOREIGN)).scalar_one():
        return False
    await conn.execute(text("LOCK TABLE webhooks, happenings IN SHARE ROW EXCLUSIVE MODE"))
    if (await conn.execute(_FOREIGN)).scalar_one():
        await conn.execute(_SETTLE_CURSORS)
        await conn.execute(_SETTLE_HAPPENINGS)
    return True


async def prune(conn: AsyncConnection, before: datetime) -> int:
    return (await conn.execute(delete(outbox_events).where(outbox_events.c.at < before))).rowcount


def _shown(kind: str, id_: ColumnElement[UUID]) -> ColumnElement[str]:
    """`ids.show` in SQL."""
    return _text(f"{kind}_").concat(func.replace(cast(id_, Text), "-", ""))


def _object(**said: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.jsonb_build_object(*(part for name, value in said.items() for part in (_text(name), value)))


def _text(value: str | None) -> ColumnElement[str]:
    """Written out as text: Postgres cannot tell what a bare parameter is where anything may stand."""
    return cast(value, Text)


@cache
def _of_registered(type_: str) -> ReturningInsert[Any]:
    return _of_devices(type_, devices.c.id == any_(bindparam("ids", type_=ARRAY(PG_UUID))))


def _of_devices(type_: str, *which: ColumnElement[bool]) -> ReturningInsert[Any]:
    d = devices.c
    data = _object(id=_shown(ids.DEVICE, d.id), user_id=d.user_id, status=d.status, push_service=d.host)
    return _noted(type_, d.application_id, data, select(devices).where(*which))


def _noted(
    type_: str,
    application_id: ColumnElement[UUID],
    data: ColumnElement[Any],
    of: Select[Any],
) -> ReturningInsert[Any]:
    asked = exists().where(
        webhooks.c.application_id == application_id,
        webhooks.c.events.overlap(cast(matching_patterns(type_), ARRAY(Text))),
    )
    source = of.with_only_columns(_OURS, application_id, _text(type_), data).where(asked)
    noted = insert(outbox_events).from_select(["txid", "application_id", "type", "data"], source)
    return noted.returning(outbox_events.c.application_id)


async def _run(conn: AsyncConnection, noted: ReturningInsert[Any], values: dict[str, Any] | None = None) -> None:
    told = (await conn.execute(noted, values)).scalars().all()
    for one in sorted(set(told)):
        await notifier.notify(conn, notifier.OUTBOX, str(one))
