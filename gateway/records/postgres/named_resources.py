"""What an application saves under a name to use again: segments, templates and their like.

They differ in what they hold, not in how they are kept, so that one set of statements serves their tables.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Table, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.errors import Conflict, NotFound
from gateway.records.postgres.schema import categories, feeds, reminders, segments, templates, triggers, webhooks

__all__ = ["Table", "add", "change", "find", "list_page", "remove"]

_WORDS = {
    segments.name: (ids.SEGMENT, "segment"),
    categories.name: (ids.CATEGORY, "category"),
    templates.name: (ids.TEMPLATE, "template"),
    reminders.name: (ids.REMINDER, "reminder"),
    webhooks.name: (ids.WEBHOOK, "webhook"),
    feeds.name: (ids.FEED, "feed"),
    triggers.name: (ids.TRIGGER, "trigger"),
}


async def add(conn: AsyncConnection, table: Table, **values: Any) -> Row[Any]:
    """The new row, with a new id. Raises Conflict when the application has one of this name already."""
    added = (
        insert(table)
        .values(id=ids.new_id(), **values)
        .on_conflict_do_nothing(index_elements=["application_id", "name"])
    )
    row: Row[Any] | None = (await conn.execute(added.returning(table))).first()
    if row is None:
        raise _taken(table, values["name"])
    return row


async def find(conn: AsyncConnection, table: Table, application_id: UUID, id_: UUID, *, lock: bool = False) -> Row[Any]:
    """Raises NotFound."""
    found = select(table).where(table.c.id == id_, table.c.application_id == application_id)
    row = (await conn.execute(found.with_for_update() if lock else found)).first()
    if row is None:
        prefix, word = _WORDS[table.name]
        raise NotFound(f"there is no {word} {ids.format_id(prefix, id_)}")
    return row


async def list_page(
    conn: AsyncConnection, table: Table, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Newest first; `before` is the last id of the page before."""
    query = select(table).where(table.c.application_id == application_id)
    if before is not None:
        query = query.where(table.c.id < before)
    return (await conn.execute(query.order_by(table.c.id.desc()).limit(limit))).all()


async def change(conn: AsyncConnection, table: Table, id_: UUID, **values: Any) -> Row[Any]:
    """The changed row. Raises Conflict when another has its new name."""
    if "name" in values:
        here = select(table.c.application_id).where(table.c.id == id_).scalar_subquery()
        other = select(table.c.id).where(
            table.c.application_id == here, table.c.name == values["name"], table.c.id != id_
        )
        if (await conn.execute(other)).first() is not None:
            raise _taken(table, values["name"])
    changed = update(table).where(table.c.id == id_).values(**values, updated_at=func.now()).returning(table)
    row: Row[Any] = (await conn.execute(changed)).one()
    return row


async def remove(conn: AsyncConnection, table: Table, id_: UUID) -> None:
    await conn.execute(delete(table).where(table.c.id == id_))


def _taken(table: Table, name: str) -> Conflict:
    return Conflict(f"there is a {_WORDS[table.name][1]} called {name!r} already")
