"""Events: what happened in the application. Triggers say what is sent for them."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, Field, StringConstraints

from gateway.domain import ids
from gateway.domain.errors import GatewayError
from gateway.service.access.authentication import READ, SEND
from gateway.service.automation import events
from gateway.service.automation.events import Event
from gateway.web.http.ndjson import NDJSON, answer, still_admitted
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, Moment, example, read_body
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest, to_json
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Label

routes = Routes("events")

MAX_DATA_OCTETS = 16_384  # octets

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:~-]{0,99}$"),
    Field(description="Such as `cart.abandoned`."),
]


def _small(data: dict[str, Any]) -> dict[str, Any]:
    if len(to_json(data)) > MAX_DATA_OCTETS:
        raise ValueError(f"must be at most {MAX_DATA_OCTETS} octets of JSON")
    return data


class NewEvent(Body):
    model_config = example(
        name="cart.abandoned", user_id="u-42", data={"cart": {"total": 59.9, "items": 3}}, key="cart-17-abandoned"
    )

    name: Name
    data: Annotated[dict[str, Any], AfterValidator(_small)] = Field(default_factory=dict)
    user_id: Label | None = None
    occurred_at: Annotated[Moment | None, Field(description="Now, when left out. Delays count from here.")] = None
    key: Annotated[
        Label | None,
        Field(description="Your own id for it: the same one twice is one event."),
    ] = None

    def value(self) -> Event:
        return Event(self.name, self.data, self.user_id, self.occurred_at, self.key)


class EventQuery(PageQuery):
    name: Name | None = None
    user_id: Label | None = None


@routes.add(
    "POST",
    "/v1/events",
    scopes=(SEND,),
    body=NewEvent,
    creates=True,
    responses={200: responses.Event, 201: responses.Event},
)
async def happened(call: TransactionalRequest[NewEvent]) -> Response:
    """Say that something happened: the triggers that it meets are run in the same transaction.

    The answer tells what each of them came to; 200 for an event whose `key` is known already.
    """
    [met] = await events.record(call.conn, call.context, call.application_id, [call.body.value()])
    shown = await events.get(call.conn, call.application_id, met.id)
    return Response(shown, 200 if met.repeated else 201, {"Location": f"/v1/events/{shown['id']}"})


@routes.add("POST", "/v1/events/batch", scopes=(SEND,), streams=NDJSON, responses={200: str})
async def batch(request: Request) -> web.StreamResponse:
    """Say that many things happened: one event a line (application/x-ndjson), of any length in all.

    The answer is a line for each line, `{"line", "status": "stored"|"repeated"|"refused", "id", "runs"}` or `errors`,
    and a last one with the sums. Give each a `key`: then a stream that broke off may be sent again from its beginning.
    """

    async def take(lines: Sequence[NewEvent]) -> list[dict[str, Any] | GatewayError]:
        await still_admitted(request)
        async with request.context.engine.begin() as conn:
            met = await events.record(conn, request.context, request.application_id, [line.value() for line in lines])
        return [
            {
                "status": "repeated" if one.repeated else "stored",
                "id": ids.format_id(ids.EVENT, one.id),
                "runs": one.runs,
            }
            for one in met
        ]

    def name(line: NewEvent) -> str:
        return "all"  # any may cancel what one before it started

    return await answer(request, partial(read_body, NewEvent), take, name, ("stored", "repeated"))


@routes.add(
    "GET", "/v1/events", scopes=(READ, SEND), query=EventQuery, responses={200: responses.Page[responses.Event]}
)
async def listed(call: TransactionalRequest[None, EventQuery]) -> Response:
    """List events and what came of them, the newest first."""
    asked = call.query
    items = await events.list_page(
        call.conn,
        call.application_id,
        name=asked.name,
        user_id=asked.user_id,
        before=asked.after_id(),
        limit=asked.limit,
    )
    return page(items, asked.limit, ids.parse(ids.EVENT, items[-1]["id"]) if items else None)


@routes.add("GET", "/v1/events/{event_id}", scopes=(READ, SEND), responses={200: responses.Event})
async def show(call: TransactionalRequest) -> Response:
    """Show an event and what each trigger that it met came to."""
    return Response(await events.get(call.conn, call.application_id, call.id(ids.EVENT, "event_id")))
