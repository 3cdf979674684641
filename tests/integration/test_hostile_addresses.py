"""Hostile URLs: every field refuses them, and senders do not call one that is in the database."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import update

from gateway.domain import ids
from gateway.outbound.client import OutboundClient
from gateway.outbound.policy import OutboundPolicy
from gateway.push.client import PushClient
from gateway.push.responses import PushResponse
from gateway.records.devices import endpoint_digest
from gateway.records.postgres import schema
from gateway.service.alerts import feeds
from gateway.service.webhooks import subscriptions
from gateway.sim import Vendor
from gateway.worker.pollers.feed_poller import FeedPoller
from gateway.worker.pollers.webhook_dispatcher import WebhookDispatcher
from tests.support.api import Api
from tests.support.gateway_parts import TIMEOUT_S, Parts
from tests.support.hostile import INVALID_URLS, OTHER_HOSTS
from tests.unit.outbound.test_outbound_client import Names

HOOK = {"name": "w", "url": "https://hooks.example.org/", "events": ["*"]}
FEED = {"name": "f", "url": "https://feeds.example.org/cap"}

UNTRIED_QUERY = (
    "SELECT (SELECT count(*) FROM feeds WHERE failures = 0) + (SELECT count(*) FROM webhooks WHERE failures = 0)"
)


def is_storable(address: str) -> bool:
    """Whether Postgres could hold it at all."""
    return "\0" not in address and not any("\ud800" <= char <= "\udfff" for char in address)


def test_table_is_long_and_has_no_duplicates() -> None:
    """The table has enough addresses and no duplicates."""
    assert len(INVALID_URLS) + len(OTHER_HOSTS) >= 60
    assert len({*INVALID_URLS.values(), *OTHER_HOSTS.values()}) == len(INVALID_URLS) + len(OTHER_HOSTS)


async def test_no_device_registers_with_a_hostile_address(api: Api) -> None:
    """Registration refuses every hostile address and does not repeat it."""
    good, before = api.device(), await api.rows()
    for name, address in (INVALID_URLS | OTHER_HOSTS).items():
        response = await api.call("POST", "/v1/devices", with_endpoint(good, address))
        assert_refused(response, name, address, "endpoint_not_allowed", "/subscription/endpoint")
    assert await api.rows() == before


async def test_no_device_is_imported_with_a_hostile_address(api: Api) -> None:
    """The import refuses every hostile address."""
    good, before = api.device(), await api.rows()
    table = [address for address in (INVALID_URLS | OTHER_HOSTS).values() if len(address) < 10_000]
    raw = "".join(json.dumps(with_endpoint(good, address)) + "\n" for address in table).encode()
    response = await api.call("POST", "/v1/devices/import", raw=raw, headers={"Content-Type": "application/x-ndjson"})
    *results, last = map(json.loads, response.body.splitlines())
    assert (last["done"], last["refused"], last["created"]) == (True, len(table), 0)
    assert {result["status"] for result in results} == {"refused"}
    assert await api.rows() == before


@pytest.mark.parametrize(("path", "good"), [("/v1/webhooks", HOOK), ("/v1/feeds", FEED)])
async def test_webhooks_and_feeds_refuse_hostile_addresses(api: Api, path: str, good: dict[str, Any]) -> None:
    """Webhooks and feeds can neither be created with nor changed to a hostile address."""
    created = await api.call_ok("POST", path, good)
    before, stored = await api.rows(), await api.call_ok("GET", f"{path}/{created['id']}")
    for name, address in INVALID_URLS.items():
        for method, condition, body in (("POST", path, good), ("PATCH", f"{path}/{created['id']}", {})):
            response = await api.call(method, condition, body | {"url": address})
            assert_refused(response, name, address, "address_not_allowed", "/url")
    assert await api.rows() == before
    assert await api.call_ok("GET", f"{path}/{created['id']}") == stored


def with_endpoint(device: Any, address: str) -> Any:
    return device | {"subscription": device["subscription"] | {"endpoint": address}}


def assert_refused(response: Any, name: str, address: str, code: str, pointer: str) -> None:
    """With the reason, and without saying the address again."""
    assert response.status == 422, (name, response.body)
    if response.body["code"] == "invalid":
        assert response.pointers == [pointer], (name, response.body)
    else:
        assert response.body["code"] == code, (name, response.body)
    assert response.body["detail"], name
    assert len(address) < 2 or address not in json.dumps(response.body, ensure_ascii=False), name


class RecordingClient(PushClient):
    """Posts nothing and remembers what it should have posted."""

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: list[str] = []

    async def post(self, endpoint: str, body: bytes, **_: Any) -> PushResponse:
        self.endpoints.append(endpoint)
        return PushResponse(201)


async def test_stored_hostile_endpoint_is_not_posted_to(api: Api) -> None:
    """A hostile endpoint that is in the database is not posted to."""
    parts = api.parts
    table = list(filter(is_storable, (INVALID_URLS | OTHER_HOSTS).values()))
    devices = await parts.register(parts.subscribe(Vendor.FCM, len(table) + 1, share_keys=True))
    [good, *bad] = devices
    async with parts.engine.begin() as conn:
        for id_, address in zip(bad, table, strict=True):
            values = {"endpoint": address, "endpoint_digest": endpoint_digest(address)}
            await conn.execute(update(schema.devices).where(schema.devices.c.id == id_).values(values))
    client = RecordingClient()
    async with parts.run_worker(client=client):
        sent = await parts.submit()
        progress = await parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.rejected) == (1, len(table))
    assert client.endpoints == [devices[good].subscription.endpoint]
    rows = await parts.list_deliveries(sent.id)
    assert all(rows[id_].cause and rows[id_].status is None for id_ in bad)


@asynccontextmanager
async def run_pollers(parts: Parts) -> AsyncIterator[None]:
    """Every name leads inside, as a hostile one would have it."""
    stop = asyncio.Event()
    async with OutboundClient(OutboundPolicy(), Names(["10.0.0.1"])) as client:
        tasks = [
            asyncio.create_task(poller(parts.context, parts.notifier, client).run(stop))
            for poller in (WebhookDispatcher, FeedPoller)
        ]
        try:
            yield
        finally:
            stop.set()
            for task in tasks:
                await asyncio.wait_for(task, TIMEOUT_S)


async def wait_until_all_tried(parts: Parts) -> None:
    """Of what senders and pollers settle there is no signal."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            if await parts.scalar(UNTRIED_QUERY) == 0:
                return
            await asyncio.sleep(0.05)


