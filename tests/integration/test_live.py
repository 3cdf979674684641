"""The live channel: messages for open pages, resumption, exclusive mode, limits, and the fallback to Web Push."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from gateway.domain import ids
from gateway.service.inbox import live_channel
from gateway.sim import Subscriber, Vendor
from gateway.web.api import live as channel
from tests.support.api import Api, serve_api
from tests.support.gateway_parts import APP_ORIGIN


@dataclass
class Page:
    """A device whose page can open the live channel."""

    id: str
    token: str
    subscriber: Subscriber

    @asynccontextmanager
    async def open(
        self, api: Api, *, hello: dict[str, Any] | None = None, origin: str = APP_ORIGIN, **fields: Any
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        path = f"/v1/devices/{self.id}/live"
        async with api.http.ws_connect(path, headers={"Origin": origin}) as socket:
            await socket.send_json(hello or {"type": "hello", "token": self.token, **fields})
            yield socket


async def register_page(api: Api) -> Page:
    """Register a new device, and return its page."""
    [subscriber] = api.parts.subscribe(Vendor.MOZILLA, 1)
    registered = await api.call_ok("POST", "/v1/devices", {"subscription": subscriber.to_json()})
    return Page(registered["id"], registered["device_token"], subscriber)


async def wait_until_ready(socket: aiohttp.ClientWebSocketResponse) -> int:
    """Receive the `ready` message, and return its position."""
    message = await receive(socket)
    assert message["type"] == "ready"
    return int(message["position"])


async def receive(socket: aiohttp.ClientWebSocketResponse) -> Any:
    """Receive the next message of a live channel, within 15 s."""
    return await socket.receive_json(timeout=15)


async def wait_until_closed(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    """Wait until the server closes the connection, and return the close code."""
    async with asyncio.timeout(20):
        while not socket.closed:
            await socket.receive()
    return socket.close_code


async def send(api: Api, title: str) -> Any:
    """Send a notification to all devices, without running a worker."""
    request = {"content": {"title": title}, "audience": {"everyone": True}}
    return await api.call_ok("POST", "/v1/notifications", request)


async def wait_until_done(api: Api, notification: Any) -> Any:
    """Wait until the notification has settled, and return its only delivery."""
    id_ = ids.parse(ids.NOTIFICATION, notification["id"])
    assert id_ is not None
    await api.parts.wait_until_done(id_)
    [delivery] = (await api.call_ok("GET", f"/v1/deliveries?notification_id={notification['id']}"))["items"]
    return delivery


async def test_open_page_gets_messages_besides_web_push(api: Api) -> None:
    """The message is sent to the open page, whatever server it is connected to, and by Web Push as well."""
    page = await register_page(api)
    async with serve_api(api.parts) as second, page.open(second) as socket, api.parts.run_worker():
        assert await wait_until_ready(socket) == 0
        notification = await send(api, "Goal!")
        message = await receive(socket)
        assert (message["type"], message["content"]["title"]) == ("notification", "Goal!")
        assert message["notification_id"] == notification["id"]
        await wait_until_done(api, notification)
    assert len(page.subscriber.messages) == 1


async def test_missed_messages_come_first_and_in_order(api: Api) -> None:
    """A page that reconnects with its position gets the messages after it, the oldest first."""
    page = await register_page(api)
    async with api.parts.run_worker():
        async with page.open(api) as socket:
            await wait_until_ready(socket)
            await wait_until_done(api, await send(api, "n0"))
            position = (await receive(socket))["position"]
        for number in (1, 2):
            await wait_until_done(api, await send(api, f"n{number}"))
        async with page.open(api, after=position) as socket:
            assert await wait_until_ready(socket) == position
            assert [(await receive(socket))["content"]["title"] for _ in range(2)] == ["n1", "n2"]
            await send(api, "n3")
            assert (await receive(socket))["content"]["title"] == "n3"


@pytest.mark.parametrize(
    "text",
    ["", "{", "NaN", "[]", "7", "[" * 3_000, '{"a":' * 800, '{"type": "ack"}', '{"type": "ack", "id": 7}'],
    ids=["empty", "cut off", "NaN", "list", "number", "deep", "deep objects", "no id", "id no text"],
)
async def test_malformed_message_closes_the_connection(api: Api, text: str) -> None:
    """A malformed message closes the connection with the code CLOSE_MALFORMED, before and after the hello."""
    page = await register_page(api)
    async with page.open(api) as socket:
        await wait_until_ready(socket)
        await socket.send_str(text)
        assert await wait_until_closed(socket) == channel.CLOSE_MALFORMED
    async with api.http.ws_connect(f"/v1/devices/{page.id}/live", headers={"Origin": APP_ORIGIN}) as socket:
        await socket.send_str(text)
        assert await wait_until_closed(socket) == channel.CLOSE_MALFORMED


async def test_ack_of_an_unknown_delivery_is_ignored(api: Api) -> None:
    """An ack whose id is not that of an offered message does not close the connection."""
    page = await register_page(api)
    async with page.open(api) as socket:
        await wait_until_ready(socket)
        for id_ in ("", "\0", "\ud800", "dlv_x", "dlv_" + "f" * 64, "x" * 3_000):
            await socket.send_str(json.dumps({"type": "ack", "id": id_}))
        async with api.parts.run_worker():
            await send(api, "Goal!")
            assert (await receive(socket))["content"]["title"] == "Goal!"


async def test_exclusive_page_replaces_web_push(api: Api) -> None:
    """A page in exclusive mode gets the message, and Web Push does not."""
    page = await register_page(api)
    async with page.open(api, mode="exclusive") as socket, api.parts.run_worker():
        await wait_until_ready(socket)
        notification = await send(api, "Goal!")
        message = await receive(socket)
        assert (message["content"]["title"], message["position"]) == ("Goal!", None)
        await socket.send_json({"type": "ack", "id": message["id"]})
        delivery = await wait_until_done(api, notification)
        assert await receive(socket) == {"type": "position", "position": 1}
    assert (delivery["outcome"], delivery["status"]) == ("accepted", None)
    assert delivery["cause"] == "acknowledged by the open page over the live channel"
    assert page.subscriber.messages == []


@pytest.mark.parametrize("is_closed", [False, True])
async def test_unacknowledged_message_goes_by_web_push(api: Api, is_closed: bool) -> None:
    """A message that the page does not acknowledge, open or closed, is sent by Web Push."""
    page = await register_page(api)
    async with page.open(api, mode="exclusive") as socket, api.parts.run_worker():
        await wait_until_ready(socket)
        notification = await send(api, "Goal!")
        assert (await receive(socket))["content"]["title"] == "Goal!"
        if is_closed:
            await socket.close()
        delivery = await wait_until_done(api, notification)
    assert (delivery["outcome"], delivery["status"], delivery["attempts"]) == ("accepted", 201, 1)
    assert len(page.subscriber.messages) == 1


async def test_closed_page_gets_nothing_more(api: Api) -> None:
    """After an exclusive page has closed its channel, messages are sent by Web Push."""
    page = await register_page(api)
    async with page.open(api, mode="exclusive") as socket:
        await wait_until_ready(socket)
        assert await api.parts.scalar("SELECT live_until > now() FROM devices")
        await socket.close()
    async with asyncio.timeout(10):
        while await api.parts.scalar("SELECT live_until FROM devices"):  # noqa: ASYNC110 - the server raises no event
            await asyncio.sleep(0.02)
    async with api.parts.run_worker():
        assert (await wait_until_done(api, await send(api, "Goal!")))["status"] == 201


async def test_dead_server_delays_delivery_by_its_lease_at_most(api: Api) -> None:
    """The message of a page whose server has died is sent by Web Push before the page's lease expires."""
    page = await register_page(api)
    async with api.parts.engine.begin() as conn:
        await conn.exec_driver_sql("UPDATE devices SET live_until = now() + interval '45 seconds'")
    async with api.parts.run_worker():
        delivery = await wait_until_done(api, await send(api, "Goal!"))
    assert delivery["status"] == 201
    assert len(page.subscriber.messages) == 1


