"""Idempotency keys. Each is stored with the response to the first request that used it."""

from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, and_, delete, exists, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.schema import idempotency_keys


async def claim(conn: AsyncConnection, owner: str, key: str, request_digest: bytes) -> Row[Any] | None:
    """Claim an idempotency key for a request. Waits while another request with the same key is in progress.

    `owner` is the credential: `application/key`, the id of a device, or `admin`.

    Returns:
        None if the key was free and is now claimed, otherwise the row of the first request with the key.
    """
    k = idempotency_keys.c
    # Earlier versions of the gateway stored the responses to all keys of an application under the application's id.
    same_request = (k.owner == owner.partition("/")[0], k.key == key, k.request_digest == request_digest)
    new = select(literal(owner), literal(key), literal(request_digest)).where(~exists().where(*same_request))
    claimed = await conn.execute(
        insert(idempotency_keys).from_select(["owner", "key", "request_digest"], new).on_conflict_do_nothing()
    )
    if claimed.rowcount == 1:
        return None
    query = select(idempotency_keys).where((k.owner == owner) & (k.key == key) | and_(*same_request))
    return (await conn.execute(query.order_by(k.owner.desc()))).first() or await claim(conn, owner, key, request_digest)


async def store_response(conn: AsyncConnection, owner: str, key: str, status: int, answer: bytes) -> None:
    """Store the response to the request that claimed the key; `answer` is the encrypted body of the response."""
    k = idempotency_keys.c
    statement = update(idempotency_keys).where(k.owner == owner, k.key == key)
    await conn.execute(statement.values(status=status, answer=answer))


async def stream_responses(conn: AsyncConnection, application_id: UUID) -> AsyncIterator[Row[Any, Any, Any]]:
    """Yield (owner, key, answer) of the stored responses to an application's keys; the answers are encrypted."""
    k = idempotency_keys.c
    query = select(k.owner, k.key, k.answer).where(k.owner.startswith(str(application_id)), k.answer.is_not(None))
    async for row in await conn.stream(query):
        yield row


async def delete_keys(conn: AsyncConnection, keys: Collection[tuple[str, str]]) -> None:
    """Delete idempotency keys, which are given as (owner, key)."""
    k = idempotency_keys.c
    await conn.execute(delete(idempotency_keys).where(tuple_(k.owner, k.key).in_(keys)))


async def delete_owners(conn: AsyncConnection, owners: Collection[str]) -> None:
    """Delete all idempotency keys of these owners."""
    await conn.execute(delete(idempotency_keys).where(idempotency_keys.c.owner.in_(owners)))


async def prune(conn: AsyncConnection, age: timedelta) -> int:
    """Delete keys older than `age` by the database clock; return the number deleted."""
    return (
        await conn.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < func.now() - age))
    ).rowcount
