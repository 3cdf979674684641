"""Notifications of every kind: send to someone directly, list, show, cancel."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.notification import Kind, Progress, Status
from gateway.records import notifications
from gateway.service.access.authentication import READ, SEND
from gateway.service.notifications import lifecycle, representations, submission
from gateway.service.notifications.submission import Draft
from gateway.web.api.devices import topic_in
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Audience, Schedule, Sendable

routes = Routes("notifications")

Control = Callable[[AsyncConnection, UUID, UUID, Kind | None], Awaitable[None]]


class NewNotification(Sendable):
    model_config = example(
        content={"title": "Your parcel is here", "body": "Until six at the front desk.", "url": "/parcels/17"},
        audience={"user_id": "u-42"},
        delivery={"ttl": 3600, "collapse_key": "parcel-17"},
    )

    audience: Audience
    schedule: Schedule | None = None


class PreviewRequest(Body):
    model_config = example(audience={"all": [{"topic": "weather"}, {"locale": "de"}]})

    audience: Audience


class NotificationQuery(PageQuery):
    kind: Annotated[Kind | None, Field(description="Only of this kind.")] = None
    status: Status | None = None


async def accept(call: TransactionalRequest[Any, Any], draft: Draft) -> Response:
    """Accept what a front door asks for: from here on all kinds are the same."""
    notification = await submission.submit(call.conn, call.context, call.application_id, draft)
    shown = representations.notification(notification, Progress())
    return Response(shown, 201, {"Location": f"/v1/notifications/{shown['id']}"})


@routes.add(
    "POST",
    "/v1/notifications",
    scopes=(SEND,),
    body=NewNotification,
    creates=True,
    responses={201: responses.Notification},
)
async def send(call: TransactionalRequest[NewNotification]) -> Response:
    """Send a notification to an audience. It is accepted with this answer, and then delivered or accounted for."""
    return await accept(
        call,
        await call.body.draft(
            call.conn, call.application_id, Kind.DIRECT, call.body.audience, schedule=call.body.schedule
        ),
    )


@routes.add(
    "POST",
    "/v1/topics/{topic}/publish",
    scopes=(SEND,),
    body=Sendable,
    creates=True,
    responses={201: responses.Notification},
)
async def publish(call: TransactionalRequest[Sendable]) -> Response:
    """Send a notification to all devices that subscribe to a topic."""
    return await accept(
        call, await call.body.draft(call.conn, call.application_id, Kind.DIRECT, {"topic": topic_in(call)})
    )


@routes.add(
    "GET",
    "/v1/notifications",
    scopes=(READ, SEND),
    query=NotificationQuery,
    responses={200: responses.Page[responses.Notification]},
)
async def listed(call: TransactionalRequest[None, NotificationQuery]) -> Response:
    """List notifications, the newest first."""
    asked = call.query
    found = await notifications.list_page(
        call.conn,
        call.application_id,
        kind=asked.kind,
        status=asked.status,
        before=asked.after_id(),
        limit=asked.limit,
    )
    variants = await notifications.load_variant_counts(call.conn, [notification.id for notification, _ in found])
    shown = [representations.notification(*one, variants.get(one[0].id, ())) for one in found]
    return page(shown, asked.limit, found[-1][0].id if found else None)


@routes.add(
    "POST", "/v1/audiences/preview", scopes=(SEND, READ), body=PreviewRequest, responses={200: responses.Preview}
)
async def preview(call: TransactionalRequest[PreviewRequest]) -> Response:
    """Count whom an audience would reach now, and name a few. Nothing is sent."""
    return Response(await representations.preview(call.conn, call.application_id, call.body.audience))


def add_views(collection: str, kind: Kind | None) -> None:
    """Show, pause, resume and cancel, at the address of each kind and at /v1/notifications for all of them."""
    word = kind or "notification"

    async def show(call: TransactionalRequest) -> Response:
        id_ = call.id(ids.NOTIFICATION, "notification_id")
        return Response(await representations.one_notification(call.conn, call.application_id, id_, kind))

    one = f"/v1/{collection}/{{notification_id}}"
    answers = {200: responses.Notification}
    show.__doc__ = f"Show a {word} with its status, its counts by outcome, how fast it goes and when it will be done."
    routes.add("GET", one, scopes=(READ, SEND), responses=answers)(show)

    async def funnel(call: TransactionalRequest) -> Response:
        id_ = call.id(ids.NOTIFICATION, "notification_id")
        return Response(await representations.funnel(call.conn, call.application_id, id_, kind))

    funnel.__doc__ = f"""Show how many of a {word}'s receivers saw and clicked it.

    `accepted` is the push service's word, `displayed` and `clicked` are the browsers'."""
    routes.add("GET", f"{one}/funnel", scopes=(READ, SEND), responses={200: responses.Funnel})(funnel)

    def add_control(name: str, order: Control, said: str) -> None:
        async def controlled(call: TransactionalRequest) -> Response:
            id_ = call.id(ids.NOTIFICATION, "notification_id")
            await order(call.conn, call.application_id, id_, kind)
            if order is not lifecycle.resume:
                call.after_commit.append(partial(lifecycle.wait_until_idle, call.context.engine, id_))
            return await show(call)

        controlled.__doc__ = f"{name.title()} a {word}: {said}"
        routes.add(
            "POST",
            f"{one}/{name}",
            scopes=(SEND,),
            conflicts=True,
            audit=f"{collection}.{name}",
            responses=answers,
        )(controlled)

    add_control("pause", lifecycle.pause, "nothing more of it is sent until it is resumed. Its time runs on.")
    add_control("resume", lifecycle.resume, "it goes on where it was paused.")
    add_control("cancel", lifecycle.cancel, "nothing more of it is sent, and what was waiting ends as `cancelled`.")


for collection, kind in (("notifications", None), ("campaigns", Kind.CAMPAIGN), ("alerts", Kind.ALERT)):
    add_views(collection, kind)
