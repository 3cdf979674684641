"""The versions of templates. A version never changes; it is deleted together with its template."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import Row, insert, select, tuple_

from gateway.domain.json_object import JsonObject
from gateway.records.postgres.engine import Connection
from gateway.records.postgres.schema import template_versions


async def add_version(conn: Connection, id_: UUID, version: int, content: JsonObject, strict: bool) -> None:
    """Insert a version of a template. `strict` rejects content that uses undefined variables."""
    values = {"template_id": id_, "version": version, "content": content, "strict": strict}
    await conn.execute(insert(template_versions).values(**values))


async def load_versions(conn: Connection, versions: Collection[tuple[UUID, int]]) -> dict[tuple[UUID, int], Row[Any]]:
    """Return the existing versions, by (template id, version)."""
    v = template_versions.c
    query = select(template_versions).where(tuple_(v.template_id, v.version).in_(versions))
    return {(row.template_id, row.version): row for row in await conn.execute(query)}
