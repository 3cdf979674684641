"""HTTP client for push services (RFC 8030).

The client uses HTTP/2, which all vendors support, and falls back to HTTP/1.1. A host that the endpoint policy allows
only by a wildcard is resolved first: its addresses are checked, and the client connects to a checked address.
"""

import asyncio
import math
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates
from pyreqwest.client import Client as Http1Client

from gateway.push import http1
from gateway.push.connection import ALPN, IDLE_TIMEOUT, ConnectFailed, ConnectionPool, Http2Connection, connect
from gateway.push.header_block import Field
from gateway.push.resolver import MAX_PINS, AddressPins, NotPublic
from gateway.push.responses import HttpReply, NetworkFault, PushResponse

# Default limits for one request, and for name resolution, TCP and TLS together.
TIMEOUT = timedelta(seconds=30)
CONNECT_TIMEOUT = timedelta(seconds=10)
# How long an origin that negotiated HTTP/1.1 is used with HTTP/1.1 before the client offers HTTP/2 again.
HTTP2_RETRY_S = 3600.0
# Maximum immediate resends when the server closes connections without processing the request.
MAX_RESENDS = 3
CONNECTIONS_CLOSED = NetworkFault("reset", "the server closed every connection before it processed the request")


class PushClient:
    """Connection pools for all push services, for the lifetime of a worker.

    Use the client as `async with PushClient() as client`. One client serves any number of concurrent posts.

    Args:
        ca_file: PEM certificates to trust in addition to those of the system.
        must_check_address: returns for an origin whether its resolved addresses must be checked before connecting.
        pins: resolver and cache of the checked addresses.
        timeout: limit for one request, from the first octet to the end of the response.
        connect_timeout: limit for name resolution, TCP and TLS together.
        clock: source of the request durations, in seconds.

    Raises:
        ValueError: `ca_file` contains no certificate.
        OSError: `ca_file` cannot be read.
    """

    def __init__(
        self,
        ca_file: Path | None = None,
        *,
        must_check_address: Callable[[str], bool] = lambda _: False,
        pins: AddressPins | None = None,
        timeout: timedelta = TIMEOUT,
        connect_timeout: timedelta = CONNECT_TIMEOUT,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Create the TLS context; connections are opened on first use."""
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._certificates = [] if ca_file is None else _certificates(ca_file)
        self._context = ssl.create_default_context()
        if self._certificates:
            self._context.load_verify_locations(cadata=b"".join(self._certificates))
        self._context.set_alpn_protocols(ALPN)
        # `ca_file` may contain intermediate certificates, and certificates that do not strictly follow RFC 5280. The
        # defaults for these differ between versions of Python.
        self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._clock = clock
        self._must_check_address, self._pins = must_check_address, pins or AddressPins()
        # Pools by origin and pinned address (None if the address need not be checked), least recently used first.
        self._origins: OrderedDict[tuple[str, str | None], _Origin] = OrderedDict()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await asyncio.gather(*(origin.close() for origin in self._origins.values()))

    async def post(
        self, endpoint: str, body: bytes, *, ttl: int, urgency: str, topic: str, authorization: str
    ) -> PushResponse:
        """Post one encrypted message (RFC 8030 section 5).

        Network failures do not raise; they are returned as `PushResponse.fault`.

        Args:
            endpoint: canonical endpoint URL of the subscription.
            body: the encrypted message.
            ttl: retention at the push service, in seconds.
            urgency: `very-low`, `low`, `normal` or `high`.
            topic: at most 32 base64url characters.
            authorization: VAPID header value.
        """
        started_at = self._clock()
        origin = endpoint[: endpoint.find("/", 8)]
        address = None
        if self._must_check_address(origin):
            try:
                address = await self._pins.address(_host_and_port(origin)[0])
            except NotPublic:
                return PushResponse(None, duration_ms=self._elapsed_ms(started_at), fault=NetworkFault("private"))
            except OSError:
                return PushResponse(None, duration_ms=self._elapsed_ms(started_at), fault=NetworkFault("dns"))
        if (pool := self._origins.get((origin, address))) is None:
            pool = self._add(origin, address)
        self._origins.move_to_end((origin, address))
        response = await pool.post(endpoint, body, ttl, urgency, topic, authorization)
        if isinstance(response, HttpReply):
            return PushResponse(response.status, response.headers, response.body, self._elapsed_ms(started_at))
        if address is not None and response.kind == "connect":
            self._pins.forget(_host_and_port(origin)[0])
        return PushResponse(None, duration_ms=self._elapsed_ms(started_at), fault=response)

    def _add(self, origin: str, address: str | None) -> "_Origin":
        pool = _Origin(
            origin, partial(self._connect, origin, address), partial(self._open_http1_client, origin, address)
        )
        self._origins[origin, address] = pool
        if len(self._origins) > MAX_PINS:
            # Requests in flight on the evicted (least recently used) origin still complete.
            self._origins.popitem(last=False)
        return pool

    async def _connect(self, origin: str, address: str | None) -> Http2Connection | None:
        name, port = _host_and_port(origin)
        return await connect(
            name,
            port,
            self._context,
            address,
            connect_timeout_s=self._connect_timeout.total_seconds(),
            response_timeout_s=self._timeout.total_seconds(),
        )

    def _open_http1_client(self, origin: str, address: str | None) -> Http1Client:
        return http1.open_client(
            self._certificates,
            timeout=self._timeout,
            connect_timeout=self._connect_timeout,
            idle_timeout=IDLE_TIMEOUT,
            pinned=None if address is None else (_host_and_port(origin)[0], address),
        )

    def _elapsed_ms(self, started_at: float) -> int:
        return round((self._clock() - started_at) * 1000)


class _Origin:
    """The connections to one origin: a pool for HTTP/2, and a client for HTTP/1.1 if the origin has no HTTP/2."""

    def __init__(
        self,
        origin: str,
        open_: Callable[[], Coroutine[Any, Any, Http2Connection | None]],
        open_http1_client: Callable[[], Http1Client],
    ) -> None:
        self._origin = origin
        self._pool = ConnectionPool(open_)
        self._open_http1_client = open_http1_client
        self._http1_client: Http1Client | None = None
        # The monotonic time until which HTTP/1.1 is used; always, for plain http.
        self._http1_until = 0.0 if origin.startswith("https:") else math.inf

    async def post(
        self, endpoint: str, body: bytes, ttl: int, urgency: str, topic: str, authorization: str
    ) -> HttpReply | NetworkFault:
        if self._http1_until <= time.monotonic():
            path = endpoint[len(self._origin) :].encode()
            fields = _fields(self._origin, urgency, topic, authorization, ttl > 0)
            for _ in range(MAX_RESENDS):
                try:
                    connection = await self._pool.acquire()
                except ConnectFailed as error:
                    return error.fault
                if connection is None:
                    self._http1_until = time.monotonic() + HTTP2_RETRY_S
                    break
                try:
                    response = await connection.post(path, fields, ttl, body)
                finally:
                    self._pool.release()
                if response is not None:
                    return response
            else:
                return CONNECTIONS_CLOSED
        if self._http1_client is None:
            self._http1_client = self._open_http1_client()
        headers = {"TTL": str(ttl)} | _headers(urgency, topic, authorization, may_be_stored=ttl > 0)
        return await http1.post(self._http1_client, endpoint, headers, body)

    async def close(self) -> None:
        await self._pool.close()
        if self._http1_client is not None:
            await self._http1_client.close()


def _headers(urgency: str, topic: str, authorization: str, *, may_be_stored: bool) -> dict[str, str]:
    """Return all request headers except TTL (RFC 8030 section 5, RFC 8291 section 4).

    The content type is that of Declarative Web Push.
    """
    headers = {
        "Urgency": urgency,
        "Topic": topic,
        "Authorization": authorization,
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/json",
        "User-Agent": "webpush-gateway",
    }
    if not may_be_stored:
        # WNS rejects TTL 0 without this header; other push services ignore it.
        headers["X-WNS-Cache-Policy"] = "no-cache"
    return headers


@lru_cache(maxsize=1024)
def _fields(origin: str, urgency: str, topic: str, authorization: str, may_be_stored: bool) -> tuple[Field, ...]:
    headers = {":scheme": "https", ":authority": origin.partition("://")[2]}
    headers |= _headers(urgency, topic, authorization, may_be_stored=may_be_stored)
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


def _host_and_port(origin: str) -> tuple[str, int]:
    """Return (host name, port) of an origin."""
    parts = urlsplit(origin)
    return parts.hostname or "", parts.port or 443


def _certificates(ca_file: Path) -> list[bytes]:
    """Return the certificates of a CA file as DER.

    The file is parsed here, because the HTTP/1.1 client accepts a file without certificates and reports no error.
    """
    try:
        return [
            certificate.public_bytes(Encoding.DER) for certificate in load_pem_x509_certificates(ca_file.read_bytes())
        ]
    except ValueError:
        raise ValueError(f"{ca_file} holds no PEM certificate, or a malformed one") from None
