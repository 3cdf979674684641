"""Isolation of tenants and devices: every route of the document, called with all foreign credentials.

The first tenant has one thing of each kind, with texts that occur nowhere else. Routes whose path names a thing are
called with each foreign credential; they must refuse and change nothing. The other routes are called by the other
tenant with bodies and queries that name the first tenant's things; they must return and change only its own things.
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

MARK = "rosebud"
CONTENT = {"title": f"{MARK} title", "body": f"{MARK} body"}
REFUSED = (401, 403, 404)

THING_NAMES = (
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

# Names that every tenant may use; they must reach only the tenant's own things.
SHARED_NAMES = {"topic": "weather", "user_id": "u-1"}

# Routes without data of tenants.
PUBLIC_ROUTES = {"GET /healthz", "GET /readyz", "GET /metrics"}

NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Tenant:
    """`things` has one of each kind by its path parameter; campaigns and alerts are notifications too."""

    key: str
    publishable: str
    devices: tuple[dict[str, str], ...]
    things: dict[str, str]
    subscription: dict[str, Any]

    def named(self, path: str) -> dict[str, str]:
        kind = f"{path.split('/')[2]}/notification_id"
        return self.things | {"notification_id": self.things.get(kind, self.things["notification_id"])}


RequestBody = Callable[[Tenant], Any]


def _audience(tenant: Tenant) -> Any:
    things = tenant.things
    leaves = [{"device_id": things["device_id"]}, {"notified": things["notification_id"]}, {"user_id": "u-1"}]
    return {"any": [*leaves, {"topic": "weather"}]}


def _lines(*items: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


# Requests to the routes whose path names nothing. Bodies name the first tenant's things wherever possible.
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
    "POST /v1/segments": lambda first: {"name": "s", "audience": {"segment": first.things["segment_id"]}},
    "GET /v1/segments": lambda _: None,
    "POST /v1/templates": lambda _: {"name": "t", "content": {"title": "T"}},
    "GET /v1/templates": lambda _: None,
    "POST /v1/templates/preview": lambda first: {
        "template": first.things["template_id"],
        "device_id": first.things["device_id"],
    },
    "POST /v1/notifications": lambda first: {"content": {"title": "T"}, "audience": _audience(first)},
    "GET /v1/notifications": lambda _: None,
    "POST /v1/audiences/preview": lambda first: {"audience": _audience(first)},
    "POST /v1/campaigns": lambda first: {
        "name": "c",
        "template": first.things["template_id"],
        "audience": {"segment": first.things["segment_id"]},
    },
    "POST /v1/reminders": lambda first: {
        "name": "r",
        "cron": "0 9 * * 1",
        "template": first.things["template_id"],
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
    "PUT /v1/alert-settings": lambda first: {"rules": [], "audience": {"segment": first.things["segment_id"]}},
    "GET /v1/deliveries": lambda _: None,
    "POST /v1/receipts": lambda _: {"token": "A" * 66, "event": "clicked"},
    "POST /v1/triggers": lambda first: {
        "name": "t",
        "event": "cart.abandoned",
        "template": first.things["template_id"],
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

# Covered by separate tests below.
SEPARATE_ROUTES = {"GET /v1/deliveries/stream", "GET /v1/devices/{device_id}/live"}


class UncoveredRoute(Exception):
    """A route that this module does not cover."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The operations of the document by what is expected: `guarded` name a thing, `operators` are for the admin token
    alone, `open_` are for every tenant."""

    guarded: list[str]
    operators: list[str]
    open_: list[str]


def plan_walk(document: dict[str, Any]) -> Plan:
    """Raises Uncovered."""
    result = Plan([], [], [])
    things = {name.rpartition("/")[2] for name in THING_NAMES}
    for path, operations in document["paths"].items():
        named = set(re.findall(r"{(\w+)}", path))
        if unknown := named - things - SHARED_NAMES.keys():
            raise UncoveredRoute(f"{path} names {unknown}: let the first tenant have one")
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            if name in SEPARATE_ROUTES or name in PUBLIC_ROUTES:
                continue
            if named & things:
                result.guarded.append(name)
            elif operation["security"] == [{"admin": []}]:
                result.operators.append(name)
            elif named or name in REQUEST_BODIES:
                result.open_.append(name)
            else:
                raise UncoveredRoute(f"{name}: say in ASKED what another tenant asks for there")
    return result


async def create_first_tenant(api: Api) -> Tenant:
    """Create the first tenant with one thing of each kind."""
    app = api.parts.application["id"]
    await api.call_ok("PATCH", f"/v1/applications/{app}", {"name": f"{MARK} inc"}, key=ADMIN)
    key = await api.call_ok("POST", f"/v1/applications/{app}/keys", {"name": MARK, "scopes": ["read"]}, key=ADMIN)
    body = api.device(user_id="u-1", topics=["weather"], attributes={"note": MARK})
    devices = [
        await api.call_ok("POST", "/v1/devices", body, key=api.publishable, origin=APP_ORIGIN),
        await api.register(user_id="u-2"),
    ]
    things: dict[str, str] = {"application_id": app, "key_id": key["id"], "device_id": devices[0]["id"]}

    async def make(name: str, path: str, body: Any) -> None:
        things[name] = (await api.call_ok("POST", path, body))["id"]

    audience = {"topic": "weather"}
    await make("segment_id", "/v1/segments", {"name": MARK, "audience": audience})
    await make("category_id", "/v1/categories", {"name": MARK, "title": MARK})
    await make("template_id", "/v1/templates", {"name": MARK, "content": CONTENT})
    later = datetime.now(UTC) + timedelta(days=90)  # so that nothing is due during the test
    yearly = {"name": MARK, "cron": f"0 9 1 {later.month} *", "content": CONTENT, "audience": audience}
    await make("reminder_id", "/v1/reminders", yearly)
    await make(
        "webhook_id", "/v1/webhooks", {"name": MARK, "url": f"https://hooks.example.org/{MARK}", "events": ["*"]}
    )
    await make("feed_id", "/v1/feeds", {"name": MARK, "url": f"https://feeds.example.org/{MARK}"})
    await make("trigger_id", "/v1/triggers", {"name": MARK, "event": "cart.abandoned", "content": CONTENT})
    await make("event_id", "/v1/events", {"name": "cart.abandoned", "user_id": "u-1", "key": "cart-17"})
    everyone = {"everyone": True}
    await make("notification_id", "/v1/notifications", {"content": CONTENT, "audience": everyone})
    campaign = {"name": MARK, "content": CONTENT, "audience": everyone, "schedule": {"at": later.isoformat()}}
    await make("campaigns/notification_id", "/v1/campaigns", campaign)
    alert = {"event": "Storm", "headline": MARK, "severity": "Severe", "urgency": "Immediate", "certainty": "Observed"}
    await make("alerts/notification_id", "/v1/alerts", alert | {"identifier": "storm-1", "audience": audience})
    things["delivery_id"] = await deliver(api, things)
    assert things.keys() == set(THING_NAMES)
    return Tenant(api.secret, api.publishable, tuple(devices), things, body["subscription"])


async def deliver(api: Api, of: dict[str, str], *, key: str = "") -> str:
    """Send everything that is due, and return the id of the delivery."""
    due = "SELECT count(*) FROM jobs WHERE run_at < now() + interval '1 hour'"
    async with api.parts.run_worker(), asyncio.timeout(TIMEOUT_S):
        with api.parts.notifier.subscribe(notifier.LOG) as waiter:
            while await api.parts.scalar(due):
                await waiter.wait(0.2)
    query = f"notification_id={of['notification_id']}&device_id={of['device_id']}"
    [delivery] = (await api.call_ok("GET", f"/v1/deliveries?{query}", key=key))["items"]
    return str(delivery["id"])


async def create_other_tenant(api: Api) -> Tenant:
    """Create another tenant with a device and a delivery."""
    new = {"name": "other", "subject": "mailto:ops@example.org", "allowed_origins": [APP_ORIGIN]}
    application = await api.call_ok("POST", "/v1/applications", new, key=ADMIN)
    body = copy.deepcopy(api.device())
    device = await api.call_ok("POST", "/v1/devices", body, key=application["publishable_key"], origin=APP_ORIGIN)
    sent = await api.call_ok(
        "POST",
        "/v1/notifications",
        {"content": {"title": "Own"}, "audience": {"everyone": True}},
        key=application["secret_key"],
    )
    things = {"application_id": application["id"], "device_id": device["id"], "notification_id": sent["id"]}
    things["delivery_id"] = await deliver(api, things, key=application["secret_key"])
    return Tenant(application["secret_key"], application["publishable_key"], (device,), things, body["subscription"])


@pytest.fixture
async def first(api: Api) -> Tenant:
    return await create_first_tenant(api)


@pytest.fixture
async def other(api: Api, first: Tenant) -> Tenant:
    return await create_other_tenant(api)


@pytest.fixture
async def before(api: Api, first: Tenant) -> set[str]:
    """Every row before the other tenant was created."""
    return await rows(api)


async def rows(api: Api) -> set[str]:
    union = " UNION ALL ".join(f"SELECT '{name} ' || t::text AS row FROM {name} AS t" for name in metadata.tables)  # noqa: S608
    rows_as_text: list[str] = await api.parts.scalar(f"SELECT array_agg(row) FROM ({union}) AS every")  # noqa: S608
    return set(rows_as_text)


def intruders(first: Tenant, other: Tenant) -> dict[str, str | None]:
    return {
        "another tenant's secret key": other.key,
        "another tenant's publishable key": other.publishable,
        "another tenant's device": other.devices[0]["device_token"],
        "another device of the tenant": first.devices[1]["device_token"],
        "the tenant's publishable key": first.publishable,
        "nobody": None,
    }


async def request(api: Api, name: str, path: str, key: str | None) -> ApiResponse:
    return await api.call(name.partition(" ")[0], path, _example(name), key=key, origin=APP_ORIGIN)


def _example(name: str) -> Any:
    route = next(route for route in ROUTES if f"{route.method} {route.path}" == name)
    return None if route.body is None else example_body(route)


def reveals(response: ApiResponse, request_text: str, first: Tenant) -> list[str]:
    """Return what a response reveals of the first tenant, apart from the content of the request."""
    text = json.dumps([response.body, dict(response.headers)])
    secret = [MARK, *first.things.values(), *(device["id"] for device in first.devices), first.subscription["endpoint"]]
    return [value for value in secret if value in text and value not in request_text]


async def test_things_of_another_tenant_are_refused(api: Api, first: Tenant, other: Tenant) -> None:
    """Every path that names a thing of the first tenant refuses every other credential and changes nothing."""
    for name in plan_walk(DOCUMENT).guarded:
        before_request = await rows(api)
        for who, key in intruders(first, other).items():
            own = {"device_id": first.devices[1]["id"]} if "of the tenant" in who else other.things
            for path in addresses(name.partition(" ")[2], first, own):
                response = await request(api, name, path, key)
                assert response.status in REFUSED, (name, who, response.status, response.body)
                assert not reveals(response, path, first), (name, who, response.body)
        after_request = await rows(api)
        assert after_request == before_request, (name, after_request ^ before_request)


def addresses(template: str, first: Tenant, own: dict[str, str]) -> list[str]:
    """Return the paths to the first tenant's things, also below the intruder's own thing where two are named."""
    things = first.named(template)
    variants = [things]
    thing_parameters = [name for name in re.findall(r"{(\w+)}", template) if name in THING_NAMES]
    if len(thing_parameters) > 1 and thing_parameters[0] in own:
        variants.append(things | {thing_parameters[0]: own[thing_parameters[0]]})
    return [fill_path(template, **parameters, **SHARED_NAMES) for parameters in variants]


async def test_things_of_another_tenant_look_nonexistent(api: Api, first: Tenant, other: Tenant) -> None:
    """A thing of another tenant is answered like one that never existed."""
    for name in plan_walk(DOCUMENT).guarded:
        template = name.partition(" ")[2]
        existing, missing = (
            fill_path(template, **first.named(template), **SHARED_NAMES),
            fill_path(template, **SHARED_NAMES),
        )
        for key in (other.key, other.devices[0]["device_token"]):
            real, none = await request(api, name, existing, key), await request(api, name, missing, key)
            bodies = [re.sub(r"[0-9a-f]{32,}", "", json.dumps(answer.body)) for answer in (real, none)]
            assert (real.status, bodies[0]) == (none.status, bodies[1]), name


async def test_tenant_finds_all_its_own_things(api: Api, first: Tenant) -> None:
    """Otherwise a refusal could mean that the things do not exist."""
    for name in plan_walk(DOCUMENT).guarded:
        method, _, template = name.partition(" ")
        if method == "GET":
            path = fill_path(template, **first.named(template), **SHARED_NAMES)
            assert (await api.call("GET", path)).status == 200, name


async def test_operator_routes_refuse_every_tenant(api: Api, first: Tenant, other: Tenant) -> None:
    """The operator's routes refuse every tenant."""
    before_request = await rows(api)
    for name in plan_walk(DOCUMENT).operators:
        for who, key in intruders(first, other).items():
            response = await request(api, name, name.partition(" ")[2], key)
            assert response.status == (401 if key is None else 403), (name, who)
            assert not reveals(response, "", first), (name, who)
    assert await rows(api) == before_request


