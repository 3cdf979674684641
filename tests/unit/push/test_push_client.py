"""The push client against local servers: requests, connection reuse, and hostile or broken servers."""

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
    """Post a message; the servers of this module recognise the end of a request by the body `sealed`."""
    return await client.post(
        endpoint, body, ttl=ttl, urgency="high", topic="T" * 32, authorization="vapid t=a.b.c,k=BKey"
    )


@asynccontextmanager
async def http_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve every path with `handler` until the context ends; yield the server's origin."""
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
    """Serve every connection with `serve`, which need not speak HTTP; yield the server's origin."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve_connection, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def respond_with(octets: bytes, *, then_hang: bool = False) -> Serve:
    """Return a function that serves one connection: it sends `octets` after the first request, and then closes.

    With `then_hang` it leaves the connection open instead.
    """

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


async def test_post_has_the_headers_of_rfc_8030_and_8291(client: PushClient) -> None:
    """A request has the headers for the message's time to live, urgency, topic and encoding, and for the token."""
    requests = []

    async def handler(request: web.Request) -> web.Response:
        requests.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        return web.Response(status=201, headers={"Location": "/m/1", "TTL": "30"})

    async with http_server(handler) as origin:
        response = await post(client, f"{origin}/push/a?b=c", b"\x00\xffsealed")
    [(method, path, headers, body)] = requests
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
    assert (response.status, response.headers, response.fault) == (201, {"location": "/m/1", "ttl": "30"}, None)


async def test_ttl_0_sets_the_wns_cache_policy(client: PushClient) -> None:
    """WNS must not store a message with a time to live of 0."""
    requests = []

    async def handler(request: web.Request) -> web.Response:
        requests.append(request.headers["X-WNS-Cache-Policy"])
        return web.Response(status=201)

    async with http_server(handler) as origin:
        await post(client, f"{origin}/x", ttl=0)
    assert requests == ["no-cache"]


