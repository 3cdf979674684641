"""Overload: the server refuses excess requests at once and recovers when the load ends."""

import asyncio
import json
import re
import resource
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.domain import ids
from gateway.web.http.load_shedding import RequestLimiter, StreamLimiter
from tests.support.api import ADMIN, Api, ApiResponse
from tests.support.gateway_parts import APP_ORIGIN
from tests.support.worker_process import server_process

# The number of idle connections that one server must serve.
IDLE_CONNECTIONS = 10_000
# The upper bound of memory for all idle connections.
MAX_GROWTH_MB = 200.0


class SlowRequest:
    """A request with a chunked body whose end the test never sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(
        cls, api: Api, path: str = "/v1/devices", media_type: str = "application/json", key: str = ""
    ) -> "SlowRequest":
        slow_request = cls(*await connect(api.origin))
        slow_request.writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key or api.secret}\r\n"
            f"Content-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        await slow_request.send(b"{")
        return slow_request

    async def send(self, octets: bytes) -> None:
        self.writer.write(f"{len(octets):x}\r\n".encode() + octets + b"\r\n")
        await self.writer.drain()

    async def read_status_line(self) -> str:
        async with asyncio.timeout(20):
            return (await self.reader.readuntil(b"\r\n")).decode()

    async def end(self) -> None:
        self.writer.close()


async def connect(origin: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a TCP connection to an origin."""
    url = urlsplit(origin)
    return await asyncio.open_connection(url.hostname, url.port)


@pytest.fixture
async def limited_api(api: Api) -> Api:
    """A server that accepts two concurrent requests."""
    api.state.limits.requests = RequestLimiter(2)
    return api


async def wait_for_requests(api: Api, count: int) -> None:
    """Wait until the server counts `count` requests in progress."""
    async with asyncio.timeout(20):
        while api.state.limits.requests.in_use != count:  # noqa: ASYNC110 - the limiter raises no event
            await asyncio.sleep(0.01)


async def test_excess_requests_get_503_and_probes_are_answered(limited_api: Api) -> None:
    """Requests over the limit get 503 with Retry-After; health and readiness probes still get 200."""
    slow_requests = [await SlowRequest.open(limited_api) for _ in range(2)]
    await wait_for_requests(limited_api, 2)
    refused = await limited_api.call(
        "POST", "/v1/devices", limited_api.device(), key=limited_api.publishable, origin=APP_ORIGIN
    )
    assert (refused.status, refused.body["code"]) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await limited_api.call("GET", "/healthz", key=None)).status == 200
    assert (await limited_api.call("GET", "/readyz", key=None)).status == 200

    for slow_request in slow_requests:
        await slow_request.end()
    await wait_for_requests(limited_api, 0)
    assert (await limited_api.call("GET", "/v1/devices")).status == 200


async def test_long_polls_do_not_count_as_requests(limited_api: Api) -> None:
    """Waiting polls take no slot of the request limiter."""
    device = await limited_api.register()
    device_id, inbox_notifier = ids.parse(ids.DEVICE, device["id"]), limited_api.state.inbox_notifier
    assert device_id is not None
    path = f"/v1/devices/{device['id']}/inbox?wait=20&after=0"
    polls = []
    for _ in range(3):
        polls.append(asyncio.create_task(limited_api.call("GET", path, key=device["device_token"])))
        async with asyncio.timeout(20):
            while inbox_notifier.count_subscribers(limited_api.parts.application_id, device_id) < len(polls):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert (await limited_api.call("GET", "/v1/devices")).status == 200
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


async def test_bodies_over_the_memory_limit_are_refused(api: Api) -> None:
    """A body is refused if the bodies in memory exceed the limit, or those of its sender exceed the sender's share."""
    api.state.limits.requests = RequestLimiter(1000, 300_000)
    slow_requests = [await SlowRequest.open(api) for _ in range(2)]
    for slow_request in slow_requests:
        await slow_request.send(b" " * 200_000)
    done, _ = await asyncio.wait(
        [asyncio.create_task(slow_request.read_status_line()) for slow_request in slow_requests],
        return_when="FIRST_COMPLETED",
    )
    assert re.search("429|503", done.pop().result())
    assert (await api.call("GET", "/v1/devices")).status == 200
    for slow_request in slow_requests:
        await slow_request.end()


async def test_body_that_does_not_arrive_times_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose body does not arrive in time gets 408."""
    monkeypatch.setattr("gateway.web.dispatch.BODY_TIMEOUT_S", 0.2)
    slow_request = await SlowRequest.open(api)
    assert "408" in await slow_request.read_status_line()
    await slow_request.end()


async def test_silent_import_ends_and_reports_its_progress(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import whose client stops sending ends, and its last line has the number of processed lines."""
    monkeypatch.setattr("gateway.web.http.ndjson.CHUNK_TIMEOUT_S", 0.2)
    slow_request = await SlowRequest.open(api, "/v1/devices/import", "application/x-ndjson")
    assert "200" in await slow_request.read_status_line()
    async with asyncio.timeout(20):
        line = await slow_request.reader.readuntil(b'"body_too_slow"')
    assert b'"done": false' in line or b'"done":false' in line
    await slow_request.end()


