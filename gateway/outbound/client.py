"""HTTP client for URLs that applications configure.

Neither the URL nor the responding server is trusted. Every URL is checked, and the client connects only to addresses
that were checked. It follows no redirects. The time and size of a response are limited, and so is its size after
decompression. The client uses no cookies, and no proxies from the environment.
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
CONNECT_TIMEOUT_S = 10.0
CHUNK_OCTETS = 65_536
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_GZIP = 16 + zlib.MAX_WBITS


class OutboundError(Exception):
    """There was no usable response. `cause` may be shown to users: it contains neither the URL nor the response."""

    def __init__(self, cause: str) -> None:
        """Create the error with its cause."""
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """A response. `headers` are case-insensitive; `url` is the requested URL in canonical form."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str = field(repr=False)


class OutboundClient:
    """An HTTP client for the URLs that `policy` allows.

    Use it as `async with OutboundClient(policy) as client`. One client serves any number of concurrent requests.
    """

    def __init__(self, policy: OutboundPolicy, resolver: AbstractResolver | None = None) -> None:
        """Use the system's resolver unless `resolver` is given."""
        self._policy = policy
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(self._policy, self._resolver or aiohttp.ThreadedResolver()),
            limit=0,  # no limit here, so that a slow server delays no other requests; callers have their own limits
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            headers={"User-Agent": USER_AGENT},
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()

    async def get(
        self, url: str, headers: Mapping[str, str] | None = None, *, max_octets: int, timeout: timedelta
    ) -> OutboundResponse:
        """Fetch a URL.

        Args:
            url: the URL to check and fetch.
            headers: request headers.
            max_octets: maximum octets of the body, after decompression.
            timeout: limit for the whole request.

        Raises:
            AddressNotAllowed: the policy does not allow the URL or a resolved address.
            OutboundError: no usable response.
        """
        canonical_url = self._policy.check(url)
        async with (
            _translate_errors(timeout),
            self._request("GET", canonical_url, {"Accept-Encoding": "gzip", **(headers or {})}) as response,
        ):
            if response.status in REDIRECT_STATUSES:
                raise OutboundError(
                    f"the server redirects ({response.status}), which is not followed: use the target URL"
                )
            return OutboundResponse(
                response.status, response.headers, await _read_body(response, max_octets), canonical_url
            )

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str] | None = None, *, timeout: timedelta
    ) -> OutboundResponse:
        """Post a body and return the status. The response body is not read; a redirect is a normal response.

        Raises:
            AddressNotAllowed: the policy does not allow the URL or a resolved address.
            OutboundError: no usable response.
        """
        canonical_url = self._policy.check(url)
        async with (
            _translate_errors(timeout),
            self._request("POST", canonical_url, {"Accept-Encoding": "identity", **(headers or {})}, body) as response,
        ):
            return OutboundResponse(response.status, response.headers, b"", canonical_url)

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is not open")
        return self._session.request(method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False)


class _CheckedResolver(AbstractResolver):
    """A resolver that checks addresses before aiohttp connects to them.

    aiohttp does not call the resolver for an IP address in a URL; the policy checks such URLs before.
    """

    def __init__(self, policy: OutboundPolicy, resolver: AbstractResolver) -> None:
        self._policy = policy
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        self._policy.check_resolved(host, port, [result["host"] for result in results])
        return results

    async def close(self) -> None:
        await self._resolver.close()


@asynccontextmanager
async def _translate_errors(timeout: timedelta) -> AsyncIterator[None]:
    """Limit the time, and turn network exceptions into OutboundError."""
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            yield
    except TimeoutError:
        raise OutboundError("the server did not respond in time") from None
    except aiohttp.ClientError as error:
        raise OutboundError(_describe(error)) from None


def _describe(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the host name cannot be resolved"
        case aiohttp.ClientConnectorCertificateError():
            return "the TLS certificate is not valid"
        case aiohttp.ClientSSLError():
            return "the TLS handshake failed"
        case aiohttp.ClientConnectorError(os_error=reason):
            return f"connection failed: {reason.strerror or 'network error'}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "the server closed the connection without a response"
        case aiohttp.ClientPayloadError():
            return "the response is incomplete"
        case _:
            return "the response is not valid HTTP"


async def _read_body(response: aiohttp.ClientResponse, max_octets: int) -> bytes:
    """Read the body, decompressing it in chunks, so that a small compressed body cannot expand without limit.

    Raises:
        OutboundError: too large, incomplete or not decodable.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise OutboundError("the response has an encoding that was not requested")
    decompressor = zlib.decompressobj(_GZIP) if "gzip" in encoding else None
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_OCTETS):
        try:
            # Decompress at most one octet more than allowed, which suffices to detect that the body is too large.
            body += chunk if decompressor is None else decompressor.decompress(chunk, max_octets - len(body) + 1)
        except zlib.error:
            raise OutboundError("the response is not valid gzip") from None
        if len(body) > max_octets:
            raise OutboundError(f"the response is larger than {max_octets} octets")
    if decompressor is not None and body and not decompressor.eof:
        raise OutboundError("the response is incomplete")
    return bytes(body)
