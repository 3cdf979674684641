"""The live channel: a WebSocket through which an open page receives its notifications at once.

The first message of the page contains the credential: browsers cannot send an Authorization header with a WebSocket,
and URLs are logged. The only state of a channel is the page's position in the inbox. A page that reads too slowly is
disconnected. It can connect again to any server, and continue from its position.
"""

import asyncio
import json
from contextlib import ExitStack, aclosing, suppress
from typing import Annotated, Literal

import structlog
from aiohttp import WSMsgType, web
from pydantic import Field

from gateway.domain import ids
from gateway.domain.database_work import LOOKUP
from gateway.domain.device import Device
from gateway.domain.errors import (
    GatewayError,
    MalformedBody,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UpgradeRequired,
)
from gateway.service.access import applications
from gateway.service.access.authentication import DEVICE
from gateway.service.audience import registration
from gateway.service.context import DATABASE_ERRORS
from gateway.service.inbox import live_channel
from gateway.web.api.inbox import Position
from gateway.web.http import credentials
from gateway.web.http.parsing import Body, read_body
from gateway.web.http.routing import Request, Routes, encode_json

routes = Routes("devices")

# Time for the page to send the first message.
HELLO_TIMEOUT_S = 5.0
# Interval of WebSocket pings.
HEARTBEAT_S = 20.0
# Time for the page to read a message, when the buffers of the connection are full.
WRITE_TIMEOUT_S = 10.0
# Maximum size of a message that a page sends.
MAX_MESSAGE_OCTETS = 4096
# Maximum number of live channels of one device. Each open page has one.
MAX_CHANNELS = 10
# WebSocket close codes. Codes from 4000 on are defined by the application (RFC 6455 section 7.4.2).
CLOSE_GOING_AWAY, CLOSE_TRY_AGAIN_LATER = 1001, 1013
CLOSE_UNAUTHENTICATED, CLOSE_MALFORMED, CLOSE_TOO_SLOW, CLOSE_TOO_MANY = 4401, 4400, 4408, 4429
# Maximum share of one client address in the channels that wait for the hello (the first message), as a multiple of the
# free slots: see SharedBudget.
ADDRESS_SHARE = 0.25

log = structlog.get_logger(__name__)


class Hello(Body):
    """The first message of a page."""

    type: Literal["hello"]
    token: Annotated[str, Field(max_length=500)]
    after: Position | None = None
    mode: Literal["additional", "exclusive"] = "additional"


@routes.add("GET", "/v1/devices/{device_id}/live", streams="application/json", responses={101: None})
async def open_live_channel(request: Request) -> web.StreamResponse:
    """Open the live channel of a device: a WebSocket.

    The page sends `{"type": "hello", "token": "dt_...", "after": position, "mode": "additional"}`. The server sends
    `ready`, and then a `notification` for each inbox item after the position `after`. In mode `exclusive`, the page
    acknowledges each notification with `{"type": "ack", "id"}`. A notification that is not acknowledged within 5 s is
    sent by Web Push.

    Close codes: 4401 for an invalid token or origin, 4400 for a malformed message, 4408 if the page reads too slowly
    or sends no hello within 5 s, 4429 if the device or the application has too many open channels, 1013 if too many
    channels are open on the server.
    """
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_OCTETS)
    if not socket.can_prepare(request.http).ok:
        raise UpgradeRequired("this endpoint requires a WebSocket upgrade")
    with ExitStack() as greeting:
        # A client without a credential can open a channel and send nothing. So until the hello the channel is charged
        # to the client address.
        limits = request.state.limits
        limits.live_channels.check()
        greeting.enter_context(
            limits.greetings.slot({request.state.client_addresses.resolve(request.http): ADDRESS_SHARE})
        )
        return await _serve(request, socket, greeting)


async def _serve(request: Request, socket: web.WebSocketResponse, greeting: ExitStack) -> web.StreamResponse:
    """Accept the WebSocket and serve the channel; close it with the code that corresponds to an error."""
    await socket.prepare(request.http)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - aiohttp runs every handler in a task
    request.state.open_streams.add(task)
    try:
        await _authenticate_and_send(request, socket, greeting)
    except GatewayError as error:
        codes = {
            Unauthenticated: CLOSE_UNAUTHENTICATED,
            RateLimited: CLOSE_TOO_MANY,
            Unavailable: CLOSE_TRY_AGAIN_LATER,
        }
        code = codes.get(type(error), CLOSE_MALFORMED)
        await socket.close(code=code, message=error.detail.encode()[:120])
    except TimeoutError:
        await socket.close(code=CLOSE_TOO_SLOW, message=b"the page read too slowly, or sent no hello")
    except asyncio.CancelledError:
        await socket.close(code=CLOSE_GOING_AWAY, message=b"the server is shutting down")
        raise
    except ConnectionError:
        pass  # the page has disconnected
    finally:
        request.state.open_streams.discard(task)
    return socket


