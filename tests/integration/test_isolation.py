"""Isolation of tenants and devices: every operation of the OpenAPI document, called with all foreign credentials.

The first tenant has one resource of each kind, with a text that occurs nowhere else. Operations whose path has the id
of a resource are called with each foreign credential; they must refuse the request and change nothing. The other
operations are called by another tenant with bodies and queries that contain ids of the first tenant's resources; they
must return and change only resources of their caller.
"""

import asyncio
import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from gateway.records.postgres import notifier
from gateway.records.postgres.schema import metadata
from gateway.web.server import ROUTES, build
from tests.support.api import ADMIN, DOCUMENT, Api, ApiResponse, example_body, fill_path
from tests.support.gateway_parts import APP_ORIGIN, TIMEOUT_S

# The text in every resource of the first tenant.
MARK = "rosebud"
CONTENT = {"title": f"{MARK} title", "body": f"{MARK} body"}
REFUSED = (401, 403, 404)

# The path parameters that are ids of resources; campaigns and alerts are notifications with their own paths.
RESOURCE_NAMES = (
    "application_id",
    "key_id",
    "device_id",
    "delivery_id",
    "notification_id",
    "campaigns/notification_id",
    "alerts/notification_id",
    "segment_id",
    "category_id",
    "template_id",
    "reminder_id",
    "webhook_id",
    "feed_id",
    "trigger_id",
    "event_id",
)

# Path parameters that every tenant may use, each for its own resources only.
SHARED_NAMES = {"topic": "weather", "user_id": "u-1"}

# Operations without data of tenants.
PUBLIC_ROUTES = {"GET /healthz", "GET /readyz"}

NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant; `resources` has the id of one resource of each kind, by the names of RESOURCE_NAMES."""

    key: str
    publishable: str
    devices: tuple[dict[str, str], ...]
    resources: dict[str, str]
    subscription: dict[str, Any]

    def path_parameters(self, path: str) -> dict[str, str]:
        """Return the values of the parameters of a path."""
        name = f"{path.split('/')[2]}/notification_id"
        return self.resources | {"notification_id": self.resources.get(name, self.resources["notification_id"])}


RequestBody = Callable[[Tenant], Any]


def _audience(tenant: Tenant) -> Any:
    resources = tenant.resources
    leaves = [{"device_id": resources["device_id"]}, {"notified": resources["notification_id"]}, {"user_id": "u-1"}]
    return {"any": [*leaves, {"topic": "weather"}]}


def _lines(*items: Any) -> bytes:
    """Return the items as NDJSON."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


# Bodies for the operations whose path has no id of a resource, with ids of the first tenant wherever possible.
REQUEST_BODIES: dict[str, RequestBody] = {
    "GET /v1/vapid-public-key": lambda _: None,
    "GET /v1/audit": lambda _: None,
    "POST /v1/session": lambda _: {"key": "sk_guessed"},
    "GET /v1/session": lambda _: None,
    "DELETE /v1/session": lambda _: None,
    "POST /v1/devices/import": lambda first: _lines({"subscription": first.subscription}),
    "POST /v1/devices": lambda first: {"subscription": first.subscription, "user_id": "u-1"},
    "GET /v1/devices": lambda _: None,
    "GET /v1/topics": lambda _: None,
    "GET /v1/stats": lambda _: None,
    "POST /v1/categories": lambda _: {"name": "c", "title": "C"},
    "GET /v1/categories": lambda _: None,
    "POST /v1/segments": lambda first: {"name": "s", "audience": {"segment": first.resources["segment_id"]}},
    "GET /v1/segments": lambda _: None,
    "POST /v1/templates": lambda _: {"name": "t", "content": {"title": "T"}},
    "GET /v1/templates": lambda _: None,
    "POST /v1/templates/preview": lambda first: {
        "template": first.resources["template_id"],
        "device_id": first.resources["device_id"],
    },
    "POST /v1/notifications": lambda first: {"content": {"title": "T"}, "audience": _audience(first)},
    "GET /v1/notifications": lambda _: None,
    "POST /v1/audiences/preview": lambda first: {"audience": _audience(first)},
    "POST /v1/campaigns": lambda first: {
        "name": "c",
        "template": first.resources["template_id"],
        "audience": {"segment": first.resources["segment_id"]},
    },
    "POST /v1/reminders": lambda first: {
        "name": "r",
        "cron": "0 9 * * 1",
        "template": first.resources["template_id"],
        "audience": _audience(first),
    },
    "GET /v1/reminders": lambda _: None,
    "POST /v1/alerts": lambda first: {
        "event": "Storm",
        "headline": "Storm",
        "severity": "Severe",
        "urgency": "Immediate",
        "certainty": "Observed",
        "message_type": "Cancel",
        "identifier": "storm-2",
        "references": ["storm-1"],
        "audience": _audience(first),
    },
    "GET /v1/alert-settings": lambda _: None,
    "PUT /v1/alert-settings": lambda first: {"rules": [], "audience": {"segment": first.resources["segment_id"]}},
    "GET /v1/deliveries": lambda _: None,
    "POST /v1/receipts": lambda _: {"token": "A" * 66, "event": "clicked"},
    "POST /v1/triggers": lambda first: {
        "name": "t",
        "event": "cart.abandoned",
        "template": first.resources["template_id"],
        "audience": _audience(first),
    },
    "GET /v1/triggers": lambda _: None,
    "POST /v1/events": lambda _: {"name": "cart.abandoned", "user_id": "u-1", "key": "cart-17"},
    "POST /v1/events/batch": lambda _: _lines({"name": "cart.abandoned", "user_id": "u-1"}),
    "GET /v1/events": lambda _: None,
    "POST /v1/webhooks": lambda _: {"name": "w", "url": "https://hooks.example.org/other", "events": ["*"]},
    "GET /v1/webhooks": lambda _: None,
    "POST /v1/feeds": lambda _: {"name": "f", "url": "https://feeds.example.org/other"},
    "GET /v1/feeds": lambda _: None,
}

