"""The Python client without a gateway: agreement with the OpenAPI document, imported modules, and retries."""

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
from gateway.client import ApiError, Gateway, ImportResults, Listing, Tail, requests, transport
from gateway.client.errors import BY_CODE
from gateway.client.responses import Delivery
from gateway.client.transport import Transport
from ops.client import render
from tests.support.api import DOCUMENT, path_template

# Operations of the OpenAPI document without a method in the client, each with the reason.
OMITTED_OPERATIONS = {
    ("GET", "/v1/devices/{device_id}/live"): "a WebSocket for pages, with a device's own token",
    ("POST", "/v1/receipts"): "sent by service workers, with a token from the message",
    ("POST", "/v1/session"): "the console's cookie",
    ("GET", "/v1/session"): "the console's cookie",
    ("DELETE", "/v1/session"): "the console's cookie",
    ("GET", "/healthz"): "for probes; `check_readiness` returns more",
}

# Error codes of the OpenAPI document without an exception in the client, each with the reason.
OMITTED_ERROR_CODES = {
    "receipt_invalid": "service workers send receipts",
    "malformed_request": "the client speaks HTTP",
    "upgrade_required": "the live channel is for pages",
    "method_not_allowed": "the client uses the document's methods",
    "unsupported_media_type": "the client uses the document's types",
    "body_too_slow": "reported as a lost connection: the body was not sent in time",
}

Handler = Callable[[web.Request], Awaitable[web.Response]]


class RequestRecorded(Exception):
    """Raised by the replaced transport instead of returning a response."""


def client_methods() -> dict[str, Callable[..., Any]]:
    """Return every method of the client that sends a request, by its name with the resource."""
    gateway = Gateway("http://127.0.0.1")
    resources = {name: resource for name, resource in vars(gateway).items() if not name.startswith("_")}
    methods = {
        "gateway.check_readiness": gateway.check_readiness,
        "gateway.get_vapid_public_key": gateway.get_vapid_public_key,
    }
    for name, resource in resources.items():
        members = inspect.getmembers(resource, inspect.ismethod)
        methods |= {f"{name}.{method}": bound for method, bound in members if not method.startswith("_")}
    return methods


