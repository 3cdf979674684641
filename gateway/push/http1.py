"""Post over HTTP/1.1, for push services that speak nothing newer.

pyreqwest, because an HTTP client in Python costs several times as much. What a push service could do to us is
bounded here: no redirect, proxy, cookie or decompression, a deadline, and 4 KiB of any body.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import DetailedPyreqwestError, NetworkError, PyreqwestError, RequestTimeoutError
from pyreqwest.response import Response

from gateway.push.responses import (
    CREATED,
    MAX_BODY_OCTETS,
    MAX_HEADER_LENGTH,
    FaultKind,
    HttpReply,
    NetworkFault,
    headers_of,
)

# Each message in flight has a connection of its own, and so many are kept for the next messages.
MAX_IDLE = 100


def open_client(
    certificates: Sequence[bytes],
    *,
    timeout: timedelta,
    connect_timeout: timedelta,
    idle_timeout: timedelta,
    pinned: tuple[str, str] | None = None,
) -> Client:
    """`certificates`: DER, trusted beside the system's. `pinned`: (name, the one address that it leads to)."""
    builder = (
        ClientBuilder()
        .http1_only()
        .timeout(timeout)
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(idle_timeout)
        .pool_max_idle_per_host(MAX_IDLE)
        .follow_redirects(False)
        .referer(False)
        .no_proxy()
        .default_cookie_store(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
    )
    for certificate in certificates:
        builder = builder.add_root_certificate_der(certificate)
    return (builder.resolve(*pinned, 443) if pinned else builder).build()


async def post(client: Client, endpoint: str, headers: Mapping[str, str], body: bytes) -> HttpReply | NetworkFault:
    # Others make their messages before the first is posted: so these reach the client's own thread in bursts, and it
    # is woken once for several of them.
    await asyncio.sleep(0)
    try:
        request = client.post(endpoint).headers(dict(headers)).body_bytes(body)
        # No read-ahead: the status counts even when the body never ends.
        async with request.streamed_read_buffer_limit(0).build_streamed() as response:
            status = response.status
            told = b"" if status == CREATED else await _read(response)
            return HttpReply(status, _headers(response), told)
    except (PyreqwestError, ValueError) as error:
        return _fault(error)


def _headers(response: Response) -> dict[str, str]:
    found = {}
    for name in headers_of(response.status):
        try:
            value = response.get_header(name)
        except ValueError:
            # Octets that are no text. The status has arrived, and a garbled header must not undo it.
            continue
        if value is not None and len(value) <= MAX_HEADER_LENGTH:
            found[name] = value
    return found


async def _read(response: Response) -> bytes:
    """The start of the body. One that breaks off is no fault: the status has already said what counts."""
    try:
        return bytes(await response.body_reader.read(MAX_BODY_OCTETS) or b"")
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
