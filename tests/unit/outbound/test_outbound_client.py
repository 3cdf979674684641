"""The client for addresses that applications name: where it goes, where it never does, and what it puts up with."""

import asyncio
import gzip
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.domain.errors import AddressNotAllowed
from gateway.outbound.client import OutboundClient, OutboundResponse, Unreachable
from gateway.outbound.policy import OutboundPolicy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECOND = timedelta(seconds=1)
LARGEST = 100_000


class Names(AbstractResolver):
    """Answers each question with the next of its answers, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        pass


class Server:
    def __init__(self, port: int) -> None:
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.seen: list[web.Request] = []


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[Server]:
    async def seen(request: web.Request) -> web.StreamResponse:
        here.seen.append(request)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", seen)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    here = Server(runner.addresses[0][1])
    try:
        yield here
    finally:
        await runner.cleanup()


async def fine(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.method} {await request.text()}", headers={"ETag": '"1"', "Set-Cookie": "a=b"})


async def get(where: Server, path: str = "/", *also: str, timeout: timedelta = SECOND, **more: Any) -> OutboundResponse:
    policy = OutboundPolicy([where.origin, *also])
    async with OutboundClient(policy) as client:
        return await client.get(where.origin + path, largest=LARGEST, timeout=timeout, **more)


async def test_an_answer_comes_with_status_headers_and_body() -> None:
    async with server(fine) as there:
        answer = await get(there, "/feed", headers={"If-None-Match": '"0"'})
        assert (answer.status, answer.body, answer.headers["etag"]) == (200, b"GET ", '"1"')
        assert answer.url == f"{there.origin}/feed"
        [seen] = there.seen
    assert seen.headers["User-Agent"] == "webpush-gateway"
    assert seen.headers["If-None-Match"] == '"0"'


async def test_a_post_sends_these_octets_and_follows_no_redirect() -> None:
    bodies = []

    async def elsewhere(request: web.Request) -> web.Response:
        bodies.append((await request.read(), request.content_type))
        return web.Response(status=307, headers={"Location": "/other"})

    async with server(elsewhere) as there, OutboundClient(OutboundPolicy([there.origin])) as client:
        answer = await client.post(there.origin, b"{}", {"Content-Type": "application/json"}, timeout=SECOND)
    assert (answer.status, bodies) == (307, [(b"{}", "application/json")])


async def test_the_status_of_a_post_counts_even_when_the_body_never_ends() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=202)
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.Event().wait()
        return response

    async with server(endless) as there, OutboundClient(OutboundPolicy([there.origin])) as client:
        assert (await client.post(there.origin, b"", timeout=SECOND)).status == 202


async def test_cookies_and_the_environment_s_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with server(fine) as there, OutboundClient(OutboundPolicy([there.origin])) as client:
        for _ in range(2):
            assert (await client.get(there.origin, largest=LARGEST, timeout=SECOND)).status == 200
        assert "Cookie" not in there.seen[1].headers


async def test_an_address_that_is_not_allowed_is_never_connected_to() -> None:
    async with server(fine) as there, OutboundClient(OutboundPolicy()) as client:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            for scheme in ("http", "https"):
                with pytest.raises(AddressNotAllowed):
                    await client.get(f"{scheme}://{host}:{there.port}/", largest=LARGEST, timeout=SECOND)
                with pytest.raises(AddressNotAllowed):
                    await client.post(f"{scheme}://{host}:{there.port}/", b"", timeout=SECOND)
        assert there.seen == []


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["10.0.0.1"]])
async def test_a_public_name_with_a_private_address_is_refused_unconnected(
    answer: list[str], connections: list[Any]
) -> None:
    async with OutboundClient(OutboundPolicy(), Names(answer)) as client:
        with pytest.raises(AddressNotAllowed, match="not of the public web"):
            await client.get("https://hooks.example.org/", largest=LARGEST, timeout=SECOND)
    assert connections == []


async def test_a_name_that_answers_differently_the_second_time_gains_nothing(connections: list[Any]) -> None:
    """What was checked is what is connected to: nobody asks again in between, and the next answer is checked too."""
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    async with OutboundClient(OutboundPolicy(), names) as client:
        with pytest.raises(Unreachable, match="Connection refused"):
            await client.get("https://rebinding.example.org/", largest=LARGEST, timeout=SECOND)
        assert (connections, len(names.asked)) == ([("8.8.8.8", 443)], 1)
    async with OutboundClient(OutboundPolicy(), names) as client:
        with pytest.raises(AddressNotAllowed):
            await client.get("https://rebinding.example.org/", largest=LARGEST, timeout=SECOND)
    assert connections == [("8.8.8.8", 443)]


async def test_a_name_the_operator_allows_is_connected_to_wherever_it_is() -> None:
    async with server(fine) as there:
        origin = f"http://hooks.lan:{there.port}"
        async with OutboundClient(OutboundPolicy([origin]), Names(["127.0.0.1"])) as client:
            assert (await client.get(origin, largest=LARGEST, timeout=SECOND)).status == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_nowhere(status: int) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/other"})

    async with server(elsewhere) as there:
        with pytest.raises(Unreachable, match=f"redirects \\({status}\\), which is not followed"):
            await get(there)
        assert len(there.seen) == 1


def answering(body: bytes, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return handler


async def test_a_body_may_be_as_large_as_was_said_and_no_larger() -> None:
    async with server(answering(b"x" * LARGEST)) as there:
        assert len((await get(there)).body) == LARGEST
    async with server(answering(b"x" * (LARGEST + 1))) as there:
        with pytest.raises(Unreachable, match=f"larger than {LARGEST} octets"):
            await get(there)


async def test_a_body_without_end_is_left_at_its_limit() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)

    async with server(endless) as there:
        with pytest.raises(Unreachable, match="larger"):
            await get(there, timeout=SECOND * 10)


async def test_compressed_answers_are_unpacked() -> None:
    for said in (b"<feed/>" * 100, b""):
        async with server(answering(gzip.compress(said), Content_Encoding="gzip")) as there:
            assert (await get(there)).body == said


async def test_a_small_answer_that_unpacks_to_a_huge_one_is_left_at_its_limit() -> None:
    """A hundred million octets in a hundred thousand, and the same twice packed."""
    bomb = gzip.compress(b"\0" * 100_000_000, 9)
    began = time.process_time()
    async with server(answering(bomb, Content_Encoding="gzip")) as there:
        with pytest.raises(Unreachable, match="larger"):
            await get(there)
    assert time.process_time() - began < 0.5
    async with server(answering(gzip.compress(bomb), Content_Encoding="gzip, gzip")) as there:
        with pytest.raises(Unreachable, match="not asked for"):
            await get(there)


@pytest.mark.parametrize(
    ("body", "encoding", "cause"),
    [
        (b"plain", "gzip", "not the gzip"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-12], "gzip", "broke off"),
        (zlib.compress(b"x"), "deflate", "not asked for"),
        (b"x", "br", "not asked for"),
    ],
)
async def test_what_cannot_be_unpacked_is_said_so(body: bytes, encoding: str, cause: str) -> None:
    async with server(answering(body, Content_Encoding=encoding)) as there:
        with pytest.raises(Unreachable, match=cause):
            await get(there)


async def test_the_time_is_for_everything_slow_bodies_included() -> None:
    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    async with server(dripping) as there:
        with pytest.raises(Unreachable, match="in time"):
            await get(there, timeout=timedelta(seconds=0.3))


async def spoken(octets: bytes) -> str:
    """What is said of a server that answers with these octets and hangs up."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(octets)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with listening:
        there = Server(listening.sockets[0].getsockname()[1])
        with pytest.raises(Unreachable) as failed:
            await get(there, "/a-secret-path")
    assert "secret" not in failed.value.cause
    return failed.value.cause


async def test_failures_are_in_plain_words_without_the_address() -> None:
    assert await spoken(b"") == "it closed the connection without an answer"
    assert await spoken(b"SSH-2.0-OpenSSH_9.2\r\n") == "its answer is not sound HTTP"
    assert await spoken(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx") == "it broke off in the middle of its answer"
    assert await spoken(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n") == "its answer is not sound HTTP"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="cannot be connected to: "):
            await get(Server(unused.getsockname()[1]))


async def test_a_name_nobody_has_and_a_receiver_without_tls_are_said_so() -> None:
    class Nobody(Names):
        async def resolve(self, *_: Any, **__: Any) -> list[ResolveResult]:
            raise OSError(None, "Name or service not known")

    async with OutboundClient(OutboundPolicy(), Nobody([])) as client:
        with pytest.raises(Unreachable, match="its name cannot be resolved"):
            await client.get("https://nobody.example.org/", largest=LARGEST, timeout=SECOND)
    async with server(fine) as there:
        origin = f"https://127.0.0.1:{there.port}"
        async with OutboundClient(OutboundPolicy([origin])) as client:
            with pytest.raises(Unreachable, match="TLS with it fails"):
                await client.get(origin, largest=LARGEST, timeout=SECOND)
