"""Triggers: send a notification for each event of the application that matches."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.domain import ids, send_policy
from gateway.domain.database_work import LIST
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Kind
from gateway.service import views
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.automation import triggers
from gateway.service.notifications import submission
from gateway.web.api.events import Name
from gateway.web.http.pagination import PageQuery, bounded_page, page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Audience, Deliverable, Label, RecurringDeliveryOptions, SpecPatch

routes = Routes("triggers")

# Maximum delay and dedupe period of a trigger, and maximum window of its cap.
MAX_PERIOD_S = 366 * 86_400

Condition = Annotated[
    JsonObject,
    Field(
        description="A condition on the event's data, written like an audience: `all`, `any`, `not`, and "
        '`{"data": "cart.total", "gte": 50}` with an audience attribute\'s comparisons.'
    ),
]
TriggerAudience = Annotated[
    Audience,
    Field(
        description='The audience; defaults to the user of the event. `{"from_event": "data.team"}` stands for a value '
        "of the event."
    ),
]
Delay = Annotated[int, Field(ge=0, le=MAX_PERIOD_S, description="Seconds between the event and the notification.")]
Dedupe = Annotated[
    int, Field(ge=1, le=MAX_PERIOD_S, description="Seconds within which the trigger runs at most once for a user.")
]
CancelOn = Annotated[
    list[Name],
    Field(max_length=50, description="Names of events that cancel unfinished notifications to the same user."),
]


class TriggerCap(Body):
    """A frequency cap: the trigger runs at most `limit` times for one user within `window` seconds."""

    limit: Annotated[int, Field(ge=1, le=10_000)]
    window: Annotated[int, Field(ge=1, le=MAX_PERIOD_S)]

    def value(self) -> send_policy.FrequencyCap:
        """Return the domain value."""
        return send_policy.FrequencyCap(self.limit, timedelta(seconds=self.window))


class NewTrigger(Deliverable):
    """A new trigger."""

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
    event: Annotated[Name, Field(description="Name of the events that start the trigger.")]
    condition: Condition | None = None
    audience: TriggerAudience | None = None
    delay: Delay = 0
    dedupe: Dedupe | None = None
    cap: TriggerCap | None = None
    cancel_on: CancelOn = Field(default_factory=list)
    delivery: RecurringDeliveryOptions = RecurringDeliveryOptions()


class TriggerChange(SpecPatch):
    """Changed fields of a trigger.

    Omitted fields do not change; null removes condition, dedupe, cap, category or the delivery options. Runs that have
    started do not change.
    """

    model_config = example(delay=1800, status="paused")

    name: Label | None = None
    event: Name | None = None
    status: Literal["active", "paused"] | None = None
    condition: Condition | None = None
    audience: TriggerAudience | None = None
    delay: Delay | None = None
    dedupe: Dedupe | None = None
    cap: TriggerCap | None = None
    cancel_on: CancelOn | None = None


@routes.add(
    "POST",
    "/v1/triggers",
    scopes=(SEND,),
    body=NewTrigger,
    creates=True,
    conflicts=True,
    audit="triggers.create",
    responses={201: views.Trigger},
)
async def create_trigger(request: TransactionalRequest[NewTrigger]) -> Response:
    """Create a trigger: it sends a notification for every matching event. Templates can use the event as `event`."""
    trigger = request.body
    created = await triggers.create(
        request.conn,
        request.context,
        request.application_id,
        trigger.name,
        trigger.event,
        await submission.resolve(
            request.conn,
            request.application_id,
            trigger.to_request(Kind.EVENT, trigger.audience or triggers.DEFAULT_AUDIENCE),
        ),
        condition_=trigger.condition,
        delay=timedelta(seconds=trigger.delay),
        dedupe=None if trigger.dedupe is None else timedelta(seconds=trigger.dedupe),
        cap=None if trigger.cap is None else trigger.cap.value(),
        cancel_on=trigger.cancel_on,
    )
    return Response(created, 201, {"Location": f"/v1/triggers/{created['id']}"})


@routes.add(
    "GET",
    "/v1/triggers",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    work=LIST,
    responses={200: responses.Page[views.Trigger]},
)
async def list_triggers(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List triggers, newest first."""
    query = request.query
    return bounded_page(
        await triggers.list_page(request.conn, request.application_id, before=query.after_id(), limit=query.limit)
    )


@routes.add("GET", "/v1/triggers/{trigger_id}", scopes=(READ, SEND, MANAGE), responses={200: views.Trigger})
async def get_trigger(request: TransactionalRequest) -> Response:
    """Get a trigger."""
    return Response(await triggers.get(request.conn, request.application_id, request.id(ids.TRIGGER, "trigger_id")))


@routes.add(
    "GET",
    "/v1/triggers/{trigger_id}/runs",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    work=LIST,
    responses={200: responses.Page[views.TriggerRun]},
)
async def list_runs(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List the runs of a trigger, one for each matching event, newest first."""
    id_, limit = request.id(ids.TRIGGER, "trigger_id"), request.query.limit
    items = await triggers.list_runs(
        request.conn, request.application_id, id_, before=request.query.after_id(), limit=limit
    )
    return page(items, limit, ids.parse(ids.EVENT, items[-1]["event_id"]) if items else None)


@routes.add(
    "PATCH",
    "/v1/triggers/{trigger_id}",
    scopes=(SEND,),
    body=TriggerChange,
    conflicts=True,
    audit="triggers.change",
    responses={200: views.Trigger},
)
async def change_trigger(request: TransactionalRequest[TriggerChange]) -> Response:
    """Change, pause or resume a trigger. Runs that have started do not change."""
    patch, names = request.body, request.body.model_fields_set
    values: dict[str, Any] = patch.model_dump(include={"name", "event", "status", "cancel_on"}, exclude_none=True)
    if patch.delay is not None:
        values["delay_s"] = patch.delay
    if "dedupe" in names:
        values["dedupe_s"] = patch.dedupe
    if "condition" in names:
        values["condition"] = patch.condition
    if "cap" in names:
        values["cap_most"] = None if patch.cap is None else patch.cap.limit
        values["cap_window_s"] = None if patch.cap is None else patch.cap.window
    id_ = request.id(ids.TRIGGER, "trigger_id")
    return Response(
        await triggers.update(
            request.conn,
            request.context,
            request.application_id,
            id_,
            values,
            patch.draft_fields(),
            patch.policy_fields(),
        )
    )


@routes.add("DELETE", "/v1/triggers/{trigger_id}", scopes=(SEND,), audit="triggers.remove", responses={204: None})
async def remove_trigger(request: TransactionalRequest) -> Response:
    """Remove a trigger. Runs that have started continue."""
    await triggers.delete(request.conn, request.application_id, request.id(ids.TRIGGER, "trigger_id"))
    return Response(status=204)
