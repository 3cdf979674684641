"""The simulator's push WebSocket for Firefox, with a test browser."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from sim_sender import Sender, encrypt

from gateway.sim import DeviceKeys, Sim, Subscriber, Vendor
from gateway.sim.base64url import decode, encode


class Clock:
    def __init__(self) -> None:
        # A fraction below a microsecond, which a datetime rounds up: a message with TTL 0 expires although the clock
        # stands still.
        self.now = int(time.time()) + 0.0000007

    def __call__(self) -> float:
        return self.now


class Browser:
    """A browser on the push WebSocket; `keys` are the encryption keys that its page would send to an application."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.keys = DeviceKeys.generate()
        self.uaid = ""

    async def send(self, **frame: Any) -> None:
        await self.socket.send_json(frame)

    async def receive(self) -> dict[str, Any]:
        frame = await self.socket.receive_json(timeout=5)
        assert isinstance(frame, dict)
        return frame

    async def request(self, **frame: Any) -> dict[str, Any]:
        await self.send(**frame)
        return await self.receive()

    async def hello(self, uaid: str = "") -> dict[str, Any]:
        reply = await self.request(messageType="hello", uaid=uaid, use_webpush=True, broadcasts={})
        self.uaid = reply["uaid"]
        return reply

    async def register(self, key: bytes | None = None, channel_id: str | None = None) -> str:
        key_field = {} if key is None else {"key": encode(key)}
        reply = await self.request(messageType="register", channelID=channel_id or str(uuid4()), **key_field)
        assert reply["status"] == 200
        return str(reply["pushEndpoint"])

    async def ack(self, notification: dict[str, Any], code: int = 100) -> None:
        update = {"channelID": notification["channelID"], "version": notification["version"], "code": code}
        await self.send(messageType="ack", updates=[update])

    async def is_quiet(self) -> bool:
        """Send a ping, and return whether its reply is the next frame, so that no other frame was pending."""
        return await self.request() == {}


@pytest.fixture
def clock() -> Clock:
    """The clock of the simulator, which a test advances."""
    return Clock()


@pytest.fixture
async def sim(clock: Clock) -> AsyncIterator[Sim]:
    async with Sim(clock=clock) as sim:
        yield sim


@asynccontextmanager
async def connect(sim: Sim, http: aiohttp.ClientSession, uaid: str | None = "") -> AsyncIterator[Browser]:
    """Connect a browser to the push WebSocket until the context ends."""
    async with http.ws_connect(sim.websocket_url, protocols=["push-notification"]) as socket:
        browser = Browser(socket)
        if uaid is not None:
            await browser.hello(uaid)
        yield browser


@pytest.fixture
async def browser(sim: Sim, http: aiohttp.ClientSession) -> AsyncIterator[Browser]:
    """A browser that is connected during the test."""
    async with connect(sim, http) as browser:
        yield browser


async def disconnect(sim: Sim, browser: Browser) -> None:
    """Close the connection of a browser, and wait until the simulator has noticed it."""
    await browser.socket.close()
    await sim.wait_for(lambda: browser.uaid not in sim.firefoxes.connected)


async def test_browser_keeps_its_uaid(sim: Sim, http: aiohttp.ClientSession) -> None:
    """A browser that returns with its uaid keeps it; an unknown uaid is replaced."""
    async with connect(sim, http, None) as browser:
        reply = await browser.hello()
        assert (reply["messageType"], reply["status"], reply["use_webpush"]) == ("hello", 200, True)
        await browser.register()
    async with connect(sim, http, None) as reconnected:
        assert (await reconnected.hello(browser.uaid))["uaid"] == browser.uaid
    async with connect(sim, http, None) as new_browser:
        assert (await new_browser.hello("unknown-uaid"))["uaid"] != "unknown-uaid"


async def test_push_is_delivered_and_acknowledged(sim: Sim, browser: Browser, sender: Sender) -> None:
    """A message waits until the browser acknowledges it."""
    channel_id = str(uuid4())
    endpoint = await browser.register(sender.public_key, channel_id)
    page = sim.subscribe(Vendor.MOZILLA, keys=browser.keys)
    assert (await sender.post(endpoint, encrypt(page, b"hello"))).status == 201
    notification = await browser.receive()
    assert notification["messageType"] == "notification"
    assert notification["channelID"] == channel_id
    assert notification["headers"] == {"encoding": "aes128gcm"}
    assert browser.keys.decrypt(decode(notification["data"])) == b"hello"
    [message] = sim.messages
    assert (message.delivered, message.ack, sim.firefoxes.waiting(browser.uaid)) == (True, None, [message])
    await browser.ack(notification, 101)
    await sim.wait_for(lambda: message.ack == 101)
    assert sim.firefoxes.waiting(browser.uaid) == []


