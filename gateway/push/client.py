"""Post to push services (RFC 8030) over HTTP/2 or HTTP/1.1.

pyreqwest, because an HTTP client in Python costs more than everything else about a delivery. What a push service
could do to us is bounded here: no redirect, proxy, cookie or decompression, a deadline, and 4 KiB of any body.
It resolves names by itself and shows nobody what it found, so a host whose address must be checked has a client of its
own that knows this one address and asks nobody.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    DetailedPyreqwestError,
    NetworkError,
    PyreqwestError,
    RequestTimeoutError,
)
from pyreqwest.response import Response

from gateway.push.answers import Answer, FaultKind, NetworkFault
from gateway.push.pins import MOST, NotPublic, Pins

TIMEOUT = timedelta(seconds=30)
CONNECT_TIMEOUT = timedelta(seconds=10)
# Below the idle limits of the services' load balancers, so that a reused connection is seldom one being closed.
IDLE_TIMEOUT = timedelta(seconds=50)
# What a connection over HTTP/2 is allowed at once is the server's to say; RFC 9113 section 6.5.2 asks for no less than
# this, and few allow more. What is beyond that would wait in the client. Over HTTP/1.1 each message in flight has a
# connection of its own, and so many are kept for the next messages.
STREAMS = 100
PING_INTERVAL = timedelta(seconds=20)
MOST_BODY = 4096
LONGEST_HEADER = 2048

_ACCEPTED_HEADERS = ("location", "ttl")
_REFUSED_HEADERS = ("retry-after", "x-wns-error-description", "x-wns-notificationstatus", "x-wns-status")


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
        pins: Pins | None = None,
        timeout: timedelta = TIMEOUT,
        connect_timeout: timedelta = CONNECT_TIMEOUT,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._certificates = [] if ca_file is None else _certificates(ca_file)
        self._clock = clock
        self._unsure, self._pins = unsure, pins or Pins()
        self._trusted = _Clients(self._builder)
        self._pinned: OrderedDict[str, tuple[str, _Clients]] = OrderedDict()
        """By name, with the address."""

    def _builder(self) -> ClientBuilder:
        """One connection to every origin that speaks HTTP/2, and as many as are needed to others."""
        builder = (
            ClientBuilder()
            .user_agent("webpush-gateway")
            .http2(True)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(CONNECT_TIMEOUT)
            .timeout(self._timeout)
            .connect_timeout(self._connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(STREAMS)
            .follow_redirects(False)
            .referer(False)
            .no_proxy()
            .default_cookie_store(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
        )
        for certificate in self._certificates:
            builder = builder.add_root_certificate_der(certificate)
        return builder

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for clients in (self._trusted, *(clients for _, clients in self._pinned.values())):
            await clients.close()

    async def post(
        self, endpoint: str, body: bytes, *, ttl: int, urgency: str, topic: str, authorization: str
    ) -> Answer:
        """Post one encrypted message. `ttl` is seconds, `topic` at most 32 base64url characters (RFC 8030 section 5).

        Never raises for what a push service or the network does: a fault is an Answer too.
        """
        began = self._clock()
        origin = endpoint[: endpoint.find("/", 8)]
        clients = self._trusted
        if self._unsure(origin):
            try:
                clients = await self._at_checked_address(_name(origin))
            except NotPublic:
                return Answer(None, duration_ms=self._since(began), fault=NetworkFault("private"))
            except OSError:
                return Answer(None, duration_ms=self._since(began), fault=NetworkFault("dns"))
        place = clients.enter(origin)
        try:
            request = (
                clients.at(place)
                .post(endpoint)
                .headers(request_headers(ttl, urgency, topic, authorization))
                .body_bytes(body)
                .streamed_read_buffer_limit(0)  # the status counts even when the body never ends
                .build_streamed()
            )
            async with request as response:
                status = response.status
                if status == 201:
                    headers, told = _headers(response, _ACCEPTED_HEADERS), b""
                else:
                    headers = _headers(response, _ACCEPTED_HEADERS if 200 <= status < 300 else _REFUSED_HEADERS)
                    told = await _read(response)
        except (PyreqwestError, ValueError) as error:
            fault = _fault(error)
            if clients is not self._trusted and fault.kind == "connect":
                self._pins.forget(_name(origin))
            return Answer(None, duration_ms=self._since(began), fault=fault)
        finally:
            clients.leave(origin, place)
        return Answer(status, headers, told, self._since(began))

    async def _at_checked_address(self, name: str) -> "_Clients":
        """Raises NotPublic and OSError."""
        address = await self._pins.address(name)
        held = self._pinned.get(name)
        if held is None or held[0] != address:
            # Those before end with the last request that lies with them.
            held = self._pinned[name] = address, _Clients(lambda: self._builder().resolve(name, address, 443))
            if len(self._pinned) > MOST:
                self._pinned.popitem(last=False)
        self._pinned.move_to_end(name)
        return held[1]

    def _since(self, began: float) -> int:
        return round((self._clock() - began) * 1000)


class _Clients:
    """As many alike as are needed for all that lies with an origin at once."""

    def __init__(self, builder: Callable[[], ClientBuilder]) -> None:
        self._builder = builder
        self._clients = [builder().build()]
        self._lying: dict[str, list[int]] = {}
        """How many requests lie with an origin, by the client that brought them there."""

    def at(self, place: int) -> Client:
        return self._clients[place]

    def enter(self, origin: str) -> int:
        """The first client whose connection has room for one more."""
        lying = self._lying.setdefault(origin, [])
        for place, count in enumerate(lying):
            if count < STREAMS:
                lying[place] += 1
                return place
        lying.append(1)
        if len(lying) > len(self._clients):
            self._clients.append(self._builder().build())
        return len(lying) - 1

    def leave(self, origin: str, place: int) -> None:
        lying = self._lying[origin]
        lying[place] -= 1
        if not any(lying):
            del self._lying[origin]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


def request_headers(ttl: int, urgency: str, topic: str, authorization: str) -> dict[str, str]:
    """RFC 8030 section 5, RFC 8291 section 4, and Declarative Web Push's content type."""
    headers = {
        "TTL": str(ttl),
        "Urgency": urgency,
        "Topic": topic,
        "Authorization": authorization,
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/json",
    }
    if ttl == 0:
        # WNS refuses a TTL of 0 without it; the others do not look.
        headers["X-WNS-Cache-Policy"] = "no-cache"
    return headers


