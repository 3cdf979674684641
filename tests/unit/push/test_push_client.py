"""The client against local servers: what it sends, what it keeps, and what a hostile or broken one cannot do."""

import asyncio
import gc
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from gateway.push.client import CONNECTIONS_CLOSED, MAX_RESENDS, PushClient
from gateway.push.connection import ConnectionPool, Http2Connection
from gateway.push.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    build_frame,
)
from gateway.push.responses import PushResponse
from tests.support.tls import make_ca

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def post(client: PushClient, endpoint: str, body: bytes = b"sealed", ttl: int = 60) -> PushResponse:
    return await client.post(
        endpoint, body, ttl=ttl, urgency="high", topic="T" * 32, authorization="vapid t=a.b.c,k=BKey"
    )


@asynccontextmanager
async def http_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A push service at the origin it yields, answering every path with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"{'https' if tls else 'http'}://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that says what `serve` writes, HTTP or not."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(octets: bytes, *, then_hang: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\nsealed")
        writer.write(octets)
        await writer.drain()
        if then_hang:
            await asyncio.Event().wait()

    return serve


@pytest.fixture
async def client() -> AsyncIterator[PushClient]:
    async with PushClient(timeout=timedelta(seconds=5)) as client:
        yield client


async def test_a_message_is_posted_with_the_headers_of_rfc_8030_and_8291(client: PushClient) -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        return web.Response(status=201, headers={"Location": "/m/1", "TTL": "30"})

    async with http_server(handler) as origin:
        answer = await post(client, f"{origin}/push/a?b=c", b"\x00\xffsealed")
    [(method, path, headers, body)] = seen
    assert (method, path, body) == ("POST", "/push/a?b=c", b"\x00\xffsealed")
    sent = {name.lower(): value for name, value in headers.items()}
    assert sent == sent | {
        "ttl": "60",
        "urgency": "high",
        "topic": "T" * 32,
        "authorization": "vapid t=a.b.c,k=BKey",
        "content-encoding": "aes128gcm",
        "content-type": "application/json",
        "content-length": "8",
    }
    assert not sent.keys() & {"cookie", "referer", "x-wns-cache-policy", "accept-encoding"}
    assert (answer.status, answer.headers, answer.fault) == (201, {"location": "/m/1", "ttl": "30"}, None)


async def test_a_ttl_of_0_says_no_cache_to_wns(client: PushClient) -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["X-WNS-Cache-Policy"])
        return web.Response(status=201)

    async with http_server(handler) as origin:
        await post(client, f"{origin}/x", ttl=0)
    assert seen == ["no-cache"]


async def test_a_refusal_comes_with_its_reason(client: PushClient) -> None:
    told = {"Retry-After": "120", "X-WNS-Error-Description": "busy", "X-Other": "ignored"}

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"errno": 201}, status=503, headers=told)

    async with http_server(handler) as origin:
        answer = await post(client, f"{origin}/x")
    assert (answer.status, answer.body) == (503, b'{"errno": 201}')
    assert answer.headers == {"retry-after": "120", "x-wns-error-description": "busy"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(client: PushClient, status: int) -> None:
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with http_server(handler) as origin:
        answer = await post(client, f"{origin}/x")
    assert (answer.status, asked) == (status, ["/x"])


async def test_cookies_are_not_kept(client: PushClient) -> None:
    cookies = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(dict(request.cookies))
        return web.Response(status=201, headers={"Set-Cookie": "a=b; Path=/"})

    async with http_server(handler) as origin:
        await post(client, f"{origin}/x")
        await post(client, f"{origin}/x")
    assert cookies == [{}, {}]


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201)

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with http_server(handler) as origin, PushClient() as client:
        assert (await post(client, f"{origin}/x")).status == 201


async def test_connections_are_reused_when_a_201_has_a_body(client: PushClient) -> None:
    peers = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(status=201, text="{}")

    async with http_server(handler) as origin:
        for _ in range(10):
            assert (await post(client, f"{origin}/x")).status == 201
    assert len(peers) == 1