# Operations that separate tests below cover.
SEPARATE_ROUTES = {"GET /v1/deliveries/stream", "GET /v1/devices/{device_id}/live"}


class UncoveredRoute(Exception):
    """An operation of the document that this module does not cover."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The operations of the document by the expected result.

    Attributes:
        guarded: operations on one resource, which refuse foreign credentials.
        operator_only: operations for the admin token.
        shared: operations for every tenant, which use only resources of their caller.
    """

    guarded: list[str]
    operator_only: list[str]
    shared: list[str]


def classify_operations(document: dict[str, Any]) -> Plan:
    """Return the operations by expected result.

    Raises:
        UncoveredRoute: an operation is in no list of this module.
    """
    result = Plan([], [], [])
    resource_names = {name.rpartition("/")[2] for name in RESOURCE_NAMES}
    for path, operations in document["paths"].items():
        parameters = set(re.findall(r"{(\w+)}", path))
        if unknown := parameters - resource_names - SHARED_NAMES.keys():
            raise UncoveredRoute(f"{path} has {unknown}: add one to RESOURCE_NAMES and to the first tenant")
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            if name in SEPARATE_ROUTES or name in PUBLIC_ROUTES:
                continue
            if parameters & resource_names:
                result.guarded.append(name)
            elif operation["security"] == [{"admin": []}]:
                result.operator_only.append(name)
            elif parameters or name in REQUEST_BODIES:
                result.shared.append(name)
            else:
                raise UncoveredRoute(f"{name}: add a body of another tenant to REQUEST_BODIES")
    return result


async def create_first_tenant(api: Api) -> Tenant:
    """Create the first tenant with one resource of each kind."""
    app = api.parts.application["id"]
    await api.call_ok("PATCH", f"/v1/applications/{app}", {"name": f"{MARK} inc"}, key=ADMIN)
    key = await api.call_ok("POST", f"/v1/applications/{app}/keys", {"name": MARK, "scopes": ["read"]}, key=ADMIN)
    body = api.device(user_id="u-1", topics=["weather"], attributes={"note": MARK})
    devices = [
        await api.call_ok("POST", "/v1/devices", body, key=api.publishable, origin=APP_ORIGIN),
        await api.register(user_id="u-2"),
    ]
    resources: dict[str, str] = {"application_id": app, "key_id": key["id"], "device_id": devices[0]["id"]}

    async def create(name: str, path: str, body: Any) -> None:
        resources[name] = (await api.call_ok("POST", path, body))["id"]

    audience = {"topic": "weather"}
    await create("segment_id", "/v1/segments", {"name": MARK, "audience": audience})
    await create("category_id", "/v1/categories", {"name": MARK, "title": MARK})
    await create("template_id", "/v1/templates", {"name": MARK, "content": CONTENT})
    later = datetime.now(UTC) + timedelta(days=90)  # so that nothing is due during the test
    yearly = {"name": MARK, "cron": f"0 9 1 {later.month} *", "content": CONTENT, "audience": audience}
    await create("reminder_id", "/v1/reminders", yearly)
    await create(
        "webhook_id", "/v1/webhooks", {"name": MARK, "url": f"https://hooks.example.org/{MARK}", "events": ["*"]}
    )
    await create("feed_id", "/v1/feeds", {"name": MARK, "url": f"https://feeds.example.org/{MARK}"})
    await create("trigger_id", "/v1/triggers", {"name": MARK, "event": "cart.abandoned", "content": CONTENT})
    await create("event_id", "/v1/events", {"name": "cart.abandoned", "user_id": "u-1", "key": "cart-17"})
    everyone = {"everyone": True}
    await create("notification_id", "/v1/notifications", {"content": CONTENT, "audience": everyone})
    campaign = {"name": MARK, "content": CONTENT, "audience": everyone, "schedule": {"at": later.isoformat()}}
    await create("campaigns/notification_id", "/v1/campaigns", campaign)
    alert = {"event": "Storm", "headline": MARK, "severity": "Severe", "urgency": "Immediate", "certainty": "Observed"}
    await create("alerts/notification_id", "/v1/alerts", alert | {"identifier": "storm-1", "audience": audience})
    resources["delivery_id"] = await deliver(api, resources)
    assert resources.keys() == set(RESOURCE_NAMES)
    return Tenant(api.secret, api.publishable, tuple(devices), resources, body["subscription"])