async def test_shared_routes_show_only_the_callers_things(
    api: Api, first: Tenant, before: set[str], other: Tenant
) -> None:
    """Bodies and queries that name the first tenant's things find nothing."""
    owned = await _count_owned(api)
    open_ = plan_walk(DOCUMENT).open_
    reading = [name for name in open_ if name.startswith("GET")]
    own_text = ""  # and may be repeated in responses
    for name in [*reading, *(name for name in open_ if name not in reading), *reading]:
        method, _, template = name.partition(" ")
        body = REQUEST_BODIES[name](first) if name in REQUEST_BODIES else _example(name)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = NDJSON if isinstance(body, bytes) else {}
        own_text += f"{body}"
        for query in ["", *_queries(name, first)]:
            path = fill_path(template, **SHARED_NAMES) + query
            response = await api.call(method, path, raw=raw, key=other.key, headers=headers)
            assert response.status < 500, (name, response.body)
            assert not reveals(response, path + own_text, first), (path, response.body)
            if query:
                assert response.body["items"] == [], path
    assert not before - await rows(api)
    assert await _count_owned(api) == owned


def _queries(name: str, first: Tenant) -> list[str]:
    """Return a query for each parameter that may name one of the first tenant's things."""
    method, _, path = name.partition(" ")
    parameters = [
        parameter["name"]
        for parameter in DOCUMENT["paths"][path][method.lower()]["parameters"]
        if parameter["in"] == "query"
    ]
    return [f"?{parameter}={first.things[parameter]}" for parameter in parameters if parameter in first.things]


