"""Find and replace ciphertexts that were encrypted with another master key than the current one.

Every ciphertext begins with the id of its master key. A row is called foreign if that id is not the id of the current
key. Key rotation encrypts foreign rows again.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Row, Select, bindparam, func, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

__all__ = ["Column", "PrimaryKey", "count_ciphertexts", "find_foreign", "lock_foreign", "replace_ciphertexts"]

PrimaryKey = tuple[Any, ...]


async def find_foreign(conn: AsyncConnection, column: Column[Any], key_id: bytes) -> bytes | None:
    """Return a ciphertext that was not encrypted with the given key, or None."""
    query = select(column).where(_is_foreign(column, key_id)).limit(1)
    ciphertext: bytes | None = (await conn.execute(query)).scalar()
    return ciphertext


async def count_ciphertexts(conn: AsyncConnection, column: Column[Any], key_id: bytes) -> tuple[int, int]:
    """Return the number of all ciphertexts, and the number of those not encrypted with the given key."""
    query = select(func.count(column), func.count(column).filter(_is_foreign(column, key_id)))
    total, foreign = (await conn.execute(query)).one()
    return total, foreign


async def lock_foreign(
    conn: AsyncConnection, column: Column[Any], key_id: bytes, *, after: PrimaryKey | None, limit: int, wait: bool
) -> Sequence[Row[Any]]:
    """Lock rows that were not encrypted with the given key.

    Args:
        conn: the connection, in a transaction.
        column: the encrypted column.
        key_id: the id of the master key.
        after: the primary key of the last row of the previous batch.
        limit: the maximum number of rows.
        wait: wait for rows that another transaction has locked; otherwise skip them.

    Returns:
        The primary key and the ciphertext of each row, ordered by primary key.
    """
    key = _primary_key(column)
    query: Select[Any] = select(*key, column).where(_is_foreign(column, key_id))
    if after is not None:
        query = query.where(tuple_(*key) > tuple_(*(literal(part, c.type) for part, c in zip(after, key, strict=True))))
    query = query.order_by(*key).limit(limit).with_for_update(key_share=True, skip_locked=not wait)
    rows: Sequence[Row[Any]] = (await conn.execute(query)).all()
    return rows


async def replace_ciphertexts(
    conn: AsyncConnection, column: Column[Any], values: Sequence[tuple[PrimaryKey, bytes]]
) -> None:
    """Replace the ciphertexts in the rows with the given primary keys."""
    key = _primary_key(column)
    where = [part == bindparam(f"at_{number}") for number, part in enumerate(key)]
    statement = update(column.table).where(*where).values({column: bindparam("ciphertext")})
    rows = [
        {**{f"at_{n}": part for n, part in enumerate(primary_key)}, "ciphertext": ciphertext}
        for primary_key, ciphertext in values
    ]
    await conn.execute(statement, rows)


def _is_foreign(column: Column[Any], key_id: bytes) -> ColumnElement[bool]:
    return func.substr(column, 1, len(key_id)) != literal(key_id)


def _primary_key(column: Column[Any]) -> list[Column[Any]]:
    return list(column.table.primary_key.columns)
