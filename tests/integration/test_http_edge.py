"""Requests that no HTTP library sends get a problem document and do not affect other requests."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from gateway.web.http import ndjson
from gateway.web.http.security_headers import COMMON_HEADERS as SECURITY_HEADERS
from tests.support.api import ADMIN, Api

# A part of malformed requests that must not be logged.
SECRET = "hunter2"
JSON = "Content-Type: application/json\r\n"
KEY = "Authorization: Bearer KEY\r\n"
POST = f"POST /v1/devices HTTP/1.1\r\nHost: x\r\n{KEY}{JSON}"
SIGN_IN = f"POST /v1/session HTTP/1.1\r\nHost: x\r\n{JSON}"
# Requests with the expected status; KEY is replaced by the secret key.
RAW_REQUESTS = {
    "no HTTP\r\n\r\n": 400,
    f"GET /v1/devices HTTP/1.1\r\nHost: x\r\nX: {SECRET * 10_000}\r\n\r\n": 400,
    f"GET /v1/devices HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {SECRET}\r\n\r\n": 400,
    f"GET /v1/devices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\0\r\n\r\n": 400,
    f"GET /v1/users/{SECRET} person HTTP/1.1\r\nHost: x\r\n\r\n": 400,
    f"GET http://[/v1/users/{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n": 400,
    f"{POST}Content-Length: 3\r\nContent-Length: 5\r\n\r\n{SECRET}": 400,
    f"{POST}Transfer-Encoding: chunked\r\n\r\n{SECRET}\r\nabc\r\n0\r\n\r\n": 400,
    f"{POST}Content-Encoding: gzip\r\nContent-Length: 7\r\n\r\n{SECRET}": 400,
    f"{POST}Expect: {SECRET}\r\nContent-Length: 7\r\n\r\n{SECRET}": 417,
    f"{SIGN_IN}Origin: http://[\r\nContent-Length: 13\r\n\r\n" + '{"key": "sk"}': 403,
    "GET /v1/devices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \udcff\r\n\r\n": 401,
    "GET /console/" + "a" * 300 + " HTTP/1.1\r\nHost: x\r\n\r\n": 404,
    "GET /sdk/" + "a" * 300 + " HTTP/1.1\r\nHost: x\r\n\r\n": 404,
    f"GET /v1/deliveries/stream?last_event_id={'9' * 5000} HTTP/1.1\r\nHost: x\r\n{KEY}\r\n": 422,
}


async def send_raw(api: Api, request: str) -> list[str]:
    """Send a request as it is, and return the status line and the header lines of the response."""
    url = urlsplit(api.origin)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(request.replace("KEY", api.secret).encode("utf-8", "surrogateescape"))
    async with asyncio.timeout(20):
        response = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    return response.split("\r\n")


async def test_malformed_requests_are_refused_and_not_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """Malformed requests get a problem document, and their content is not logged."""
    caplog.set_level(logging.DEBUG)
    for request, status in RAW_REQUESTS.items():
        status_line, *headers = await send_raw(api, request)
        assert status_line.split()[1] == str(status), (request[:200], status_line)
        assert {f"{name}: {value}" for name, value in SECURITY_HEADERS.items()} <= set(headers), request[:200]
        # aiohttp itself refuses unknown expectations with 417, without a problem document.
        assert status in (200, 417) or "Content-Type: application/problem+json; charset=utf-8" in headers, request[:200]
    for record in caplog.records:
        assert record.levelno < logging.ERROR, record.getMessage()
        assert SECRET not in record.getMessage() + str(record.exc_info)


async def test_concurrent_sign_ins_do_not_exhaust_connections(api: Api) -> None:
    """A sign-in uses one database connection; if it used two, twenty sign-ins would deadlock at the pool."""
    async with asyncio.timeout(20):
        responses = await asyncio.gather(
            *(api.call("POST", "/v1/session", {"key": f"dt_{n}"}, key=None) for n in range(20)),
            api.call("GET", "/v1/devices"),
        )
    assert [response.status for response in responses] == [401] * 20 + [200]


async def test_removed_key_ends_a_running_import(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import checks its key again with each batch, and stops when the key is removed."""
    monkeypatch.setattr(ndjson, "BATCH", 2)
    application = f"/v1/applications/{api.parts.application['id']}"
    key = await api.call_ok("POST", f"{application}/keys", {"name": "import", "scopes": ["manage"]}, key=ADMIN)

    async def lines() -> AsyncIterator[bytes]:
        for number in range(8):
            yield json.dumps(api.device()).encode() + b"\n"
            if number == 1:
                async with asyncio.timeout(20):
                    while (await api.rows())["devices"] < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)  # a registration raises no event
                removed = await api.call("DELETE", f"{application}/keys/{key['id']}", key=ADMIN)
                assert removed.status == 204

    headers = {"Authorization": f"Bearer {key['key']}", "Content-Type": ndjson.NDJSON}
    async with api.http.post("/v1/devices/import", data=lines(), headers=headers) as response:
        last = json.loads((await response.text()).strip().rpartition("\n")[2])
    assert (last["done"], last["code"], last["created"]) == (False, "unauthenticated", 2)
    assert (await api.rows())["devices"] == 2
