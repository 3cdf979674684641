"""Opt-out categories of notifications, and the preferences of devices."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from gateway.domain import ids
from gateway.domain.database_work import LIST
from gateway.domain.json_object import JsonObject
from gateway.domain.send_policy import MAX_CAP_WINDOW
from gateway.service import views
from gateway.service.access.authentication import DEVICE, MANAGE, READ, SEND
from gateway.service.audience import categories
from gateway.web.api.devices import find_device
from gateway.web.http.pagination import PageQuery, bounded_page
from gateway.web.http.parsing import Body, Topic, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import QuietHours

routes = Routes("categories")

Title = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Description = Annotated[str, StringConstraints(max_length=500)]


class CategoryCap(Body):
    """A frequency cap: at most `limit` notifications of the category to one user within `window` seconds."""

    limit: Annotated[int, Field(ge=1, le=1000)]
    window: Annotated[int, Field(ge=1, le=int(MAX_CAP_WINDOW.total_seconds()))]


class _Rules(Body):
    """The fields that a new category and a change have in common."""

    description: Description | None = None
    cap: CategoryCap | None = None
    quiet_hours: QuietHours | None = None

    def columns(self) -> JsonObject:
        """Return the database columns of the fields in the request; null removes a rule."""
        columns = self.model_dump(include=self.model_fields_set - {"cap", "quiet_hours"})
        if columns.get("title", "") is None:
            del columns["title"]
        if "cap" in self.model_fields_set:
            cap = self.cap
            columns |= {"cap_most": cap and cap.limit, "cap_window_s": cap and cap.window}
        if "quiet_hours" in self.model_fields_set:
            columns["quiet_hours"] = self.quiet_hours and self.quiet_hours.value().to_json()
        return columns


class NewCategory(_Rules):
    """A new category."""

    model_config = example(
        name="offers",
        title="Special offers",
        description="Once in a while, what is cheaper this week.",
        cap={"limit": 2, "window": 604_800},
        quiet_hours={"start": "21:00", "end": "08:00"},
    )

    name: Annotated[
        Topic, Field(description="The name by which notifications refer to the category; it cannot be changed.")
    ]
    title: Annotated[Title, Field(description="The title that users see when they opt out.")]


class CategoryChange(_Rules):
    """Changed fields of a category. Omitted fields do not change; null removes a rule."""

    model_config = example(cap={"limit": 1, "window": 86_400}, quiet_hours=None)

    title: Title | None = None


class PreferencesChange(Body):
    """Opt-ins and opt-outs of a device."""

    model_config = example(categories={"offers": False, "news": True})

    categories: Annotated[
        dict[Topic, bool],
        Field(max_length=100, description="By category name: false opts out. Omitted categories do not change."),
    ]


@routes.add(
    "POST",
    "/v1/categories",
    scopes=(MANAGE,),
    body=NewCategory,
    creates=True,
    conflicts=True,
    audit="categories.create",
    responses={201: views.Category},
)
async def create_category(request: TransactionalRequest[NewCategory]) -> Response:
    """Create a category. Notifications refer to it, and devices can opt out of it."""
    created = await categories.create(request.conn, request.application_id, request.body.columns())
    return Response(created, 201, {"Location": f"/v1/categories/{created['id']}"})


@routes.add(
    "GET",
    "/v1/categories",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    work=LIST,
    responses={200: responses.Page[views.Category]},
)
async def list_categories(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List categories, newest first."""
    query = request.query
    return bounded_page(
        await categories.list_page(request.conn, request.application_id, before=query.after_id(), limit=query.limit)
    )


@routes.add("GET", "/v1/categories/{category_id}", scopes=(READ, SEND, MANAGE), responses={200: views.Category})
async def get_category(request: TransactionalRequest) -> Response:
    """Get a category."""
    id_ = request.id(ids.CATEGORY, "category_id")
    return Response(await categories.get(request.conn, request.application_id, id_))


@routes.add(
    "PATCH",
    "/v1/categories/{category_id}",
    scopes=(MANAGE,),
    body=CategoryChange,
    audit="categories.change",
    responses={200: views.Category},
)
async def change_category(request: TransactionalRequest[CategoryChange]) -> Response:
    """Change a category's title or rules. Notifications that are already accepted keep the old rules."""
    id_ = request.id(ids.CATEGORY, "category_id")
    return Response(await categories.update(request.conn, request.application_id, id_, request.body.columns()))


@routes.add(
    "DELETE", "/v1/categories/{category_id}", scopes=(MANAGE,), audit="categories.remove", responses={204: None}
)
async def remove_category(request: TransactionalRequest) -> Response:
    """Remove a category. Notifications that are already accepted are still sent, by the rules of the category."""
    await categories.delete(request.conn, request.application_id, request.id(ids.CATEGORY, "category_id"))
    return Response(status=204)


@routes.add(
    "GET",
    "/v1/devices/{device_id}/preferences",
    scopes=(DEVICE, READ, MANAGE),
    browser=True,
    responses={200: views.Preferences},
)
async def get_preferences(request: TransactionalRequest) -> Response:
    """Get the preference of a device for every category."""
    return await _preferences_response(request)


@routes.add(
    "PATCH",
    "/v1/devices/{device_id}/preferences",
    scopes=(DEVICE, MANAGE),
    body=PreferencesChange,
    browser=True,
    responses={200: views.Preferences},
)
async def change_preferences(request: TransactionalRequest[PreferencesChange]) -> Response:
    """Opt a device in to categories, or out of them."""
    await categories.update_preferences(request.conn, await find_device(request), request.body.categories)
    return await _preferences_response(request)


async def _preferences_response(request: TransactionalRequest[Any, Any]) -> Response:
    return Response({"categories": await categories.list_preferences(request.conn, await find_device(request))})
