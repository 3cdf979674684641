"""Who is signed in to the console, each with one API key. They go with their key."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.applications import ApiKey
from gateway.records.postgres.schema import api_keys, applications, sessions


class Session(NamedTuple):
    """`key` is its hint."""

    application_id: UUID
    application: str
    key: str
    scopes: list[str]
    expires_at: datetime


async def add(conn: AsyncConnection, digest: bytes, key_id: UUID, expires_at: datetime) -> None:
    await conn.execute(insert(sessions).values(digest=digest, key_id=key_id, expires_at=expires_at))


async def find_key(conn: AsyncConnection, digest: bytes) -> ApiKey | None:
    """The key that was signed in with, unless that is over."""
    query = (
        select(api_keys.c.id, api_keys.c.application_id, api_keys.c.scopes, applications.c.allowed_origins)
        .join_from(sessions, api_keys)
        .join(applications)
        .where(sessions.c.digest == digest, sessions.c.expires_at > func.now())
    )
    row = (await conn.execute(query)).first()
    return None if row is None else ApiKey(*row)


async def get(conn: AsyncConnection, digest: bytes) -> Session | None:
    query = (
        select(applications.c.id, applications.c.name, api_keys.c.hint, api_keys.c.scopes, sessions.c.expires_at)
        .join_from(sessions, api_keys)
        .join(applications)
        .where(sessions.c.digest == digest)
    )
    row = (await conn.execute(query)).first()
    return None if row is None else Session(*row)


async def remove(conn: AsyncConnection, digest: bytes) -> None:
    await conn.execute(delete(sessions).where(sessions.c.digest == digest))


async def prune(conn: AsyncConnection, now: datetime) -> int:
    return (await conn.execute(delete(sessions).where(sessions.c.expires_at < literal(now)))).rowcount