async def record_request(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Call a method with a value for each of its arguments, and return the request that it would send."""
    request: dict[str, Any] = {}

    async def record(_: Transport, method: str, path: str, **options: Any) -> None:
        request.update(method=method, path=path, **options)
        raise RequestRecorded

    @asynccontextmanager
    async def record_stream(_: Transport, method: str, path: str, **options: Any) -> AsyncIterator[None]:
        await record(_, method, path, **options)
        yield

    monkeypatch.setattr(Transport, "call", record)
    monkeypatch.setattr(Transport, "stream", record_stream)
    positional: list[Any] = []
    keyword: dict[str, Any] = {}
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            [typed_dict] = typing.get_args(parameter.annotation)
            keyword |= dict.fromkeys(typing.get_type_hints(typed_dict), "x")
        elif parameter.default is parameter.empty:
            positional.append("x")
    result = call(*positional, **keyword)
    with pytest.raises(RequestRecorded):
        await (anext(aiter(result)) if isinstance(result, Listing | Tail | ImportResults) else result)
    return request


async def test_client_methods_match_the_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each client method sends an operation of the OpenAPI document; OMITTED_OPERATIONS are all without a method."""
    operations_used = set()
    for name, call in client_methods().items():
        request = await record_request(call, monkeypatch)
        template = path_template(request["path"])
        assert template is not None, name
        operation = DOCUMENT["paths"][template].get(request["method"].lower())
        assert operation is not None, f"{name}: {request['method']} {template} is not in the document"
        operations_used.add((request["method"], template))
        parameters = {(field["in"], field["name"]) for field in operation.get("parameters", ())}
        query = {("query", field) for field in request.get("query") or ()}
        expected = {field for field in parameters if field[0] == "query" and field[1] != "last_event_id"}
        assert query == expected, name
        assert request.get("creates", False) == (("header", "Idempotency-Key") in parameters), name
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            assert request.get("body") is None, name
        elif request.get("raw") is None:
            schema = DOCUMENT["components"]["schemas"][content["application/json"]["schema"]["$ref"].rpartition("/")[2]]
            assert request["body"].keys() == schema["properties"].keys(), name
        for media_type in ([request["raw"][1]] if request.get("raw") else []) + [
            request.get("headers", {}).get("Content-Type")
        ]:
            assert media_type is None or media_type in content, name
    operations = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert operations - operations_used == set(OMITTED_OPERATIONS)


def test_client_types_are_generated_from_the_document() -> None:
    """The generated files of the client are up to date; `ops/client` writes them."""
    for path, text in render().items():
        assert path.read_text() == text, f"{path.name} differs from the OpenAPI document: run ops/client"


def test_error_codes_have_exceptions() -> None:
    """The client has an exception for each error code of the API, except OMITTED_ERROR_CODES."""
    codes = set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    assert codes - set(BY_CODE) == set(OMITTED_ERROR_CODES)
    assert {error.__name__ for error in BY_CODE.values()} <= set(client.__all__)


def test_client_imports_only_aiohttp() -> None:
    """The client imports no dependency of the server and no module of the gateway outside gateway.client."""
    code = "import sys, gateway.client; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in process.stdout.split()}
    assert not loaded & {"asyncpg", "pydantic", "rich", "sqlalchemy", "structlog", "typer", "shapely", "cryptography"}
    modules = {name for name in process.stdout.split() if name.startswith("gateway.")}
    assert all(name.startswith("gateway.client") for name in modules), modules


@asynccontextmanager
async def client_of(*handlers: Handler, max_attempts: int = 4) -> AsyncIterator[tuple[Gateway, list[web.Request]]]:
    """Start a server that uses the handlers in order and repeats the last; yield a client and the received requests."""
    requests_received: list[web.Request] = []

    async def serve_next(request: web.Request) -> web.StreamResponse:
        await request.read()
        requests_received.append(request)
        return await handlers[min(len(requests_received), len(handlers)) - 1](request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", serve_next)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Gateway(
            f"http://127.0.0.1:{runner.addresses[0][1]}", "sk_x", max_attempts=max_attempts, max_wait=2
        ) as gateway:
            yield gateway, requests_received
    finally:
        await runner.cleanup()


def respond(status: int, body: Any = None, **headers: str) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        text = None if body is None else body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers={n.replace("_", "-"): v for n, v in headers.items()})

    return handle


