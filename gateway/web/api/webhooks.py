"""Webhooks: addresses of the application's own that are told what happens."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from gateway.domain import ids
from gateway.domain.webhook_event import PATTERNS
from gateway.service.access.authentication import MANAGE
from gateway.service.webhooks import subscriptions
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, Moment, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Label

routes = Routes("webhooks")


def _pattern(text: str) -> str:
    if text not in PATTERNS:
        raise ValueError(f"must be one of {', '.join(PATTERNS)}")
    return text


Url = Annotated[
    str, StringConstraints(min_length=1, max_length=2048), Field(description="https, and of the public web.")
]
Events = Annotated[
    list[Annotated[str, AfterValidator(_pattern), WithJsonSchema({"enum": list(PATTERNS)})]],
    Field(min_length=1, max_length=len(PATTERNS), description=f"Any of {', '.join(f'`{one}`' for one in PATTERNS)}."),
]


class NewWebhook(Body):
    model_config = example(
        name="Shop back end", url="https://shop.example/hooks/push", events=["device.gone", "notification.*"]
    )

    name: Label
    url: Url
    events: Events


class WebhookChange(Body):
    """What is left out stays. `"status": "active"` takes one that was disabled into service again."""

    model_config = example(events=["*"], status="active")

    name: Label | None = None
    url: Url | None = None
    events: Events | None = None
    status: Literal["active", "disabled"] | None = None


class Rotation(Body):
    model_config = example(keep_old_hours=24)

    keep_old_hours: Annotated[
        float, Field(ge=0, le=168, description="How long the secret before signs beside the new one.")
    ] = 24


class Replay(Body):
    model_config = example(since="2026-12-01T09:00:00Z")

    since: Moment


@routes.add(
    "POST",
    "/v1/webhooks",
    scopes=(MANAGE,),
    body=NewWebhook,
    creates=True,
    conflicts=True,
    audit="webhooks.create",
    responses={201: responses.CreatedWebhook},
)
async def create(call: TransactionalRequest[NewWebhook]) -> Response:
    """Have an address told what happens from now on. The answer has the secret its messages are signed with, this once.

    Messages are `{"events": [{"id", "type", "at", "data"}]}`, at most 100 events each, signed as Standard Webhooks
    has it. One that is not answered 2xx is sent again under the same `webhook-id`, for 24 hours; then the webhook
    is disabled. The `id` of an event stays the same whenever it is sent.
    """
    new = call.body
    made = await subscriptions.create(call.conn, call.context, call.application_id, new.name, new.url, new.events)
    return Response(made, 201, {"Location": f"/v1/webhooks/{made['id']}"})


@routes.add(
    "GET", "/v1/webhooks", scopes=(MANAGE,), query=PageQuery, responses={200: responses.Page[responses.Webhook]}
)
async def listed(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the webhooks, the newest first."""
    limit = call.query.limit
    items = await subscriptions.list_page(call.conn, call.application_id, before=call.query.after_id(), limit=limit)
    return page(items, limit, ids.parse(ids.WEBHOOK, items[-1]["id"]) if items else None)


@routes.add("GET", "/v1/webhooks/{webhook_id}", scopes=(MANAGE,), responses={200: responses.Webhook})
async def show(call: TransactionalRequest) -> Response:
    """Show a webhook and how it fares. Its secret is not shown again."""
    return Response(await subscriptions.get(call.conn, call.application_id, call.id(ids.WEBHOOK, "webhook_id")))


@routes.add(
    "PATCH",
    "/v1/webhooks/{webhook_id}",
    scopes=(MANAGE,),
    body=WebhookChange,
    conflicts=True,
    audit="webhooks.change",
    responses={200: responses.Webhook},
)
async def change(call: TransactionalRequest[WebhookChange]) -> Response:
    """Change a webhook, stop it, or take it into service again: then it goes on where it stopped."""
    id_, values = call.id(ids.WEBHOOK, "webhook_id"), call.body.model_dump(exclude_none=True)
    return Response(await subscriptions.change(call.conn, call.context, call.application_id, id_, values))


@routes.add("DELETE", "/v1/webhooks/{webhook_id}", scopes=(MANAGE,), audit="webhooks.remove", responses={204: None})
async def remove(call: TransactionalRequest) -> Response:
    """Remove a webhook: it is told nothing more."""
    await subscriptions.remove(call.conn, call.application_id, call.id(ids.WEBHOOK, "webhook_id"))
    return Response(status=204)


@routes.add(
    "POST",
    "/v1/webhooks/{webhook_id}/rotate",
    scopes=(MANAGE,),
    body=Rotation,
    audit="webhooks.rotate",
    responses={200: responses.CreatedWebhook},
)
async def rotate(call: TransactionalRequest[Rotation]) -> Response:
    """Give a webhook a new secret, shown this once. Until the one before ends, messages carry both signatures."""
    id_, keep_old = call.id(ids.WEBHOOK, "webhook_id"), timedelta(hours=call.body.keep_old_hours)
    return Response(await subscriptions.rotate(call.conn, call.context, call.application_id, id_, keep_old))


@routes.add(
    "POST",
    "/v1/webhooks/{webhook_id}/replay",
    scopes=(MANAGE,),
    body=Replay,
    audit="webhooks.replay",
    responses={200: responses.Webhook},
)
async def replay(call: TransactionalRequest[Replay]) -> Response:
    """Send everything since a time again: ends of deliveries as long as the log is kept, all else for three days."""
    id_ = call.id(ids.WEBHOOK, "webhook_id")
    return Response(await subscriptions.replay(call.conn, call.application_id, id_, call.body.since))


@routes.add(
    "POST",
    "/v1/webhooks/{webhook_id}/test",
    scopes=(MANAGE,),
    audit="webhooks.test",
    responses={200: responses.WebhookTested},
)
async def test(call: TransactionalRequest) -> Response:
    """Send a `webhook.test` event now, and tell what the receiver answered, or why it did not."""
    id_ = call.id(ids.WEBHOOK, "webhook_id")
    trial = await subscriptions.prepare_test(call.conn, call.context, call.application_id, id_)
    told: dict[str, Any] = {}

    async def post() -> None:
        told.update(await trial())

    call.after_commit.append(post)  # no connection to the database is held while a stranger thinks
    return Response(told)