def _name(origin: str) -> str:
    return origin.partition("://")[2].partition(":")[0]


def _certificates(ca_file: Path) -> list[bytes]:
    """Each as DER. Read here because pyreqwest takes a file with no certificate in it without a word."""
    try:
        return [one.public_bytes(Encoding.DER) for one in load_pem_x509_certificates(ca_file.read_bytes())]
    except ValueError:
        raise ValueError(f"{ca_file} holds no PEM certificate, or a malformed one") from None


def _headers(response: Response, names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            value = response.get_header(name)
        except ValueError:
            # Octets that are no text. The status has arrived, and a garbled header must not undo it.
            continue
        if value is not None and len(value) <= LONGEST_HEADER:
            found[name] = value
    return found


async def _read(response: Response) -> bytes:
    """The start of the body. One that breaks off is no fault: the status has already said what counts."""
    try:
        return bytes(await response.body_reader.read(MOST_BODY) or b"")
    except PyreqwestError:
        return b""


def _fault(error: PyreqwestError | ValueError) -> NetworkFault:
    # The first cause names the URL, and an endpoint is as good as a key: only what comes after it is told.
    told = error.details["causes"] or [] if isinstance(error, DetailedPyreqwestError) else []
    causes = [cause["message"] for cause in told[1:]]
    detail = causes[-1] if causes else ""
    return NetworkFault(_kind(error, " ".join(causes).lower()), detail if "://" not in detail else "")


def _kind(error: PyreqwestError | ValueError, causes: str) -> FaultKind:
    if isinstance(error, RequestTimeoutError):
        return "timeout"
    if not isinstance(error, NetworkError):
        return "protocol" if causes else "request"
    if "dns error" in causes:
        return "dns"
    if "certificate" in causes or "corrupt message" in causes or "handshake" in causes or "tls" in causes:
        return "tls"
    return "connect" if "(connect)" in causes else "reset"
