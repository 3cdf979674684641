"""Segments: named audiences."""

from gateway.domain import ids
from gateway.domain.database_work import LIST
from gateway.service import views
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.audience import segments
from gateway.web.http.pagination import PageQuery, bounded_page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Audience, Label

routes = Routes("segments")


class NewSegment(Body):
    """A new segment."""

    model_config = example(
        name="Adults in Vienna who want offers",
        audience={
            "all": [
                {"topic": "offers"},
                {"not": {"attribute": "age", "lt": 18}},
                {"near": {"lat": 48.2, "lon": 16.37, "radius_m": 15000}},
            ]
        },
    )

    name: Label
    audience: Audience


class SegmentChange(Body):
    """Changed fields of a segment. Omitted fields do not change."""

    model_config = example(audience={"topic": "offers"})

    name: Label | None = None
    audience: Audience | None = None


@routes.add(
    "POST",
    "/v1/segments",
    scopes=(MANAGE,),
    body=NewSegment,
    creates=True,
    conflicts=True,
    audit="segments.create",
    responses={201: views.Segment},
)
async def create_segment(request: TransactionalRequest[NewSegment]) -> Response:
    """Create a segment. Audiences, also those of other segments, refer to it as `{"segment": "seg_..."}`."""
    created = await segments.create(request.conn, request.application_id, request.body.name, request.body.audience)
    return Response(created, 201, {"Location": f"/v1/segments/{created['id']}"})


@routes.add(
    "GET",
    "/v1/segments",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    work=LIST,
    responses={200: responses.Page[views.Segment]},
)
async def list_segments(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List segments, newest first."""
    query = request.query
    return bounded_page(
        await segments.list_page(request.conn, request.application_id, before=query.after_id(), limit=query.limit)
    )


@routes.add("GET", "/v1/segments/{segment_id}", scopes=(READ, SEND, MANAGE), responses={200: views.Segment})
async def get_segment(request: TransactionalRequest) -> Response:
    """Get a segment."""
    return Response(await segments.get(request.conn, request.application_id, request.id(ids.SEGMENT, "segment_id")))


@routes.add(
    "PATCH",
    "/v1/segments/{segment_id}",
    scopes=(MANAGE,),
    body=SegmentChange,
    conflicts=True,
    audit="segments.change",
    responses={200: views.Segment},
)
async def change_segment(request: TransactionalRequest[SegmentChange]) -> Response:
    """Change a segment. The change also affects scheduled notifications whose sending has not started."""
    id_, patch = request.id(ids.SEGMENT, "segment_id"), request.body
    return Response(
        await segments.update(request.conn, request.application_id, id_, name=patch.name, audience=patch.audience)
    )


@routes.add(
    "DELETE",
    "/v1/segments/{segment_id}",
    scopes=(MANAGE,),
    conflicts=True,
    audit="segments.remove",
    responses={204: None},
)
async def remove_segment(request: TransactionalRequest) -> Response:
    """Remove a segment. A segment to which another resource refers cannot be removed."""
    await segments.delete(request.conn, request.application_id, request.id(ids.SEGMENT, "segment_id"))
    return Response(status=204)