async def deliver(api: Api, resources: dict[str, str], *, key: str = "") -> str:
    """Run a worker until no job is due, and return the id of the notification's delivery to the device."""
    count_due = "SELECT count(*) FROM jobs WHERE run_at < now() + interval '1 hour'"
    async with api.parts.run_worker(), asyncio.timeout(TIMEOUT_S):
        with api.parts.notifier.subscribe(notifier.LOG) as waiter:
            while await api.parts.scalar(count_due):
                await waiter.wait(0.2)
    query = f"notification_id={resources['notification_id']}&device_id={resources['device_id']}"
    [delivery] = (await api.call_ok("GET", f"/v1/deliveries?{query}", key=key))["items"]
    return str(delivery["id"])


async def create_other_tenant(api: Api) -> Tenant:
    """Create another tenant with a device and a delivery."""
    request_body = {"name": "other", "subject": "mailto:ops@example.org", "allowed_origins": [APP_ORIGIN]}
    application = await api.call_ok("POST", "/v1/applications", request_body, key=ADMIN)
    body = copy.deepcopy(api.device())
    device = await api.call_ok("POST", "/v1/devices", body, key=application["publishable_key"], origin=APP_ORIGIN)
    sent = await api.call_ok(
        "POST",
        "/v1/notifications",
        {"content": {"title": "Own"}, "audience": {"everyone": True}},
        key=application["secret_key"],
    )
    resources = {"application_id": application["id"], "device_id": device["id"], "notification_id": sent["id"]}
    resources["delivery_id"] = await deliver(api, resources, key=application["secret_key"])
    return Tenant(application["secret_key"], application["publishable_key"], (device,), resources, body["subscription"])


@pytest.fixture
async def first(api: Api) -> Tenant:
    """The tenant whose resources the tests try to reach."""
    return await create_first_tenant(api)


@pytest.fixture
async def other(api: Api, first: Tenant) -> Tenant:
    """The tenant whose credentials must not reach the resources of `first`."""
    return await create_other_tenant(api)


@pytest.fixture
async def before(api: Api, first: Tenant) -> set[str]:
    """All rows of the database before the other tenant is created."""
    return await read_rows(api)


async def read_rows(api: Api) -> set[str]:
    """Return every row of every table as text."""
    union = " UNION ALL ".join(f"SELECT '{name} ' || t::text AS row FROM {name} AS t" for name in metadata.tables)  # noqa: S608
    rows_as_text: list[str] = await api.parts.scalar(f"SELECT array_agg(row) FROM ({union}) AS all_rows")  # noqa: S608
    return set(rows_as_text)


def foreign_credentials(first: Tenant, other: Tenant) -> dict[str, str | None]:
    """Return each credential that must not reach the first tenant's resources, by a description."""
    return {
        "another tenant's secret key": other.key,
        "another tenant's publishable key": other.publishable,
        "another tenant's device": other.devices[0]["device_token"],
        "another device of the tenant": first.devices[1]["device_token"],
        "the tenant's publishable key": first.publishable,
        "no credential": None,
    }


async def send_request(api: Api, name: str, path: str, key: str | None) -> ApiResponse:
    """Send the operation's example body with a credential."""
    return await api.call(name.partition(" ")[0], path, _example(name), key=key, origin=APP_ORIGIN)


