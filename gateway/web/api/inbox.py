"""The inbox of a device: for pages without push permission, and for notifications that were not displayed."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from gateway.domain import ids
from gateway.domain.database_work import LIVE
from gateway.domain.errors import NotFound, RateLimited
from gateway.service import views
from gateway.service.access.authentication import DEVICE, MANAGE, READ
from gateway.service.inbox import inbox, read_marks
from gateway.web.api.devices import find_device
from gateway.web.http.pagination import PageQuery, bounded_page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest

routes = Routes("devices")

# Maximum time for which a long poll waits.
MAX_WAIT_S = 60
# Maximum number of long polls in progress for one device.
MAX_LONG_POLLS = 4

Position = Annotated[int, Field(ge=0, le=read_marks.MAX_POSITION)]


class InboxQuery(PageQuery):
    """A page of the inbox, or the items after a position."""

    after: Annotated[Position | None, Field(description="Only items after this position, oldest first.")] = None
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT_S, description="Seconds to wait for an item after `after`.")] = 0


class ReadUpTo(Body):
    """A position in the inbox, up to which items are marked as read."""

    model_config = example(upto=17)

    upto: Annotated[Position, Field(description="Position of the newest item that was read.")]


async def wait_for_inbox_item(request: Request[None, InboxQuery]) -> Mapping[str, str]:
    """Check the rate limit of the device. If the query has `after` and `wait`, wait for an item after that position.

    Returns:
        The RateLimit headers of the response.

    Raises:
        RateLimited: the device sends too many requests, or too many of its long polls are in progress.
        Unavailable: the maximum number of long polls is in progress in this process.
    """
    state, query = request.state, request.query
    device_id = ids.parse(ids.DEVICE, request.path("device_id"))
    if device_id is None or request.principal.device_id not in (None, device_id):
        raise NotFound(f"there is no device {request.path('device_id')[:80]!r}")
    # The application is part of the key, so that requests of another application with this device id do not count.
    headers = state.limits.inbox_buckets.acquire((request.application_id, device_id))
    if not query.wait or query.after is None:
        return headers
    if state.inbox_notifier.count_subscribers(request.application_id, device_id) >= MAX_LONG_POLLS:
        raise RateLimited(f"{MAX_LONG_POLLS} requests of this device are waiting already", {"Retry-After": "1"})
    clock = asyncio.get_running_loop().time
    deadline = clock() + query.wait
    with (
        state.limits.live_channels.slot_of(request.application_id),
        state.inbox_notifier.subscribe(request.application_id, device_id) as subscription,
    ):
        while not state.inbox_notifier.closed and (remaining := deadline - clock()) > 0:
            async with state.context.connections.share(LIVE, request.application_id).connect() as conn:
                last_position = await read_marks.newest_position(conn, request.application_id, device_id)
            if last_position > query.after:
                break
            await subscription.wait(remaining)
    return headers


@routes.add(
    "GET",
    "/v1/devices/{device_id}/inbox",
    scopes=(DEVICE, READ),
    query=InboxQuery,
    browser=True,
    precondition=wait_for_inbox_item,
    responses={200: views.Inbox},
)
async def list_inbox(request: TransactionalRequest[None, InboxQuery]) -> Response:
    """List the notifications that were sent to a device, newest first, rendered with the current data.

    Prefer push to polling. To poll, send If-None-Match, or use a long poll: with `after` and `wait`, the response is
    sent as soon as there is an item after that position.
    """
    device, query = await find_device(request), request.query
    before = query.after_position() if query.after is None else None
    page = await inbox.list_items(
        request.conn, request.context, device, before=before, after=query.after, limit=query.limit
    )
    unread, last_position = await read_marks.count_unread(request.conn, device)
    response = bounded_page(page if query.after is None else page._replace(next_after=None))
    body: dict[str, Any] = response.body | {"unread": unread, "position": last_position}
    return Response(body)


@routes.add(
    "PUT",
    "/v1/devices/{device_id}/inbox/{delivery_id}/read",
    scopes=(DEVICE, MANAGE),
    browser=True,
    responses={204: None},
)
async def mark_delivery_read(request: TransactionalRequest) -> Response:
    """Mark one item as read."""
    await read_marks.mark_delivery_read(request.conn, await find_device(request), request.path("delivery_id"))
    return Response(status=204)


@routes.add(
    "POST",
    "/v1/devices/{device_id}/inbox/read",
    scopes=(DEVICE, MANAGE),
    body=ReadUpTo,
    browser=True,
    responses={200: views.MarkedRead},
)
async def mark_read(request: TransactionalRequest[ReadUpTo]) -> Response:
    """Mark all items up to a position as read."""
    marked = await read_marks.mark_read(request.conn, await find_device(request), upto=request.body.upto)
    return Response({"marked": marked})
