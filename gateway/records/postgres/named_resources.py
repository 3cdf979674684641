"""CRUD statements for tables of named resources: segments, templates, webhooks and others.

All these tables have an `id` as primary key, and a `name` that is unique per application. The other columns differ.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, Table, Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.errors import Conflict, NotFound
from gateway.domain.page import Page
from gateway.records.postgres.paging import fetch_page
from gateway.records.postgres.schema import (
    categories,
    feeds,
    reminders,
    segments,
    template_versions,
    templates,
    triggers,
    webhooks,
)

__all__ = ["Table", "add", "change", "find", "list_page", "remove"]

# The id prefix and the noun for each table.
_KINDS = {
    segments.name: (ids.SEGMENT, "segment"),
    categories.name: (ids.CATEGORY, "category"),
    templates.name: (ids.TEMPLATE, "template"),
    reminders.name: (ids.REMINDER, "reminder"),
    webhooks.name: (ids.WEBHOOK, "webhook"),
    feeds.name: (ids.FEED, "feed"),
    triggers.name: (ids.TRIGGER, "trigger"),
}


# The size in octets of the data that the API's view of a row loads from other tables, by name of the row's table.
_OTHER_OCTETS = {
    templates.name: select(func.octet_length(cast(template_versions.c.content, Text)))
    .where(template_versions.c.template_id == templates.c.id, template_versions.c.version == templates.c.version)
    .scalar_subquery()
}


async def add(conn: AsyncConnection, table: Table, **values: Any) -> Row[Any]:
    """Insert a row with a new id, and return it.

    Raises:
        Conflict: the application has a resource with this name.
    """
    statement = (
        insert(table)
        .values(id=ids.new_id(), **values)
        .on_conflict_do_nothing(index_elements=["application_id", "name"])
    )
    row: Row[Any] | None = (await conn.execute(statement.returning(table))).first()
    if row is None:
        raise _name_conflict(table, values["name"])
    return row


async def find(conn: AsyncConnection, table: Table, application_id: UUID, id_: UUID, *, lock: bool = False) -> Row[Any]:
    """Return a row of an application; `lock` locks it for update.

    Raises:
        NotFound: there is no such row.
    """
    query = select(table).where(table.c.id == id_, table.c.application_id == application_id)
    row = (await conn.execute(query.with_for_update() if lock else query)).first()
    if row is None:
        prefix, kind = _KINDS[table.name]
        raise NotFound(f"there is no {kind} {ids.format_id(prefix, id_)}")
    return row


async def list_page(
    conn: AsyncConnection, table: Table, application_id: UUID, *, before: UUID | None, limit: int
) -> Page[Row[Any]]:
    """Return a page of rows, newest first; `before` is the last id of the previous page."""
    query = select(table).where(table.c.application_id == application_id)
    if before is not None:
        query = query.where(table.c.id < before)
    return await fetch_page(conn, query, table.c.id, limit=limit, other_octets=_OTHER_OCTETS.get(table.name))


async def change(conn: AsyncConnection, table: Table, id_: UUID, **values: Any) -> Row[Any]:
    """Update a row and return it.

    Raises:
        Conflict: another resource has the new name.
    """
    if "name" in values:
        application_id = select(table.c.application_id).where(table.c.id == id_).scalar_subquery()
        same_name = select(table.c.id).where(
            table.c.application_id == application_id, table.c.name == values["name"], table.c.id != id_
        )
        if (await conn.execute(same_name)).first() is not None:
            raise _name_conflict(table, values["name"])
    changed = update(table).where(table.c.id == id_).values(**values, updated_at=func.now()).returning(table)
    row: Row[Any] = (await conn.execute(changed)).one()
    return row


async def remove(conn: AsyncConnection, table: Table, id_: UUID) -> None:
    """Delete a row."""
    await conn.execute(delete(table).where(table.c.id == id_))


def _name_conflict(table: Table, name: str) -> Conflict:
    return Conflict(f"there is a {_KINDS[table.name][1]} called {name!r} already")