def _example(name: str) -> Any:
    """Return the example body of an operation, or None if it has no body."""
    route = next(route for route in ROUTES if f"{route.method} {route.path}" == name)
    return None if route.body is None else example_body(route)


def find_leaks(response: ApiResponse, request_text: str, first: Tenant) -> list[str]:
    """Return the values of the first tenant that a response contains and the request does not."""
    text = json.dumps([response.body, dict(response.headers)])
    device_ids = [device["id"] for device in first.devices]
    values = [MARK, *first.resources.values(), *device_ids, first.subscription["endpoint"]]
    return [value for value in values if value in text and value not in request_text]


async def test_resources_of_another_tenant_are_refused(api: Api, first: Tenant, other: Tenant) -> None:
    """Every operation on a resource of the first tenant refuses every other credential and changes nothing."""
    for name in classify_operations(DOCUMENT).guarded:
        before_request = await read_rows(api)
        for description, key in foreign_credentials(first, other).items():
            own = {"device_id": first.devices[1]["id"]} if "of the tenant" in description else other.resources
            for path in foreign_paths(name.partition(" ")[2], first, own):
                response = await send_request(api, name, path, key)
                assert response.status in REFUSED, (name, description, response.status, response.body)
                assert not find_leaks(response, path, first), (name, description, response.body)
        after_request = await read_rows(api)
        assert after_request == before_request, (name, after_request ^ before_request)


def foreign_paths(template: str, first: Tenant, own: dict[str, str]) -> list[str]:
    """Return the paths of the first tenant's resource for a template.

    With two ids in the template, there is also a path whose first id is one of the caller's `own`.
    """
    values = first.path_parameters(template)
    variants = [values]
    names = [name for name in re.findall(r"{(\w+)}", template) if name in RESOURCE_NAMES]
    if len(names) > 1 and names[0] in own:
        variants.append(values | {names[0]: own[names[0]]})
    return [fill_path(template, **parameters, **SHARED_NAMES) for parameters in variants]


async def test_resources_of_another_tenant_look_nonexistent(api: Api, first: Tenant, other: Tenant) -> None:
    """The response for a resource of another tenant equals the response for an id that does not exist."""
    for name in classify_operations(DOCUMENT).guarded:
        template = name.partition(" ")[2]
        existing, missing = (
            fill_path(template, **first.path_parameters(template), **SHARED_NAMES),
            fill_path(template, **SHARED_NAMES),
        )
        for key in (other.key, other.devices[0]["device_token"]):
            responses = [await send_request(api, name, path, key) for path in (existing, missing)]
            bodies = [re.sub(r"[0-9a-f]{32,}", "", json.dumps(response.body)) for response in responses]
            assert (responses[0].status, bodies[0]) == (responses[1].status, bodies[1]), name


async def test_tenant_can_read_all_its_own_resources(api: Api, first: Tenant) -> None:
    """The first tenant's resources exist, so that the other tests are not refused because they are missing."""
    for name in classify_operations(DOCUMENT).guarded:
        method, _, template = name.partition(" ")
        if method == "GET":
            path = fill_path(template, **first.path_parameters(template), **SHARED_NAMES)
            assert (await api.call("GET", path)).status == 200, name


async def test_operator_routes_refuse_every_tenant(api: Api, first: Tenant, other: Tenant) -> None:
    """Operations for the operator (admin token) refuse every credential of a tenant."""
    before_request = await read_rows(api)
    for name in classify_operations(DOCUMENT).operator_only:
        for description, key in foreign_credentials(first, other).items():
            response = await send_request(api, name, name.partition(" ")[2], key)
            assert response.status == (401 if key is None else 403), (name, description)
            assert not find_leaks(response, "", first), (name, description)
    assert await read_rows(api) == before_request


async def test_shared_routes_use_only_the_callers_resources(
    api: Api, first: Tenant, before: set[str], other: Tenant
) -> None:
    """Bodies and queries with ids of the first tenant neither return nor change its resources."""
    rows_of_first = await _count_rows_of_first(api)
    shared = classify_operations(DOCUMENT).shared
    reads = [name for name in shared if name.startswith("GET")]
    sent_text = ""  # later responses may contain what the caller has sent before
    for name in [*reads, *(name for name in shared if name not in reads), *reads]:
        method, _, template = name.partition(" ")
        body = REQUEST_BODIES[name](first) if name in REQUEST_BODIES else _example(name)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = NDJSON if isinstance(body, bytes) else {}
        sent_text += f"{body}"
        for query in ["", *_queries(name, first)]:
            path = fill_path(template, **SHARED_NAMES) + query
            response = await api.call(method, path, raw=raw, key=other.key, headers=headers)
            assert response.status < 500, (name, response.body)
            assert not find_leaks(response, path + sent_text, first), (path, response.body)
            if query:
                assert response.body["items"] == [], path
    assert not before - await read_rows(api)
    assert await _count_rows_of_first(api) == rows_of_first


