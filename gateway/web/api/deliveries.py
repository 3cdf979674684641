"""The delivery log: list deliveries, get one with its attempts, and stream new ones."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import fields
from typing import Annotated
from uuid import UUID

from aiohttp import web
from pydantic import Field, PlainValidator, StringConstraints, WithJsonSchema

from gateway.domain import ids
from gateway.domain.database_work import EXPORT, LIST
from gateway.domain.delivery import OutcomeName
from gateway.domain.errors import FieldError, NotFound, ValidationError
from gateway.service import views
from gateway.service.access.authentication import READ
from gateway.service.notifications import delivery_log, representations
from gateway.service.reporting.log_tail import follow
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Query, QueryMoment
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest, encode_json
from gateway.web.schemas import responses

routes = Routes("deliveries")

# Maximum number of digits of a log position.
MAX_POSITION_LENGTH = len(str(2**63))
# Time for a client to read an event.
WRITE_TIMEOUT_S = 60.0
# Interval at which a stream checks whether its client has disconnected.
POLL_INTERVAL_S = 2.0
# The errors that occur if a client disconnects, or does not read.
DISCONNECT_ERRORS = (ConnectionResetError, TimeoutError)
TEXT = WithJsonSchema({"type": "string"})


def _id_parser(kind: str) -> Callable[[object], UUID]:
    def parse(text: object) -> UUID:
        if (id_ := ids.parse(kind, str(text))) is None:
            raise ValueError(f"must be an id that begins with {kind}_")
        return id_

    return parse


class DeliveryFilters(Query):
    """Filters of the delivery log."""

    notification_id: Annotated[UUID, PlainValidator(_id_parser(ids.NOTIFICATION)), TEXT] | None = None
    device_id: Annotated[UUID, PlainValidator(_id_parser(ids.DEVICE)), TEXT] | None = None
    user_id: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    outcome: OutcomeName | None = None
    host: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    since: Annotated[QueryMoment | None, Field(description="Completed at this time or later.")] = None
    until: Annotated[QueryMoment | None, Field(description="Completed before this time.")] = None

    def value(self) -> delivery_log.LogFilters:
        """Return the filters for the service."""
        names = [field.name for field in fields(delivery_log.LogFilters)]
        return delivery_log.LogFilters(**{name: getattr(self, name) for name in names})


class DeliveryQuery(DeliveryFilters, PageQuery):
    """A page of the delivery log."""


class FollowQuery(DeliveryFilters):
    """A stream of the delivery log."""

    last_event_id: Annotated[
        str | None, Field(description="Replaces the Last-Event-ID header, for clients that cannot send it.")
    ] = None


@routes.add(
    "GET",
    "/v1/deliveries",
    scopes=(READ,),
    query=DeliveryQuery,
    work=LIST,
    responses={200: responses.Page[views.Delivery]},
)
async def list_deliveries(request: TransactionalRequest[None, DeliveryQuery]) -> Response:
    """List completed deliveries, newest first."""
    query = request.query
    items, last_position = await delivery_log.list_page(
        request.conn, request.application_id, query.value(), before=query.after_position(), limit=query.limit
    )
    return page(items, query.limit, last_position)


@routes.add(
    "GET", "/v1/deliveries/stream", scopes=(READ,), query=FollowQuery, streams="text/event-stream", responses={200: str}
)
async def stream_deliveries(request: Request[None, FollowQuery]) -> web.StreamResponse:
    """Stream deliveries as they complete: Server-Sent Events named `delivery`, with the delivery as data.

    `Last-Event-ID` resumes a broken stream without gaps. The stream ends when the key is removed.
    """
    position = _parse_position(request.http.headers.get("Last-Event-ID") or request.query.last_event_id)
    with request.state.limits.log_streams.slot_of(request.application_id):
        return await _stream(request, position)


async def _stream(request: Request[None, FollowQuery], position: int | None) -> web.StreamResponse:
    """Send the stream of deliveries until the client disconnects, the key is removed or the server stops."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "X-Accel-Buffering": "no",  # nginx would buffer the events
        }
    )
    await response.prepare(request.http)
    writer = asyncio.ensure_future(_write_events(request, position, response))
    request.state.open_streams.add(writer)
    # The server cancels the task when it stops. If the client disconnects, a write would fail only later, so the loop
    # checks the connection at intervals and cancels the task.
    while not writer.done():
        await asyncio.wait([writer], timeout=POLL_INTERVAL_S)
        if request.http.transport is None:
            writer.cancel()
    request.state.open_streams.discard(writer)
    if not writer.cancelled() and (error := writer.exception()) and not isinstance(error, DISCONNECT_ERRORS):
        raise error
    return response


@routes.add("GET", "/v1/deliveries/{delivery_id}", scopes=(READ,), responses={200: views.DeliveryDetail})
async def get_delivery(request: TransactionalRequest) -> Response:
    """Get a delivery with its attempts: the time of each, the response of the push service, and the consequence."""
    parsed = ids.parse_delivery(request.path("delivery_id"))
    if parsed is None:
        raise NotFound("this is not the id of a delivery; it would begin with dlv_")
    notification_id, device_id = parsed
    return Response(
        await representations.get_delivery(request.conn, request.application_id, notification_id, device_id)
    )


async def _write_events(
    request: Request[None, FollowQuery], position: int | None, response: web.StreamResponse
) -> None:
    """Write the events of the stream to the response."""
    if position is None:
        async with request.context.connections.share(EXPORT, request.application_id).connect() as conn:
            position = await delivery_log.last_position(conn, request.application_id)
    # With this id, a client that is disconnected before the first event can resume.
    await response.write(b": following\n\nid: %d\n\n" % position)
    async with aclosing(_events(request, position)) as events:
        async for text in events:
            async with asyncio.timeout(WRITE_TIMEOUT_S):  # a client that does not read is disconnected, and can resume
                await response.write(text)


async def _events(request: Request[None, FollowQuery], position: int | None) -> AsyncGenerator[bytes, None]:
    """Yield Server-Sent Events of new deliveries, and comments while there are none, until the key is removed."""
    state = request.state
    share = state.context.connections.share(EXPORT, request.application_id)
    batches = follow(share, state.notifier, request.application_id, request.query.value(), position)
    async for entries in batches:
        if not await state.authenticator.is_still_valid(request.principal):
            return
        if not entries:
            yield b": nothing new\n\n"
        for entry in entries:
            data = encode_json(representations.delivery_view(entry))
            yield b"id: %d\nevent: delivery\ndata: %b\n\n" % (entry.row.position, data)


def _parse_position(last_event_id: str | None) -> int | None:
    """Return the log position of an event id, None for None.

    Raises:
        ValidationError: the text is not the id of an event of this stream.
    """
    if last_event_id is None:
        return None
    valid = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= MAX_POSITION_LENGTH
    if not valid or int(last_event_id) >= 2**63:
        raise ValidationError([FieldError("/header/Last-Event-ID", "is not the id of an event of this stream")])
    return int(last_event_id)
