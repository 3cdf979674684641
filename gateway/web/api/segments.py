"""Segments: audiences saved under a name."""

from gateway.domain import ids
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.audience import segments
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Audience, Label

routes = Routes("segments")


class NewSegment(Body):
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
    """What is left out stays."""

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
    responses={201: responses.Segment},
)
async def create(call: TransactionalRequest[NewSegment]) -> Response:
    """Save an audience. Others name it as `{"segment": "seg_..."}`, other segments too, but never in a circle."""
    made = await segments.create(call.conn, call.application_id, call.body.name, call.body.audience)
    return Response(made, 201, {"Location": f"/v1/segments/{made['id']}"})


@routes.add(
    "GET",
    "/v1/segments",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    responses={200: responses.Page[responses.Segment]},
)
async def listed(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the segments, the newest first."""
    limit = call.query.limit
    items = await segments.list_page(call.conn, call.application_id, before=call.query.after_id(), limit=limit)
    return page(items, limit, ids.parse(ids.SEGMENT, items[-1]["id"]) if items else None)


@routes.add("GET", "/v1/segments/{segment_id}", scopes=(READ, SEND, MANAGE), responses={200: responses.Segment})
async def show(call: TransactionalRequest) -> Response:
    """Show a segment."""
    return Response(await segments.get(call.conn, call.application_id, call.id(ids.SEGMENT, "segment_id")))


@routes.add(
    "PATCH",
    "/v1/segments/{segment_id}",
    scopes=(MANAGE,),
    body=SegmentChange,
    conflicts=True,
    audit="segments.change",
    responses={200: responses.Segment},
)
async def change(call: TransactionalRequest[SegmentChange]) -> Response:
    """Change a segment. What is scheduled reaches whoever it holds when sending starts."""
    id_, said = call.id(ids.SEGMENT, "segment_id"), call.body
    return Response(await segments.change(call.conn, call.application_id, id_, name=said.name, filter_=said.audience))


@routes.add(
    "DELETE",
    "/v1/segments/{segment_id}",
    scopes=(MANAGE,),
    conflicts=True,
    audit="segments.remove",
    responses={204: None},
)
async def remove(call: TransactionalRequest) -> Response:
    """Remove a segment that nothing needs any more."""
    await segments.remove(call.conn, call.application_id, call.id(ids.SEGMENT, "segment_id"))
    return Response(status=204)