def _queries(name: str, first: Tenant) -> list[str]:
    """Return a query for each query parameter that may have an id of the first tenant's resources."""
    method, _, path = name.partition(" ")
    parameters = [
        parameter["name"]
        for parameter in DOCUMENT["paths"][path][method.lower()]["parameters"]
        if parameter["in"] == "query"
    ]
    return [f"?{parameter}={first.resources[parameter]}" for parameter in parameters if parameter in first.resources]


async def _count_rows_of_first(api: Api) -> dict[str, int]:
    """Count the first tenant's rows in each table."""
    tables = [name for name, table in metadata.tables.items() if "application_id" in table.columns]
    count = "SELECT count(*) FROM {} WHERE application_id = :id"
    return {name: await api.parts.scalar(count.format(name), id=api.parts.application_id) for name in tables}


async def test_stream_sends_only_own_deliveries(api: Api, first: Tenant, other: Tenant) -> None:
    """A stream from the start of the log sends only the caller's deliveries, also with ids of the first tenant."""
    for query in (
        "",
        f"&notification_id={first.resources['notification_id']}",
        f"&device_id={first.resources['device_id']}",
    ):
        received = b""
        path = f"/v1/deliveries/stream?last_event_id=0{query}"
        async with api.http.get(path, headers={"Authorization": f"Bearer {other.key}"}) as response:
            assert response.status == 200
            expected = other.resources["delivery_id"].encode() if not query else b": following"
            async with asyncio.timeout(20):
                while expected not in received:
                    received += await response.content.readany()
        assert MARK.encode() not in received
        assert first.resources["delivery_id"].encode() not in received
    for key in (other.publishable, other.devices[0]["device_token"], first.devices[1]["device_token"], None):
        assert (await api.call("GET", "/v1/deliveries/stream", key=key, origin=APP_ORIGIN)).status in REFUSED


async def test_live_channel_opens_to_its_own_device_only(api: Api, first: Tenant, other: Tenant) -> None:
    """Only the device's own token opens its live channel."""
    before_request = await read_rows(api)
    path = f"/v1/devices/{first.resources['device_id']}/live"
    for description, key in foreign_credentials(first, other).items():
        async with api.http.ws_connect(path, headers={"Origin": APP_ORIGIN}) as socket:
            await socket.send_json({"type": "hello", "token": key or "", "after": 0, "mode": "exclusive"})
            async with asyncio.timeout(20):
                message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4401), description
    assert await read_rows(api) == before_request


async def test_other_tenant_cannot_use_up_a_device_limit(api: Api, first: Tenant, other: Tenant) -> None:
    """Requests of another tenant do not use up the rate limit of a device."""
    path = f"/v1/devices/{first.resources['device_id']}/inbox"
    token = first.devices[0]["device_token"]
    remaining = int((await api.call("GET", path, key=token)).headers["RateLimit"].partition("r=")[2].partition(";")[0])
    for _ in range(remaining + 1):
        await api.call("GET", path, key=other.key)
    assert (await api.call("GET", path, key=token)).status == 200


@pytest.mark.parametrize("path", ["/v1/secrets", "/v1/secrets/{secret_id}"])
def test_uncovered_operation_is_an_error(path: str) -> None:
    """An operation that is in no list of this module raises UncoveredRoute."""
    document = copy.deepcopy(DOCUMENT)
    document["paths"][path] = {"get": {"security": [{"secret": []}], "parameters": []}}
    with pytest.raises(UncoveredRoute):
        classify_operations(document)


async def test_only_pages_are_served_outside_the_document(api: Api) -> None:
    """The server has no routes besides those of the OpenAPI document and of pages."""
    server_paths = {
        resource.canonical
        for route in build(api.state).router.routes()
        if (resource := route.resource) is not None and route.method != "OPTIONS"
    }
    undocumented = server_paths - DOCUMENT["paths"].keys()
    pages = {f"/{name}{end}" for name in ("console", "sample", "docs") for end in ("", "/{file}")}
    pages |= {"/docs/", "/docs/{name}", "/docs/api", "/console/settings.json"}
    assert undocumented == pages | {"/", "/openapi.json", "/sdk/{file}"}