async def test_cancelled_notification_is_offered_to_no_page(api: Api) -> None:
    """Cancelling before the worker runs leaves no message for an open page."""
    page = await register_page(api)
    async with page.open(api, mode="exclusive") as socket:
        await wait_until_ready(socket)
        notification = await send(api, "Withdrawn")
        await api.call_ok("POST", f"/v1/notifications/{notification['id']}/cancel")
        async with api.parts.run_worker():
            await assert_cancelled(api, notification)
    assert await api.parts.scalar("SELECT count(*) FROM live_waiting") == 0


async def assert_cancelled(api: Api, notification: Any) -> None:
    """Check that the API returns the notification as cancelled."""
    body = await api.call_ok("GET", f"/v1/notifications/{notification['id']}")
    assert body["status"] == "cancelled"


async def test_connection_without_permission_is_refused(api: Api) -> None:
    """A wrong token or origin closes the connection."""
    page, other = await register_page(api), await register_page(api)
    for opening in (
        page.open(api, hello={"type": "hello", "token": other.token}),
        page.open(api, hello={"type": "hello", "token": api.secret}),
        page.open(api, hello={"type": "hello", "token": "dt_nonsense"}),
        page.open(api, origin="https://evil.example"),
    ):
        async with opening as socket:
            assert await wait_until_closed(socket) == channel.CLOSE_UNAUTHENTICATED
    for nonsense in ({"type": "hello"}, {"type": "hi", "token": page.token}, {"type": "hello", "token": 1, "x": 2}):
        async with page.open(api, hello=nonsense) as socket:
            assert await wait_until_closed(socket) == channel.CLOSE_MALFORMED


async def test_unregistered_device_closes_its_page(api: Api) -> None:
    """The next notification to the application closes the page of an unregistered device."""
    page = await register_page(api)
    async with page.open(api) as socket:
        await wait_until_ready(socket)
        await api.call_ok("DELETE", f"/v1/devices/{page.id}", key=page.token)
        await register_page(api)
        async with api.parts.run_worker():
            await wait_until_done(api, await send(api, "After"))
        assert await wait_until_closed(socket) == channel.CLOSE_UNAUTHENTICATED