async def test_of_an_endless_body_4_kib_are_read(client: PushClient) -> None:
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\nsealed")
        writer.write(b"HTTP/1.1 500 Oops\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with raw_server(serve) as origin:
        answer = await post(client, f"{origin}/x")
    gc.collect()
    assert (answer.status, answer.body) == (500, b"x" * 4096)
    assert written < 50_000_000


async def test_a_compressed_body_is_not_unpacked(client: PushClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=400, body=b"\x1f\x8b not really", headers={"Content-Encoding": "gzip"})

    async with http_server(handler) as origin:
        assert (await post(client, f"{origin}/x")).body == b"\x1f\x8b not really"


@pytest.mark.parametrize("status", [201, 410])
@pytest.mark.parametrize("then_hang", [False, True])
async def test_a_status_counts_although_its_body_breaks_off_or_hangs(status: int, then_hang: bool) -> None:
    answering = saying(b"HTTP/1.1 %d X\r\nContent-Length: 50\r\n\r\nabc" % status, then_hang=then_hang)
    async with PushClient(timeout=timedelta(seconds=0.5)) as client, raw_server(answering) as origin:
        answer = await post(client, f"{origin}/x")
    assert (answer.status, answer.fault) == (status, None)


async def test_a_garbled_header_does_not_undo_a_201(client: PushClient) -> None:
    answering = saying(b"HTTP/1.1 201 Created\r\nLocation: /\xe4\xff\r\nTTL: 5\r\nContent-Length: 0\r\n\r\n")
    async with raw_server(answering) as origin:
        answer = await post(client, f"{origin}/x")
    assert (answer.status, answer.headers) == (201, {"ttl": "5"})


async def test_a_long_header_is_not_kept(client: PushClient) -> None:
    answering = saying(b"HTTP/1.1 201 Created\r\nLocation: /%s\r\nContent-Length: 0\r\n\r\n" % (b"x" * 100_000))
    async with raw_server(answering) as origin:
        answer = await post(client, f"{origin}/x")
    assert (answer.status, answer.headers) == (201, {})


def kind(answer: PushResponse) -> str:
    """The fault's kind; whatever it was, the endpoint must not be told."""
    assert answer.status is None
    assert answer.fault
    assert "secret" not in answer.fault.detail
    assert "://" not in answer.fault.detail
    return answer.fault.kind


async def test_headers_without_end_are_a_protocol_fault(client: PushClient) -> None:
    async with raw_server(saying(b"HTTP/1.1 400 X\r\nX: " + b"a" * 1_000_000, then_hang=True)) as origin:
        assert kind(await post(client, f"{origin}/secret")) == "protocol"


async def test_what_is_not_http_is_a_protocol_fault(client: PushClient) -> None:
    async with raw_server(saying(b"220 smtp.example.com ESMTP\r\n\r\n")) as origin:
        assert kind(await post(client, f"{origin}/secret")) == "protocol"


async def test_silence_is_a_timeout() -> None:
    async with PushClient(timeout=timedelta(seconds=0.3)) as client, raw_server(saying(b"", then_hang=True)) as origin:
        answer = await post(client, f"{origin}/secret")
    assert kind(answer) == "timeout"
    assert 250 < answer.duration_ms < 3000


async def test_a_closed_connection_is_a_reset(client: PushClient) -> None:
    async with raw_server(saying(b"")) as origin:
        assert kind(await post(client, f"{origin}/secret")) == "reset"


async def test_a_reset_connection_is_a_reset(client: PushClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\nsealed")
        # Linger of zero seconds: close sends RST instead of FIN.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with raw_server(serve) as origin:
        assert kind(await post(client, f"{origin}/secret")) == "reset"


async def test_a_refused_connection_is_a_connect_fault(client: PushClient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert kind(await post(client, f"http://127.0.0.1:{closed.getsockname()[1]}/secret")) == "connect"


async def test_an_unknown_name_is_a_dns_fault(client: PushClient) -> None:
    assert kind(await post(client, "http://push.invalid/secret")) == "dns"


async def test_an_endpoint_that_is_no_url_is_a_request_fault(client: PushClient) -> None:
    assert kind(await post(client, "http://xn--a.push.apple.com/secret")) == "request"


async def test_a_certificate_is_trusted_through_the_ca_file_alone(client: PushClient, tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201)

    context, ca_file = make_ca(tmp_path)
    async with http_server(handler, context) as origin:
        async with PushClient(ca_file) as trusting:
            assert (await post(trusting, f"{origin}/x")).status == 201
        assert kind(await post(client, f"{origin}/secret")) == "tls"


async def test_every_certificate_of_the_ca_file_is_trusted(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201)

    pairs = [make_ca(tmp_path / name) for name in ("first", "second")]
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(ca_file.read_bytes() for _, ca_file in pairs))
    async with PushClient(both) as client:
        for context, _ in pairs:
            async with http_server(handler, context) as origin:
                assert (await post(client, f"{origin}/x")).status == 201


async def test_a_certificate_for_another_name_is_a_tls_fault(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201)

    context, ca_file = make_ca(tmp_path)
    async with http_server(handler, context) as origin, PushClient(ca_file) as client:
        # The certificate is for 127.0.0.1; 127.0.0.1 written as an IPv4-mapped address reaches it under another name.
        other = origin.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        assert kind(await post(client, f"{other}/secret")) == "tls"


async def test_plain_http_where_tls_is_due_is_a_tls_fault(client: PushClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with raw_server(serve) as origin:
        assert kind(await post(client, f"{origin.replace('http', 'https')}/secret")) == "tls"


@pytest.mark.parametrize("content", ["", "not a certificate"])
def test_a_ca_file_without_a_certificate_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ValueError, match=r"ca\.pem holds no PEM certificate"):
        PushClient(tmp_path / "ca.pem")


class Http2Sink:
    """The least of an HTTP/2 server (RFC 9113): it answers 201, but only when `batch` requests wait for it."""

    def __init__(self) -> None:
        self.batch = 1
        self.greeting = build_frame(SETTINGS)
        self.answers_pings = True
        self.pings = 0
        self.asked_often = asyncio.Event()
        self.reset = asyncio.Event()
        self.closed = asyncio.Event()
        self.connections = 0
        self.most_open = 0
        self.bodies: dict[int, bytes] = {}
        self.arrived: asyncio.Queue[int] = asyncio.Queue()
        self._waiting: list[tuple[asyncio.StreamWriter, int]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        assert await reader.readexactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        writer.write(self.greeting)
        try:
            await self._converse(reader, writer)
        finally:
            self.closed.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big")
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if kind == SETTINGS and not flags & ACK:
                writer.write(build_frame(SETTINGS, ACK))
            elif kind == PING:
                self.pings += 1
                if self.pings == 3:
                    self.asked_often.set()
                if self.answers_pings:
                    writer.write(build_frame(PING, ACK, payload=payload))
            elif kind == RST_STREAM:
                self.reset.set()
            elif kind == DATA:
                self.bodies[stream] = self.bodies.get(stream, b"") + payload
                writer.write(build_frame(WINDOW_UPDATE, payload=struct.pack("!I", max(1, len(payload)))))
                if flags & END_STREAM:
                    self._waiting.append((writer, stream))
                    self.most_open = max(self.most_open, sum(other is writer for other, _ in self._waiting))
                    self.arrived.put_nowait(stream)
                    if len(self._waiting) == self.batch:
                        # RFC 7541 section 6.2.2: a literal value, its name `:status` the static table's entry 8.
                        for asking, done in self._waiting:
                            asking.write(build_frame(HEADERS, END_STREAM | END_HEADERS, done, b"\x08\x03201"))
                        self._waiting.clear()
            await writer.drain()


async def test_tls_speaks_http_2_with_many_posts_on_one_connection(tmp_path: Path) -> None:
    """The first post opens the connection; three more share it, none of them answered before all have arrived."""
    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    sink = Http2Sink()
    async with raw_server(sink.serve, context) as origin, PushClient(ca_file) as client:
        first = await post(client, f"{origin}/x", b"a")
        sink.batch = 3
        others = await asyncio.gather(*(post(client, f"{origin}/x", body) for body in (b"b" * 4096, b"c", b"d")))
    assert [answer.status for answer in (first, *others)] == [201] * 4
    assert sorted(sink.bodies.values()) == [b"a", b"b" * 4096, b"c", b"d"]
    assert (sink.connections, sink.most_open) == (1, 3)


async def test_what_is_more_than_one_connection_takes_goes_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that takes long then costs no more than the places it takes; when they are free one is enough again."""
    monkeypatch.setattr("gateway.push.http2.MAX_STREAMS", 3)
    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    sink = Http2Sink()
    async with raw_server(sink.serve, context) as origin, PushClient(ca_file) as client:
        assert (await post(client, f"{origin}/x")).status == 201
        await sink.arrived.get()
        sink.batch = 6
        posts = []
        for _ in range(6):
            posts.append(asyncio.ensure_future(post(client, f"{origin}/x")))
            await sink.arrived.get()  # two that find no connection would each make one
        assert {answer.status for answer in await asyncio.gather(*posts)} == {201}
        assert (sink.connections, sink.most_open) == (2, 3)
        sink.batch = 1
        for _ in range(5):
            assert (await post(client, f"{origin}/x")).status == 201
    assert sink.connections == 2


async def test_a_server_without_http_2_gets_http_1_1(tmp_path: Path) -> None:
    versions = []

    async def handler(request: web.Request) -> web.Response:
        versions.append(request.version)
        return web.Response(status=201)

    context, ca_file = make_ca(tmp_path, alpn=("http/1.1",))
    async with http_server(handler, context) as origin, PushClient(ca_file) as client:
        assert (await post(client, f"{origin}/x")).status == 201
    assert versions == [(1, 1)]


async def test_a_server_without_http_2_is_not_asked_for_it_each_time(tmp_path: Path) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\nsealed")
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

    context, ca_file = make_ca(tmp_path)
    async with raw_server(serve, context) as origin, PushClient(ca_file) as client:
        for _ in range(5):
            assert (await post(client, f"{origin}/x")).status == 201
    assert connections == 2


@asynccontextmanager
async def http_2(folder: Path, sink: Http2Sink, timeout: float = 5) -> AsyncIterator[tuple[PushClient, str]]:
    context, ca_file = make_ca(folder, alpn=("h2",))
    async with (
        raw_server(sink.serve, context) as origin,
        PushClient(ca_file, timeout=timedelta(seconds=timeout)) as client,
    ):
        yield client, f"{origin}/secret"


async def test_many_at_once_wait_for_one_connection(tmp_path: Path) -> None:
    sink = Http2Sink()
    async with http_2(tmp_path, sink) as (client, endpoint):
        answers = await asyncio.gather(*(post(client, endpoint) for _ in range(64)))
    assert ({answer.status for answer in answers}, sink.connections) == ({201}, 1)


class SpeaksHttp2(asyncio.Transport):
    """A transport that everything is written to in vain."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self if name == "ssl_object" else default

    def selected_alpn_protocol(self) -> str:
        return "h2"

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass


async def test_who_comes_just_when_a_connection_is_made_gets_it() -> None:
    loop, got = asyncio.get_running_loop(), []
    made = Http2Connection(timeout=5)
    made.connection_made(SpeaksHttp2())

    def come() -> None:
        with pytest.raises(StopIteration) as end:
            pool.acquire().send(None)
        got.append(end.value.value)

    async def open_one() -> Http2Connection:
        loop.call_soon(come)
        return made

    pool = ConnectionPool(open_one)
    assert await pool.acquire() is made
    assert got == [made]


async def test_what_an_ending_connection_did_not_look_at_goes_over_another(tmp_path: Path) -> None:
    sink = Http2Sink()
    async with http_2(tmp_path, sink) as (client, endpoint):
        sink.greeting = build_frame(SETTINGS) + build_frame(GOAWAY, 0, 0, bytes(8))
        first = asyncio.ensure_future(post(client, endpoint))
        await sink.closed.wait()
        sink.greeting = build_frame(SETTINGS)
        assert (await first).status == 201
        assert sink.connections > 1


async def test_a_server_that_ends_every_connection_is_a_reset(tmp_path: Path) -> None:
    sink = Http2Sink()
    sink.greeting = build_frame(SETTINGS) + build_frame(GOAWAY, 0, 0, bytes(8))
    async with http_2(tmp_path, sink) as (client, endpoint):
        assert kind(await post(client, endpoint)) == "reset"
    assert sink.connections == MAX_RESENDS


async def test_a_server_that_takes_no_message_at_once_gets_them_one_by_one(tmp_path: Path) -> None:
    sink = Http2Sink()
    sink.greeting = build_frame(SETTINGS, 0, 0, MAX_CONCURRENT_STREAMS.to_bytes(2) + bytes(4))
    async with http_2(tmp_path, sink) as (client, endpoint):
        answers = [await post(client, endpoint) for _ in range(3)]
    assert ({answer.status for answer in answers}, sink.connections, sink.most_open) == ({201}, 1, 1)


@pytest.mark.parametrize("answers_pings", [True, False])
async def test_silence_over_http_2_is_a_timeout_and_only_a_living_connection_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers_pings: bool
) -> None:
    monkeypatch.setattr("gateway.push.connection.PING_AFTER_S", 0.2)
    sink = Http2Sink()
    sink.batch, sink.answers_pings = 2, answers_pings
    async with http_2(tmp_path, sink, timeout=0.6) as (client, endpoint):
        assert kind(await post(client, endpoint)) == "timeout"
        if answers_pings:
            await sink.reset.wait()
        sink.batch = 1
        sink._waiting.clear()
        assert (await post(client, endpoint)).status == 201
    assert sink.connections == (1 if answers_pings else 2)


async def test_there_are_only_so_many_connections_and_the_rest_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.push.connection.MAX_CONNECTIONS", 3)
    sink = Http2Sink()
    sink.greeting = build_frame(SETTINGS, 0, 0, MAX_CONCURRENT_STREAMS.to_bytes(2) + (1).to_bytes(4))
    async with http_2(tmp_path, sink) as (client, endpoint):
        answers = await asyncio.gather(*(post(client, endpoint) for _ in range(60)))
    assert {answer.status for answer in answers} == {201}
    assert sink.connections <= 3


async def test_a_connection_that_was_closed_without_a_word_takes_no_more(tmp_path: Path) -> None:
    """What was sent on it may be lost; what comes after goes over another, and the client ends in good order."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        served = Http2Sink()
        with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            async with asyncio.timeout(0.05):
                await served.serve(reader, writer)

    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    async with raw_server(serve, context) as origin, PushClient(ca_file) as client:
        for _ in range(200):
            answer = await post(client, f"{origin}/secret")
            assert answer.status == 201 or kind(answer) == "reset"
            assert answer.fault != CONNECTIONS_CLOSED
            await asyncio.sleep(0)
            if connections > 2:
                break
            await asyncio.sleep(0.01)
    assert connections > 1


async def test_a_server_that_does_not_close_its_side_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.push.connection.IDLE_TIMEOUT", timedelta(seconds=0.05))
    monkeypatch.setattr("gateway.push.connection.CLOSE_TIMEOUT_S", 0.2)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.write(build_frame(SETTINGS))
        await reader.readuntil(b"sealed")
        writer.write(build_frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x48\x03201"))
        await writer.drain()
        writer.transport.pause_reading()
        await ended.wait()

    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    async with raw_server(serve, context) as origin:
        client = PushClient(ca_file, timeout=timedelta(seconds=1))
        assert (await post(client, f"{origin}/x")).status == 201
        [place] = client._origins.values()
        [connection] = place._pool._connections
        await connection.closed
        assert (await post(client, f"{origin}/x")).status == 201
        await client.__aexit__()
        ended.set()


async def test_a_message_nobody_waits_for_is_called_off(tmp_path: Path) -> None:
    sink = Http2Sink()
    sink.batch = 2
    async with http_2(tmp_path, sink) as (client, endpoint):
        posting = asyncio.ensure_future(post(client, endpoint))
        await sink.arrived.get()
        posting.cancel()
        await sink.reset.wait()


@pytest.mark.parametrize("answers_pings", [True, False])
async def test_a_silent_connection_is_asked_whether_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers_pings: bool
) -> None:
    """One that is has its time to answer; one that is not is given up, with all that lies with it."""
    monkeypatch.setattr("gateway.push.connection.PING_AFTER_S", 0.05)
    monkeypatch.setattr("gateway.push.connection.PING_TIMEOUT_S", 0.3)
    monkeypatch.setattr("gateway.push.connection.MAX_TICK_S", 0.02)
    sink = Http2Sink()
    sink.batch, sink.answers_pings = 2, answers_pings
    async with http_2(tmp_path, sink) as (client, endpoint):
        first = asyncio.ensure_future(post(client, endpoint))
        if answers_pings:
            await sink.arrived.get()
            await sink.asked_often.wait()
            assert (await post(client, endpoint)).status == (await first).status == 201
        else:
            assert kind(await first) == "timeout"
            await sink.closed.wait()
            assert sink.pings == 1


async def test_an_idle_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.push.connection.IDLE_TIMEOUT", timedelta(seconds=0.05))
    sink = Http2Sink()
    async with http_2(tmp_path, sink) as (client, endpoint):
        assert (await post(client, endpoint)).status == 201
        await sink.closed.wait()
        assert (await post(client, endpoint)).status == 201
    assert sink.connections == 2


async def test_what_is_no_http_2_is_a_protocol_fault(tmp_path: Path) -> None:
    sink = Http2Sink()
    sink.greeting = build_frame(SETTINGS, 0, 0, b"odd")
    async with http_2(tmp_path, sink) as (client, endpoint):
        assert kind(await post(client, endpoint)) in ("protocol", "reset")
        await sink.closed.wait()


async def test_a_server_that_breaks_off_over_http_2_is_a_reset(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(build_frame(SETTINGS))
        await reader.readexactly(24)
        await reader.readuntil(b"sealed")

    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    async with raw_server(serve, context) as origin, PushClient(ca_file) as client:
        assert kind(await post(client, f"{origin}/secret")) == "reset"


async def test_a_server_that_asks_and_does_not_listen_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pings would be answered into memory."""
    monkeypatch.setattr("gateway.push.connection.MAX_UNSENT_OCTETS", 1 << 16)
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.transport.pause_reading()
        try:
            while True:
                writer.write(build_frame(SETTINGS) + 1000 * build_frame(PING, 0, 0, bytes(8)))
                await writer.drain()
                await asyncio.sleep(0)
        finally:
            gone.set()

    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    async with raw_server(serve, context) as origin, PushClient(ca_file) as client:
        assert kind(await post(client, f"{origin}/secret")) == "reset"
        await gone.wait()


async def test_a_slow_address_does_not_hold_up_a_quick_one(tmp_path: Path) -> None:
    """`localhost` may lead to ::1 first, where nobody listens."""
    sink = Http2Sink()
    async with http_2(tmp_path, sink) as (client, endpoint):
        assert (await post(client, endpoint.replace("127.0.0.1", "localhost"))).status == 201