async def test_push_without_body_has_no_data(browser: Browser, sender: Sender) -> None:
    """The notification of an empty message has neither data nor headers."""
    await sender.post(await browser.register())
    notification = await browser.receive()
    assert "data" not in notification
    assert "headers" not in notification


async def test_legacy_encoding_headers_are_forwarded(browser: Browser, sender: Sender) -> None:
    """The browser gets the headers that it needs to decrypt an aesgcm message."""
    headers: dict[str, str | None] = {"Content-Encoding": "aesgcm", "Encryption": "salt=x", "Crypto-Key": "dh=y"}
    await sender.post(await browser.register(), b"sealed", headers)
    assert (await browser.receive())["headers"] == {"encoding": "aesgcm", "encryption": "salt=x", "crypto_key": "dh=y"}


async def test_offline_browser_gets_messages_on_reconnect(
    sim: Sim, browser: Browser, sender: Sender, http: aiohttp.ClientSession
) -> None:
    """Messages arrive in their order, and only the newest of each topic."""
    endpoint = await browser.register()
    await disconnect(sim, browser)
    for topic in (None, "weather", "news", "weather"):
        assert (await sender.post(endpoint, headers={"Topic": topic})).status == 201
    first, _, news, weather = sim.messages
    assert not any(message.delivered for message in sim.messages)
    async with connect(sim, http, browser.uaid) as reconnected_browser:
        versions = [(await reconnected_browser.receive())["version"] for _ in range(3)]
        assert versions == [first.id, news.id, weather.id], "the second message replaces the first with its topic"
        assert await reconnected_browser.is_quiet()


async def test_topic_replaces_only_within_a_channel(
    sim: Sim, browser: Browser, sender: Sender, http: aiohttp.ClientSession
) -> None:
    """Two channels of a browser each get their message of the same topic."""
    endpoints = [await browser.register() for _ in range(2)]
    await disconnect(sim, browser)
    for endpoint in endpoints:
        await sender.post(endpoint, headers={"Topic": "weather"})
    async with connect(sim, http, browser.uaid) as reconnected_browser:
        assert len({(await reconnected_browser.receive())["channelID"] for _ in range(2)}) == 2


async def test_unacknowledged_message_is_resent(
    sim: Sim, browser: Browser, sender: Sender, http: aiohttp.ClientSession
) -> None:
    """A message is sent on each connection until it is acknowledged."""
    endpoint = await browser.register()
    await sender.post(endpoint)
    before = await browser.receive()
    await disconnect(sim, browser)
    async with connect(sim, http, browser.uaid) as reconnected_browser:
        assert await reconnected_browser.receive() == before
        await reconnected_browser.ack(before)
        await sim.wait_for(lambda: sim.messages[0].ack == 100)
        await disconnect(sim, reconnected_browser)
    async with connect(sim, http, browser.uaid) as reconnected:
        assert await reconnected.is_quiet()


async def test_expired_message_is_not_delivered(
    sim: Sim, browser: Browser, sender: Sender, http: aiohttp.ClientSession, clock: Clock
) -> None:
    """A browser that reconnects gets only messages whose time to live has not passed."""
    endpoint = await browser.register()
    await disconnect(sim, browser)
    await sender.post(endpoint, headers={"TTL": "60"})
    await sender.post(endpoint, headers={"TTL": "120"})
    clock.now += 61
    async with connect(sim, http, browser.uaid) as reconnected_browser:
        assert (await reconnected_browser.receive())["ttl"] == 120
        assert await reconnected_browser.is_quiet()


async def test_ttl_0_is_not_stored(sim: Sim, browser: Browser, sender: Sender, http: aiohttp.ClientSession) -> None:
    """A message with a time to live of 0 reaches only a connected browser."""
    endpoint = await browser.register()
    await sender.post(endpoint, headers={"TTL": "0"})
    assert (await browser.receive())["version"] == sim.messages[0].id
    await disconnect(sim, browser)
    assert (await sender.post(endpoint, headers={"TTL": "0"})).status == 201
    async with connect(sim, http, browser.uaid) as reconnected_browser:
        assert await reconnected_browser.is_quiet()