async def test_stored_hostile_webhook_and_feed_are_not_called(api: Api, connections: list[Any]) -> None:
    """Public names that resolve to internal addresses are not connected to either."""
    parts, table = api.parts, [address for address in INVALID_URLS.values() if is_storable(address)]
    table += [address for name, address in OTHER_HOSTS.items() if not name.startswith("a public")]
    async with parts.engine.begin() as conn:
        for n, address in enumerate(table):
            hook = await subscriptions.create(
                conn, parts.context, parts.application_id, f"{n}", "https://a.example.org/", ["*"]
            )
            feed = await feeds.create(conn, parts.context, parts.application_id, f"{n}", "https://a.example.org/")
            for kind, saved, saved_row in ((ids.WEBHOOK, schema.webhooks, hook), (ids.FEED, schema.feeds, feed)):
                condition = saved.c.id == ids.parse(kind, saved_row["id"])
                await conn.execute(update(saved).where(condition).values(url=address))
    async with run_pollers(parts):
        await parts.register(parts.subscribe(Vendor.FCM, 1))  # something for the webhooks to tell
        await wait_until_all_tried(parts)
    assert connections == []
    assert await parts.scalar("SELECT count(DISTINCT last_error) FROM webhooks") > 10
    assert await parts.scalar("SELECT count(DISTINCT last_error) FROM feeds") > 10
