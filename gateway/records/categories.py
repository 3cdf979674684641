"""Look up opt-out categories by name: notifications and devices store the names of categories."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select

from gateway.records.postgres.engine import Connection
from gateway.records.postgres.schema import categories


async def get_by_name(conn: Connection, application_id: UUID, name: str) -> Row[Any] | None:
    """Return the category of this name, if the application has one."""
    query = select(categories).where(categories.c.application_id == application_id, categories.c.name == name)
    return (await conn.execute(query)).first()


async def list_all(conn: Connection, application_id: UUID) -> Sequence[Row[Any]]:
    """Return all categories of an application, ordered by name."""
    query = select(categories).where(categories.c.application_id == application_id).order_by(categories.c.name)
    return (await conn.execute(query)).all()
