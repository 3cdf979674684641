"""The HTTP client for addresses that applications name.

Whoever answers is not trusted, and who named the address is not either. So every address is checked; a host is
connected to at the addresses that were checked and no others; a redirect is followed nowhere; and what an answer may
cost is bounded in time and size, also when it is compressed. No cookies, no proxies from the environment.
"""

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.outbound.policy import OutboundPolicy

USER_AGENT = "webpush-gateway"
CONNECT_S = 10.0
PIECE = 65_536  # octets
REDIRECTS = (301, 302, 303, 307, 308)
_GZIP = 16 + zlib.MAX_WBITS


class Unreachable(Exception):
    """No answer that can be used. `cause` is in plain words, and holds nothing of the address or the answer."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """`headers` are found whatever their case; `url` is where the answer came from, in canonical form."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str = field(repr=False)


class OutboundClient:
    """Connections to the addresses that `policy` allows: `async with OutboundClient(policy) as client`.

    One client serves any number of concurrent calls. `resolver` is the system's unless a test says otherwise.
    """

    def __init__(self, policy: OutboundPolicy, resolver: AbstractResolver | None = None) -> None:
        self._policy = policy
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(self._policy, self._resolver or aiohttp.ThreadedResolver()),
            limit=0,  # callers bound themselves, and slow answers hold up nobody else's
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            headers={"User-Agent": USER_AGENT},
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(
        self, url: str, headers: Mapping[str, str] | None = None, *, largest: int, timeout: timedelta
    ) -> OutboundResponse:
        """Fetch at most `largest` octets, counted after decompression; `timeout` is for all of it.

        Raises AddressNotAllowed and Unreachable.
        """
        checked = self._policy.check(url)
        async with (
            _in_words(timeout),
            self._request("GET", checked, {"Accept-Encoding": "gzip", **(headers or {})}) as response,
        ):
            if response.status in REDIRECTS:
                raise Unreachable(f"it redirects ({response.status}), which is not followed: name where that leads")
            return OutboundResponse(response.status, response.headers, await _read(response, largest), checked)

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str] | None = None, *, timeout: timedelta
    ) -> OutboundResponse:
        """Send it and wait for the status. A redirect is an answer like any other, and no answer's body is read.

        Raises AddressNotAllowed and Unreachable.
        """
        checked = self._policy.check(url)
        async with (
            _in_words(timeout),
            self._request("POST", checked, {"Accept-Encoding": "identity", **(headers or {})}, body) as response,
        ):
            return OutboundResponse(response.status, response.headers, b"", checked)

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is not open")
        return self._session.request(method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False)


class _CheckedResolver(AbstractResolver):
    """What it answers is what is connected to. aiohttp asks no resolver for IP literals: the policy has seen those."""

    def __init__(self, policy: OutboundPolicy, resolver: AbstractResolver) -> None:
        self._policy = policy
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        self._policy.check_resolved(host, port, [one["host"] for one in found])
        return found

    async def close(self) -> None:
        await self._resolver.close()


@asynccontextmanager
async def _in_words(timeout: timedelta) -> AsyncIterator[None]:
    """Turn whatever the network does within this time into Unreachable."""
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            yield
    except TimeoutError:
        raise Unreachable("it did not answer in time") from None
    except aiohttp.ClientError as error:
        raise Unreachable(_cause(error)) from None


def _cause(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "its name cannot be resolved"
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not valid"
        case aiohttp.ClientSSLError():
            return "TLS with it fails"
        case aiohttp.ClientConnectorError(os_error=reason):
            return f"it cannot be connected to: {reason.strerror or 'the network refuses'}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "it broke off in the middle of its answer"
        case _:
            return "its answer is not sound HTTP"


async def _read(response: aiohttp.ClientResponse, largest: int) -> bytes:
    """The body, decompressed piece by piece, so that a small one cannot grow without end. Raises Unreachable."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise Unreachable("its answer is in an encoding that was not asked for")
    unpacker = zlib.decompressobj(_GZIP) if "gzip" in encoding else None
    body = bytearray()
    async for piece in response.content.iter_chunked(PIECE):
        try:
            # One octet more than may be shows that there is more.
            body += piece if unpacker is None else unpacker.decompress(piece, largest - len(body) + 1)
        except zlib.error:
            raise Unreachable("its answer is not the gzip that it says it is") from None
        if len(body) > largest:
            raise Unreachable(f"its answer is larger than {largest} octets")
    if unpacker is not None and body and not unpacker.eof:
        raise Unreachable("it broke off in the middle of its answer")
    return bytes(body)
