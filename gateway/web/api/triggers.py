"""Triggers: what is sent, to whom and when, once something happens in the application."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.domain import ids, send_policy
from gateway.domain.notification import Kind
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.automation import triggers
from gateway.web.api.events import Name
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Audience, Deliverable, Label, RecurringDeliveryOptions, SpecPatch

routes = Routes("triggers")

YEAR_S = 366 * 86_400

Condition = Annotated[
    dict[str, Any],
    Field(
        description="Over the event's data, in the shape of an audience: `all`, `any`, `not`, and "
        '`{"data": "cart.total", "gte": 50}` with an audience attribute\'s comparisons.'
    ),
]
Who = Annotated[
    Audience,
    Field(
        description='Who is told; the event\'s user when left out. `{"from_event": "data.team"}` stands for a value '
        "of the event anywhere in it."
    ),
]
Delay = Annotated[int, Field(ge=0, le=YEAR_S, description="Seconds from the event to the sending.")]
Dedupe = Annotated[int, Field(ge=1, le=YEAR_S, description="Within so many seconds a user sets it off once.")]
Enders = Annotated[
    list[Name],
    Field(max_length=50, description="Events of the same user that cancel what still waits or is being sent."),
]


class TriggerCap(Body):
    """At most `most` times for a user within `window` seconds."""

    most: Annotated[int, Field(ge=1, le=10_000)]
    window: Annotated[int, Field(ge=1, le=YEAR_S)]

    def value(self) -> send_policy.FrequencyCap:
        return send_policy.FrequencyCap(self.most, timedelta(seconds=self.window))


class NewTrigger(Deliverable):
    model_config = example(
        name="Abandoned carts",
        event="cart.abandoned",
        condition={"data": "cart.total", "gte": 50},
        content={"title": "Still there", "body": "{{ event.data.cart.items }} things are waiting.", "url": "/cart"},
        delay=3600,
        dedupe=86400,
        cancel_on=["order.paid"],
    )

    name: Label
    event: Annotated[Name, Field(description="The name of the events that it is about.")]
    condition: Condition | None = None
    audience: Who | None = None
    delay: Delay = 0
    dedupe: Dedupe | None = None
    cap: TriggerCap | None = None
    cancel_on: Enders = Field(default_factory=list)
    delivery: RecurringDeliveryOptions = RecurringDeliveryOptions()


class TriggerChange(SpecPatch):
    """What is left out stays; null takes condition, dedupe, cap, category or all of delivery away.

    What was started goes on as it was.
    """

    model_config = example(delay=1800, status="paused")

    name: Label | None = None
    event: Name | None = None
    status: Literal["active", "paused"] | None = None
    condition: Condition | None = None
    audience: Who | None = None
    delay: Delay | None = None
    dedupe: Dedupe | None = None
    cap: TriggerCap | None = None
    cancel_on: Enders | None = None


@routes.add(
    "POST",
    "/v1/triggers",
    scopes=(SEND,),
    body=NewTrigger,
    creates=True,
    conflicts=True,
    audit="triggers.create",
    responses={201: responses.Trigger},
)
async def create(call: TransactionalRequest[NewTrigger]) -> Response:
    """Send something from now on whenever an event comes that fits. Templates see it as `event`."""
    new = call.body
    made = await triggers.create(
        call.conn,
        call.context,
        call.application_id,
        new.name,
        new.event,
        await new.draft(call.conn, call.application_id, Kind.EVENT, new.audience or triggers.WHO),
        condition_=new.condition,
        delay=timedelta(seconds=new.delay),
        dedupe=None if new.dedupe is None else timedelta(seconds=new.dedupe),
        cap=None if new.cap is None else new.cap.value(),
        cancel_on=new.cancel_on,
    )
    return Response(made, 201, {"Location": f"/v1/triggers/{made['id']}"})


@routes.add(
    "GET",
    "/v1/triggers",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    responses={200: responses.Page[responses.Trigger]},
)
async def listed(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the triggers, the newest first."""
    limit = call.query.limit
    items = await triggers.list_page(call.conn, call.application_id, before=call.query.after_id(), limit=limit)
    return page(items, limit, ids.parse(ids.TRIGGER, items[-1]["id"]) if items else None)


@routes.add("GET", "/v1/triggers/{trigger_id}", scopes=(READ, SEND, MANAGE), responses={200: responses.Trigger})
async def show(call: TransactionalRequest) -> Response:
    """Show a trigger."""
    return Response(await triggers.get(call.conn, call.application_id, call.id(ids.TRIGGER, "trigger_id")))


@routes.add(
    "GET",
    "/v1/triggers/{trigger_id}/runs",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    responses={200: responses.Page[responses.TriggerRun]},
)
async def runs(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List what a trigger came to with each event that fitted it, the newest first."""
    id_, limit = call.id(ids.TRIGGER, "trigger_id"), call.query.limit
    items = await triggers.runs(call.conn, call.application_id, id_, before=call.query.after_id(), limit=limit)
    return page(items, limit, ids.parse(ids.EVENT, items[-1]["event_id"]) if items else None)


@routes.add(
    "PATCH",
    "/v1/triggers/{trigger_id}",
    scopes=(SEND,),
    body=TriggerChange,
    conflicts=True,
    audit="triggers.change",
    responses={200: responses.Trigger},
)
async def change(call: TransactionalRequest[TriggerChange]) -> Response:
    """Change a trigger, pause it, or let it go on. What it has started goes on as it was."""
    said, given = call.body, call.body.model_fields_set
    values: dict[str, Any] = said.model_dump(include={"name", "event", "status", "cancel_on"}, exclude_none=True)
    if said.delay is not None:
        values["delay_s"] = said.delay
    if "dedupe" in given:
        values["dedupe_s"] = said.dedupe
    if "condition" in given:
        values["condition"] = said.condition
    if "cap" in given:
        values["cap_most"] = None if said.cap is None else said.cap.most
        values["cap_window_s"] = None if said.cap is None else said.cap.window
    id_ = call.id(ids.TRIGGER, "trigger_id")
    drafted, steered = said.drafted(), said.steered()
    return Response(await triggers.change(call.conn, call.context, call.application_id, id_, values, drafted, steered))


@routes.add("DELETE", "/v1/triggers/{trigger_id}", scopes=(SEND,), audit="triggers.remove", responses={204: None})
async def remove(call: TransactionalRequest) -> Response:
    """Remove a trigger. What it has started goes on."""
    await triggers.remove(call.conn, call.application_id, call.id(ids.TRIGGER, "trigger_id"))
    return Response(status=204)
