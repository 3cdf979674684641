"""The HTTP API for tests: the server on loopback, and a client that checks responses against the OpenAPI document."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from jsonschema import Draft202012Validator

from gateway.sim import Vendor
from gateway.web.http.protocol import Runner
from gateway.web.http.routing import Route, WebState
from gateway.web.schemas import openapi
from gateway.web.server import ROUTES, build
from tests.support.gateway_parts import APP_ORIGIN, Parts

ADMIN = "an admin token for tests, of 32 characters"
# The OpenAPI document.
DOCUMENT = openapi.document(ROUTES)

# The prefix of the ids of each path parameter.
ID_PREFIXES = {
    "application_id": "app",
    "key_id": "key",
    "device_id": "dev",
    "notification_id": "ntf",
    "segment_id": "seg",
    "category_id": "cat",
    "template_id": "tpl",
    "reminder_id": "rem",
    "webhook_id": "whk",
    "feed_id": "fed",
    "trigger_id": "trg",
    "event_id": "evt",
}


def fill_path(path: str, **parameters: str) -> str:
    """Return the path with `parameters` filled in; other parameters get ids that belong to no resource."""
    unknown_ids = {name: f"{prefix}_{'0' * 32}" for name, prefix in ID_PREFIXES.items()}
    placeholders = {"delivery_id": f"dlv_{'0' * 64}", "topic": "weather", "user_id": "u-1"}
    return path.format(**(unknown_ids | placeholders | parameters))


def example_body(route: Route) -> Any:
    """Return the example of a route's request body from the OpenAPI document."""
    assert route.body is not None
    extra: Any = route.body.model_config.get("json_schema_extra")
    assert extra, f"{route.path} has no example"
    return json.loads(json.dumps(extra["examples"][0]))


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A response; `body` is the parsed JSON, or the text of another media type."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def pointers(self) -> list[str]:
        """The JSON pointers of a problem's errors."""
        return [error["pointer"] for error in self.body["errors"]]


class Api:
    """A client of the HTTP API with the keys of the application of `parts`, the secret key by default."""

    def __init__(self, parts: Parts, http: aiohttp.ClientSession, state: WebState, origin: str) -> None:
        self.parts = parts
        self.origin = origin
        self.http = http
        self.state = state
        self.secret = parts.application["secret_key"]
        self.publishable = parts.application["publishable_key"]

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "",
        raw: bytes | None = None,
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiResponse:
        """Send a request, by default with the secret key, and check the response against the OpenAPI document.

        `key=None` sends no credential. `raw` is a body that is sent unchanged instead of JSON.
        """
        all_headers = dict(headers or {})
        if key is not None:
            all_headers["Authorization"] = f"Bearer {key or self.secret}"
        if origin is not None:
            all_headers["Origin"] = origin
        if body is not None:
            raw = json.dumps(body).encode()
        if raw is not None:
            all_headers.setdefault("Content-Type", "application/json")
        async with self.http.request(method, path, data=raw, headers=all_headers) as http_response:
            text = await http_response.text()
            media_type = http_response.content_type
            response = ApiResponse(
                http_response.status,
                json.loads(text) if "json" in media_type and text and "ndjson" not in media_type else text,
                http_response.headers,
            )
        check_against_document(method, path, response, media_type)
        return response

    async def call_ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Send a request that must succeed, and return the body of the response."""
        response = await self.call(method, path, body, **options)
        assert response.status < 300, (response.status, response.body)
        return response.body

    def device(self, vendor: Vendor = Vendor.FCM, **details: Any) -> dict[str, Any]:
        """Return the request body that registers a new simulated browser; `details` are further fields of the body."""
        [subscriber] = self.parts.subscribe(vendor, 1)
        return {"subscription": subscriber.to_json(), **details}

    async def register(self, **details: Any) -> dict[str, str]:
        """Register a new simulated browser with the publishable key, as a page does; return the response body."""
        registered: dict[str, str] = await self.call_ok(
            "POST", "/v1/devices", self.device(**details), key=self.publishable, origin=APP_ORIGIN
        )
        return registered

    async def rows(self) -> dict[str, int]:
        """Return the number of rows of each table. A test compares the numbers before and after a refused request."""
        tables = (
            "applications",
            "api_keys",
            "vapid_keys",
            "devices",
            "notifications",
            "progress",
            "jobs",
            "segments",
            "categories",
            "templates",
            "reminders",
            "webhooks",
            "happenings",
            "feeds",
            "triggers",
            "events",
            "trigger_runs",
            "inbox_reads",
            "live_waiting",
            "alerts",
        )
        tables += ("deliveries", "receipts", "idempotency_keys", "audit", "sessions")
        return {table: await self.parts.scalar(f"SELECT count(*) FROM {table}") for table in tables}  # noqa: S608


def check_against_document(method: str, path: str, response: ApiResponse, media_type: str) -> None:
    """Fail when the OpenAPI document does not describe the response."""
    template = path_template(path)
    if template is None or response.status in (304, 405) or method == "OPTIONS":
        return
    operation = DOCUMENT["paths"][template].get(method.lower())
    if operation is None:
        return
    description = operation["responses"].get(str(response.status))
    assert description is not None, (
        f"the document lacks the status {response.status} of {method} {template}: {response.body}"
    )
    content = description.get("content")
    if content is None:
        assert response.body == "", f"the document has no body for the status {response.status} of {method} {template}"
        return
    assert media_type in content, (
        f"{method} {template} returned {response.status} as {media_type}; the document has {list(content)}"
    )
    if "json" in media_type and "ndjson" not in media_type:
        schema = {**content[media_type]["schema"], "components": DOCUMENT["components"]}
        Draft202012Validator(schema).validate(response.body)


def path_template(path: str) -> str | None:
    """Return the path template of the OpenAPI document that matches a path, or None."""
    path_without_query = path.partition("?")[0]
    for template in sorted(DOCUMENT["paths"], key=lambda path: path.count("{")):
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path_without_query):
            return str(template)
    return None


@asynccontextmanager
async def serve_api(parts: Parts) -> AsyncIterator[Api]:
    """Serve the API of `parts` on loopback until the context ends; yield a client."""
    state = WebState.create(parts.context, parts.notifier, admin_token=ADMIN)
    runner = Runner(build(state), parts.context.public_url, shutdown_timeout=2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    origin = f"http://{host}:{port}"
    try:
        async with aiohttp.ClientSession(origin, timeout=aiohttp.ClientTimeout(total=30)) as http:
            yield Api(parts, http, state, origin)
    finally:
        await runner.cleanup()
