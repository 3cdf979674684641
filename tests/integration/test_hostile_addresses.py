"""Hostile URLs: every URL field refuses them, and senders and pollers do not call a URL from the database."""

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
from tests.unit.outbound.test_outbound_client import FakeResolver

HOOK = {"name": "w", "url": "https://hooks.example.org/", "events": ["*"]}
FEED = {"name": "f", "url": "https://feeds.example.org/cap"}

COUNT_UNTRIED = (
    "SELECT (SELECT count(*) FROM feeds WHERE failures = 0) + (SELECT count(*) FROM webhooks WHERE failures = 0)"
)


def is_storable(url: str) -> bool:
    """Return whether Postgres can store the text."""
    return "\0" not in url and not any("\ud800" <= char <= "\udfff" for char in url)


def test_table_is_long_and_has_no_duplicates() -> None:
    """There are at least 60 hostile URLs and no duplicates."""
    assert len(INVALID_URLS) + len(OTHER_HOSTS) >= 60
    assert len({*INVALID_URLS.values(), *OTHER_HOSTS.values()}) == len(INVALID_URLS) + len(OTHER_HOSTS)


async def test_no_device_registers_with_a_hostile_address(api: Api) -> None:
    """Registration refuses every hostile URL, and the response does not contain the URL."""
    valid_device, before = api.device(), await api.rows()
    for name, url in (INVALID_URLS | OTHER_HOSTS).items():
        response = await api.call("POST", "/v1/devices", with_endpoint(valid_device, url))
        assert_refused(response, name, url, "endpoint_not_allowed", "/subscription/endpoint")
    assert await api.rows() == before


async def test_no_device_is_imported_with_a_hostile_address(api: Api) -> None:
    """The import refuses every hostile address."""
    valid_device, before = api.device(), await api.rows()
    table = [url for url in (INVALID_URLS | OTHER_HOSTS).values() if len(url) < 10_000]
    raw = "".join(json.dumps(with_endpoint(valid_device, url)) + "\n" for url in table).encode()
    response = await api.call("POST", "/v1/devices/import", raw=raw, headers={"Content-Type": "application/x-ndjson"})
    *results, last = map(json.loads, response.body.splitlines())
    assert (last["done"], last["refused"], last["created"]) == (True, len(table), 0)
    assert {result["status"] for result in results} == {"refused"}
    assert await api.rows() == before


@pytest.mark.parametrize(("path", "good"), [("/v1/webhooks", HOOK), ("/v1/feeds", FEED)])
async def test_webhooks_and_feeds_refuse_hostile_addresses(api: Api, path: str, good: dict[str, Any]) -> None:
    """Webhooks and feeds can neither be created with nor changed to a hostile address."""
    resource = await api.call_ok("POST", path, good)
    before, stored = await api.rows(), await api.call_ok("GET", f"{path}/{resource['id']}")
    for name, url in INVALID_URLS.items():
        for method, target, body in (("POST", path, good), ("PATCH", f"{path}/{resource['id']}", {})):
            response = await api.call(method, target, body | {"url": url})
            assert_refused(response, name, url, "address_not_allowed", "/url")
    assert await api.rows() == before
    assert await api.call_ok("GET", f"{path}/{resource['id']}") == stored


def with_endpoint(device: Any, url: str) -> Any:
    """Return the registration body of a device with another endpoint."""
    return device | {"subscription": device["subscription"] | {"endpoint": url}}


def assert_refused(response: Any, name: str, url: str, code: str, pointer: str) -> None:
    """Check that a response is a 422 with the code or pointer and with a reason, and does not contain the URL."""
    assert response.status == 422, (name, response.body)
    if response.body["code"] == "invalid":
        assert response.pointers == [pointer], (name, response.body)
    else:
        assert response.body["code"] == code, (name, response.body)
    assert response.body["detail"], name
    assert len(url) < 2 or url not in json.dumps(response.body, ensure_ascii=False), name


class RecordingClient(PushClient):
    """A push client that sends nothing and records the endpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: list[str] = []

    async def post(self, endpoint: str, body: bytes, **_: Any) -> PushResponse:
        self.endpoints.append(endpoint)
        return PushResponse(201)


async def test_stored_hostile_endpoint_is_not_posted_to(api: Api) -> None:
    """Deliveries to hostile endpoints in the database are rejected without a POST."""
    parts = api.parts
    table = list(filter(is_storable, (INVALID_URLS | OTHER_HOSTS).values()))
    devices = await parts.register(parts.subscribe(Vendor.FCM, len(table) + 1, share_keys=True))
    [good, *bad] = devices
    async with parts.engine.begin() as conn:
        for id_, url in zip(bad, table, strict=True):
            values = {"endpoint": url, "endpoint_digest": endpoint_digest(url)}
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
    """Run the webhook dispatcher and the feed poller with a resolver that returns a private address for every name."""
    stop = asyncio.Event()
    async with OutboundClient(OutboundPolicy(), FakeResolver(["10.0.0.1"])) as client:
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
    """Wait until every feed and webhook has failed once."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            if await parts.scalar(COUNT_UNTRIED) == 0:
                return
            await asyncio.sleep(0.05)  # pollers raise no event


async def test_stored_hostile_webhook_and_feed_are_not_called(api: Api, attempted_addresses: list[Any]) -> None:
    """The gateway connects neither to a hostile URL in the database nor to a public name with a private address."""
    parts, table = api.parts, [url for url in INVALID_URLS.values() if is_storable(url)]
    table += [url for name, url in OTHER_HOSTS.items() if not name.startswith("a public")]
    async with parts.engine.begin() as conn:
        for n, url in enumerate(table):
            hook = await subscriptions.create(
                conn, parts.context, parts.application_id, f"{n}", "https://a.example.org/", ["*"]
            )
            feed = await feeds.create(conn, parts.context, parts.application_id, f"{n}", "https://a.example.org/")
            for prefix, table_, resource in ((ids.WEBHOOK, schema.webhooks, hook), (ids.FEED, schema.feeds, feed)):
                has_id = table_.c.id == ids.parse(prefix, resource["id"])
                await conn.execute(update(table_).where(has_id).values(url=url))
    async with run_pollers(parts):
        await parts.register(parts.subscribe(Vendor.FCM, 1))  # an event for the webhooks
        await wait_until_all_tried(parts)
    assert attempted_addresses == []
    assert await parts.scalar("SELECT count(DISTINCT last_error) FROM webhooks") > 10
    assert await parts.scalar("SELECT count(DISTINCT last_error) FROM feeds") > 10
