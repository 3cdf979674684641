"""Segments: audiences saved under a name, which other audiences may name.

A segment is what it is when sending starts: a campaign that was accepted before a change reaches the changed one.
That is why none can be removed while something still needs it.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from gateway.domain import audience, ids
from gateway.domain.audience import Audience, expand_segments, iter_segments
from gateway.domain.errors import Conflict, FieldError, ValidationError
from gateway.records import segments
from gateway.records.postgres import named_resources
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import segments as table


async def read(
    conn: Connection,
    application_id: UUID,
    value: object,
    pointer: str = "/audience",
    *,
    inside: UUID | None = None,
) -> Audience:
    """The audience behind the JSON with its segments written out; `inside` is the segment it is to be.

    Raises Invalid with every fault.
    """
    asked = audience.parse(value, pointer)
    named = list(iter_segments(asked))
    found: dict[UUID, Audience] = {}
    wanted = {segment.id for segment in named}
    while wanted:
        loaded = await segments.load(conn, application_id, wanted)
        found |= {id_: audience.parse(saved_, pointer) for id_, saved_ in loaded.items()}
        wanted = {below.id for id_ in loaded for below in iter_segments(found[id_])} - found.keys()
    faults = [FieldError(segment.pointer, "there is no such segment") for segment in named if segment.id not in found]
    if inside is not None:
        circular = [segment for segment in named if segment.id in found and _holds(segment.id, inside, found)]
        faults += [FieldError(segment.pointer, "holds the segment it would be part of") for segment in circular]
    if faults:
        raise ValidationError(faults)
    return expand_segments(asked, found, pointer)


async def create(conn: Connection, application_id: UUID, name: str, filter_: Any) -> dict[str, Any]:
    """Raises Invalid and Conflict."""
    await read(conn, application_id, filter_)
    return to_json(await named_resources.add(conn, table, application_id=application_id, name=name, audience=filter_))


async def change(
    conn: Connection, application_id: UUID, id_: UUID, *, name: str | None, filter_: Any
) -> dict[str, Any]:
    """None leaves it as it was. Raises NotFound, Invalid and Conflict."""
    # Two changes at once could each close half of a circle.
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"segments {application_id}", 0))))
    await named_resources.find(conn, table, application_id, id_)
    if filter_ is not None:
        await read(conn, application_id, filter_, inside=id_)
    said = {"name": name, "audience": filter_}
    return to_json(
        await named_resources.change(
            conn, table, id_, **{key: value for key, value in said.items() if value is not None}
        )
    )


async def remove(conn: Connection, application_id: UUID, id_: UUID) -> None:
    """Raises NotFound, and Conflict while something needs it."""
    await named_resources.find(conn, table, application_id, id_, lock=True)
    user = await segments.find_user(conn, application_id, id_)
    if user is not None:
        raise Conflict(f"{user} still needs it")
    await named_resources.remove(conn, table, id_)


async def get(conn: Connection, application_id: UUID, id_: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    return to_json(await named_resources.find(conn, table, application_id, id_))


async def list_page(
    conn: Connection, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    return [
        to_json(row) for row in await named_resources.list_page(conn, table, application_id, before=before, limit=limit)
    ]


def to_json(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": ids.format_id(ids.SEGMENT, row.id),
        "name": row.name,
        "audience": row.audience,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _holds(outer: UUID, inner: UUID, found: dict[UUID, Audience]) -> bool:
    """Whether a segment is another or holds it at any depth."""
    seen, waiting = set(), [outer]
    while waiting:
        id_ = waiting.pop()
        if id_ == inner:
            return True
        if id_ not in seen:
            seen.add(id_)
            waiting += [below.id for below in iter_segments(found[id_])]
    return False