async def test_error_response_has_reason_headers(client: PushClient) -> None:
    """The client returns the headers that explain an error, and drops the others."""
    headers = {"Retry-After": "120", "X-WNS-Error-Description": "busy", "X-Other": "ignored"}

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"errno": 201}, status=503, headers=headers)

    async with http_server(handler) as origin:
        response = await post(client, f"{origin}/x")
    assert (response.status, response.body) == (503, b'{"errno": 201}')
    assert response.headers == {"retry-after": "120", "x-wns-error-description": "busy"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(client: PushClient, status: int) -> None:
    """The caller gets the redirect as the response, and the URL in `Location` is not requested."""
    paths = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with http_server(handler) as origin:
        response = await post(client, f"{origin}/x")
    assert (response.status, paths) == (status, ["/x"])


async def test_cookies_are_not_stored(client: PushClient) -> None:
    """A cookie of a response is not sent with the next request."""
    cookies = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(dict(request.cookies))
        return web.Response(status=201, headers={"Set-Cookie": "a=b; Path=/"})

    async with http_server(handler) as origin:
        await post(client, f"{origin}/x")
        await post(client, f"{origin}/x")
    assert cookies == [{}, {}]


async def test_proxy_in_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages go directly to the push service."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201)

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # port 9: no server listens there
    async with http_server(handler) as origin, PushClient() as client:
        assert (await post(client, f"{origin}/x")).status == 201


async def test_connection_is_reused_after_201_with_body(client: PushClient) -> None:
    """Ten messages in sequence use one connection."""
    peers = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(status=201, text="{}")

    async with http_server(handler) as origin:
        for _ in range(10):
            assert (await post(client, f"{origin}/x")).status == 201
    assert len(peers) == 1


async def test_endless_body_is_read_up_to_4_kib(client: PushClient) -> None:
    """The client reads the first 4 KiB of the body of an error response and then closes the connection."""
    written_octets = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written_octets
        await reader.readuntil(b"\r\n\r\nsealed")
        writer.write(b"HTTP/1.1 500 Error\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written_octets += 65536

    async with raw_server(serve) as origin:
        response = await post(client, f"{origin}/x")
    gc.collect()
    assert (response.status, response.body) == (500, b"x" * 4096)
    # The server can write only what fits in the socket buffers before the client closes.
    assert written_octets < 50_000_000


async def test_compressed_body_is_not_decompressed(client: PushClient) -> None:
    """The client returns the octets of the body as the server sent them."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=400, body=b"\x1f\x8b not really", headers={"Content-Encoding": "gzip"})

    async with http_server(handler) as origin:
        assert (await post(client, f"{origin}/x")).body == b"\x1f\x8b not really"


@pytest.mark.parametrize("status", [201, 410])
@pytest.mark.parametrize("then_hang", [False, True])
async def test_status_counts_with_incomplete_body(status: int, then_hang: bool) -> None:
    """The client returns the status, even if the body is truncated or does not arrive before the timeout."""
    serve_response = respond_with(b"HTTP/1.1 %d X\r\nContent-Length: 50\r\n\r\nabc" % status, then_hang=then_hang)
    async with PushClient(timeout=timedelta(seconds=0.5)) as client, raw_server(serve_response) as origin:
        response = await post(client, f"{origin}/x")
    assert (response.status, response.fault) == (status, None)


async def test_header_that_is_not_text_is_dropped(client: PushClient) -> None:
    """The response keeps its status and its other headers."""
    serve_response = respond_with(b"HTTP/1.1 201 Created\r\nLocation: /\xe4\xff\r\nTTL: 5\r\nContent-Length: 0\r\n\r\n")
    async with raw_server(serve_response) as origin:
        response = await post(client, f"{origin}/x")
    assert (response.status, response.headers) == (201, {"ttl": "5"})


async def test_long_header_is_dropped(client: PushClient) -> None:
    """The response keeps its status."""
    serve_response = respond_with(
        b"HTTP/1.1 201 Created\r\nLocation: /%s\r\nContent-Length: 0\r\n\r\n" % (b"x" * 100_000)
    )
    async with raw_server(serve_response) as origin:
        response = await post(client, f"{origin}/x")
    assert (response.status, response.headers) == (201, {})


def fault_kind(response: PushResponse) -> str:
    """Return the kind of the response's network fault, after checking that its detail has no endpoint."""
    assert response.status is None
    assert response.fault
    assert "secret" not in response.fault.detail
    assert "://" not in response.fault.detail
    return response.fault.kind


async def test_endless_headers_are_a_protocol_fault(client: PushClient) -> None:
    """The client stops reading when the headers exceed its size limit."""
    async with raw_server(respond_with(b"HTTP/1.1 400 X\r\nX: " + b"a" * 1_000_000, then_hang=True)) as origin:
        assert fault_kind(await post(client, f"{origin}/secret")) == "protocol"


async def test_non_http_response_is_a_protocol_fault(client: PushClient) -> None:
    """An SMTP server's greeting is a protocol fault."""
    async with raw_server(respond_with(b"220 smtp.example.com ESMTP\r\n\r\n")) as origin:
        assert fault_kind(await post(client, f"{origin}/secret")) == "protocol"


async def test_missing_response_is_a_timeout() -> None:
    """The fault occurs when the timeout of 0.3 s has passed, not before."""
    async with (
        PushClient(timeout=timedelta(seconds=0.3)) as client,
        raw_server(respond_with(b"", then_hang=True)) as origin,
    ):
        response = await post(client, f"{origin}/secret")
    assert fault_kind(response) == "timeout"
    assert response.duration_ms > 250


async def test_closed_connection_is_a_reset(client: PushClient) -> None:
    """The server closes the connection after the request and sends no response."""
    async with raw_server(respond_with(b"")) as origin:
        assert fault_kind(await post(client, f"{origin}/secret")) == "reset"


async def test_tcp_reset_is_a_reset(client: PushClient) -> None:
    """The server ends the connection with a TCP RST instead of a response."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\nsealed")
        # With a linger time of zero seconds, close sends RST instead of FIN.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with raw_server(serve) as origin:
        assert fault_kind(await post(client, f"{origin}/secret")) == "reset"


async def test_refused_connection_is_a_connect_fault(client: PushClient) -> None:
    """No server listens on the port."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert fault_kind(await post(client, f"http://127.0.0.1:{closed.getsockname()[1]}/secret")) == "connect"


async def test_unknown_host_is_a_dns_fault(client: PushClient) -> None:
    """The system's resolver finds no address for the host name."""
    assert fault_kind(await post(client, "http://push.invalid/secret")) == "dns"


async def test_invalid_url_is_a_request_fault(client: PushClient) -> None:
    """The host name has invalid Punycode, so no request can be built."""
    assert fault_kind(await post(client, "http://xn--a.push.apple.com/secret")) == "request"


async def test_ca_file_makes_certificate_trusted(client: PushClient, tmp_path: Path) -> None:
    """A client trusts a certificate of a private authority only with the CA file of that authority."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201)

    context, ca_file = make_ca(tmp_path)
    async with http_server(handler, context) as origin:
        async with PushClient(ca_file) as client_with_ca:
            assert (await post(client_with_ca, f"{origin}/x")).status == 201
        assert fault_kind(await post(client, f"{origin}/secret")) == "tls"


async def test_all_certificates_of_ca_file_are_trusted(tmp_path: Path) -> None:
    """A CA file may contain the certificates of more than one authority."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201)

    pairs = [make_ca(tmp_path / name) for name in ("first", "second")]
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"".join(ca_file.read_bytes() for _, ca_file in pairs))
    async with PushClient(bundle) as client:
        for context, _ in pairs:
            async with http_server(handler, context) as origin:
                assert (await post(client, f"{origin}/x")).status == 201


async def test_certificate_for_other_name_is_a_tls_fault(tmp_path: Path) -> None:
    """The certificate must contain the address to which the client connects."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201)

    context, ca_file = make_ca(tmp_path)
    async with http_server(handler, context) as origin, PushClient(ca_file) as client:
        # The IPv4-mapped form reaches the same server by an address that is not in its certificate.
        mapped_origin = origin.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        assert fault_kind(await post(client, f"{mapped_origin}/secret")) == "tls"


async def test_plain_http_on_https_port_is_a_tls_fault(client: PushClient) -> None:
    """The server answers the TLS handshake with plain HTTP."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with raw_server(serve) as origin:
        assert fault_kind(await post(client, f"{origin.replace('http', 'https')}/secret")) == "tls"


@pytest.mark.parametrize("content", ["", "not a certificate"])
def test_ca_file_without_certificate_is_rejected(tmp_path: Path, content: str) -> None:
    """The error message contains the path of the CA file."""
    (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ValueError, match=r"ca\.pem holds no PEM certificate"):
        PushClient(tmp_path / "ca.pem")


class Http2Sink:
    """A minimal HTTP/2 server (RFC 9113) that responds with 201 to all waiting requests once there are `batch`.

    `greeting` is the frames that it sends on a new connection, `arrived` the stream ids of complete requests, and
    `reset` is set when the client resets a stream.
    """

    def __init__(self) -> None:
        self.batch = 1
        self.greeting = build_frame(SETTINGS)
        self.answers_pings = True
        self.pings = 0
        self.pinged_three_times = asyncio.Event()
        self.reset = asyncio.Event()
        self.closed = asyncio.Event()
        self.connections = 0
        self.max_open_streams = 0
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
                    self.pinged_three_times.set()
                if self.answers_pings:
                    writer.write(build_frame(PING, ACK, payload=payload))
            elif kind == RST_STREAM:
                self.reset.set()
            elif kind == DATA:
                self.bodies[stream] = self.bodies.get(stream, b"") + payload
                writer.write(build_frame(WINDOW_UPDATE, payload=struct.pack("!I", max(1, len(payload)))))
                if flags & END_STREAM:
                    self._waiting.append((writer, stream))
                    streams_of_connection = sum(waiting_writer is writer for waiting_writer, _ in self._waiting)
                    self.max_open_streams = max(self.max_open_streams, streams_of_connection)
                    self.arrived.put_nowait(stream)
                    if len(self._waiting) == self.batch:
                        # RFC 7541 section 6.2.2: `:status` is entry 8 of the static table, and 201 a literal value.
                        for waiting_writer, id_ in self._waiting:
                            waiting_writer.write(build_frame(HEADERS, END_STREAM | END_HEADERS, id_, b"\x08\x03201"))
                        self._waiting.clear()
            await writer.drain()

    def drop_waiting_requests(self) -> None:
        """Never respond to the requests that wait."""
        self._waiting.clear()


async def test_http2_posts_share_one_connection(tmp_path: Path) -> None:
    """The first request opens the connection; the next three share it, all sent before one of them has a response."""
    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    sink = Http2Sink()
    async with raw_server(sink.serve, context) as origin, PushClient(ca_file) as client:
        first = await post(client, f"{origin}/x", b"a")
        sink.batch = 3
        responses = await asyncio.gather(*(post(client, f"{origin}/x", body) for body in (b"b" * 4096, b"c", b"d")))
    assert [response.status for response in (first, *responses)] == [201] * 4
    assert sorted(sink.bodies.values()) == [b"a", b"b" * 4096, b"c", b"d"]
    assert (sink.connections, sink.max_open_streams) == (1, 3)


async def test_excess_streams_open_another_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests beyond the stream limit open a second connection; the requests after them open no third one."""
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
            await sink.arrived.get()  # post one by one: concurrent posts would wait for the same new connection
        assert {response.status for response in await asyncio.gather(*posts)} == {201}
        assert (sink.connections, sink.max_open_streams) == (2, 3)
        sink.batch = 1
        for _ in range(5):
            assert (await post(client, f"{origin}/x")).status == 201
    assert sink.connections == 2


async def test_server_without_http2_gets_http1(tmp_path: Path) -> None:
    """The client uses HTTP/1.1 with a server that offers only HTTP/1.1."""
    versions = []

    async def handler(request: web.Request) -> web.Response:
        versions.append(request.version)
        return web.Response(status=201)

    context, ca_file = make_ca(tmp_path, alpn=("http/1.1",))
    async with http_server(handler, context) as origin, PushClient(ca_file) as client:
        assert (await post(client, f"{origin}/x")).status == 201
    assert versions == [(1, 1)]


async def test_missing_http2_support_is_remembered(tmp_path: Path) -> None:
    """The client offers HTTP/2 on its first connection only; all messages use a second connection, with HTTP/1.1."""
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
async def http2_client(folder: Path, sink: Http2Sink, timeout: float = 5) -> AsyncIterator[tuple[PushClient, str]]:
    """Serve HTTP/2 with `sink`; yield a client and an endpoint of the server."""
    context, ca_file = make_ca(folder, alpn=("h2",))
    async with (
        raw_server(sink.serve, context) as origin,
        PushClient(ca_file, timeout=timedelta(seconds=timeout)) as client,
    ):
        yield client, f"{origin}/secret"


async def test_concurrent_posts_share_one_new_connection(tmp_path: Path) -> None:
    """64 concurrent messages to a host without a connection open one connection together."""
    sink = Http2Sink()
    async with http2_client(tmp_path, sink) as (client, endpoint):
        responses = await asyncio.gather(*(post(client, endpoint) for _ in range(64)))
    assert ({response.status for response in responses}, sink.connections) == ({201}, 1)


class Http2Transport(asyncio.Transport):
    """A transport that has negotiated HTTP/2 and discards everything written."""

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


async def test_request_during_connect_gets_the_new_connection() -> None:
    """`acquire` runs after the connection has been opened and before the pool has stored it."""
    loop, acquired = asyncio.get_running_loop(), []
    connection = Http2Connection(timeout=5)
    connection.connection_made(Http2Transport())

    def acquire() -> None:
        with pytest.raises(StopIteration) as end:
            pool.acquire().send(None)
        acquired.append(end.value.value)

    async def open_connection() -> Http2Connection:
        loop.call_soon(acquire)
        return connection

    pool = ConnectionPool(open_connection)
    assert await pool.acquire() is connection
    assert acquired == [connection]


async def test_unprocessed_request_is_sent_on_new_connection(tmp_path: Path) -> None:
    """GOAWAY with a last stream id of 0 says that the server processed no request, so the client sends it again."""
    sink = Http2Sink()
    async with http2_client(tmp_path, sink) as (client, endpoint):
        sink.greeting = build_frame(SETTINGS) + build_frame(GOAWAY, 0, 0, bytes(8))
        first = asyncio.ensure_future(post(client, endpoint))
        await sink.closed.wait()
        sink.greeting = build_frame(SETTINGS)
        assert (await first).status == 201
        assert sink.connections > 1


async def test_server_closing_every_connection_is_a_reset(tmp_path: Path) -> None:
    """The client sends a request on at most MAX_RESENDS connections, and then reports the fault."""
    sink = Http2Sink()
    sink.greeting = build_frame(SETTINGS) + build_frame(GOAWAY, 0, 0, bytes(8))
    async with http2_client(tmp_path, sink) as (client, endpoint):
        assert fault_kind(await post(client, endpoint)) == "reset"
    assert sink.connections == MAX_RESENDS


async def test_max_streams_0_sends_one_request_at_a_time(tmp_path: Path) -> None:
    """A server that allows no streams gets one stream at a time, so that no request waits forever."""
    sink = Http2Sink()
    sink.greeting = build_frame(SETTINGS, 0, 0, MAX_CONCURRENT_STREAMS.to_bytes(2) + bytes(4))
    async with http2_client(tmp_path, sink) as (client, endpoint):
        responses = [await post(client, endpoint) for _ in range(3)]
    assert ({response.status for response in responses}, sink.connections, sink.max_open_streams) == ({201}, 1, 1)


@pytest.mark.parametrize("answers_pings", [True, False])
async def test_http2_timeout_drops_only_dead_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers_pings: bool
) -> None:
    """After a timeout, a connection whose server responds to pings stays in use."""
    monkeypatch.setattr("gateway.push.connection.PING_AFTER_S", 0.2)
    sink = Http2Sink()
    sink.batch, sink.answers_pings = 2, answers_pings
    async with http2_client(tmp_path, sink, timeout=0.6) as (client, endpoint):
        assert fault_kind(await post(client, endpoint)) == "timeout"
        if answers_pings:
            await sink.reset.wait()
        sink.batch = 1
        sink.drop_waiting_requests()
        assert (await post(client, endpoint)).status == 201
    assert sink.connections == (1 if answers_pings else 2)


async def test_requests_wait_at_connection_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 requests to a server that allows one stream per connection open at most MAX_CONNECTIONS connections."""
    monkeypatch.setattr("gateway.push.connection.MAX_CONNECTIONS", 3)
    sink = Http2Sink()
    sink.greeting = build_frame(SETTINGS, 0, 0, MAX_CONCURRENT_STREAMS.to_bytes(2) + (1).to_bytes(4))
    async with http2_client(tmp_path, sink) as (client, endpoint):
        responses = await asyncio.gather(*(post(client, endpoint) for _ in range(60)))
    assert {response.status for response in responses} == {201}
    assert sink.connections <= 3


async def test_silently_closed_connection_is_replaced(tmp_path: Path) -> None:
    """A request on the closed connection may fail; the next requests use a new connection."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        sink = Http2Sink()
        with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            async with asyncio.timeout(0.05):
                await sink.serve(reader, writer)

    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    async with raw_server(serve, context) as origin, PushClient(ca_file) as client:
        for _ in range(200):
            response = await post(client, f"{origin}/secret")
            assert response.status == 201 or fault_kind(response) == "reset"
            assert response.fault != CONNECTIONS_CLOSED
            await asyncio.sleep(0)
            if connections > 2:
                break
            await asyncio.sleep(0.01)
    assert connections > 1


async def test_half_closed_connection_delays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the client closed an idle connection and the server did not, the next message uses a new connection."""
    monkeypatch.setattr("gateway.push.connection.IDLE_TIMEOUT", timedelta(seconds=0.05))
    monkeypatch.setattr("gateway.push.connection.CLOSE_TIMEOUT_S", 0.2)
    first_lost, ended = asyncio.Event(), asyncio.Event()
    connection_lost = Http2Connection.connection_lost

    def record_loss(connection: Http2Connection, error: Exception | None) -> None:
        connection_lost(connection, error)
        first_lost.set()

    monkeypatch.setattr(Http2Connection, "connection_lost", record_loss)

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
        await first_lost.wait()
        assert (await post(client, f"{origin}/x")).status == 201
        await client.__aexit__()
        ended.set()


async def test_cancelled_post_resets_its_stream(tmp_path: Path) -> None:
    """The client sends RST_STREAM for a cancelled request, so that the server can stop working on it."""
    sink = Http2Sink()
    sink.batch = 2
    async with http2_client(tmp_path, sink) as (client, endpoint):
        posting = asyncio.ensure_future(post(client, endpoint))
        await sink.arrived.get()
        posting.cancel()
        await sink.reset.wait()


@pytest.mark.parametrize("answers_pings", [True, False])
async def test_silent_connection_is_pinged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers_pings: bool
) -> None:
    """A connection stays open while the server responds to pings; otherwise it is closed and its requests fail."""
    monkeypatch.setattr("gateway.push.connection.PING_AFTER_S", 0.05)
    monkeypatch.setattr("gateway.push.connection.PING_TIMEOUT_S", 0.3)
    monkeypatch.setattr("gateway.push.connection.MAX_TICK_S", 0.02)
    sink = Http2Sink()
    sink.batch, sink.answers_pings = 2, answers_pings
    async with http2_client(tmp_path, sink) as (client, endpoint):
        first = asyncio.ensure_future(post(client, endpoint))
        if answers_pings:
            await sink.arrived.get()
            await sink.pinged_three_times.wait()
            assert (await post(client, endpoint)).status == (await first).status == 201
        else:
            assert fault_kind(await first) == "timeout"
            await sink.closed.wait()
            assert sink.pings == 1


