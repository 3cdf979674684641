"""Segments: audiences stored under a name, to which other audiences may refer.

A segment is evaluated when sending starts. So a change of a segment affects scheduled campaigns that were accepted
before it, and a segment cannot be deleted while something refers to it.
"""

from typing import Any
from uuid import UUID

from gateway.domain import ids
from gateway.domain.audience import Audience, expand_segments, iter_segments, parse
from gateway.domain.errors import Conflict, FieldError, ValidationError
from gateway.records import segments as records
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import segments as table
from gateway.service import views
from gateway.service.named_resources import NamedResource, map_rows


async def resolve_audience(
    conn: Connection,
    application_id: UUID,
    value: object,
    pointer: str = "/audience",
    *,
    inside: UUID | None = None,
) -> Audience:
    """Parse an audience and replace every reference to a segment by the audience of the segment.

    Args:
        conn: the connection.
        application_id: the application whose segments the audience may refer to.
        value: the audience as JSON.
        pointer: the JSON pointer of the audience in the request, for the errors.
        inside: the segment that will store the audience. The audience must not refer to this segment.

    Raises:
        ValidationError: the audience is malformed, or a segment does not exist or contains itself.
    """
    requested = parse(value, pointer)
    references = list(iter_segments(requested))
    audiences: dict[UUID, Audience] = {}
    pending = {segment.id for segment in references}
    while pending:
        loaded = await records.load(conn, application_id, pending)
        audiences |= {id_: parse(stored, pointer) for id_, stored in loaded.items()}
        pending = {nested.id for id_ in loaded for nested in iter_segments(audiences[id_])} - audiences.keys()
    errors = [
        FieldError(segment.pointer, "there is no such segment") for segment in references if segment.id not in audiences
    ]
    if inside is not None:
        circular = [
            segment
            for segment in references
            if segment.id in audiences and _contains_segment(segment.id, inside, audiences)
        ]
        errors += [FieldError(segment.pointer, "contains the segment that is being changed") for segment in circular]
    if errors:
        raise ValidationError(errors)
    return expand_segments(requested, audiences, pointer)


async def create(conn: Connection, application_id: UUID, name: str, audience: Any) -> views.Segment:
    """Store an audience under a name.

    Raises:
        ValidationError: the audience is not valid.
        Conflict: the application has a segment of this name.
    """
    await resolve_audience(conn, application_id, audience)
    return await _segments.create(conn, application_id, {"name": name, "audience": audience})


async def update(
    conn: Connection, application_id: UUID, id_: UUID, *, name: str | None, audience: Any
) -> views.Segment:
    """Change the name or the audience of a segment; None leaves a field unchanged.

    Raises:
        NotFound: the application has no such segment.
        ValidationError: the audience is not valid, or contains this segment.
        Conflict: another segment has the new name.
    """
    # Without the lock, two concurrent changes could make two segments refer to each other.
    await records.lock_all(conn, application_id)
    await _segments.find(conn, application_id, id_)
    if audience is not None:
        await resolve_audience(conn, application_id, audience, inside=id_)
    columns = {"name": name, "audience": audience}
    return to_view(
        await _segments.save(conn, id_, {column: value for column, value in columns.items() if value is not None})
    )


def to_view(row: Row[Any]) -> views.Segment:
    """Return the view of a segment."""
    return {
        "id": ids.format_id(ids.SEGMENT, row.id),
        "name": row.name,
        "audience": row.audience,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


async def _check_unused(conn: Connection, row: Row[Any]) -> None:
    usage = await records.find_usage(conn, row.application_id, row.id)
    if usage is not None:
        raise Conflict(f"{usage} still uses the segment")


def _contains_segment(outer: UUID, inner: UUID, audiences: dict[UUID, Audience]) -> bool:
    """Return whether the outer segment contains the inner segment, at any depth. A segment contains itself."""
    seen, pending = set(), [outer]
    while pending:
        id_ = pending.pop()
        if id_ == inner:
            return True
        if id_ not in seen:
            seen.add(id_)
            pending += [nested.id for nested in iter_segments(audiences[id_])]
    return False


_segments = NamedResource(table, map_rows(to_view), before_delete=_check_unused)
get, list_page, delete = _segments.get, _segments.list_page, _segments.delete