async def test_imports_and_streams_are_limited_and_released(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application gets 4 of 8 slots; further requests get Retry-After, and closed streams release their slots."""
    monkeypatch.setattr("gateway.web.api.deliveries.POLL_INTERVAL_S", 0.05)
    keys = [api.secret]
    for name in ("Second", "Third"):
        request: dict[str, Any] = {"name": name, "subject": "mailto:ops@example.org", "allowed_origins": []}
        keys.append((await api.call_ok("POST", "/v1/applications", request, key=ADMIN))["secret_key"])
    device = await api.register()
    imports, streams, channels = (StreamLimiter(name, 8) for name in ("imports", "streams", "channels"))
    limits = api.state.limits
    limits.imports, limits.log_streams, limits.live_channels = imports, streams, channels

    async def wait_for_streams(limiter: StreamLimiter, count: int) -> None:
        async with asyncio.timeout(20):
            while limiter.in_use != count:  # noqa: ASYNC110 - the limiter raises no event
                await asyncio.sleep(0.01)

    async def open_stream(key: str, stack: AsyncExitStack) -> aiohttp.ClientResponse:
        request = api.http.get("/v1/deliveries/stream", headers={"Authorization": f"Bearer {key}"})
        return await stack.enter_async_context(request)

    async def post_import(key: str) -> ApiResponse:
        lines = {"Content-Type": "application/x-ndjson"}
        return await api.call("POST", "/v1/devices/import", raw=b"", key=key, headers=lines)

    async def open_page() -> aiohttp.ClientWebSocketResponse:
        page = await api.http.ws_connect(f"/v1/devices/{device['id']}/live")
        await page.send_json({"type": "hello", "token": device["device_token"]})
        return page

    async with AsyncExitStack() as stack:
        responses = await asyncio.gather(*(open_stream(keys[0], stack) for _ in range(30)))
        assert sorted(response.status for response in responses) == [200] * 4 + [429] * 26
        assert [(await open_stream(keys[1], stack)).status for _ in range(4)] == [200] * 4
        last = await open_stream(keys[2], stack)
        assert (last.status, (await last.json())["code"], int(last.headers["Retry-After"]) > 0) == (
            503,
            "unavailable",
            True,
        )

        for key in [keys[0]] * 4 + [keys[1]] * 4:
            slow_import = await SlowRequest.open(api, "/v1/devices/import", "application/x-ndjson", key)
            stack.push_async_callback(slow_import.end)
        await wait_for_streams(imports, 8)
        for key, status, code in ((keys[0], 429, "rate_limited"), (keys[2], 503, "unavailable")):
            refused = await post_import(key)
            assert (refused.status, refused.body["code"], int(refused.headers["Retry-After"]) > 0) == (
                status,
                code,
                True,
            )

        pages = [await open_page() for _ in range(4)]
        assert [(await page.receive_json())["type"] for page in pages] == ["ready"] * 4
        fifth = await open_page()
        assert (await fifth.receive()).data == 4429
        poll = await api.call("GET", f"/v1/devices/{device['id']}/inbox?wait=20&after=0")
        assert (poll.status, "Retry-After" in poll.headers) == (429, True)

        assert (await api.call("GET", "/v1/devices")).status == 200
        assert (await api.call("GET", "/readyz", key=None)).status == 200
        limits.live_channels = StreamLimiter("channels", 0)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await open_page()
        assert refusal.value.status == 503
        for page in pages:
            await page.close()
        for response in responses:
            response.close()
    for limiter in (imports, streams, channels):
        await wait_for_streams(limiter, 0)
    async with AsyncExitStack() as stack:
        assert (await open_stream(keys[0], stack)).status == 200
    assert (await post_import(keys[0])).status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/devices HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /v1/devices HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n",
    ],
    ids=["a long header", "many headers", "a long URL", "TLS"],
)
async def test_invalid_request_heads_are_refused(api: Api, head: bytes) -> None:
    """The response to an invalid request head is a problem document with a 4xx status."""
    reader, writer = await connect(api.origin)
    writer.write(head)
    async with asyncio.timeout(20):
        response = await reader.read()
    assert re.match(rb"HTTP/1.[01] 4\d\d ", response), response[:200]
    assert json.loads(response.partition(b"\r\n\r\n")[2])["code"] == "malformed_request"
    writer.close()
    assert (await api.call("GET", "/v1/devices")).status == 200


async def test_exhausted_pool_gets_503_and_recovers(api: Api) -> None:
    """A request that gets no database connection in time gets 503; later requests succeed."""
    context = api.state.context
    engine = create_async_engine(api.parts.engine.url, pool_size=1, max_overflow=0, pool_timeout=0.2)
    api.state.context = replace(context, engine=engine)
    async with engine.connect() as conn:
        await conn.execute(text("SELECT 1"))
        refused = await api.call("GET", "/v1/devices")
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)
    assert (await api.call("GET", "/v1/devices")).status == 200
    api.state.context = context
    await engine.dispose()


async def test_ten_thousand_idle_connections_are_served(api: Api, tmp_path: Path) -> None:
    """With ten thousand idle connections, requests succeed, and memory grows by less than MAX_GROWTH_MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(IDLE_CONNECTIONS, hard - 1000)
    try:
        async with server_process(api.parts, tmp_path) as (server, origin), AsyncExitStack() as stack:
            before = memory_mb(server.process.pid)
            for _ in range(0, count, 100):
                for _, writer in await asyncio.gather(*(connect(origin) for _ in range(100))):
                    stack.callback(writer.close)
            async with aiohttp.ClientSession() as http, http.get(f"{origin}/readyz") as response:
                assert response.status == 200
            assert memory_mb(server.process.pid) - before < MAX_GROWTH_MB
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return float(status.partition("VmRSS:")[2].split()[0]) / 1024
