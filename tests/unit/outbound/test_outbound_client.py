"""The outbound client: allowed URLs, redirects, limits and failure causes."""

import asyncio
import gzip
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.domain.errors import AddressNotAllowed
from gateway.outbound.client import OutboundClient, OutboundError, OutboundResponse
from gateway.outbound.policy import OutboundPolicy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECOND = timedelta(seconds=1)
MAX_OCTETS = 100_000


class FakeResolver(AbstractResolver):
    """A resolver that returns the lists of addresses `answers` in order, and repeats the last one."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.resolved_hosts: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.resolved_hosts.append(host)
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        pass


class Server:
    """The address of a server, and the requests that it received."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.requests: list[web.Request] = []


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[Server]:
    """Serve every path with a handler until the context ends."""

    async def record(request: web.Request) -> web.StreamResponse:
        running.requests.append(request)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", record)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running = Server(runner.addresses[0][1])
    try:
        yield running
    finally:
        await runner.cleanup()


async def echo(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.method} {await request.text()}", headers={"ETag": '"1"', "Set-Cookie": "a=b"})


async def get(target: Server, path: str = "/", *, timeout: timedelta = SECOND, **options: Any) -> OutboundResponse:
    """Send a GET request to `target` through a client whose policy allows the origin of `target`."""
    policy = OutboundPolicy([target.origin])
    async with OutboundClient(policy) as client:
        return await client.get(target.origin + path, max_octets=MAX_OCTETS, timeout=timeout, **options)


async def test_response_has_status_headers_and_body() -> None:
    """The response also has the requested URL; the request has the given headers and the user agent."""
    async with server(echo) as target:
        response = await get(target, "/feed", headers={"If-None-Match": '"0"'})
        assert (response.status, response.body, response.headers["etag"]) == (200, b"GET ", '"1"')
        assert response.url == f"{target.origin}/feed"
        [request] = target.requests
    assert request.headers["User-Agent"] == "webpush-gateway"
    assert request.headers["If-None-Match"] == '"0"'


async def test_post_sends_body_and_returns_a_redirect() -> None:
    """The client does not follow the redirect; the caller gets the redirect as the response."""
    bodies = []

    async def redirect(request: web.Request) -> web.Response:
        bodies.append((await request.read(), request.content_type))
        return web.Response(status=307, headers={"Location": "/other"})

    async with server(redirect) as target, OutboundClient(OutboundPolicy([target.origin])) as client:
        response = await client.post(target.origin, b"{}", {"Content-Type": "application/json"}, timeout=SECOND)
    assert (response.status, bodies) == (307, [(b"{}", "application/json")])


async def test_post_returns_the_status_before_an_endless_body() -> None:
    """A POST returns when the headers have arrived and does not wait for the body."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=202)
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.Event().wait()
        return response

    async with server(endless) as target, OutboundClient(OutboundPolicy([target.origin])) as client:
        assert (await client.post(target.origin, b"", timeout=SECOND)).status == 202


async def test_cookies_and_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request has no cookie of the first response; proxies in the environment are ignored."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # port 9: no server listens there
    async with server(echo) as target, OutboundClient(OutboundPolicy([target.origin])) as client:
        for _ in range(2):
            assert (await client.get(target.origin, max_octets=MAX_OCTETS, timeout=SECOND)).status == 200
        assert "Cookie" not in target.requests[1].headers


async def test_disallowed_url_is_never_contacted() -> None:
    """The policy rejects loopback addresses before a connection is opened."""
    async with server(echo) as target, OutboundClient(OutboundPolicy()) as client:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            for scheme in ("http", "https"):
                with pytest.raises(AddressNotAllowed):
                    await client.get(f"{scheme}://{host}:{target.port}/", max_octets=MAX_OCTETS, timeout=SECOND)
                with pytest.raises(AddressNotAllowed):
                    await client.post(f"{scheme}://{host}:{target.port}/", b"", timeout=SECOND)
        assert target.requests == []


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["10.0.0.1"]])
async def test_public_host_with_private_address_is_rejected(
    addresses: list[str], attempted_addresses: list[Any]
) -> None:
    """A host name that resolves to a private address is not contacted."""
    async with OutboundClient(OutboundPolicy(), FakeResolver(addresses)) as client:
        with pytest.raises(AddressNotAllowed, match="outside the public internet"):
            await client.get("https://hooks.example.org/", max_octets=MAX_OCTETS, timeout=SECOND)
    assert attempted_addresses == []


async def test_dns_rebinding_has_no_effect(attempted_addresses: list[Any]) -> None:
    """A request connects to the address that was checked; the next request resolves and checks again."""
    resolver = FakeResolver(["8.8.8.8"], ["127.0.0.1"])
    async with OutboundClient(OutboundPolicy(), resolver) as client:
        with pytest.raises(OutboundError, match="Connection refused"):
            await client.get("https://rebinding.example.org/", max_octets=MAX_OCTETS, timeout=SECOND)
        assert (attempted_addresses, len(resolver.resolved_hosts)) == ([("8.8.8.8", 443)], 1)
    async with OutboundClient(OutboundPolicy(), resolver) as client:
        with pytest.raises(AddressNotAllowed):
            await client.get("https://rebinding.example.org/", max_octets=MAX_OCTETS, timeout=SECOND)
    assert attempted_addresses == [("8.8.8.8", 443)]


async def test_operator_entry_may_have_a_private_address() -> None:
    """A host in an entry of the operator may resolve to a private address."""
    async with server(echo) as target:
        origin = f"http://hooks.lan:{target.port}"
        async with OutboundClient(OutboundPolicy([origin]), FakeResolver(["127.0.0.1"])) as client:
            assert (await client.get(origin, max_octets=MAX_OCTETS, timeout=SECOND)).status == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_get_redirect_is_an_error(status: int) -> None:
    """A redirect of a GET is reported and its target is not requested."""

    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/other"})

    async with server(redirect) as target:
        with pytest.raises(OutboundError, match=f"redirects \\({status}\\), which is not followed"):
            await get(target)
        assert len(target.requests) == 1


def respond_with(body: bytes, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return handler


async def test_body_size_limit_is_exact() -> None:
    """A body of MAX_OCTETS is returned; a body that is one octet longer is an error."""
    async with server(respond_with(b"x" * MAX_OCTETS)) as target:
        assert len((await get(target)).body) == MAX_OCTETS
    async with server(respond_with(b"x" * (MAX_OCTETS + 1))) as target:
        with pytest.raises(OutboundError, match=f"larger than {MAX_OCTETS} octets"):
            await get(target)


async def test_endless_body_stops_at_limit() -> None:
    """The client stops reading a body without an end at the size limit."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)

    async with server(endless) as target:
        with pytest.raises(OutboundError, match="larger"):
            await get(target, timeout=SECOND * 10)