async def test_connections_per_device_are_limited(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection over the limit of a device is closed, and the connections before it stay open."""
    monkeypatch.setattr(channel, "MAX_CHANNELS", 1)
    page = await register_page(api)
    async with page.open(api) as first:
        await wait_until_ready(first)
        async with asyncio.timeout(10):
            while not api.state.inbox_notifier.count_subscribers(api.parts.application_id, parse_device_id(page)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with page.open(api) as second:
            assert await wait_until_closed(second) == channel.CLOSE_TOO_MANY


def parse_device_id(page: Page) -> UUID:
    """Return the device id of a page as a UUID."""
    device_id = ids.parse(ids.DEVICE, page.id)
    assert device_id is not None
    return device_id


async def test_silent_connection_times_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a hello message is closed after HELLO_TIMEOUT_S."""
    monkeypatch.setattr(channel, "HELLO_TIMEOUT_S", 0.2)
    page = await register_page(api)
    async with api.http.ws_connect(f"/v1/devices/{page.id}/live") as socket:
        assert await wait_until_closed(socket) == channel.CLOSE_TOO_SLOW


async def test_page_that_does_not_read_is_closed_and_resumes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that reads too slowly loses its connection; after it reconnects, it gets all messages."""
    monkeypatch.setattr(channel, "WRITE_TIMEOUT_S", 0.3)
    page = await register_page(api)
    async with api.parts.run_worker():
        notification = await send(api, "x" * 400)
        await wait_until_done(api, notification)
    async with api.parts.engine.begin() as conn:  # 12 MB of messages, which is more than all network buffers
        await conn.exec_driver_sql(
            "INSERT INTO notifications SELECT (jsonb_populate_record(n, jsonb_build_object("
            "'id', gen_random_uuid(), 'content', jsonb_build_object('title', repeat('y', 3000))))).* "
            "FROM notifications n, generate_series(1, 4000)"
        )
        await conn.exec_driver_sql(
            "INSERT INTO deliveries SELECT (jsonb_populate_record(d, jsonb_build_object("
            "'notification_id', n.id, 'position', 1 + row_number() OVER ()))).* FROM deliveries d, notifications n "
            "WHERE n.id <> d.notification_id"
        )
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.origin.rpartition(":")[2]), limit=1024)
    request = (
        f"GET /v1/devices/{page.id}/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: {APP_ORIGIN}\r\n\r\n"
    )
    writer.write(request.encode())
    await reader.readuntil(b"\r\n\r\n")
    hello = b'{"type":"hello","token":"%s","after":0}' % page.token.encode()
    # A WebSocket text frame with a 16-bit length (RFC 6455 section 5.2), masked with a key of zeros.
    writer.write(bytes([0x81, 0xFE]) + len(hello).to_bytes(2, "big") + bytes(4) + hello)
    async with asyncio.timeout(20):
        while not api.state.open_streams:  # noqa: ASYNC110 - the server raises no event
            await asyncio.sleep(0.005)
        while api.state.open_streams:  # noqa: ASYNC110 - the server raises no event
            await asyncio.sleep(0.05)
    writer.close()
    async with page.open(api, after=0) as socket:
        await wait_until_ready(socket)
        positions = [(await receive(socket))["position"] for _ in range(200)]
    assert positions == list(range(1, 201))


async def test_stopping_server_closes_pages_for_reconnection(api: Api) -> None:
    """A stopping server closes channels with the code on which the SDK reconnects."""
    page = await register_page(api)
    async with serve_api(api.parts) as second, page.open(second) as socket:
        await wait_until_ready(socket)
        for task in second.state.open_streams:
            task.cancel()
        assert await wait_until_closed(socket) == channel.CLOSE_GOING_AWAY


async def test_request_without_upgrade_gets_426(api: Api) -> None:
    """A request without an upgrade gets 426."""
    page = await register_page(api)
    response = await api.call("GET", f"/v1/devices/{page.id}/live", key=None)
    assert (response.status, response.body["code"], response.headers["Upgrade"]) == (
        426,
        "upgrade_required",
        "websocket",
    )


async def test_idle_page_uses_no_database_connection(api: Api) -> None:
    """After the first queries, open pages have no database connection checked out."""
    pages = [await register_page(api) for _ in range(3)]
    async with pages[0].open(api) as first, pages[1].open(api) as second, pages[2].open(api, mode="exclusive") as third:
        for socket in (first, second, third):
            await wait_until_ready(socket)
        pool: Any = api.parts.engine.pool
        async with asyncio.timeout(10):
            while pool.checkedout():  # noqa: ASYNC110 - the first queries of the channels raise no event
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert pool.checkedout() == 0


def test_lease_is_renewed_well_before_it_ends() -> None:
    """A lease survives one failed renewal: it lasts more than twice the time between renewals."""
    assert live_channel.LEASE.total_seconds() > 2 * live_channel.RENEW_S
