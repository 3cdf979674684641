"""No tenant and no browser gets at another's: every route of the document, walked with everybody else's credentials.

A first tenant has one of everything, in words that occur nowhere else. What names one of its things is asked for by
each intruder, who must be refused and must change nothing at all. What names nothing is asked for with bodies and
queries that name the first tenant's things, and must answer and change only what is the intruder's own.
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
from tests.support.api import ADMIN, DOCUMENT, Api, ApiResponse, example, fill_path
from tests.support.gateway_parts import APP_ORIGIN, TIMEOUT_S

MARK = "rosebud"
CONTENT = {"title": f"{MARK} title", "body": f"{MARK} body"}
REFUSED = (401, 403, 404)

KNOWN = (
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

SHARED_NAMES = {"topic": "weather", "user_id": "u-1"}
"""What each tenant has names of its own for: to use one is no trespass, but must reach only one's own."""

ANYONES = {"GET /healthz", "GET /readyz", "GET /metrics"}
"""What says nothing of any tenant."""

NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Tenant:
    """`things`: one of each kind by the name it has in addresses; campaigns and alerts are notifications too."""

    key: str
    publishable: str
    devices: tuple[dict[str, str], ...]
    things: dict[str, str]
    subscription: dict[str, Any]

    def named(self, path: str) -> dict[str, str]:
        kind = f"{path.split('/')[2]}/notification_id"
        return self.things | {"notification_id": self.things.get(kind, self.things["notification_id"])}


Asked = Callable[[Tenant], Any]


def _audience(tenant: Tenant) -> Any:
    things = tenant.things
    leaves = [{"device_id": things["device_id"]}, {"notified": things["notification_id"]}, {"user_id": "u-1"}]
    return {"any": [*leaves, {"topic": "weather"}]}


def _lines(*said: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in said)


