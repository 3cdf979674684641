"""Events: an application reports them, and triggers send notifications for them."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from aiohttp import web
from pydantic import AfterValidator, Field, StringConstraints

from gateway.domain import ids
from gateway.domain.database_work import EXPORT, LIST
from gateway.domain.errors import GatewayError
from gateway.domain.json_object import JsonObject
from gateway.service import views
from gateway.service.access.authentication import READ, SEND
from gateway.service.automation import events
from gateway.service.automation.events import Event
from gateway.web.http.ndjson import NDJSON, check_credential, respond
from gateway.web.http.pagination import PageQuery, bounded_page
from gateway.web.http.parsing import Body, Moment, example, read_body
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Label, check_event_size

routes = Routes("events")

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:~-]{0,99}$"),
    Field(description="Such as `cart.abandoned`."),
]


class NewEvent(Body):
    """A new event."""

    model_config = example(
        name="cart.abandoned", user_id="u-42", data={"cart": {"total": 59.9, "items": 3}}, key="cart-17-abandoned"
    )

    name: Name
    data: Annotated[JsonObject, AfterValidator(check_event_size)] = Field(default_factory=dict)
    user_id: Label | None = None
    occurred_at: Annotated[
        Moment | None, Field(description="Defaults to now. The delay of a trigger begins at this time.")
    ] = None
    key: Annotated[
        Label | None,
        Field(description="Your own id of the event; a second event with the same key is ignored."),
    ] = None

    def value(self) -> Event:
        """Return the value for the service."""
        return Event(self.name, self.data, self.user_id, self.occurred_at, self.key)


class EventQuery(PageQuery):
    """Filters of the event list."""

    name: Name | None = None
    user_id: Label | None = None


@routes.add(
    "POST",
    "/v1/events",
    scopes=(SEND,),
    body=NewEvent,
    creates=True,
    responses={200: views.Event, 201: views.Event},
)
async def record_event(request: TransactionalRequest[NewEvent]) -> Response:
    """Record an event and run the matching triggers, in one transaction.

    The response contains the result of each trigger. The status is 200 for a repeated `key`.
    """
    [result] = await events.record(request.conn, request.context, request.application_id, [request.body.value()])
    view = await events.get(request.conn, request.application_id, result.id)
    return Response(view, 200 if result.repeated else 201, {"Location": f"/v1/events/{view['id']}"})


@routes.add("POST", "/v1/events/batch", scopes=(SEND,), streams=NDJSON, responses={200: str})
async def record_events(request: Request) -> web.StreamResponse:
    """Record many events: one event per line (application/x-ndjson), any number of lines.

    The response has a line for each line of the request: `{"line", "status": "stored"|"repeated", "id", "runs"}`, or
    `{"line", "status": "refused", "code", "errors"}`. Its last line has the totals. Give each event a `key`, so that an
    interrupted stream can be sent again.
    """

    async def record(lines: Sequence[NewEvent]) -> list[JsonObject | GatewayError]:
        await check_credential(request)
        # EXPORT also covers imports.
        async with request.context.connections.share(EXPORT, request.application_id).begin() as conn:
            results = await events.record(
                conn, request.context, request.application_id, [line.value() for line in lines]
            )
        return [
            {
                "status": "repeated" if result.repeated else "stored",
                "id": ids.format_id(ids.EVENT, result.id),
                "runs": result.runs,
            }
            for result in results
        ]

    def ordering_key(line: NewEvent) -> str:
        # Lines with the same key are processed in order. All events are, since one may cancel notifications of earlier
        # events.
        return "all"

    return await respond(request, partial(read_body, NewEvent), record, ordering_key, ("stored", "repeated"))


@routes.add(
    "GET", "/v1/events", scopes=(READ, SEND), query=EventQuery, work=LIST, responses={200: responses.Page[views.Event]}
)
async def list_events(request: TransactionalRequest[None, EventQuery]) -> Response:
    """List events with the results of their triggers, newest first."""
    query = request.query
    return bounded_page(
        await events.list_page(
            request.conn,
            request.application_id,
            name=query.name,
            user_id=query.user_id,
            before=query.after_id(),
            limit=query.limit,
        )
    )


@routes.add("GET", "/v1/events/{event_id}", scopes=(READ, SEND), responses={200: views.Event})
async def get_event(request: TransactionalRequest) -> Response:
    """Get an event with the results of its triggers."""
    return Response(await events.get(request.conn, request.application_id, request.id(ids.EVENT, "event_id")))
