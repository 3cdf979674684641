"""Segments: audiences stored under a name, to which other audiences may refer.

A segment is evaluated when sending starts. So a change of a segment affects scheduled campaigns that were accepted
before the change, and a segment cannot be deleted while a resource refers to it.
"""

from typing import Any
from uuid import UUID

from gateway.domain import ids
from gateway.domain.audience import Audience, FilterSize, expand_segments, iter_segments, measure, parse
from gateway.domain.errors import Conflict, FieldError, ValidationError
from gateway.records import segments as records
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import segments as table
from gateway.service import views
from gateway.service.named_resources import NamedResource, map_rows

# Maximum total size, as JSON, of the segments to which one audience refers.
MAX_DEFINITION_OCTETS = 4 * 1024 * 1024


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
    audiences = await _load_definitions(conn, application_id, {segment.id for segment in references}, pointer)
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


async def _load_definitions(
    conn: Connection, application_id: UUID, segment_ids: set[UUID], pointer: str
) -> dict[UUID, Audience]:
    """Return the audiences of segments and of all segments inside them.

    Raises:
        ValidationError: the segments are too large in total. This is checked before they are loaded.
    """
    definitions: dict[UUID, Audience] = {}
    pending, octets = segment_ids, 0
    while pending:
        octets += await records.count_octets(conn, application_id, pending)
        if octets > MAX_DEFINITION_OCTETS:
            error = f"has segments of more than {MAX_DEFINITION_OCTETS} octets together"
            raise ValidationError([FieldError(pointer, error)])
        loaded = await records.load(conn, application_id, pending)
        definitions |= {id_: parse(stored, pointer) for id_, stored in loaded.items()}
        pending = {nested.id for id_ in loaded for nested in iter_segments(definitions[id_])} - definitions.keys()
    return definitions


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
        ValidationError: the audience is not valid, contains this segment, or makes a resource that uses the segment too
            large.
        Conflict: another segment has the new name.
    """
    # Without the lock, two concurrent changes could make two segments refer to each other.
    await records.lock_all(conn, application_id)
    await _segments.find(conn, application_id, id_)
    if audience is not None:
        await resolve_audience(conn, application_id, audience, inside=id_)
    columns = {"name": name, "audience": audience}
    changed = await _segments.save(conn, id_, {column: value for column, value in columns.items() if value is not None})
    if audience is not None:
        await _check_uses(conn, application_id, id_)
    return to_view(changed)


async def _check_uses(conn: Connection, application_id: UUID, id_: UUID) -> None:
    """Check that the audience of every resource that uses a changed segment is still small enough.

    A request that stores such a resource locks the row of the segment. So this check misses no resource that is stored
    at the same time.

    Raises:
        ValidationError: the segment makes the audience of a resource too large.
    """
    sizes: dict[UUID, FilterSize] = {}
    containing = await records.list_containing(conn, application_id, id_)
    async for use in records.stream_uses(conn, application_id, containing):
        audience = parse(use.audience)
        unmeasured = {segment.id for segment in iter_segments(audience)} - sizes.keys()
        definitions = await _load_definitions(conn, application_id, unmeasured, "/audience")
        if (error := measure(audience, definitions, sizes).find_error()) is not None:
            raise ValidationError([FieldError("/audience", f"is too large for {use.description}, which then {error}")])


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
    use = await records.find_use(conn, row.application_id, row.id)
    if use is not None:
        raise Conflict(f"{use.description} still uses the segment")


def _contains_segment(outer: UUID, inner: UUID, audiences: dict[UUID, Audience]) -> bool:
    """Return whether the outer segment contains the inner segment, at any depth. A segment contains itself."""
    visited, pending = set(), [outer]
    while pending:
        id_ = pending.pop()
        if id_ == inner:
            return True
        if id_ not in visited:
            visited.add(id_)
            pending += [nested.id for nested in iter_segments(audiences[id_])]
    return False


_segments = NamedResource(table, map_rows(to_view), before_delete=_check_unused)
get, list_page, delete = _segments.get, _segments.list_page, _segments.delete