async def _count_owned(api: Api) -> dict[str, int]:
    """Count the first tenant's rows in each table."""
    tables = [name for name, table in metadata.tables.items() if "application_id" in table.columns]
    count = "SELECT count(*) FROM {} WHERE application_id = :id"
    return {name: await api.parts.scalar(count.format(name), id=api.parts.application_id) for name in tables}


async def test_stream_sends_only_own_deliveries(api: Api, first: Tenant, other: Tenant) -> None:
    """From the start of the log, the first event is the tenant's own."""
    for query in ("", f"&notification_id={first.things['notification_id']}", f"&device_id={first.things['device_id']}"):
        received = b""
        path = f"/v1/deliveries/stream?last_event_id=0{query}"
        async with api.http.get(path, headers={"Authorization": f"Bearer {other.key}"}) as answer:
            assert answer.status == 200
            expected = other.things["delivery_id"].encode() if not query else b": following"
            async with asyncio.timeout(20):
                while expected not in received:
                    received += await answer.content.readany()
        assert MARK.encode() not in received
        assert first.things["delivery_id"].encode() not in received
    for key in (other.publishable, other.devices[0]["device_token"], first.devices[1]["device_token"], None):
        assert (await api.call("GET", "/v1/deliveries/stream", key=key, origin=APP_ORIGIN)).status in REFUSED


