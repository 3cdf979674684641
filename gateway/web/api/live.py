"""The live channel: a WebSocket over which an open page gets its notifications at once.

A browser cannot give a WebSocket an Authorization header, and an address ends up in logs: so the first message says
who it is. Nothing is kept for a page beside its place in the log, so that one that reads slowly is closed and
comes again where it stopped, on this node or another.
"""

import asyncio
import json
from contextlib import aclosing, suppress
from typing import Annotated, Literal

import structlog
from aiohttp import WSMsgType, web
from pydantic import Field

from gateway.domain.device import Device
from gateway.domain.errors import GatewayError, MalformedBody, RateLimited, Unauthenticated, UpgradeRequired
from gateway.records import applications
from gateway.service.access.authentication import DEVICE
from gateway.service.audience import registration
from gateway.service.context import DATABASE_ERRORS
from gateway.service.inbox import live_channel
from gateway.web.api.inbox import Position
from gateway.web.http.parsing import Body, read_body
from gateway.web.http.routing import Request, Routes, to_json

routes = Routes("devices")

HELLO_S = 10.0
HEARTBEAT_S = 20.0
SLOW_S = 10.0
"""How long a page may take to read what does not fit into the connection's buffers."""
MAX_OCTETS = 4096
MAX_OPEN = 10
"""Live channels of one device at a time, each a page."""
GOING, REFUSED, MALFORMED, SLOW, CROWDED = 1001, 4401, 4400, 4408, 4429

log = structlog.get_logger(__name__)


class Hello(Body):
    type: Literal["hello"]
    token: Annotated[str, Field(max_length=500)]
    after: Position | None = None
    mode: Literal["additional", "exclusive"] = "additional"


@routes.add("GET", "/v1/devices/{device_id}/live", streams="application/json", responses={101: None})
async def channel(request: Request) -> web.StreamResponse:
    """Open the live channel of a device: a WebSocket.

    The page sends `{"type": "hello", "token": "dt_...", "after": position, "mode": "additional"}`. The server answers
    `ready`, then sends each `notification` in the form the inbox has it, first those after `after`. In mode `exclusive`
    the page answers each with `{"type": "ack", "id"}`; what is not acknowledged within 5 s goes by Web Push.

    Closed with 4401 for a token or an origin that is not right, 4400 for what is not understood, 4408 when the page
    reads too slowly, 4429 when too many pages of the device or of the application are open.
    """
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_OCTETS)
    if not socket.can_prepare(request.http).ok:
        raise UpgradeRequired("this address speaks WebSocket")
    with request.state.limits.live_channels.slot():
        return await _opened(request, socket)


async def _opened(request: Request, socket: web.WebSocketResponse) -> web.StreamResponse:
    await socket.prepare(request.http)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a request is always handled in a task
    request.state.open_streams.add(task)
    try:
        await _serve(request, socket)
    except GatewayError as refusal:
        codes = {Unauthenticated: REFUSED, RateLimited: CROWDED}
        code = codes.get(type(refusal), MALFORMED)
        await socket.close(code=code, message=refusal.detail.encode()[:120])
    except TimeoutError:
        await socket.close(code=SLOW, message=b"read too slowly, or said nothing")
    except asyncio.CancelledError:
        await socket.close(code=GOING, message=b"this server is going away")
        raise
    except ConnectionError:
        pass  # the page has gone
    finally:
        request.state.open_streams.discard(task)
    return socket


async def _serve(request: Request, socket: web.WebSocketResponse) -> None:
    """Raises GatewayError, TimeoutError and ConnectionError."""
    async with asyncio.timeout(HELLO_S):
        hello = await _hello(socket)
    device = await _device(request, hello)
    if request.state.inbox_notifier.waiting(device.application_id, device.id) >= MAX_OPEN:
        raise RateLimited(f"{MAX_OPEN} pages of this device are open already", {})
    with request.state.limits.live_channels.share(device.application_id):
        await _follow(request, socket, device, hello)


async def _follow(request: Request, socket: web.WebSocketResponse, device: Device, hello: Hello) -> None:
    context = request.context
    exclusive = hello.mode == "exclusive"
    position = await live_channel.newest(context, device) if hello.after is None else hello.after
    if exclusive:
        await live_channel.claim(context, device)
    try:
        await _send(socket, {"type": "ready", "position": position})
        tasks = [
            asyncio.create_task(_tell(request, socket, device, position, exclusive=exclusive)),
            asyncio.create_task(_listen(request, socket, device)),
        ]
        if exclusive:
            tasks.append(asyncio.create_task(_keep(request, device)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            await task
    finally:
        if exclusive:
            with suppress(*DATABASE_ERRORS):  # it counts as open until its lease ends; Web Push then follows
                await live_channel.release(context, device)


async def _hello(socket: web.WebSocketResponse) -> Hello:
    message = await socket.receive()
    if message.type is not WSMsgType.TEXT:
        raise MalformedBody("the first message must be a hello")
    return read_body(Hello, message.data.encode())


async def _device(request: Request, hello: Hello) -> Device:
    """Raises Unauthenticated."""
    async with request.context.engine.connect() as conn:
        caller = await request.state.authenticator.identify(hello.token, conn)
        id_ = request.id("dev", "device_id")
        if caller.scopes != {DEVICE} or caller.device_id != id_ or caller.application_id is None:
            raise Unauthenticated("the token is not this device's")
        origin = request.http.headers.get("Origin")
        if origin is not None and origin not in await applications.get_allowed_origins(conn, caller.application_id):
            raise Unauthenticated("the page's origin is not among the application's")
        return await registration.find(conn, caller.application_id, id_)


async def _tell(
    request: Request, socket: web.WebSocketResponse, device: Device, after: int, *, exclusive: bool
) -> None:
    following = live_channel.follow(request.context, request.state.inbox_notifier, device, after, exclusive=exclusive)
    async with aclosing(following) as messages:
        async for message in messages:
            await _send(socket, message)


async def _listen(request: Request, socket: web.WebSocketResponse, device: Device) -> None:
    """Until the page closes."""
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            raise MalformedBody("only text is understood here")
        try:
            said = json.loads(message.data)
        except (ValueError, RecursionError):
            raise MalformedBody("what was said is not JSON") from None
        match said:
            case {"type": "ack", "id": str(delivery_id)}:
                await live_channel.acknowledge(request.context, device, delivery_id)
            case _:
                raise MalformedBody("what was said is not an ack")


async def _keep(request: Request, device: Device) -> None:
    while True:
        await asyncio.sleep(live_channel.RENEW_S)
        try:
            await live_channel.claim(request.context, device)
        except DATABASE_ERRORS as error:
            log.warning("live.database_unavailable", error=type(error).__name__)


async def _send(socket: web.WebSocketResponse, message: live_channel.Message) -> None:
    """Raises TimeoutError for a page that does not read, ConnectionError for one that has gone."""
    async with asyncio.timeout(SLOW_S):
        await socket.send_str(to_json(message).decode())