async def test_gzip_response_is_decompressed() -> None:
    """A compressed body is returned decompressed, also if it is empty."""
    for content in (b"<feed/>" * 100, b""):
        async with server(respond_with(gzip.compress(content), Content_Encoding="gzip")) as target:
            assert (await get(target)).body == content


async def test_compression_bomb_stops_at_limit() -> None:
    """A body of 100,000 octets that decompresses to 100 million is an error; so is that body compressed once more."""
    bomb = gzip.compress(b"\0" * 100_000_000, 9)
    async with server(respond_with(bomb, Content_Encoding="gzip")) as target:
        tracemalloc.start()
        try:
            with pytest.raises(OutboundError, match="larger"):
                await get(target)
            _, peak_octets = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # The peak includes the compressed response, and some copies of the MAX_OCTETS that are decompressed.
    assert peak_octets < len(bomb) + 20 * MAX_OCTETS
    async with server(respond_with(gzip.compress(bomb), Content_Encoding="gzip, gzip")) as target:
        with pytest.raises(OutboundError, match="not requested"):
            await get(target)


@pytest.mark.parametrize(
    ("body", "encoding", "cause"),
    [
        (b"plain", "gzip", "not valid gzip"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-12], "gzip", "incomplete"),
        (zlib.compress(b"x"), "deflate", "not requested"),
        (b"x", "br", "not requested"),
    ],
)
async def test_undecodable_body_is_an_error_with_its_cause(body: bytes, encoding: str, cause: str) -> None:
    """The error says why the body cannot be decompressed."""
    async with server(respond_with(body, Content_Encoding=encoding)) as target:
        with pytest.raises(OutboundError, match=cause):
            await get(target)


async def test_timeout_includes_slow_bodies() -> None:
    """The timeout is the limit of the whole request, also while octets of the body still arrive."""

    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    async with server(dripping) as target:
        with pytest.raises(OutboundError, match="in time"):
            await get(target, timeout=timedelta(seconds=0.3))


async def cause_for(octets: bytes) -> str:
    """Return the cause of the error for a server that sends `octets` and closes the connection."""

    async def send_octets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(octets)
        await writer.drain()
        writer.close()

    tcp_server = await asyncio.start_server(send_octets, "127.0.0.1", 0)
    async with tcp_server:
        target = Server(tcp_server.sockets[0].getsockname()[1])
        with pytest.raises(OutboundError) as error:
            await get(target, "/a-secret-path")
    assert "secret" not in error.value.cause
    return error.value.cause


async def test_causes_do_not_contain_the_url() -> None:
    """Each fault of the connection or the response has a fixed text, because a URL may contain secrets."""
    assert await cause_for(b"") == "the server closed the connection without a response"
    assert await cause_for(b"SSH-2.0-OpenSSH_9.2\r\n") == "the response is not valid HTTP"
    assert await cause_for(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx") == "the response is incomplete"
    assert await cause_for(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n") == "the response is not valid HTTP"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OutboundError, match="connection failed: "):
            await get(Server(unused.getsockname()[1]))


async def test_dns_and_tls_failures_have_different_causes() -> None:
    """A host name that cannot be resolved and a failed TLS handshake have different causes."""

    class FailingResolver(FakeResolver):
        async def resolve(self, *_: Any, **__: Any) -> list[ResolveResult]:
            raise OSError(None, "Name or service not known")

    async with OutboundClient(OutboundPolicy(), FailingResolver([])) as client:
        with pytest.raises(OutboundError, match="the host name cannot be resolved"):
            await client.get("https://nobody.example.org/", max_octets=MAX_OCTETS, timeout=SECOND)
    async with server(echo) as target:
        origin = f"https://127.0.0.1:{target.port}"
        async with OutboundClient(OutboundPolicy([origin])) as client:
            with pytest.raises(OutboundError, match="the TLS handshake failed"):
                await client.get(origin, max_octets=MAX_OCTETS, timeout=SECOND)
