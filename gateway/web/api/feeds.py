"""Feeds: addresses that alerts are fetched from, so that nobody need post them."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gateway.domain import ids
from gateway.service.access.authentication import MANAGE, READ
from gateway.service.alerts import feeds
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import Audience, Category, Label

routes = Routes("feeds")

Url = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2048),
    Field(description="An Atom or RSS feed of CAP alerts, a CAP document, or alerts of api.weather.gov; https."),
]
Interval = Annotated[
    int, Field(ge=int(feeds.SHORTEST.total_seconds()), le=86_400, description="Seconds between two looks.")
]
Narrowed = Annotated[Audience, Field(description="Narrows its alerts: whoever is in their area and in this.")]


class NewFeed(Body):
    model_config = example(
        name="Vermont", url="https://api.weather.gov/alerts/active?area=VT", audience={"topic": "weather"}
    )

    name: Label
    url: Url
    interval: Interval = int(feeds.USUAL.total_seconds())
    audience: Narrowed | None = None
    category: Category | None = None


class FeedChange(Body):
    """What is left out stays; null takes audience or category away."""

    model_config = example(interval=30, status="active")

    name: Label | None = None
    url: Url | None = None
    interval: Interval | None = None
    status: Literal["active", "paused"] | None = None
    audience: Narrowed | None = None
    category: Category | None = None


@routes.add(
    "POST",
    "/v1/feeds",
    scopes=(MANAGE,),
    body=NewFeed,
    creates=True,
    conflicts=True,
    audit="feeds.create",
    responses={201: responses.Feed},
)
async def create(call: TransactionalRequest[NewFeed]) -> Response:
    """Fetch alerts from an address from now on. Each is told once, and changed and ended as its issuer says."""
    new = call.body
    made = await feeds.create(
        call.conn,
        call.context,
        call.application_id,
        new.name,
        new.url,
        interval=timedelta(seconds=new.interval),
        audience=new.audience,
        category=new.category,
    )
    return Response(made, 201, {"Location": f"/v1/feeds/{made['id']}"})


@routes.add("GET", "/v1/feeds", scopes=(READ, MANAGE), query=PageQuery, responses={200: responses.Page[responses.Feed]})
async def listed(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the feeds, the newest first, and how they fare."""
    limit = call.query.limit
    items = await feeds.list_page(call.conn, call.application_id, before=call.query.after_id(), limit=limit)
    return page(items, limit, ids.parse(ids.FEED, items[-1]["id"]) if items else None)


@routes.add("GET", "/v1/feeds/{feed_id}", scopes=(READ, MANAGE), responses={200: responses.Feed})
async def show(call: TransactionalRequest) -> Response:
    """Show a feed: when it was last read, what its alerts came to, and why some were refused."""
    return Response(await feeds.get(call.conn, call.application_id, call.id(ids.FEED, "feed_id")))


@routes.add(
    "PATCH",
    "/v1/feeds/{feed_id}",
    scopes=(MANAGE,),
    body=FeedChange,
    conflicts=True,
    audit="feeds.change",
    responses={200: responses.Feed},
)
async def change(call: TransactionalRequest[FeedChange]) -> Response:
    """Change a feed, pause it, or let it go on. It is read anew at once."""
    values: dict[str, Any] = call.body.model_dump(include={"name", "url", "status"}, exclude_none=True)
    if call.body.interval is not None:
        values["interval_s"] = call.body.interval
    values |= {name: getattr(call.body, name) for name in {"audience", "category"} & call.body.model_fields_set}
    id_ = call.id(ids.FEED, "feed_id")
    return Response(await feeds.change(call.conn, call.context, call.application_id, id_, values))


@routes.add("DELETE", "/v1/feeds/{feed_id}", scopes=(MANAGE,), audit="feeds.remove", responses={204: None})
async def remove(call: TransactionalRequest) -> Response:
    """Remove a feed. What it has brought goes on."""
    await feeds.remove(call.conn, call.application_id, call.id(ids.FEED, "feed_id"))
    return Response(status=204)
