"""Idempotency keys. Each is stored with the response to the first request that used it."""

from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.schema import idempotency_keys


async def claim(conn: AsyncConnection, owner: str, key: str, request_digest: bytes) -> Row[Any] | None:
    """Claim an idempotency key for a request. Waits while another request with the same key is in progress.

    Returns:
        None if the key was free and is now claimed, otherwise the row of the first request with the key.
    """
    values = {"owner": owner, "key": key, "request_digest": request_digest}
    claimed = await conn.execute(insert(idempotency_keys).values(**values).on_conflict_do_nothing())
    if claimed.rowcount == 1:
        return None
    k = idempotency_keys.c
    rows = await conn.execute(select(idempotency_keys).where(k.owner == owner, k.key == key))
    return rows.first() or await claim(conn, owner, key, request_digest)


async def store_response(conn: AsyncConnection, owner: str, key: str, status: int, answer: bytes) -> None:
    """Store the response to the request that claimed the key; `answer` is the encrypted body of the response."""
    k = idempotency_keys.c
    statement = update(idempotency_keys).where(k.owner == owner, k.key == key)
    await conn.execute(statement.values(status=status, answer=answer))


async def stream_responses(conn: AsyncConnection, owner: str) -> AsyncIterator[Row[Any, Any]]:
    """Yield (key, answer) of all stored responses of an owner; the answer is the encrypted body of the response."""
    k = idempotency_keys.c
    query = select(k.key, k.answer).where(k.owner == owner, k.answer.is_not(None))
    async for row in await conn.stream(query):
        yield row


async def delete_keys(conn: AsyncConnection, owner: str, keys: Collection[str]) -> None:
    """Delete some idempotency keys of an owner."""
    k = idempotency_keys.c
    await conn.execute(delete(idempotency_keys).where(k.owner == owner, k.key.in_(keys)))


async def delete_owners(conn: AsyncConnection, owners: Collection[str]) -> None:
    """Delete all idempotency keys of these owners."""
    await conn.execute(delete(idempotency_keys).where(idempotency_keys.c.owner.in_(owners)))


async def prune(conn: AsyncConnection, age: timedelta) -> int:
    """Delete keys older than `age` by the database clock; return the number deleted."""
    return (
        await conn.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < func.now() - age))
    ).rowcount
