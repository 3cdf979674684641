"""Notifications of all kinds: send directly, list, get, pause, resume and cancel."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from gateway.domain import ids
from gateway.domain.database_work import LIST, PREVIEW, REQUEST, URGENT, WorkKind
from gateway.domain.notification import Kind, Lane, Progress, Status
from gateway.service import views
from gateway.service.access.authentication import READ, SEND
from gateway.service.context import Connection, ConnectionShare
from gateway.service.notifications import lifecycle, representations, submission
from gateway.service.notifications.submission import NotificationRequest
from gateway.web.api.devices import parse_topic
from gateway.web.http.pagination import PageQuery, bounded_page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Audience, Schedule, Sendable

routes = Routes("notifications")

# Pause, resume or cancel, called with (connection, application id, notification id, kind).
Transition = Callable[[Connection, UUID, UUID, Kind | None], Awaitable[None]]
# Awaited before the response to a transition is sent, with (connections, notification id).
Wait = Callable[[ConnectionShare, UUID], Awaitable[None]]


class NewNotification(Sendable):
    """A notification to an audience."""

    model_config = example(
        content={"title": "Your parcel is here", "body": "Until six at the front desk.", "url": "/parcels/17"},
        audience={"user_id": "u-42"},
        delivery={"ttl": 3600, "collapse_key": "parcel-17"},
    )

    audience: Audience
    schedule: Schedule | None = None


class PreviewRequest(Body):
    """An audience to preview."""

    model_config = example(audience={"all": [{"topic": "weather"}, {"locale": "de"}]})

    audience: Audience


class NotificationQuery(PageQuery):
    """Filters of the notification list."""

    kind: Annotated[Kind | None, Field(description="Only this kind.")] = None
    status: Status | None = None


def work_of(body: Sendable) -> WorkKind:
    """Return the kind of database work of accepting a notification."""
    return URGENT if body.delivery.lane == Lane.URGENT.label else REQUEST


async def submit(request: TransactionalRequest[Any, Any], notification_request: NotificationRequest) -> Response:
    """Submit a notification of any kind, and return the response."""
    notification = await submission.submit_request(
        request.conn, request.context, request.application_id, notification_request
    )
    view = representations.notification_view(notification, Progress())
    return Response(view, 201, {"Location": f"/v1/notifications/{view['id']}"})


@routes.add(
    "POST",
    "/v1/notifications",
    scopes=(SEND,),
    body=NewNotification,
    creates=True,
    work=work_of,
    responses={201: views.Notification},
)
async def send_notification(request: TransactionalRequest[NewNotification]) -> Response:
    """Send a notification to an audience. The delivery log then has a result for each device."""
    body = request.body
    return await submit(request, body.to_request(Kind.DIRECT, body.audience, schedule=body.schedule))


@routes.add(
    "POST",
    "/v1/topics/{topic}/publish",
    scopes=(SEND,),
    body=Sendable,
    creates=True,
    work=work_of,
    responses={201: views.Notification},
)
async def publish_to_topic(request: TransactionalRequest[Sendable]) -> Response:
    """Send a notification to all devices that subscribe to a topic."""
    return await submit(request, request.body.to_request(Kind.DIRECT, {"topic": parse_topic(request)}))


@routes.add(
    "GET",
    "/v1/notifications",
    scopes=(READ, SEND),
    query=NotificationQuery,
    work=LIST,
    responses={200: responses.Page[views.Notification]},
)
async def list_notifications(request: TransactionalRequest[None, NotificationQuery]) -> Response:
    """List notifications, newest first."""
    query = request.query
    return bounded_page(
        await representations.list_page(
            request.conn,
            request.application_id,
            kind=query.kind,
            status=query.status,
            before=query.after_id(),
            limit=query.limit,
        )
    )


@routes.add(
    "POST",
    "/v1/audiences/preview",
    scopes=(SEND, READ),
    body=PreviewRequest,
    work=PREVIEW,
    responses={200: views.Preview},
)
async def preview_audience(request: TransactionalRequest[PreviewRequest]) -> Response:
    """Count the devices and users of an audience, and return a sample of the devices. Nothing is sent."""
    return Response(await representations.preview_audience(request.conn, request.application_id, request.body.audience))


def add_kind(collection: str, kind: Kind | None) -> None:
    """Add the routes for a single notification: get, funnel, pause, resume and cancel.

    Each collection has these routes: /v1/campaigns and /v1/alerts for their kinds, /v1/notifications for all kinds.
    """
    label = kind or "notification"
    item_path = f"/v1/{collection}/{{notification_id}}"
    item_responses = {200: views.Notification}

    async def get_notification(request: TransactionalRequest) -> Response:
        id_ = request.id(ids.NOTIFICATION, "notification_id")
        return Response(await representations.get_notification(request.conn, request.application_id, id_, kind))

    get_notification.__doc__ = f"Get a {label} with its status, counts by outcome, rate and estimated end of sending."
    routes.add("GET", item_path, scopes=(READ, SEND), responses=item_responses)(get_notification)

    async def get_funnel(request: TransactionalRequest) -> Response:
        id_ = request.id(ids.NOTIFICATION, "notification_id")
        return Response(await representations.get_funnel(request.conn, request.application_id, id_, kind))

    get_funnel.__doc__ = f"""Get the funnel of a {label}: on how many devices it was displayed and clicked.

    Push services report `accepted`; browsers report `displayed` and `clicked`."""
    routes.add("GET", f"{item_path}/funnel", scopes=(READ, SEND), responses={200: views.Funnel})(get_funnel)

    def add_transition(name: str, apply: Transition, effect: str, wait: Wait | None = None) -> None:
        async def change_status(request: TransactionalRequest) -> Response:
            id_ = request.id(ids.NOTIFICATION, "notification_id")
            await apply(request.conn, request.application_id, id_, kind)
            if wait is not None:
                share = request.context.connections.share(REQUEST, request.application_id)
                request.after_commit.append(partial(wait, share, id_))
            return await get_notification(request)

        change_status.__doc__ = f"{name.title()} a {label}: {effect}"
        routes.add(
            "POST",
            f"{item_path}/{name}",
            scopes=(SEND,),
            conflicts=True,
            audit=f"{collection}.{name}",
            responses=item_responses,
        )(change_status)

    add_transition(
        "pause",
        lifecycle.pause,
        "no further messages are sent until it is resumed. It can expire while it is paused.",
        lifecycle.wait_until_suspended,
    )
    add_transition("resume", lifecycle.resume, "sending continues.")
    add_transition(
        "cancel",
        lifecycle.cancel,
        "no further messages are sent, and pending deliveries end as `cancelled`.",
        lifecycle.wait_until_idle,
    )


for collection, kind in (("notifications", None), ("campaigns", Kind.CAMPAIGN), ("alerts", Kind.ALERT)):
    add_kind(collection, kind)
