"""Post to push services (RFC 8030): over HTTP/2 where they speak it, as all the vendors do, and else over HTTP/1.1.

Names that are allowed only as some of many are looked up and checked first, and connected to by the address that
was found, whichever of the two it then is.
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
from pyreqwest.client import Client as OlderClient

from gateway.push import http1
from gateway.push.connection import ALPN, IDLE, Connection, Pool, Unreachable, connect
from gateway.push.header_block import Field
from gateway.push.resolver import MAX_PINS, AddressPins, NotPublic
from gateway.push.responses import HttpReply, NetworkFault, PushResponse

TIMEOUT = timedelta(seconds=30)
CONNECT_TIMEOUT = timedelta(seconds=10)
# A push service that has spoken only HTTP/1.1 is asked again whether it speaks HTTP/2.
OLDER_S = 3600.0
# A message that was not looked at is sent again at once: so often, when connections are ended one after another.
TRIES = 3
_NOT_TAKEN = NetworkFault("reset", "it takes no more messages")


class PushClient:
    """Connections to every push service, for the life of a worker: `async with PushClient() as client`.

    `ca_file` holds PEM certificates trusted beside the system's. One client serves any number of concurrent posts.
    `unsure` says of an origin whether its address must be checked before it is connected to.
    Raises ValueError when the file holds no certificate, OSError when it cannot be read.
    """

    def __init__(
        self,
        ca_file: Path | None = None,
        *,
        unsure: Callable[[str], bool] = lambda _: False,
        pins: AddressPins | None = None,
        timeout: timedelta = TIMEOUT,
        connect_timeout: timedelta = CONNECT_TIMEOUT,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._certificates = [] if ca_file is None else _certificates(ca_file)
        self._context = ssl.create_default_context()
        if self._certificates:
            self._context.load_verify_locations(cadata=b"".join(self._certificates))
        self._context.set_alpn_protocols(ALPN)
        # The same in every version of Python: what the operator trusts need be no root, and no model certificate.
        self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._clock = clock
        self._unsure, self._pins = unsure, pins or AddressPins()
        self._origins: OrderedDict[tuple[str, str | None], _Origin] = OrderedDict()
        """By the origin, and the address that it is connected to when that had to be checked."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(origin.close() for origin in self._origins.values()))

    async def post(
        self, endpoint: str, body: bytes, *, ttl: int, urgency: str, topic: str, authorization: str
    ) -> PushResponse:
        """Post one encrypted message. `ttl` is seconds, `topic` at most 32 base64url characters (RFC 8030 section 5).

        Never raises for what a push service or the network does: a fault is an Answer too.
        """
        began = self._clock()
        origin = endpoint[: endpoint.find("/", 8)]
        address = None
        if self._unsure(origin):
            try:
                address = await self._pins.address(_server(origin)[0])
            except NotPublic:
                return PushResponse(None, duration_ms=self._since(began), fault=NetworkFault("private"))
            except OSError:
                return PushResponse(None, duration_ms=self._since(began), fault=NetworkFault("dns"))
        if (place := self._origins.get((origin, address))) is None:
            place = self._add(origin, address)
        self._origins.move_to_end((origin, address))
        said = await place.post(endpoint, body, ttl, urgency, topic, authorization)
        if isinstance(said, HttpReply):
            return PushResponse(said.status, said.headers, said.body, self._since(began))
        if address is not None and said.kind == "connect":
            self._pins.forget(_server(origin)[0])
        return PushResponse(None, duration_ms=self._since(began), fault=said)

    def _add(self, origin: str, address: str | None) -> "_Origin":
        added = _Origin(origin, partial(self._connect, origin, address), partial(self._open_older, origin, address))
        self._origins[origin, address] = added
        if len(self._origins) > MAX_PINS:
            # What lies with the one that was used longest ago comes to its end all the same.
            self._origins.popitem(last=False)
        return added

    async def _connect(self, origin: str, address: str | None) -> Connection | None:
        name, port = _server(origin)
        return await connect(
            name,
            port,
            self._context,
            address,
            connect_s=self._connect_timeout.total_seconds(),
            answer_s=self._timeout.total_seconds(),
        )

    def _open_older(self, origin: str, address: str | None) -> OlderClient:
        return http1.open_client(
            self._certificates,
            timeout=self._timeout,
            connect_timeout=self._connect_timeout,
            idle_timeout=IDLE,
            pinned=None if address is None else (_server(origin)[0], address),
        )

    def _since(self, began: float) -> int:
        return round((self._clock() - began) * 1000)


class _Origin:
    """The connections to one push service."""

    def __init__(
        self,
        origin: str,
        open_: Callable[[], Coroutine[Any, Any, Connection | None]],
        open_older: Callable[[], OlderClient],
    ) -> None:
        self._origin = origin
        self._pool = Pool(open_)
        self._open_older = open_older
        self._older: OlderClient | None = None
        self._older_until = 0.0 if origin.startswith("https:") else math.inf
        """It speaks only HTTP/1.1, as far as is known."""

    async def post(
        self, endpoint: str, body: bytes, ttl: int, urgency: str, topic: str, authorization: str
    ) -> HttpReply | NetworkFault:
        if self._older_until <= time.monotonic():
            path = endpoint[len(self._origin) :].encode()
            fields = _fields(self._origin, urgency, topic, authorization, ttl > 0)
            for _ in range(TRIES):
                try:
                    connection = await self._pool.connection()
                except Unreachable as error:
                    return error.fault
                if connection is None:
                    self._older_until = time.monotonic() + OLDER_S
                    break
                try:
                    said = await connection.post(path, fields, ttl, body)
                finally:
                    self._pool.left()
                if said is not None:
                    return said
            else:
                return _NOT_TAKEN
        if self._older is None:
            self._older = self._open_older()
        headers = {"TTL": str(ttl)} | _headers(urgency, topic, authorization, lasts=ttl > 0)
        return await http1.post(self._older, endpoint, headers, body)

    async def close(self) -> None:
        await self._pool.close()
        if self._older is not None:
            await self._older.close()


def _headers(urgency: str, topic: str, authorization: str, *, lasts: bool) -> dict[str, str]:
    """RFC 8030 section 5, RFC 8291 section 4, and Declarative Web Push's content type; all but the TTL itself."""
    headers = {
        "Urgency": urgency,
        "Topic": topic,
        "Authorization": authorization,
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/json",
        "User-Agent": "webpush-gateway",
    }
    if not lasts:
        # WNS refuses a TTL of 0 without it; the others do not look.
        headers["X-WNS-Cache-Policy"] = "no-cache"
    return headers


@lru_cache(maxsize=1024)
def _fields(origin: str, urgency: str, topic: str, authorization: str, lasts: bool) -> tuple[Field, ...]:
    said = {":scheme": "https", ":authority": origin.partition("://")[2]}
    said |= _headers(urgency, topic, authorization, lasts=lasts)
    return tuple((name.lower().encode(), value.encode()) for name, value in said.items())


def _server(origin: str) -> tuple[str, int]:
    """(name, port)."""
    parts = urlsplit(origin)
    return parts.hostname or "", parts.port or 443


def _certificates(ca_file: Path) -> list[bytes]:
    """Each as DER. Read here because the HTTP client takes a file with no certificate in it without a word."""
    try:
        return [one.public_bytes(Encoding.DER) for one in load_pem_x509_certificates(ca_file.read_bytes())]
    except ValueError:
        raise ValueError(f"{ca_file} holds no PEM certificate, or a malformed one") from None