async def close_connection(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses of the client instead of waiting, and return the list of their seconds."""
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


async def test_creation_retries_with_same_idempotency_key(waits: list[float]) -> None:
    """Each retry has the first attempt's key, and comes after the server's Retry-After or the client's back-off."""
    busy = respond(503, BUSY, Retry_After="2")
    async with client_of(close_connection, busy, respond(500, {}), respond(201, SEGMENT | {"news": 1})) as (
        gateway,
        received,
    ):
        segment = await gateway.segments.create(name="n", audience={"everyone": True})
    assert (segment.id, segment.created_at.year) == ("seg_1", 2026)
    assert len({request.headers["Idempotency-Key"] for request in received}) == 1
    assert [request.headers["Authorization"] for request in received] == ["Bearer sk_x"] * 4
    assert 0.25 <= waits[0] <= 0.5
    assert waits[1] == 2
    assert 1 <= waits[2] <= 2
    async with client_of(respond(201, SEGMENT)) as (gateway, received):
        await gateway.segments.create(name="n", audience={"everyone": True}, idempotency_key="mine")
    assert received[0].headers["Idempotency-Key"] == "mine"


async def test_unsafe_request_retries_only_when_unprocessed(waits: list[float]) -> None:
    """A PATCH is retried only if the gateway did not process it; the response to a repeated DELETE may be 404."""
    async with client_of(respond(503, BUSY), respond(200, SEGMENT)) as (gateway, received):
        await gateway.segments.update("seg_1", name="m")
    assert len(received) == 2
    for handler in (close_connection, respond(500, {})):
        async with client_of(handler) as (gateway, received):
            with pytest.raises(client.GatewayError):
                await gateway.segments.update("seg_1", name="m")
        assert len(received) == 1
    async with client_of(close_connection, respond(404, {"code": "not_found"})) as (gateway, received):
        await gateway.segments.delete("seg_1")
    async with client_of(respond(404, {"code": "not_found"})) as (gateway, received):
        with pytest.raises(client.NotFound):
            await gateway.segments.delete("seg_1")


async def test_retries_stop_at_attempt_and_wait_limits(waits: list[float]) -> None:
    """The client raises the error after four attempts, or at once if Retry-After is longer than `max_wait`."""
    async with client_of(respond(429, {"code": "rate_limited"})) as (gateway, received):
        with pytest.raises(client.RateLimited):
            await gateway.segments.get("seg_1")
    assert len(received) == 4
    async with client_of(respond(429, {"code": "rate_limited"}, Retry_After="3600")) as (gateway, received):
        with pytest.raises(client.RateLimited) as error:
            await gateway.segments.get("seg_1")
    assert (len(received), error.value.retry_after) == (1, "3600")


async def test_errors_are_typed_and_foreign_servers_detected(waits: list[float]) -> None:
    """A problem raises the exception of its code; a response that is not from a gateway raises ApiError."""
    errors = [{"pointer": "/audience/topic", "detail": "is missing"}]
    problem = {"code": "invalid", "title": "The input is not valid", "detail": "it is not", "errors": errors}
    async with client_of(respond(422, problem, X_Request_Id="r1"), respond(418, "<html>")) as (gateway, _):
        with pytest.raises(client.ValidationError, match="it is not") as invalid:
            await gateway.notifications.send(content={"title": "t"}, audience={})
        assert (invalid.value.status, invalid.value.request_id) == (422, "r1")
        assert [(error.pointer, error.detail) for error in invalid.value.errors] == [("/audience/topic", "is missing")]
        with pytest.raises(ApiError, match="responds with 418"):
            await gateway.segments.get("seg_1")
    async with client_of(respond(200, "<html>")) as (gateway, _):
        with pytest.raises(client.DecodeError, match="is it a gateway"):
            await gateway.segments.get("seg_1")
    async with client_of(respond(302, "", Location="http://127.0.0.1:9/")) as (gateway, received):
        with pytest.raises(ApiError):
            await gateway.segments.get("a/b c?")
    assert received[0].raw_path == "/v1/segments/a%2Fb%20c%3F"
    async with Gateway("http://127.0.0.1:1", max_attempts=2) as unreachable:
        with pytest.raises(client.GatewayUnreachable, match="cannot be reached"):
            await unreachable.check_readiness()


async def test_tail_reconnects_after_any_outage(waits: list[float]) -> None:
    """After the first connection, a tail reconnects however often it fails, and continues after its last event id."""
    delivery = dict.fromkeys(field.name for field in fields(Delivery)) | {"id": "dlv_1", "later": True}
    delivered = respond(200, f"id: 6\nevent: delivery\ndata: {json.dumps(delivery)}\n\n")
    outages = (close_connection, respond(503, BUSY), close_connection, respond(502, "<html>"), close_connection)
    async with client_of(respond(200, ": following\n\nid: 5\n\n"), *outages, delivered, max_attempts=2) as (
        gateway,
        received,
    ):
        tail = gateway.deliveries.tail(outcome="gone")
        assert (await anext(aiter(tail))).id == "dlv_1"
    assert [request.headers.get("Last-Event-ID") for request in received] == [None, *["5"] * 6]
    assert {request.query_string for request in received} == {"outcome=gone"}
    assert tail.last_event_id == "6"
    async with client_of(close_connection, max_attempts=2) as (gateway, received):
        with pytest.raises(client.GatewayUnreachable):
            await anext(aiter(gateway.deliveries.tail()))
    assert len(received) == 2


async def test_import_raises_the_iterators_exception() -> None:
    """An exception of the caller's iterator is raised unchanged."""

    def lines() -> typing.Iterator[requests.NewDevice]:
        yield {"subscription": {"endpoint": "https://x", "keys": {"p256dh": "p", "auth": "a"}}}
        raise ZeroDivisionError

    async with client_of(respond(200, '{"done": true}\n')) as (gateway, _):
        with pytest.raises(ZeroDivisionError):
            [result async for result in gateway.devices.import_many(lines())]
