"""The server checks the credential before it reads the body, and again in the transaction."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.domain import ids
from gateway.service.access import applications
from gateway.web.http.rate_limits import TokenBuckets
from tests.support.api import ADMIN, Api
from tests.support.gateway_parts import APP_ORIGIN

UNKNOWN_KEY = "sk_" + "x" * 43
BODIES: dict[str, tuple[str, bytes]] = {
    "too large": ("application/json", b'"' + b"x" * (2 << 20) + b'"'),
    "another media type": ("text/csv", b"a,b"),
    "not JSON": ("application/json", b"{"),
    "not valid": ("application/json", b"{}"),
}


class RawConnection:
    """A connection on which a test writes requests octet by octet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, key: str, *headers: str, body: bytes = b"", path: str = "/v1/segments") -> None:
        """Send a POST request; `headers` must contain Content-Length or Transfer-Encoding."""
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *headers]
        if not any(header.startswith("Content-Type") for header in headers):
            head.append("Content-Type: application/json")
        self.writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], Any]:
        """Return status, headers in lower case and JSON body of the next response."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status_line, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(status_line.split()[1]), headers, json.loads(body) if body else None


@asynccontextmanager
async def connect(api: Api) -> AsyncIterator[RawConnection]:
    """Open a TCP connection to the API until the context ends."""
    url = urlsplit(api.origin)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()


@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", "Content-Length: 900000000"])
@pytest.mark.parametrize("key", [UNKNOWN_KEY, "publishable"])
async def test_unsent_body_does_not_delay_refusal(api: Api, key: str, length: str) -> None:
    """A request without a valid credential or scope gets its response before its body, and its connection closes."""
    async with connect(api) as connection:
        await connection.send(api.publishable if key == "publishable" else key, length)
        status, headers, body = await connection.response()
        assert (status, body["code"]) == ((403, "forbidden") if key == "publishable" else (401, "unauthenticated"))
        assert headers["connection"] == "close"
        assert api.state.limits.requests.in_use == 0
        assert api.state.limits.requests.octets_in_use == 0


async def test_short_unread_body_keeps_connection_usable(api: Api) -> None:
    """The server skips the short body of a refused request without parsing it, and serves the next request."""
    smuggled = b"GET /v1/devices HTTP/1.1\r\nHost: x\r\n\r\n"
    async with connect(api) as connection:
        await connection.send(UNKNOWN_KEY, f"Content-Length: {len(smuggled)}")
        assert (await connection.response())[0] == 401
        connection.writer.write(smuggled)
        raw = json.dumps({"name": "s", "audience": {"topic": "t"}}).encode()
        await connection.send(api.secret, f"Content-Length: {len(raw)}", body=raw)
        status, _, body = await connection.response()
        assert (status, body["name"]) == (201, "s")


@pytest.mark.parametrize("case", BODIES)
async def test_credential_is_refused_before_the_body(api: Api, case: str) -> None:
    """The statuses 401 and 403 take precedence over 413, 415, 400 and 422."""
    content_type, raw = BODIES[case]
    headers = {"Content-Type": content_type}
    expected = {None: 401, UNKNOWN_KEY: 401, api.publishable: 403}
    for key, status in expected.items():
        refused = await api.call("POST", "/v1/segments", raw=raw, key=key, origin=APP_ORIGIN, headers=headers)
        assert refused.status == status, key
    refused = await api.call("POST", "/v1/segments", raw=raw, headers=headers)
    assert refused.status in (400, 413, 415, 422)


@pytest.mark.parametrize("path", ["/v1/segments", "/v1/devices"])
async def test_key_removed_while_the_body_is_sent_is_refused(api: Api, path: str) -> None:
    """The credential is checked again when the body is complete: in the transaction, or before a batch of several."""
    async with api.parts.engine.begin() as conn:
        added = await applications.add_key(conn, api.parts.application_id, "short-lived", ["manage"])
    key_id = ids.parse(ids.KEY, added["id"])
    assert key_id is not None
    request = {"name": "s", "audience": {"topic": "t"}} if path == "/v1/segments" else api.device()
    raw = json.dumps(request).encode()
    before = await api.rows()
    async with connect(api) as connection:
        await connection.send(added["key"], f"Content-Length: {len(raw)}", body=raw[:5], path=path)
        async with asyncio.timeout(10):
            while not api.state.limits.requests.octets_in_use:  # noqa: ASYNC110 - the limiter raises no event
                await asyncio.sleep(0.01)
        async with api.parts.engine.begin() as conn:
            await applications.remove_key(conn, api.parts.application_id, key_id)
        connection.writer.write(raw[5:])
        status, _, body = await connection.response()
    assert (status, body["code"]) == (401, "unauthenticated")
    assert await api.rows() == before | {"api_keys": before["api_keys"] - 1}


async def test_expect_continue_is_sent_after_the_credential_check(api: Api) -> None:
    """A client that waits for 100 Continue gets 401 without sending its body."""
    raw = json.dumps({"name": "s", "audience": {"topic": "t"}}).encode()
    expecting = (f"Content-Length: {len(raw)}", "Expect: 100-continue")
    async with connect(api) as connection:
        await connection.send(UNKNOWN_KEY, *expecting)
        assert (await connection.response())[0] == 401
    async with connect(api) as connection:
        await connection.send(api.secret, *expecting)
        async with asyncio.timeout(10):
            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.writer.write(raw)
        assert (await connection.response())[0] == 201


async def test_unknown_expectation_is_refused(api: Api) -> None:
    """An expectation other than 100-continue gets 417 (RFC 9110 section 10.1.1)."""
    refused = await api.http.get("/v1/devices", headers={"Expect": "200-ok", "Authorization": f"Bearer {ADMIN}"})
    assert refused.status == 417


async def test_known_key_works_beside_a_flood_of_unknown_ones(api: Api) -> None:
    """Unknown keys use up the lookups of their address; a key that worked before, and device tokens, need none."""
    device = await api.register()
    assert (await api.call("GET", "/v1/devices")).status == 200
    api.state.limits.lookup_buckets = TokenBuckets("credential", 2, clock=lambda: 0.0)
    statuses = [(await api.call("GET", "/v1/devices", key=f"sk_{n:043d}")).status for n in range(4)]
    assert statuses == [401, 401, 429, 429]
    assert (await api.call("GET", "/v1/devices")).status == 200
    assert (await api.call("GET", f"/v1/devices/{device['id']}/inbox", key=device["device_token"])).status == 200
    assert (await api.call("GET", "/v1/applications", key=ADMIN)).status == 200
    for garbage in ("dt_" + "x" * 43, "xx_" + "x" * 43, "sk_short", "sk_" + "x" * 500):
        assert (await api.call("GET", "/v1/devices", key=garbage)).status == 401
    assert (await api.call("POST", "/v1/session", {"key": "sk_" + "y" * 43}, key=None)).status == 429


async def test_public_route_limits_its_body(api: Api) -> None:
    """A route without a credential reads no more octets than its largest valid body has."""
    long = b'{"key": "' + b"x" * 20_000 + b'"}'
    assert (await api.call("POST", "/v1/session", raw=long, key=None)).status == 413