async def test_unregistered_channel_is_gone(browser: Browser, sender: Sender) -> None:
    """The endpoint of an unregistered channel returns 410."""
    channel_id = str(uuid4())
    endpoint = await browser.register(channel_id=channel_id)
    reply = await browser.request(messageType="unregister", channelID=channel_id, code=200)
    assert reply == {"messageType": "unregister", "channelID": channel_id, "status": 200}
    assert (await sender.post(endpoint)).status == 410
    assert await browser.is_quiet()


async def test_repeated_registration_is_the_same_subscription(browser: Browser, sender: Sender) -> None:
    """A repeated registration of a channel has the same endpoint; with another VAPID key, the endpoint is new."""
    channel_id = str(uuid4())
    endpoint = await browser.register(sender.public_key, channel_id)
    assert await browser.register(sender.public_key, channel_id) == endpoint
    assert await browser.register(None, channel_id) != endpoint
    assert (await sender.post(endpoint)).status == 410


async def test_channel_with_key_rejects_other_keys(browser: Browser, sender: Sender, sim: Sim) -> None:
    """A message with a token of another VAPID key gets 401 and is not delivered."""
    endpoint = await browser.register(Sender(sender.http).public_key)
    reply = await sender.post(endpoint)
    assert (reply.status, reply.reason()) == (401, 109)
    assert await browser.is_quiet()
    assert len(sim.messages) == 0


@pytest.mark.parametrize(
    "frame",
    [
        {"channelID": "not-a-uuid"},
        {"channelID": str(uuid4()), "key": "!"},
        {"channelID": str(uuid4()), "key": encode(b"\x04" + bytes(64))},
    ],
)
async def test_invalid_registration_keeps_the_connection(browser: Browser, frame: dict[str, Any]) -> None:
    """The browser gets status 400 and can continue."""
    assert (await browser.request(messageType="register", **frame))["status"] == 400
    assert await browser.is_quiet()


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"messageType": "register"}', '{"messageType": "sing"}'])
async def test_invalid_frame_closes_the_connection(sim: Sim, browser: Browser, text: str) -> None:
    """A frame that is not a valid message ends the connection."""
    await browser.socket.send_str(text)
    assert (await browser.socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
    await sim.wait_for(lambda: not sim.firefoxes.connected)


async def test_first_frame_must_be_hello(sim: Sim, http: aiohttp.ClientSession) -> None:
    """A connection that starts with another message is closed."""
    async with connect(sim, http, None) as browser:
        await browser.send(messageType="register", channelID=str(uuid4()))
        assert (await browser.socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE


async def test_second_connection_replaces_the_first(
    sim: Sim, browser: Browser, sender: Sender, http: aiohttp.ClientSession
) -> None:
    """The first connection is closed with code 4774, and messages go to the second."""
    endpoint = await browser.register()
    async with connect(sim, http, browser.uaid) as second_connection:
        close_frame = await browser.socket.receive(timeout=5)
        assert (close_frame.type, close_frame.data) == (aiohttp.WSMsgType.CLOSE, 4774)
        await sender.post(endpoint)
        assert (await second_connection.receive())["messageType"] == "notification"
        assert sim.firefoxes.connected == {browser.uaid}


async def test_disconnected_browsers_can_reconnect(sim: Sim, browser: Browser, http: aiohttp.ClientSession) -> None:
    """A disconnect by the simulator keeps the uaids of the browsers."""
    await browser.register()
    disconnecting = asyncio.create_task(sim.firefoxes.disconnect())
    assert (await browser.socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
    await disconnecting
    async with connect(sim, http, None) as reconnected_browser:
        assert (await reconnected_browser.hello(browser.uaid))["uaid"] == browser.uaid


async def test_simulated_and_real_devices_coexist(sim: Sim, browser: Browser, sender: Sender) -> None:
    """A message for a simulated device does not reach a connected browser."""
    device: Subscriber = sim.subscribe(Vendor.MOZILLA)
    assert await sender.push(device, b"for the device") == 201
    assert await browser.is_quiet()
    assert [message.text for message in device.messages] == ["for the device"]