async def test_idle_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without requests is closed after IDLE_TIMEOUT, and the next message uses a new connection."""
    monkeypatch.setattr("gateway.push.connection.IDLE_TIMEOUT", timedelta(seconds=0.05))
    sink = Http2Sink()
    async with http2_client(tmp_path, sink) as (client, endpoint):
        assert (await post(client, endpoint)).status == 201
        await sink.closed.wait()
        assert (await post(client, endpoint)).status == 201
    assert sink.connections == 2


async def test_invalid_http2_is_a_protocol_fault(tmp_path: Path) -> None:
    """The client closes the connection to a server whose SETTINGS frame has an invalid length."""
    sink = Http2Sink()
    sink.greeting = build_frame(SETTINGS, 0, 0, b"odd")
    async with http2_client(tmp_path, sink) as (client, endpoint):
        assert fault_kind(await post(client, endpoint)) in ("protocol", "reset")
        await sink.closed.wait()


async def test_http2_connection_loss_is_a_reset(tmp_path: Path) -> None:
    """The server closes an HTTP/2 connection after the request and sends no response."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(build_frame(SETTINGS))
        await reader.readexactly(24)
        await reader.readuntil(b"sealed")

    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    async with raw_server(serve, context) as origin, PushClient(ca_file) as client:
        assert fault_kind(await post(client, f"{origin}/secret")) == "reset"


async def test_ping_flood_without_reading_aborts_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies to the PINGs of a server that reads nothing must not accumulate in memory."""
    monkeypatch.setattr("gateway.push.connection.MAX_UNSENT_OCTETS", 1 << 16)
    disconnected = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.transport.pause_reading()
        try:
            while True:
                writer.write(build_frame(SETTINGS) + 1000 * build_frame(PING, 0, 0, bytes(8)))
                await writer.drain()
                await asyncio.sleep(0)
        finally:
            disconnected.set()

    context, ca_file = make_ca(tmp_path, alpn=("h2",))
    async with raw_server(serve, context) as origin, PushClient(ca_file) as client:
        assert fault_kind(await post(client, f"{origin}/secret")) == "reset"
        await disconnected.wait()


async def test_unreachable_address_does_not_delay_others(tmp_path: Path) -> None:
    """`localhost` may resolve to ::1 first, where no server listens; the client then connects to 127.0.0.1."""
    sink = Http2Sink()
    async with http2_client(tmp_path, sink) as (client, endpoint):
        assert (await post(client, endpoint.replace("127.0.0.1", "localhost"))).status == 201
