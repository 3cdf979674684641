"""Webhooks: URLs of the application to which the gateway sends events."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from gateway.domain import ids
from gateway.domain.database_work import LIST
from gateway.domain.webhook_event import PATTERNS
from gateway.service import views
from gateway.service.access.authentication import MANAGE
from gateway.service.webhooks import subscriptions
from gateway.web.http.pagination import PageQuery, bounded_page
from gateway.web.http.parsing import Body, Moment, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Label

routes = Routes("webhooks")


def _check_pattern(text: str) -> str:
    if text not in PATTERNS:
        raise ValueError(f"must be one of {', '.join(PATTERNS)}")
    return text


Url = Annotated[
    str, StringConstraints(min_length=1, max_length=2048), Field(description="An https URL on a public address.")
]
Events = Annotated[
    list[Annotated[str, AfterValidator(_check_pattern), WithJsonSchema({"enum": list(PATTERNS)})]],
    Field(
        min_length=1,
        max_length=len(PATTERNS),
        description=f"Any of {', '.join(f'`{pattern}`' for pattern in PATTERNS)}.",
    ),
]


class NewWebhook(Body):
    """A new webhook."""

    model_config = example(
        name="Shop back end", url="https://shop.example/hooks/push", events=["device.gone", "notification.*"]
    )

    name: Label
    url: Url
    events: Events


class WebhookChange(Body):
    """Changed fields of a webhook. Omitted fields do not change. `"status": "active"` enables a disabled webhook."""

    model_config = example(events=["*"], status="active")

    name: Label | None = None
    url: Url | None = None
    events: Events | None = None
    status: Literal["active", "disabled"] | None = None


class Rotation(Body):
    """Options of a secret rotation."""

    model_config = example(keep_old_hours=24)

    keep_old_hours: Annotated[
        float, Field(ge=0, le=168, description="Hours for which messages also carry a signature of the old secret.")
    ] = 24


class Replay(Body):
    """The start of a replay."""

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
    responses={201: views.CreatedWebhook},
)
async def create_webhook(request: TransactionalRequest[NewWebhook]) -> Response:
    """Create a webhook. It receives the events from now on.

    The response contains the signing secret, which is not shown again.

    A message is `{"events": [{"id", "type", "at", "data"}]}`, with at most 100 events, signed as specified by Standard
    Webhooks. A message without a 2xx response is retried with the same `webhook-id` for 24 hours; then the webhook is
    disabled. An event that is sent again has the same `id`.
    """
    webhook = request.body
    created = await subscriptions.create(
        request.conn, request.context, request.application_id, webhook.name, webhook.url, webhook.events
    )
    return Response(created, 201, {"Location": f"/v1/webhooks/{created['id']}"})


@routes.add(
    "GET", "/v1/webhooks", scopes=(MANAGE,), query=PageQuery, work=LIST, responses={200: responses.Page[views.Webhook]}
)
async def list_webhooks(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List webhooks, newest first."""
    query = request.query
    return bounded_page(
        await subscriptions.list_page(request.conn, request.application_id, before=query.after_id(), limit=query.limit)
    )


@routes.add("GET", "/v1/webhooks/{webhook_id}", scopes=(MANAGE,), responses={200: views.Webhook})
async def get_webhook(request: TransactionalRequest) -> Response:
    """Get a webhook with its status, without its secret."""
    return Response(
        await subscriptions.get(request.conn, request.application_id, request.id(ids.WEBHOOK, "webhook_id"))
    )


@routes.add(
    "PATCH",
    "/v1/webhooks/{webhook_id}",
    scopes=(MANAGE,),
    body=WebhookChange,
    conflicts=True,
    audit="webhooks.change",
    responses={200: views.Webhook},
)
async def change_webhook(request: TransactionalRequest[WebhookChange]) -> Response:
    """Change, disable or enable a webhook. An enabled webhook continues with the first event that it missed."""
    id_, values = request.id(ids.WEBHOOK, "webhook_id"), request.body.model_dump(exclude_none=True)
    return Response(await subscriptions.update(request.conn, request.context, request.application_id, id_, values))


@routes.add("DELETE", "/v1/webhooks/{webhook_id}", scopes=(MANAGE,), audit="webhooks.remove", responses={204: None})
async def remove_webhook(request: TransactionalRequest) -> Response:
    """Remove a webhook. It receives no further events."""
    await subscriptions.delete(request.conn, request.application_id, request.id(ids.WEBHOOK, "webhook_id"))
    return Response(status=204)


@routes.add(
    "POST",
    "/v1/webhooks/{webhook_id}/rotate",
    scopes=(MANAGE,),
    body=Rotation,
    audit="webhooks.rotate",
    responses={200: views.CreatedWebhook},
)
async def rotate_secret(request: TransactionalRequest[Rotation]) -> Response:
    """Create a new signing secret. The response contains the secret, which is not shown again.

    Until the old secret expires, messages have a signature of each secret.
    """
    id_, keep_old = request.id(ids.WEBHOOK, "webhook_id"), timedelta(hours=request.body.keep_old_hours)
    return Response(
        await subscriptions.rotate_secret(request.conn, request.context, request.application_id, id_, keep_old)
    )


@routes.add(
    "POST",
    "/v1/webhooks/{webhook_id}/replay",
    scopes=(MANAGE,),
    body=Replay,
    audit="webhooks.replay",
    responses={200: views.Webhook},
)
async def replay_events(request: TransactionalRequest[Replay]) -> Response:
    """Send all events since a time again. Delivery events are stored as long as the log, other events three days."""
    id_ = request.id(ids.WEBHOOK, "webhook_id")
    return Response(await subscriptions.replay(request.conn, request.application_id, id_, request.body.since))


@routes.add(
    "POST",
    "/v1/webhooks/{webhook_id}/test",
    scopes=(MANAGE,),
    audit="webhooks.test",
    responses={200: views.WebhookTested},
)
async def test_webhook(request: TransactionalRequest) -> Response:
    """Send a `webhook.test` event now. The response has the status of the receiver, or the reason why there is none."""
    id_ = request.id(ids.WEBHOOK, "webhook_id")
    send_test = await subscriptions.prepare_test(request.conn, request.context, request.application_id, id_)
    body: dict[str, Any] = {}

    async def post() -> None:
        body.update(await send_test())

    request.after_commit.append(post)  # runs without a database connection, since the receiver may be slow
    return Response(body)
