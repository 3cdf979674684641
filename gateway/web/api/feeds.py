"""Alert feeds: URLs that the gateway polls for alerts."""

from datetime import timedelta
from typing import Annotated, Literal, cast

from pydantic import Field, StringConstraints

from gateway.domain import ids
from gateway.domain.database_work import LIST
from gateway.service import views
from gateway.service.access.authentication import MANAGE, READ
from gateway.service.alerts import feeds
from gateway.web.http.pagination import PageQuery, bounded_page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Audience, Category, Label

routes = Routes("feeds")

Url = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2048),
    Field(
        description="An https URL of an Atom or RSS feed of CAP alerts, a CAP document, or alerts of api.weather.gov."
    ),
]
Interval = Annotated[
    int, Field(ge=int(feeds.MIN_INTERVAL.total_seconds()), le=86_400, description="Polling interval in seconds.")
]
FeedAudience = Annotated[Audience, Field(description="Restricts the alerts of the feed to devices in this audience.")]


class NewFeed(Body):
    """A new feed."""

    model_config = example(
        name="Vermont", url="https://api.weather.gov/alerts/active?area=VT", audience={"topic": "weather"}
    )

    name: Label
    url: Url
    interval: Interval = int(feeds.DEFAULT_INTERVAL.total_seconds())
    audience: FeedAudience | None = None
    category: Category | None = None


class FeedChange(Body):
    """Changed fields of a feed. Omitted fields do not change; null removes audience or category."""

    model_config = example(interval=30, status="active")

    name: Label | None = None
    url: Url | None = None
    interval: Interval | None = None
    status: Literal["active", "paused"] | None = None
    audience: FeedAudience | None = None
    category: Category | None = None


@routes.add(
    "POST",
    "/v1/feeds",
    scopes=(MANAGE,),
    body=NewFeed,
    creates=True,
    conflicts=True,
    audit="feeds.create",
    responses={201: views.Feed},
)
async def create_feed(request: TransactionalRequest[NewFeed]) -> Response:
    """Create a feed. Each alert is sent once. It is updated or cancelled if its issuer updates or cancels it."""
    feed = request.body
    created = await feeds.create(
        request.conn,
        request.context,
        request.application_id,
        feed.name,
        feed.url,
        interval=timedelta(seconds=feed.interval),
        audience=feed.audience,
        category=feed.category,
    )
    return Response(created, 201, {"Location": f"/v1/feeds/{created['id']}"})


@routes.add(
    "GET", "/v1/feeds", scopes=(READ, MANAGE), query=PageQuery, work=LIST, responses={200: responses.Page[views.Feed]}
)
async def list_feeds(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List feeds with their status, newest first."""
    query = request.query
    return bounded_page(
        await feeds.list_page(request.conn, request.application_id, before=query.after_id(), limit=query.limit)
    )


@routes.add("GET", "/v1/feeds/{feed_id}", scopes=(READ, MANAGE), responses={200: views.Feed})
async def get_feed(request: TransactionalRequest) -> Response:
    """Get a feed with the result of the last poll, and the reasons why alerts were refused."""
    return Response(await feeds.get(request.conn, request.application_id, request.id(ids.FEED, "feed_id")))


@routes.add(
    "PATCH",
    "/v1/feeds/{feed_id}",
    scopes=(MANAGE,),
    body=FeedChange,
    conflicts=True,
    audit="feeds.change",
    responses={200: views.Feed},
)
async def change_feed(request: TransactionalRequest[FeedChange]) -> Response:
    """Change, pause or resume a feed. An active feed is polled at once."""
    body = request.body
    changed = body.model_dump(include={"name", "url", "status", "interval"}, exclude_none=True)
    changed |= {name: getattr(body, name) for name in {"audience", "category"} & body.model_fields_set}
    id_ = request.id(ids.FEED, "feed_id")
    return Response(
        await feeds.update(
            request.conn, request.context, request.application_id, id_, cast("feeds.FeedChange", changed)
        )
    )


@routes.add("DELETE", "/v1/feeds/{feed_id}", scopes=(MANAGE,), audit="feeds.remove", responses={204: None})
async def remove_feed(request: TransactionalRequest) -> Response:
    """Remove a feed. Alerts that are already accepted are still sent."""
    await feeds.delete(request.conn, request.application_id, request.id(ids.FEED, "feed_id"))
    return Response(status=204)
