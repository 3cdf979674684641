"""The audit log: administrative actions in order."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.json_object import JsonObject
from gateway.records.postgres.schema import audit


async def add(
    conn: AsyncConnection,
    id_: UUID,
    application_id: UUID | None,
    actor: str,
    action: str,
    target: str | None,
    details: JsonObject,
) -> None:
    """Insert an entry into the audit log."""
    values = {"id": id_, "application_id": application_id, "actor": actor, "action": action}
    await conn.execute(insert(audit).values(**values, target=target, details=details))


async def list_page(
    conn: AsyncConnection, application_ids: Sequence[UUID], action: str | None, *, before: UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Return a page of entries, newest first; `before` is the last id of the previous page.

    An entry must match each of `application_ids`, so two different ids select nothing. Without ids the page covers all
    applications, and the entries without an application.
    """
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    for id_ in application_ids:
        query = query.where(audit.c.application_id == id_)
    if action is not None:
        query = query.where(audit.c.action == action)
    if before is not None:
        query = query.where(audit.c.id < before)
    return (await conn.execute(query)).all()


async def prune(conn: AsyncConnection, before: datetime, limit: int = 20_000) -> int:
    """Delete at most `limit` entries older than `before`; return the number deleted."""
    old_ids = select(audit.c.id).where(audit.c.at < literal(before)).order_by(audit.c.id).limit(limit)
    return (await conn.execute(delete(audit).where(audit.c.id.in_(old_ids)))).rowcount
