"""The log of deliveries: pages, one delivery in full, and the log as it grows."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import fields
from typing import Annotated
from uuid import UUID

from aiohttp import web
from pydantic import Field, PlainValidator, StringConstraints, WithJsonSchema

from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.errors import FieldError, NotFound, ValidationError
from gateway.records.delivery_log import reader
from gateway.service.access.authentication import READ
from gateway.service.notifications import representations
from gateway.service.reporting.log_tail import follow
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import AskedMoment, Query
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest, to_json
from gateway.web.schemas import responses

routes = Routes("deliveries")


def _read_id(kind: str) -> Callable[[object], UUID]:
    def read(text: object) -> UUID:
        if (found := ids.parse(kind, str(text))) is None:
            raise ValueError(f"must be an id that begins with {kind}_")
        return found

    return read


LEFT = (ConnectionResetError, TimeoutError)
MAX_POSITION_LENGTH = len(str(2**63))
SLOW_S = 60.0
POLL_INTERVAL_S = 2.0
TEXT = WithJsonSchema({"type": "string"})


class DeliveryFilters(Query):
    notification_id: Annotated[UUID, PlainValidator(_read_id(ids.NOTIFICATION)), TEXT] | None = None
    device_id: Annotated[UUID, PlainValidator(_read_id(ids.DEVICE)), TEXT] | None = None
    user_id: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    outcome: OutcomeName | None = None
    host: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    since: Annotated[AskedMoment | None, Field(description="Settled at this time or later.")] = None
    until: Annotated[AskedMoment | None, Field(description="Settled before this time.")] = None

    def value(self) -> reader.LogFilters:
        return reader.LogFilters(**{field.name: getattr(self, field.name) for field in fields(reader.LogFilters)})


class DeliveryQuery(DeliveryFilters, PageQuery):
    pass


class FollowQuery(DeliveryFilters):
    last_event_id: Annotated[
        str | None, Field(description="For clients that cannot send the header Last-Event-ID.")
    ] = None


@routes.add(
    "GET", "/v1/deliveries", scopes=(READ,), query=DeliveryQuery, responses={200: responses.Page[responses.Delivery]}
)
async def listed(call: TransactionalRequest[None, DeliveryQuery]) -> Response:
    """List deliveries that have come to their end, the newest first."""
    asked = call.query
    entries = await reader.list_page(
        call.conn, call.application_id, asked.value(), before=asked.after_position(), limit=asked.limit
    )
    last = entries[-1].row.position if entries else None
    return page([representations.delivery(entry) for entry in entries], asked.limit, last)


@routes.add(
    "GET", "/v1/deliveries/stream", scopes=(READ,), query=FollowQuery, streams="text/event-stream", responses={200: str}
)
async def stream(request: Request[None, FollowQuery]) -> web.StreamResponse:
    """Follow the log as it grows: Server-Sent Events named `delivery`, whose data is the delivery.

    `Last-Event-ID` resumes where a connection broke; nothing that came in between is missed. It ends, and tells nothing
    more, when the key is removed.
    """
    position = _position(request.http.headers.get("Last-Event-ID") or request.query.last_event_id)
    with request.state.limits.log_streams.slot_of(request.application_id):
        return await _stream(request, position)


async def _stream(request: Request[None, FollowQuery], position: int | None) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "X-Accel-Buffering": "no",  # nginx would collect the events
        }
    )
    await response.prepare(request.http)
    following = asyncio.ensure_future(_write_events(request, position, response))
    request.state.open_streams.add(following)
    # It ends when the server stops and cancels it, or when the client has gone, which writing to it would show late.
    while not following.done():
        await asyncio.wait([following], timeout=POLL_INTERVAL_S)
        if request.http.transport is None:
            following.cancel()
    request.state.open_streams.discard(following)
    if not following.cancelled() and (error := following.exception()) and not isinstance(error, LEFT):
        raise error
    return response


@routes.add("GET", "/v1/deliveries/{delivery_id}", scopes=(READ,), responses={200: responses.DeliveryDetail})
async def show(call: TransactionalRequest) -> Response:
    """Show a delivery with every attempt: when, what the push service said, and what we did about it."""
    named = ids.parse_delivery(call.path("delivery_id"))
    if named is None:
        raise NotFound("this is not the id of a delivery; it would begin with dlv_")
    notification_id, device_id = named
    return Response(await representations.one_delivery(call.conn, call.application_id, notification_id, device_id))


async def _write_events(
    request: Request[None, FollowQuery], position: int | None, response: web.StreamResponse
) -> None:
    if position is None:
        async with request.context.engine.connect() as conn:
            position = await reader.last_position(conn, request.application_id)
    # Whoever is cut off before anything has come resumes here.
    await response.write(b": following\n\nid: %d\n\n" % position)
    async with aclosing(_events(request, position)) as events:
        async for text in events:
            async with asyncio.timeout(SLOW_S):  # whoever does not read is left: a page that resumes misses nothing
                await response.write(text)


async def _events(request: Request[None, FollowQuery], position: int | None) -> AsyncGenerator[bytes, None]:
    front = request.state
    batches = follow(front.context.engine, front.notifier, request.application_id, request.query.value(), position)
    async for entries in batches:
        if not await front.authenticator.still_admits(request.principal):
            return
        if not entries:
            yield b": nothing new\n\n"
        for entry in entries:
            data = to_json(representations.delivery(entry))
            yield b"id: %d\nevent: delivery\ndata: %b\n\n" % (entry.row.position, data)


def _position(last_event_id: str | None) -> int | None:
    if last_event_id is None:
        return None
    known = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= MAX_POSITION_LENGTH
    if not known or int(last_event_id) >= 2**63:
        raise ValidationError([FieldError("/header/Last-Event-ID", "is not the id of one of our events")])
    return int(last_event_id)
