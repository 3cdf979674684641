"""Console sessions. A session belongs to an API key and is deleted with it."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.applications import ApiKey
from gateway.records.postgres.schema import api_keys, applications, sessions


class Session(NamedTuple):
    """A console session. `application` is the application's name; `key` is the hint of the API key."""

    application_id: UUID
    application: str
    key: str
    scopes: list[str]
    expires_at: datetime


async def add(conn: AsyncConnection, digest: bytes, key_id: UUID, expires_at: datetime) -> None:
    """Insert a session; `digest` is the SHA-256 of the session token."""
    await conn.execute(insert(sessions).values(digest=digest, key_id=key_id, expires_at=expires_at))


async def find_key(conn: AsyncConnection, digest: bytes) -> ApiKey | None:
    """Return the API key of a session, or None if the session has expired or does not exist."""
    query = (
        select(api_keys.c.id, api_keys.c.application_id, api_keys.c.scopes, applications.c.allowed_origins)
        .join_from(sessions, api_keys)
        .join(applications)
        .where(sessions.c.digest == digest, sessions.c.expires_at > func.now())
    )
    row = (await conn.execute(query)).first()
    return None if row is None else ApiKey(*row)


async def get(conn: AsyncConnection, digest: bytes) -> Session | None:
    """Return a session, expired or not, or None."""
    query = (
        select(applications.c.id, applications.c.name, api_keys.c.hint, api_keys.c.scopes, sessions.c.expires_at)
        .join_from(sessions, api_keys)
        .join(applications)
        .where(sessions.c.digest == digest)
    )
    row = (await conn.execute(query)).first()
    return None if row is None else Session(*row)


async def remove(conn: AsyncConnection, digest: bytes) -> None:
    """Delete a session."""
    await conn.execute(delete(sessions).where(sessions.c.digest == digest))


async def prune(conn: AsyncConnection, now: datetime) -> int:
    """Delete expired sessions; return the number deleted."""
    return (await conn.execute(delete(sessions).where(sessions.c.expires_at < literal(now)))).rowcount
