"""The Python client by itself: it is the document's, it loads alone, and it asks again as it should."""

import asyncio
import inspect
import json
import subprocess
import sys
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import pytest
from aiohttp import web

from gateway import client
from gateway.client import Gateway, ImportResults, Listing, Refused, Tail, requests, transport
from gateway.client.errors import BY_CODE
from gateway.client.responses import Delivery
from gateway.client.transport import Transport
from ops.client import render
from tests.support.api import DOCUMENT, path_template

LEFT_OUT = {
    ("GET", "/v1/devices/{device_id}/live"): "a WebSocket for pages, with a device's own token",
    ("POST", "/v1/receipts"): "told by service workers, with a token out of the message",
    ("POST", "/v1/session"): "the console's cookie",
    ("GET", "/v1/session"): "the console's cookie",
    ("DELETE", "/v1/session"): "the console's cookie",
    ("GET", "/healthz"): "for probes; `ready` says more",
    ("GET", "/metrics"): "for Prometheus",
}
"""What the document has and the client has not, and why."""

REFUSALS_LEFT_OUT = {
    "receipt_invalid": "service workers send receipts",
    "malformed_request": "the client speaks HTTP",
    "upgrade_required": "the live channel is for pages",
    "method_not_allowed": "the client uses the document's methods",
    "unsupported_media_type": "the client uses the document's types",
    "body_too_slow": "is told of as lost: the body was not sent in time",
}

Answering = Callable[[web.Request], Awaitable[web.Response]]


class Recorded(Exception):
    """Instead of an answer."""


def methods() -> dict[str, Callable[..., Any]]:
    gateway = Gateway("http://127.0.0.1")
    parts = {name: part for name, part in vars(gateway).items() if not name.startswith("_")}
    found = {"gateway.ready": gateway.ready, "gateway.vapid_public_key": gateway.vapid_public_key}
    for name, part in parts.items():
        of_part = inspect.getmembers(part, inspect.ismethod)
        found |= {f"{name}.{method}": bound for method, bound in of_part if not method.startswith("_")}
    return found


