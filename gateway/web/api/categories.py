"""Categories of notifications, and what each device wants of them."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from gateway.domain import ids
from gateway.domain.send_policy import MAX_CAP_WINDOW
from gateway.service.access.authentication import DEVICE, MANAGE, READ, SEND
from gateway.service.audience import categories
from gateway.web.api.devices import device_in
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, Topic, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import QuietHours

routes = Routes("categories")

Title = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Description = Annotated[str, StringConstraints(max_length=500)]


class CategoryCap(Body):
    """No more than `most` notifications of the category to one user within `window` seconds."""

    most: Annotated[int, Field(ge=1, le=1000)]
    window: Annotated[int, Field(ge=1, le=int(MAX_CAP_WINDOW.total_seconds()))]


class _Rules(Body):
    description: Description | None = None
    cap: CategoryCap | None = None
    quiet_hours: QuietHours | None = None

    def columns(self) -> dict[str, Any]:
        """What was said, by column; null takes a rule away."""
        said = self.model_dump(include=self.model_fields_set - {"cap", "quiet_hours"})
        if said.get("title", "") is None:
            del said["title"]
        if "cap" in self.model_fields_set:
            cap = self.cap
            said |= {"cap_most": cap and cap.most, "cap_window_s": cap and cap.window}
        if "quiet_hours" in self.model_fields_set:
            said["quiet_hours"] = self.quiet_hours and self.quiet_hours.value().to_json()
        return said


class NewCategory(_Rules):
    model_config = example(
        name="offers",
        title="Special offers",
        description="Once in a while, what is cheaper this week.",
        cap={"most": 2, "window": 604_800},
        quiet_hours={"start": "21:00", "end": "08:00"},
    )

    name: Annotated[Topic, Field(description="What notifications name it by; it never changes.")]
    title: Annotated[Title, Field(description="What people read when they choose.")]


class CategoryChange(_Rules):
    """What is left out stays, null takes a rule away."""

    model_config = example(cap={"most": 1, "window": 86_400}, quiet_hours=None)

    title: Title | None = None


class Wanted(Body):
    model_config = example(categories={"offers": False, "news": True})

    categories: Annotated[
        dict[Topic, bool], Field(max_length=100, description="By name; what is left out stays as it was.")
    ]


@routes.add(
    "POST",
    "/v1/categories",
    scopes=(MANAGE,),
    body=NewCategory,
    creates=True,
    conflicts=True,
    audit="categories.create",
    responses={201: responses.Category},
)
async def create(call: TransactionalRequest[NewCategory]) -> Response:
    """Make a category that notifications can name and devices can opt out of."""
    made = await categories.create(call.conn, call.application_id, call.body.columns())
    return Response(made, 201, {"Location": f"/v1/categories/{made['id']}"})


@routes.add(
    "GET",
    "/v1/categories",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    responses={200: responses.Page[responses.Category]},
)
async def listed(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the categories, the newest first."""
    limit = call.query.limit
    items = await categories.list_page(call.conn, call.application_id, before=call.query.after_id(), limit=limit)
    return page(items, limit, ids.parse(ids.CATEGORY, items[-1]["id"]) if items else None)


@routes.add("GET", "/v1/categories/{category_id}", scopes=(READ, SEND, MANAGE), responses={200: responses.Category})
async def show(call: TransactionalRequest) -> Response:
    """Show a category."""
    id_ = call.id(ids.CATEGORY, "category_id")
    return Response(await categories.get(call.conn, call.application_id, id_))


@routes.add(
    "PATCH",
    "/v1/categories/{category_id}",
    scopes=(MANAGE,),
    body=CategoryChange,
    audit="categories.change",
    responses={200: responses.Category},
)
async def change(call: TransactionalRequest[CategoryChange]) -> Response:
    """Change a category's title or rules. What was accepted before keeps the rules it was accepted with."""
    id_ = call.id(ids.CATEGORY, "category_id")
    return Response(await categories.change(call.conn, call.application_id, id_, call.body.columns()))


@routes.add(
    "DELETE", "/v1/categories/{category_id}", scopes=(MANAGE,), audit="categories.remove", responses={204: None}
)
async def remove(call: TransactionalRequest) -> Response:
    """Remove a category. What was accepted in it is still sent, by the rules it was accepted with."""
    await categories.remove(call.conn, call.application_id, call.id(ids.CATEGORY, "category_id"))
    return Response(status=204)


@routes.add(
    "GET",
    "/v1/devices/{device_id}/preferences",
    scopes=(DEVICE, READ, MANAGE),
    browser=True,
    responses={200: responses.Preferences},
)
async def preferences(call: TransactionalRequest) -> Response:
    """Show every category and whether the device wants it."""
    return await _preferences(call)


@routes.add(
    "PATCH",
    "/v1/devices/{device_id}/preferences",
    scopes=(DEVICE, MANAGE),
    body=Wanted,
    browser=True,
    responses={200: responses.Preferences},
)
async def prefer(call: TransactionalRequest[Wanted]) -> Response:
    """Opt a device in to categories, or out of them."""
    await categories.prefer(call.conn, await device_in(call), call.body.categories)
    return await _preferences(call)


async def _preferences(call: TransactionalRequest[Any, Any]) -> Response:
    return Response({"categories": await categories.preferences(call.conn, await device_in(call))})