async def test_live_channel_opens_to_its_own_device_only(api: Api, first: Tenant, other: Tenant) -> None:
    """The live channel of a device opens to no other credential."""
    before_request = await rows(api)
    path = f"/v1/devices/{first.things['device_id']}/live"
    for who, key in intruders(first, other).items():
        async with api.http.ws_connect(path, headers={"Origin": APP_ORIGIN}) as socket:
            await socket.send_json({"type": "hello", "token": key or "", "after": 0, "mode": "exclusive"})
            async with asyncio.timeout(20):
                message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4401), who
    assert await rows(api) == before_request


async def test_other_tenant_cannot_use_up_a_device_limit(api: Api, first: Tenant, other: Tenant) -> None:
    """Requests of another tenant do not use up the rate limit of a device."""
    path = f"/v1/devices/{first.things['device_id']}/inbox"
    own = first.devices[0]["device_token"]
    left = int((await api.call("GET", path, key=own)).headers["RateLimit"].partition("r=")[2].partition(";")[0])
    for _ in range(left + 1):
        await api.call("GET", path, key=other.key)
    assert (await api.call("GET", path, key=own)).status == 200


@pytest.mark.parametrize("path", ["/v1/secrets", "/v1/secrets/{secret_id}"])
def test_uncovered_route_fails_the_walk(path: str) -> None:
    """A new route that this module does not cover fails the walk."""
    document = copy.deepcopy(DOCUMENT)
    document["paths"][path] = {"get": {"security": [{"secret": []}], "parameters": []}}
    with pytest.raises(UncoveredRoute):
        plan_walk(document)


async def test_only_pages_are_served_outside_the_document(api: Api) -> None:
    """Nothing is served that is not in the OpenAPI document, except pages."""
    served = {
        resource.canonical
        for route in build(api.state).router.routes()
        if (resource := route.resource) is not None and route.method != "OPTIONS"
    }
    undocumented = served - DOCUMENT["paths"].keys()
    pages = {f"/{name}{end}" for name in ("console", "sample", "docs") for end in ("", "/{file}")}
    pages |= {"/docs/", "/docs/{name}", "/docs/api", "/console/settings.json"}
    assert undocumented == pages | {"/", "/openapi.json", "/sdk/{file}"}
