"""Events, and the trigger runs that events start."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from sqlalchemy import Row, Text, cast, delete, literal, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.json_object import JsonObject
from gateway.domain.notification import UNFINISHED_STATUSES
from gateway.domain.page import Page
from gateway.records.postgres.paging import fetch_page
from gateway.records.postgres.schema import events, notifications, trigger_runs, triggers

# Outcomes of trigger runs.
STARTED, CANCELLED = "started", "cancelled"


class EventRow(TypedDict):
    """A row of the events table. `key` is the client's id of the event."""

    id: UUID
    application_id: UUID
    key: str | None
    name: str
    user_id: str | None
    data: JsonObject
    occurred_at: datetime
    created_at: datetime


class TriggerRunRow(TypedDict):
    """A row of the table of trigger runs."""

    event_id: UUID
    trigger_id: UUID
    user_id: str | None
    outcome: str
    cause: str | None
    notification_id: UUID | None
    at: datetime


async def add(conn: AsyncConnection, rows: Sequence[EventRow]) -> set[UUID]:
    """Insert events; return the ids of those inserted. An event whose key exists already is skipped."""
    statement = insert(events).on_conflict_do_nothing().returning(events.c.id)
    return set((await conn.execute(statement, [{**row} for row in rows])).scalars())


async def find_by_keys(conn: AsyncConnection, application_id: UUID, keys: Collection[str]) -> dict[str, UUID]:
    """Return the ids of events by their keys."""
    query = select(events.c.key, events.c.id).where(events.c.application_id == application_id, events.c.key.in_(keys))
    return {row.key: row.id for row in await conn.execute(query)}


async def lock_users(conn: AsyncConnection, application_id: UUID, user_ids: Collection[str]) -> None:
    """Lock users until the transaction ends, so that the triggers for one user run one at a time.

    The locks are taken in sorted order, so that transactions cannot deadlock.
    """
    lock = text("""
        SELECT pg_advisory_xact_lock(key) FROM (
            SELECT DISTINCT hashtextextended('events ' || :application || ' ' || person, 0) AS key
            FROM unnest(CAST(:people AS text[])) AS person ORDER BY key
        ) AS keys""")
    await conn.execute(lock, {"application": str(application_id), "people": list(user_ids)})


async def list_triggers_for(conn: AsyncConnection, application_id: UUID, names: Collection[str]) -> Sequence[Row[Any]]:
    """Return the active triggers for events with these names, oldest first."""
    active = (triggers.c.application_id == application_id, triggers.c.status == "active")
    query = select(triggers).where(*active, triggers.c.event.in_(names)).order_by(triggers.c.id)
    return (await conn.execute(query.with_for_update(read=True, key_share=True))).all()


async def list_triggers_cancelled_by(
    conn: AsyncConnection, application_id: UUID, names: Collection[str]
) -> Sequence[Row[Any]]:
    """Return the triggers, active or not, whose notifications are cancelled by events with these names."""
    cancelled = triggers.c.cancel_on.op("&&", is_comparison=True)(cast(list(names), ARRAY(Text)))
    return (await conn.execute(select(triggers).where(triggers.c.application_id == application_id, cancelled))).all()


async def list_started_since(
    conn: AsyncConnection, trigger_ids: Collection[UUID], user_ids: Collection[str], moment: datetime
) -> Sequence[Row[Any]]:
    """Return the trigger runs that started for these users after `moment`, oldest first."""
    r = trigger_runs.c
    started = (r.trigger_id.in_(trigger_ids), r.user_id.in_(user_ids), r.at > moment, r.outcome == STARTED)
    rows: Sequence[Row[Any]] = (await conn.execute(select(trigger_runs).where(*started).order_by(r.at))).all()
    return rows


async def list_unfinished(
    conn: AsyncConnection, trigger_ids: Collection[UUID], user_ids: Collection[str]
) -> Sequence[Row[Any]]:
    """Return the trigger runs for these users whose notifications have not ended."""
    r = trigger_runs.c
    query = (
        select(trigger_runs)
        .join(notifications, notifications.c.id == r.notification_id)
        .where(
            r.trigger_id.in_(trigger_ids),
            r.user_id.in_(user_ids),
            r.outcome == STARTED,
            notifications.c.status.in_(UNFINISHED_STATUSES),
        )
    )
    rows: Sequence[Row[Any]] = (await conn.execute(query)).all()
    return rows


async def add_runs(conn: AsyncConnection, rows: Sequence[TriggerRunRow]) -> None:
    """Insert trigger runs."""
    await conn.execute(insert(trigger_runs), [{**row} for row in rows])


async def end_runs(conn: AsyncConnection, keys: Collection[tuple[UUID, UUID]], cause: str) -> None:
    """Mark trigger runs as cancelled. `keys` are the primary keys of the runs: (event id, trigger id)."""
    selected = tuple_(trigger_runs.c.event_id, trigger_runs.c.trigger_id).in_(keys)
    await conn.execute(update(trigger_runs).where(selected).values(outcome=CANCELLED, cause=cause))


async def list_page(
    conn: AsyncConnection,
    application_id: UUID,
    *,
    name: str | None,
    user_id: str | None,
    before: UUID | None,
    limit: int,
) -> Page[Row[Any]]:
    """Return a page of events, newest first; `before` is the last id of the previous page."""
    query = select(events).where(events.c.application_id == application_id)
    if name is not None:
        query = query.where(events.c.name == name)
    if user_id is not None:
        query = query.where(events.c.user_id == user_id)
    if before is not None:
        query = query.where(events.c.id < before)
    return await fetch_page(conn, query, events.c.id, limit=limit)


async def get(conn: AsyncConnection, application_id: UUID, id_: UUID) -> Row[Any] | None:
    """Return an event, or None."""
    query = select(events).where(events.c.id == id_, events.c.application_id == application_id)
    return (await conn.execute(query)).first()


async def list_runs_of_events(conn: AsyncConnection, event_ids: Collection[UUID]) -> Sequence[Row[Any]]:
    """Return the trigger runs of events, with the names of the triggers."""
    query = select(trigger_runs, triggers.c.name).join(triggers).where(trigger_runs.c.event_id.in_(event_ids))
    return (await conn.execute(query.order_by(trigger_runs.c.event_id, trigger_runs.c.trigger_id))).all()


async def list_runs_of_trigger(
    conn: AsyncConnection, trigger_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Return a page of a trigger's runs, newest first; `before` is the last event id of the previous page."""
    query = select(trigger_runs, triggers.c.name).join(triggers).where(trigger_runs.c.trigger_id == trigger_id)
    if before is not None:
        query = query.where(trigger_runs.c.event_id < before)
    return (await conn.execute(query.order_by(trigger_runs.c.event_id.desc()).limit(limit))).all()


async def prune(conn: AsyncConnection, before: datetime, limit: int = 20_000) -> int:
    """Delete at most `limit` events older than `before`; return the number deleted."""
    old_ids = select(events.c.id).where(events.c.created_at < literal(before)).limit(limit)
    return (await conn.execute(delete(events).where(events.c.id.in_(old_ids)))).rowcount