async def asked(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a method asks for when it is given everything that it takes."""
    heard: dict[str, Any] = {}

    async def record(_: Transport, method: str, at: str, **said: Any) -> None:
        heard.update(method=method, path=at, **said)
        raise Recorded

    @asynccontextmanager
    async def record_stream(_: Transport, method: str, at: str, **said: Any) -> AsyncIterator[None]:
        await record(_, method, at, **said)
        yield

    monkeypatch.setattr(Transport, "call", record)
    monkeypatch.setattr(Transport, "stream", record_stream)
    given: list[Any] = []
    named: dict[str, Any] = {}
    for one in inspect.signature(call).parameters.values():
        if one.kind is one.VAR_KEYWORD:
            [fields] = typing.get_args(one.annotation)
            named |= dict.fromkeys(typing.get_type_hints(fields), "x")
        elif one.default is one.empty:
            given.append("x")
    asking = call(*given, **named)
    with pytest.raises(Recorded):
        await (anext(aiter(asking)) if isinstance(asking, Listing | Tail | ImportResults) else asking)
    return heard


async def test_every_method_is_the_documents_and_every_operation_has_one_or_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()
    for name, call in methods().items():
        heard = await asked(call, monkeypatch)
        template = path_template(heard["path"])
        assert template is not None, name
        operation = DOCUMENT["paths"][template].get(heard["method"].lower())
        assert operation is not None, f"{name}: {heard['method']} {template} is not in the document"
        seen.add((heard["method"], template))
        parameters = {(one["in"], one["name"]) for one in operation.get("parameters", ())}
        query = {("query", one) for one in heard.get("query") or ()}
        wanted = {one for one in parameters if one[0] == "query" and one[1] != "last_event_id"}
        assert query == wanted, name
        assert heard.get("creates", False) == (("header", "Idempotency-Key") in parameters), name
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            assert heard.get("body") is None, name
        elif heard.get("raw") is None:
            schema = DOCUMENT["components"]["schemas"][content["application/json"]["schema"]["$ref"].rpartition("/")[2]]
            assert heard["body"].keys() == schema["properties"].keys(), name
        for kind in ([heard["raw"][1]] if heard.get("raw") else []) + [heard.get("headers", {}).get("Content-Type")]:
            assert kind is None or kind in content, name
    operations = {(method.upper(), path) for path, of in DOCUMENT["paths"].items() for method in of}
    assert operations - seen == set(LEFT_OUT)


def test_its_types_are_written_from_the_document() -> None:
    """Run ops/client when this fails."""
    for path, text in render().items():
        assert path.read_text() == text, f"{path.name} is not the document's: run ops/client"


def test_every_refusal_of_the_document_is_an_exception_or_left_out_for_a_reason() -> None:
    codes = set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    assert codes - set(BY_CODE) == set(REFUSALS_LEFT_OUT)
    assert {kind.__name__ for kind in BY_CODE.values()} <= set(client.__all__)


def test_it_loads_nothing_but_aiohttp() -> None:
    code = "import sys, gateway.client; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not loaded & {"asyncpg", "pydantic", "rich", "sqlalchemy", "structlog", "typer", "shapely", "cryptography"}
    ours = {name for name in ran.stdout.split() if name.startswith("gateway.")}
    assert all(name.startswith("gateway.client") for name in ours), ours


@asynccontextmanager
async def answered_by(*answers: Answering, tries: int = 4) -> AsyncIterator[tuple[Gateway, list[web.Request]]]:
    """A client of a server that answers one request after another like this, the last for ever; what was asked."""
    heard: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        heard.append(request)
        return await answers[min(len(heard), len(answers)) - 1](request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Gateway(f"http://127.0.0.1:{runner.addresses[0][1]}", "sk_x", tries=tries, patience=2) as gateway:
            yield gateway, heard
    finally:
        await runner.cleanup()


def says(status: int, body: Any = None, **headers: str) -> Answering:
    async def said(_: web.Request) -> web.Response:
        text = None if body is None else body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers={n.replace("_", "-"): v for n, v in headers.items()})

    return said


async def hangs_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Instead of waiting: how long it would have been."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def wait(seconds: float) -> None:
        if seconds:
            waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(transport.asyncio, "sleep", wait)
    return waited


SEGMENT = {"id": "seg_1", "name": "n", "audience": {}, "created_at": "2026-01-01T00:00:00Z", "updated_at": None}
BUSY = {"code": "unavailable", "title": "t", "detail": "later", "status": 503}


async def test_what_is_created_is_asked_for_again_with_the_same_idempotency_key(waits: list[float]) -> None:
    busy = says(503, BUSY, Retry_After="2")
    async with answered_by(hangs_up, busy, says(500, {}), says(201, SEGMENT | {"news": 1})) as (gateway, heard):
        made = await gateway.segments.create(name="n", audience={"everyone": True})
    assert (made.id, made.created_at.year) == ("seg_1", 2026)
    assert len({request.headers["Idempotency-Key"] for request in heard}) == 1
    assert [request.headers["Authorization"] for request in heard] == ["Bearer sk_x"] * 4
    assert 0.25 <= waits[0] <= 0.5
    assert waits[1] == 2
    assert 1 <= waits[2] <= 2
    async with answered_by(says(201, SEGMENT)) as (gateway, heard):
        await gateway.segments.create(name="n", audience={"everyone": True}, idempotency_key="mine")
    assert heard[0].headers["Idempotency-Key"] == "mine"


async def test_what_might_be_done_twice_is_asked_for_again_only_when_it_was_not_done(waits: list[float]) -> None:
    async with answered_by(says(503, BUSY), says(200, SEGMENT)) as (gateway, heard):
        await gateway.segments.update("seg_1", name="m")
    assert len(heard) == 2
    for once in (hangs_up, says(500, {})):
        async with answered_by(once) as (gateway, heard):
            with pytest.raises(client.GatewayError):
                await gateway.segments.update("seg_1", name="m")
        assert len(heard) == 1
    async with answered_by(hangs_up, says(404, {"code": "not_found"})) as (gateway, heard):
        await gateway.segments.delete("seg_1")
    async with answered_by(says(404, {"code": "not_found"})) as (gateway, heard):
        with pytest.raises(client.NotFound):
            await gateway.segments.delete("seg_1")


async def test_it_gives_up_after_its_tries_and_when_it_would_wait_too_long(waits: list[float]) -> None:
    async with answered_by(says(429, {"code": "rate_limited"})) as (gateway, heard):
        with pytest.raises(client.RateLimited):
            await gateway.segments.get("seg_1")
    assert len(heard) == 4
    async with answered_by(says(429, {"code": "rate_limited"}, Retry_After="3600")) as (gateway, heard):
        with pytest.raises(client.RateLimited) as refused:
            await gateway.segments.get("seg_1")
    assert (len(heard), refused.value.retry_after) == (1, "3600")


async def test_a_refusal_names_the_fault_and_what_is_no_gateway_is_told_so(waits: list[float]) -> None:
    faults = [{"pointer": "/audience/topic", "detail": "is missing"}]
    problem = {"code": "invalid", "title": "The input is not valid", "detail": "it is not", "errors": faults}
    async with answered_by(says(422, problem, X_Request_Id="r1"), says(418, "<html>")) as (gateway, _):
        with pytest.raises(client.ValidationError, match="it is not") as invalid:
            await gateway.notifications.send(content={"title": "t"}, audience={})
        assert (invalid.value.status, invalid.value.request_id) == (422, "r1")
        assert [(one.pointer, one.detail) for one in invalid.value.faults] == [("/audience/topic", "is missing")]
        with pytest.raises(Refused, match="answers 418"):
            await gateway.segments.get("seg_1")
    async with answered_by(says(200, "<html>")) as (gateway, _):
        with pytest.raises(client.DecodeError, match="is it a gateway"):
            await gateway.segments.get("seg_1")
    async with answered_by(says(302, "", Location="http://127.0.0.1:9/")) as (gateway, heard):
        with pytest.raises(Refused):
            await gateway.segments.get("a/b c?")
    assert heard[0].raw_path == "/v1/segments/a%2Fb%20c%3F"
    async with Gateway("http://127.0.0.1:1", tries=2) as nowhere:
        with pytest.raises(client.Unreachable, match="cannot be reached"):
            await nowhere.ready()


async def test_a_log_that_was_followed_is_followed_again_however_long_its_server_was_away(waits: list[float]) -> None:
    delivery = dict.fromkeys(one.name for one in fields(Delivery)) | {"id": "dlv_1", "later": True}
    came = says(200, f"id: 6\nevent: delivery\ndata: {json.dumps(delivery)}\n\n")
    away = (hangs_up, says(503, BUSY), hangs_up, says(502, "<html>"), hangs_up)
    async with answered_by(says(200, ": following\n\nid: 5\n\n"), *away, came, tries=2) as (gateway, heard):
        tail = gateway.deliveries.tail(outcome="gone")
        assert (await anext(aiter(tail))).id == "dlv_1"
    assert [request.headers.get("Last-Event-ID") for request in heard] == [None, *["5"] * 6]
    assert {request.query_string for request in heard} == {"outcome=gone"}
    assert tail.last_event_id == "6"
    async with answered_by(hangs_up, tries=2) as (gateway, heard):
        with pytest.raises(client.Unreachable):
            await anext(aiter(gateway.deliveries.tail()))
    assert len(heard) == 2


async def test_a_fault_in_the_lines_of_an_import_is_raised_as_it_is() -> None:
    def lines() -> typing.Iterator[requests.NewDevice]:
        yield {"subscription": {"endpoint": "https://x", "keys": {"p256dh": "p", "auth": "a"}}}
        raise ZeroDivisionError

    async with answered_by(says(200, '{"done": true}\n')) as (gateway, _):
        with pytest.raises(ZeroDivisionError):
            [verdict async for verdict in gateway.devices.import_(lines())]
