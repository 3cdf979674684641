"""A device's inbox: the pull side, for pages that cannot be pushed to, and for what was missed."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from gateway.domain import ids
from gateway.domain.errors import NotFound, RateLimited
from gateway.records.delivery_log import inbox as records
from gateway.service.access.authentication import DEVICE, MANAGE, READ
from gateway.service.inbox import inbox
from gateway.web.api.devices import device_in
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest
from gateway.web.schemas import responses

routes = Routes("devices")

MAX_WAIT = 60
MAX_WAITING = 4
"""Long polls of one device at a time."""

Position = Annotated[int, Field(ge=0, lt=2**63)]


class InboxQuery(PageQuery):
    after: Annotated[Position | None, Field(description="Only what is newer than this position, the oldest first.")] = (
        None
    )
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT, description="Seconds to wait for something newer than `after`.")] = 0


class ReadUpTo(Body):
    model_config = example(upto=17)

    upto: Annotated[Position, Field(description="The position of the newest that was read.")]


async def wait_for_inbox_item(request: Request[None, InboxQuery]) -> Mapping[str, str]:
    """Whether it may be asked for now; then until there is something new, or the time is up.

    Raises RateLimited and Unavailable.
    """
    front, asked = request.state, request.query
    device_id = ids.parse(ids.DEVICE, request.path("device_id"))
    if device_id is None or request.principal.device_id not in (None, device_id):
        raise NotFound(f"there is no device {request.path('device_id')[:80]!r}")
    # Not by the device alone, which another application's key may name too.
    limit = front.limits.inbox_buckets.acquire((request.application_id, device_id))
    if not asked.wait or asked.after is None:
        return limit
    if front.inbox_notifier.waiting(request.application_id, device_id) >= MAX_WAITING:
        raise RateLimited(f"{MAX_WAITING} requests of this device are waiting already", {"Retry-After": "1"})
    clock = asyncio.get_running_loop().time
    until = clock() + asked.wait
    with (
        front.limits.live_channels.slot_of(request.application_id),
        front.inbox_notifier.watch(request.application_id, device_id) as watch,
    ):
        while not front.inbox_notifier.closed and (left := until - clock()) > 0:
            async with front.context.engine.connect() as conn:
                newest = await records.last_position(conn, request.application_id, device_id)
            if newest > asked.after:
                break
            await watch.wait(left)
    return limit


@routes.add(
    "GET",
    "/v1/devices/{device_id}/inbox",
    scopes=(DEVICE, READ),
    query=InboxQuery,
    browser=True,
    precondition=wait_for_inbox_item,
    responses={200: responses.Inbox},
)
async def listed(call: TransactionalRequest[None, InboxQuery]) -> Response:
    """List what was sent to a device, the newest first, as it would be shown now.

    Pulling costs a request each time whether there is news or not: it is for what could not be pushed, and for what was
    missed. Ask with If-None-Match, or with `after` and `wait`, which answers as soon as there is something newer.
    """
    device, asked = await device_in(call), call.query
    before = call.query.after_position() if asked.after is None else None
    items = await inbox.items(call.conn, call.context, device, before=before, after=asked.after, limit=asked.limit)
    unread, newest = await records.count_unread(call.conn, device.application_id, device.id)
    listed = page(items, asked.limit, items[-1]["position"] if items and asked.after is None else None)
    body: dict[str, Any] = listed.body | {"unread": unread, "position": newest}
    return Response(body)


@routes.add(
    "PUT",
    "/v1/devices/{device_id}/inbox/{delivery_id}/read",
    scopes=(DEVICE, MANAGE),
    browser=True,
    responses={204: None},
)
async def read_one(call: TransactionalRequest) -> Response:
    """Mark one as read."""
    device, named = await device_in(call), ids.parse_delivery(call.path("delivery_id"))
    theirs = named is not None and named[1] == device.id
    if named is None or not theirs or not await records.contains(call.conn, device.application_id, device.id, named[0]):
        raise NotFound("there is no such delivery in this inbox")
    await records.mark_read(call.conn, device.application_id, device.id, upto=2**63 - 1, notification_id=named[0])
    return Response(status=204)


@routes.add(
    "POST",
    "/v1/devices/{device_id}/inbox/read",
    scopes=(DEVICE, MANAGE),
    body=ReadUpTo,
    browser=True,
    responses={200: responses.MarkedRead},
)
async def read_all(call: TransactionalRequest[ReadUpTo]) -> Response:
    """Mark everything up to a position as read."""
    device = await device_in(call)
    marked = await records.mark_read(call.conn, device.application_id, device.id, upto=call.body.upto)
    return Response({"marked": marked})