# What is asked for at each address that names nothing. Bodies name the first tenant's things wherever there is a place.
ASKED: dict[str, Asked] = {
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

# Walked by a test of their own, below.
SEPARATELY = {"GET /v1/deliveries/stream", "GET /v1/devices/{device_id}/live"}


class Uncovered(Exception):
    """A route of which nobody has said what a stranger gets there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The operations of the document by what is expected: `guarded` name a thing, `operators` are for the admin token
    alone, `open_` are for every tenant."""

    guarded: list[str]
    operators: list[str]
    open_: list[str]


def plan(document: dict[str, Any]) -> Plan:
    """Raises Uncovered."""
    made = Plan([], [], [])
    things = {name.rpartition("/")[2] for name in KNOWN}
    for path, operations in document["paths"].items():
        named = set(re.findall(r"{(\w+)}", path))
        if unknown := named - things - SHARED_NAMES.keys():
            raise Uncovered(f"{path} names {unknown}: let the first tenant have one")
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            if name in SEPARATELY or name in ANYONES:
                continue
            if named & things:
                made.guarded.append(name)
            elif operation["security"] == [{"admin": []}]:
                made.operators.append(name)
            elif named or name in ASKED:
                made.open_.append(name)
            else:
                raise Uncovered(f"{name}: say in ASKED what another tenant asks for there")
    return made


async def settle(api: Api) -> Tenant:
    """The first tenant, with one of everything."""
    app = api.parts.application["id"]
    await api.call_ok("PATCH", f"/v1/applications/{app}", {"name": f"{MARK} inc"}, key=ADMIN)
    key = await api.call_ok("POST", f"/v1/applications/{app}/keys", {"name": MARK, "scopes": ["read"]}, key=ADMIN)
    body = api.device(user_id="u-1", topics=["weather"], attributes={"note": MARK})
    devices = [
        await api.call_ok("POST", "/v1/devices", body, key=api.publishable, origin=APP_ORIGIN),
        await api.register(user_id="u-2"),
    ]
    things: dict[str, str] = {"application_id": app, "key_id": key["id"], "device_id": devices[0]["id"]}

    async def make(name: str, path: str, said: Any) -> None:
        things[name] = (await api.call_ok("POST", path, said))["id"]

    audience = {"topic": "weather"}
    await make("segment_id", "/v1/segments", {"name": MARK, "audience": audience})
    await make("category_id", "/v1/categories", {"name": MARK, "title": MARK})
    await make("template_id", "/v1/templates", {"name": MARK, "content": CONTENT})
    later = datetime.now(UTC) + timedelta(days=90)  # so that nothing is due while strangers are about
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
    things["delivery_id"] = await delivered(api, things)
    assert things.keys() == set(KNOWN)
    return Tenant(api.secret, api.publishable, tuple(devices), things, body["subscription"])


async def delivered(api: Api, of: dict[str, str], *, key: str = "") -> str:
    """The id of its delivery, once nothing that is due is left to send."""
    due = "SELECT count(*) FROM jobs WHERE run_at < now() + interval '1 hour'"
    async with api.parts.run_worker(), asyncio.timeout(TIMEOUT_S):
        with api.parts.notifier.subscribe(notifier.LOG) as waiter:
            while await api.parts.scalar(due):
                await waiter.wait(0.2)
    query = f"notification_id={of['notification_id']}&device_id={of['device_id']}"
    [one] = (await api.call_ok("GET", f"/v1/deliveries?{query}", key=key))["items"]
    return str(one["id"])


async def intrude(api: Api) -> Tenant:
    """Another tenant, with a device and a delivery of its own."""
    new = {"name": "other", "subject": "mailto:ops@example.org", "allowed_origins": [APP_ORIGIN]}
    made = await api.call_ok("POST", "/v1/applications", new, key=ADMIN)
    body = copy.deepcopy(api.device())
    device = await api.call_ok("POST", "/v1/devices", body, key=made["publishable_key"], origin=APP_ORIGIN)
    sent = await api.call_ok(
        "POST",
        "/v1/notifications",
        {"content": {"title": "Own"}, "audience": {"everyone": True}},
        key=made["secret_key"],
    )
    things = {"application_id": made["id"], "device_id": device["id"], "notification_id": sent["id"]}
    things["delivery_id"] = await delivered(api, things, key=made["secret_key"])
    return Tenant(made["secret_key"], made["publishable_key"], (device,), things, body["subscription"])


@pytest.fixture
async def first(api: Api) -> Tenant:
    return await settle(api)


@pytest.fixture
async def other(api: Api, first: Tenant) -> Tenant:
    return await intrude(api)


@pytest.fixture
async def before(api: Api, first: Tenant) -> set[str]:
    """Every row there was before the other tenant came."""
    return await rows(api)


async def rows(api: Api) -> set[str]:
    each = " UNION ALL ".join(f"SELECT '{name} ' || t::text AS row FROM {name} AS t" for name in metadata.tables)  # noqa: S608
    found: list[str] = await api.parts.scalar(f"SELECT array_agg(row) FROM ({each}) AS every")  # noqa: S608
    return set(found)


def intruders(first: Tenant, other: Tenant) -> dict[str, str | None]:
    return {
        "another tenant's secret key": other.key,
        "another tenant's publishable key": other.publishable,
        "another tenant's device": other.devices[0]["device_token"],
        "another device of the tenant": first.devices[1]["device_token"],
        "the tenant's publishable key": first.publishable,
        "nobody": None,
    }


async def knock(api: Api, name: str, path: str, key: str | None) -> ApiResponse:
    return await api.call(name.partition(" ")[0], path, _example(name), key=key, origin=APP_ORIGIN)


def _example(name: str) -> Any:
    route = next(route for route in ROUTES if f"{route.method} {route.path}" == name)
    return None if route.body is None else example(route)


def reveals(said: ApiResponse, asked: str, first: Tenant) -> list[str]:
    """What an answer tells of the first tenant beyond what it was asked with."""
    told = json.dumps([said.body, dict(said.headers)])
    secret = [MARK, *first.things.values(), *(device["id"] for device in first.devices), first.subscription["endpoint"]]
    return [one for one in secret if one in told and one not in asked]


async def test_things_of_another_tenant_are_refused(api: Api, first: Tenant, other: Tenant) -> None:
    """Every path that names a thing of the first tenant refuses every other credential and changes nothing."""
    for name in plan(DOCUMENT).guarded:
        was = await rows(api)
        for who, key in intruders(first, other).items():
            own = {"device_id": first.devices[1]["id"]} if "of the tenant" in who else other.things
            for path in addresses(name.partition(" ")[2], first, own):
                said = await knock(api, name, path, key)
                assert said.status in REFUSED, (name, who, said.status, said.body)
                assert not reveals(said, path, first), (name, who, said.body)
        now = await rows(api)
        assert now == was, (name, now ^ was)


def addresses(template: str, first: Tenant, own: dict[str, str]) -> list[str]:
    """With the first tenant's things; of what names several also with the intruder's own before them."""
    things = first.named(template)
    made = [things]
    several = [name for name in re.findall(r"{(\w+)}", template) if name in KNOWN]
    if len(several) > 1 and several[0] in own:
        made.append(things | {several[0]: own[several[0]]})
    return [fill_path(template, **one, **SHARED_NAMES) for one in made]


async def test_things_of_another_tenant_look_nonexistent(api: Api, first: Tenant, other: Tenant) -> None:
    """A thing of another tenant is answered like one that never existed."""
    for name in plan(DOCUMENT).guarded:
        template = name.partition(" ")[2]
        there, nowhere = (
            fill_path(template, **first.named(template), **SHARED_NAMES),
            fill_path(template, **SHARED_NAMES),
        )
        for key in (other.key, other.devices[0]["device_token"]):
            real, none = await knock(api, name, there, key), await knock(api, name, nowhere, key)
            said = [re.sub(r"[0-9a-f]{32,}", "", json.dumps(one.body)) for one in (real, none)]
            assert (real.status, said[0]) == (none.status, said[1]), name


async def test_tenant_finds_all_its_own_things(api: Api, first: Tenant) -> None:
    """Otherwise a refusal could mean that the things do not exist."""
    for name in plan(DOCUMENT).guarded:
        method, _, template = name.partition(" ")
        if method == "GET":
            path = fill_path(template, **first.named(template), **SHARED_NAMES)
            assert (await api.call("GET", path)).status == 200, name


async def test_operator_routes_refuse_every_tenant(api: Api, first: Tenant, other: Tenant) -> None:
    """The operator's routes refuse every tenant."""
    was = await rows(api)
    for name in plan(DOCUMENT).operators:
        for who, key in intruders(first, other).items():
            said = await knock(api, name, name.partition(" ")[2], key)
            assert said.status == (401 if key is None else 403), (name, who)
            assert not reveals(said, "", first), (name, who)
    assert await rows(api) == was


async def test_shared_routes_show_only_the_callers_things(
    api: Api, first: Tenant, before: set[str], other: Tenant
) -> None:
    """Bodies and queries that name the first tenant's things find nothing."""
    owned = await _owned(api)
    open_ = plan(DOCUMENT).open_
    reading = [name for name in open_ if name.startswith("GET")]
    said_itself = ""  # and may hear again
    for name in [*reading, *(name for name in open_ if name not in reading), *reading]:
        method, _, template = name.partition(" ")
        asked = ASKED[name](first) if name in ASKED else _example(name)
        raw = asked if isinstance(asked, bytes) or asked is None else json.dumps(asked).encode()
        headers = NDJSON if isinstance(asked, bytes) else {}
        said_itself += f"{asked}"
        for query in ["", *_queries(name, first)]:
            path = fill_path(template, **SHARED_NAMES) + query
            said = await api.call(method, path, raw=raw, key=other.key, headers=headers)
            assert said.status < 500, (name, said.body)
            assert not reveals(said, path + said_itself, first), (path, said.body)
            if query:
                assert said.body["items"] == [], path
    assert not before - await rows(api)
    assert await _owned(api) == owned


def _queries(name: str, first: Tenant) -> list[str]:
    """Each parameter that may name a thing, with the first tenant's."""
    method, _, path = name.partition(" ")
    parameters = [one["name"] for one in DOCUMENT["paths"][path][method.lower()]["parameters"] if one["in"] == "query"]
    return [f"?{one}={first.things[one]}" for one in parameters if one in first.things]


async def _owned(api: Api) -> dict[str, int]:
    """How many rows belong to the first tenant."""
    tables = [name for name, table in metadata.tables.items() if "application_id" in table.columns]
    count = "SELECT count(*) FROM {} WHERE application_id = :id"
    return {name: await api.parts.scalar(count.format(name), id=api.parts.application_id) for name in tables}


async def test_stream_sends_only_own_deliveries(api: Api, first: Tenant, other: Tenant) -> None:
    """From the start of the log, the first event is the tenant's own."""
    for query in ("", f"&notification_id={first.things['notification_id']}", f"&device_id={first.things['device_id']}"):
        heard = b""
        path = f"/v1/deliveries/stream?last_event_id=0{query}"
        async with api.http.get(path, headers={"Authorization": f"Bearer {other.key}"}) as answer:
            assert answer.status == 200
            wanted = other.things["delivery_id"].encode() if not query else b": following"
            async with asyncio.timeout(20):
                while wanted not in heard:
                    heard += await answer.content.readany()
        assert MARK.encode() not in heard
        assert first.things["delivery_id"].encode() not in heard
    for key in (other.publishable, other.devices[0]["device_token"], first.devices[1]["device_token"], None):
        assert (await api.call("GET", "/v1/deliveries/stream", key=key, origin=APP_ORIGIN)).status in REFUSED


async def test_live_channel_opens_to_its_own_device_only(api: Api, first: Tenant, other: Tenant) -> None:
    """The live channel of a device opens to no other credential."""
    was = await rows(api)
    path = f"/v1/devices/{first.things['device_id']}/live"
    for who, key in intruders(first, other).items():
        async with api.http.ws_connect(path, headers={"Origin": APP_ORIGIN}) as socket:
            await socket.send_json({"type": "hello", "token": key or "", "after": 0, "mode": "exclusive"})
            async with asyncio.timeout(20):
                message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4401), who
    assert await rows(api) == was


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
    with pytest.raises(Uncovered):
        plan(document)


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
