"""What an application saves under a name to use again: segments, templates and their like.

They differ in what they hold, not in how they are kept, so that one set of statements serves their tables.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Table, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection


async def add(conn: AsyncConnection, table: Table, **values: Any) -> Row[Any] | None:
    """The new row; None when the application has one of this name already."""
    added = insert(table).values(**values).on_conflict_do_nothing(index_elements=["application_id", "name"])
    row: Row[Any] | None = (await conn.execute(added.returning(table))).first()
    return row


async def get(
    conn: AsyncConnection, table: Table, application_id: UUID, id_: UUID, *, lock: bool = False
) -> Row[Any] | None:
    found = select(table).where(table.c.id == id_, table.c.application_id == application_id)
    return (await conn.execute(found.with_for_update() if lock else found)).first()


async def newest(
    conn: AsyncConnection, table: Table, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Newest first; `before` is the last id of the page before."""
    query = select(table).where(table.c.application_id == application_id)
    if before is not None:
        query = query.where(table.c.id < before)
    return (await conn.execute(query.order_by(table.c.id.desc()).limit(limit))).all()


async def name_is_taken(conn: AsyncConnection, table: Table, application_id: UUID, name: str, by_other: UUID) -> bool:
    other = select(table.c.id).where(
        table.c.application_id == application_id, table.c.name == name, table.c.id != by_other
    )
    return (await conn.execute(other)).first() is not None


async def change(conn: AsyncConnection, table: Table, id_: UUID, **values: Any) -> Row[Any]:
    changed = update(table).where(table.c.id == id_).values(**values, updated_at=func.now()).returning(table)
    row: Row[Any] = (await conn.execute(changed)).one()
    return row


async def remove(conn: AsyncConnection, table: Table, id_: UUID) -> None:
    await conn.execute(delete(table).where(table.c.id == id_))