async def _authenticate_and_send(request: Request, socket: web.WebSocketResponse, greeting: ExitStack) -> None:
    """Serve the channel until the page disconnects.

    `greeting` has the slot that the channel occupies until the hello is valid. It is closed then.

    Raises:
        GatewayError: the first message is invalid, or there are too many channels.
        TimeoutError: the page sends no first message, or reads too slowly.
        ConnectionError: the page has disconnected.
    """
    async with asyncio.timeout(HELLO_TIMEOUT_S):
        hello = await _receive_hello(socket)
    device = await _authenticate(request, hello)
    greeting.close()
    if request.state.inbox_notifier.count_subscribers(device.application_id, device.id) >= MAX_CHANNELS:
        raise RateLimited(f"the device has {MAX_CHANNELS} open channels", {})
    with request.state.limits.live_channels.slot_of(device.application_id):
        await _run_channel(request, socket, device, hello)


async def _run_channel(request: Request, socket: web.WebSocketResponse, device: Device, hello: Hello) -> None:
    """Send notifications and receive acknowledgements until the page disconnects."""
    context = request.context
    exclusive = hello.mode == "exclusive"
    position = await live_channel.last_position(context, device) if hello.after is None else hello.after
    if exclusive:
        await live_channel.claim(context, device)
    try:
        await _send(socket, {"type": "ready", "position": position})
        tasks = [
            asyncio.create_task(_send_notifications(request, socket, device, position, exclusive=exclusive)),
            asyncio.create_task(_receive_acknowledgements(request, socket, device)),
        ]
        if exclusive:
            tasks.append(asyncio.create_task(_renew_claim(request, device)))
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
            with suppress(*DATABASE_ERRORS):  # if it fails, the lease expires, and Web Push is used again
                await live_channel.release(context, device)


async def _receive_hello(socket: web.WebSocketResponse) -> Hello:
    message = await socket.receive()
    if message.type is not WSMsgType.TEXT:
        raise MalformedBody("the first message must be a hello")
    return read_body(Hello, message.data.encode())


async def _authenticate(request: Request, hello: Hello) -> Device:
    """Check the device token and the origin of the page, and return the device.

    Raises:
        Unauthenticated: the token belongs to another device, or the origin is not allowed.
    """
    address = request.state.client_addresses.resolve(request.http)
    principal = await credentials.identify(request.state, address, hello.token)
    id_ = request.id(ids.DEVICE, "device_id")
    if principal.scopes != {DEVICE} or principal.device_id != id_ or principal.application_id is None:
        raise Unauthenticated("the token is not this device's")
    async with request.context.connections.share(LOOKUP, "pages").connect() as conn:
        origin = request.http.headers.get("Origin")
        if origin is not None and origin not in await applications.get_allowed_origins(conn, principal.application_id):
            raise Unauthenticated("the page's origin is not among the application's allowed_origins")
        return await registration.find_device(conn, principal.application_id, id_)


async def _send_notifications(
    request: Request, socket: web.WebSocketResponse, device: Device, after: int, *, exclusive: bool
) -> None:
    messages = live_channel.follow(request.context, request.state.inbox_notifier, device, after, exclusive=exclusive)
    async with aclosing(messages):
        async for message in messages:
            await _send(socket, message)


async def _receive_acknowledgements(request: Request, socket: web.WebSocketResponse, device: Device) -> None:
    """Process the messages of the page until it disconnects."""
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            raise MalformedBody("the message must be text")
        try:
            payload = json.loads(message.data)
        except (ValueError, RecursionError):
            raise MalformedBody("the message is not JSON") from None
        match payload:
            case {"type": "ack", "id": str(delivery_id)}:
                await live_channel.acknowledge(request.context, device, delivery_id)
            case _:
                raise MalformedBody("the message is not an ack")


async def _renew_claim(request: Request, device: Device) -> None:
    while True:
        await asyncio.sleep(live_channel.RENEW_S)
        try:
            await live_channel.claim(request.context, device)
        except DATABASE_ERRORS as error:
            log.warning("live.database_unavailable", error=type(error).__name__)


async def _send(socket: web.WebSocketResponse, message: live_channel.Message) -> None:
    """Send a message; raises TimeoutError if the page does not read, ConnectionError if it has disconnected."""
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await socket.send_str(encode_json(message).decode())
