"""Columns of sealed octets, and those of them that another master key sealed: they begin with another id."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Row, Select, bindparam, func, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

__all__ = ["Column", "PrimaryKey", "count", "find_foreign", "lock_foreign", "replace"]

PrimaryKey = tuple[Any, ...]
"""A row's primary key."""


async def find_foreign(conn: AsyncConnection, column: Column[Any], key_id: bytes) -> bytes | None:
    """Any that the key with this id did not seal."""
    found: bytes | None = (await conn.execute(select(column).where(_others(column, key_id)).limit(1))).scalar()
    return found


async def count(conn: AsyncConnection, column: Column[Any], key_id: bytes) -> tuple[int, int]:
    """(all that are sealed, those that the key with this id did not seal)."""
    query = select(func.count(column), func.count(column).filter(_others(column, key_id)))
    whole, others = (await conn.execute(query)).one()
    return whole, others


async def lock_foreign(
    conn: AsyncConnection, column: Column[Any], key_id: bytes, *, after: PrimaryKey | None, limit: int, wait: bool
) -> Sequence[Row[Any]]:
    """Rows, in the order of their primary keys, that the key with this id did not seal: the key and the octets.

    They are locked. Those that somebody else holds are waited for, or left out.
    """
    place = _place(column)
    query: Select[Any] = select(*place, column).where(_others(column, key_id))
    if after is not None:
        query = query.where(
            tuple_(*place) > tuple_(*(literal(part, c.type) for part, c in zip(after, place, strict=True)))
        )
    query = query.order_by(*place).limit(limit).with_for_update(key_share=True, skip_locked=not wait)
    rows: Sequence[Row[Any]] = (await conn.execute(query)).all()
    return rows


async def replace(conn: AsyncConnection, column: Column[Any], values: Sequence[tuple[PrimaryKey, bytes]]) -> None:
    place = _place(column)
    where = [part == bindparam(f"at_{number}") for number, part in enumerate(place)]
    changed = update(column.table).where(*where).values({column: bindparam("octets")})
    rows = [{**{f"at_{n}": part for n, part in enumerate(at)}, "octets": octets} for at, octets in values]
    await conn.execute(changed, rows)


def _others(column: Column[Any], key_id: bytes) -> ColumnElement[bool]:
    return func.substr(column, 1, len(key_id)) != literal(key_id)


def _place(column: Column[Any]) -> list[Column[Any]]:
    return list(column.table.primary_key.columns)
