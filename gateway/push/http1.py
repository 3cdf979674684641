"""HTTP/1.1 client for push services without HTTP/2.

It uses pyreqwest, because an HTTP client in pure Python would take several times the CPU time. The resources that a
response can use are bounded: there are no redirects, proxies, cookies or decompression, each request has a deadline,
and at most 4 KiB of a body are read.
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
    relevant_headers,
)

# Maximum number of idle connections that stay open for later requests. HTTP/1.1 needs one connection per request in
# flight.
MAX_IDLE = 100


def open_client(
    certificates: Sequence[bytes],
    *,
    timeout: timedelta,
    connect_timeout: timedelta,
    idle_timeout: timedelta,
    pinned: tuple[str, str] | None = None,
) -> Client:
    """Create the HTTP/1.1 client.

    Args:
        certificates: DER certificates to trust in addition to those of the system.
        timeout: limit for one request.
        connect_timeout: limit for connecting.
        idle_timeout: how long an idle connection stays open.
        pinned: (host name, IP address): the client connects to this address instead of resolving the name.
    """
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
    """Post one message; failures are returned, not raised."""
    # Let other senders prepare their messages first: requests then reach the client's thread in bursts, which wakes it
    # once for several of them.
    await asyncio.sleep(0)
    try:
        request = client.post(endpoint).headers(dict(headers)).body_bytes(body)
        # Do not read ahead: the response has its status even if the body never ends.
        async with request.streamed_read_buffer_limit(0).build_streamed() as response:
            status = response.status
            content = b"" if status == CREATED else await _read_body(response)
            return HttpReply(status, _headers(response), content)
    except (PyreqwestError, ValueError) as error:
        return _fault(error)


def _headers(response: Response) -> dict[str, str]:
    headers = {}
    for name in relevant_headers(response.status):
        try:
            value = response.get_header(name)
        except ValueError:
            # The value is not text. The header is left out; the status is still returned.
            continue
        if value is not None and len(value) <= MAX_HEADER_LENGTH:
            headers[name] = value
    return headers


async def _read_body(response: Response) -> bytes:
    """Read the start of the body. A truncated body is not an error, because the status decides the outcome."""
    try:
        return bytes(await response.body_reader.read(MAX_BODY_OCTETS) or b"")
    except PyreqwestError:
        return b""


def _fault(error: PyreqwestError | ValueError) -> NetworkFault:
    # The first cause contains the URL, and an endpoint is a secret: report only the causes after it.
    details = error.details["causes"] or [] if isinstance(error, DetailedPyreqwestError) else []
    causes = [cause["message"] for cause in details[1:]]
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
