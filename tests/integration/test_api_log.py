"""The delivery log over HTTP: pages, filters, details, receipts, and the resumable stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gateway.domain import ids
from gateway.domain.notification import Kind
from gateway.sim import Rule, Vendor
from tests.support.api import ADMIN, Api, serve_api
from tests.support.gateway_parts import gateway


async def deliver_to(api: Api, count: int, kind: Kind = Kind.DIRECT) -> str:
    """Deliver a notification to `count` new devices, and return its id."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, count))
    sent = await api.parts.submit(kind)
    async with api.parts.run_worker():
        await api.parts.wait_until_done(sent.id)
    return ids.format_id(ids.NOTIFICATION, sent.id)


@asynccontextmanager
async def open_stream(api: Api, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[tuple[int, Any]]]:
    """Open a stream, and yield its (event id, delivery) pairs."""
    all_headers = {"Authorization": f"Bearer {api.secret}", **headers}
    async with api.http.get(f"/v1/deliveries/stream{query}", headers=all_headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert (await response.content.readline()).startswith(b":")

        async def events() -> AsyncIterator[tuple[int, Any]]:
            id_ = 0
            async for line in response.content:
                if line.startswith(b"id: "):
                    id_ = int(line[4:])
                if line.startswith(b"data: "):
                    yield id_, json.loads(line[6:])

        yield events()


async def next_events(events: AsyncIterator[tuple[int, Any]], count: int) -> list[tuple[int, Any]]:
    """Return the next `count` events of a stream, within 20 s."""
    async with asyncio.timeout(20):
        return [await anext(events) for _ in range(count)]


async def test_pages_are_newest_first_without_gaps(api: Api) -> None:
    """Pages of the delivery log are newest first, without gaps or repetition."""
    await deliver_to(api, 25)
    listed_ids: list[str] = []
    times: list[str] = []
    cursor = ""
    while True:
        page = await api.call_ok("GET", f"/v1/deliveries?limit=10{cursor}")
        listed_ids += [delivery["id"] for delivery in page["items"]]
        times += [delivery["settled_at"] for delivery in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(listed_ids) == len(set(listed_ids)) == 25
    assert times == sorted(times, reverse=True)


async def test_filters_narrow_the_log(api: Api) -> None:
    """Every filter of the delivery log selects the matching deliveries."""
    first = await deliver_to(api, 2)
    second = await deliver_to(api, 1)
    all_deliveries = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert len(all_deliveries) == 5
    delivery = all_deliveries[0]
    for query, count in (
        (f"notification_id={first}", 2),
        (f"notification_id={second}", 3),
        (f"device_id={delivery['device_id']}", 1 if delivery["notification_id"] == second else 2),
        ("outcome=accepted", 5),
        ("outcome=gone", 0),
        (f"host={delivery['host']}", 5),
        ("host=push.example.org", 0),
        ("user_id=nobody", 0),
        ("since=2020-01-01T00:00:00Z", 5),
        ("until=2020-01-01T00:00:00Z", 0),
    ):
        items = (await api.call_ok("GET", f"/v1/deliveries?{query}"))["items"]
        assert len(items) == count or query.startswith("device_id"), query
        if query.startswith("device_id"):
            assert {item["device_id"] for item in items} == {delivery["device_id"]}


async def test_delivery_lists_every_attempt(api: Api) -> None:
    """A delivery has all its attempts, each with the cause and the time of the next attempt."""
    api.parts.sim.behave(Rule(status=503, times=1, retry_after=1))
    await deliver_to(api, 1)
    [item] = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert (item["outcome"], item["attempts"]) == ("accepted", 2)
    delivery = await api.call_ok("GET", f"/v1/deliveries/{item['id']}")
    failed, last = delivery["attempts"]
    assert (failed["number"], failed["status"], last["number"], last["status"]) == (1, 503, 2, 201)
    assert "503" in failed["cause"]
    assert failed["next"] == "retried at retry_at"
    assert failed["retry_at"] > failed["at"]
    assert last["next"] == "the push service stores the message until the browser is online"
    assert delivery["message"]


async def test_delivery_with_pending_retry_is_pending(api: Api) -> None:
    """A delivery that waits for a retry is returned as pending."""
    api.parts.sim.behave(Rule(status=503, retry_after=60))
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 1))
    sent = await api.parts.submit(Kind.DIRECT)
    async with api.parts.run_worker():
        await api.parts.wait_until(sent.id, lambda progress: progress.retries == 1)
    row = await api.parts.scalar("SELECT replace(device_id::text, '-', '') FROM attempts")
    delivery = await api.call_ok("GET", f"/v1/deliveries/dlv_{sent.id.hex}{row}")
    assert (delivery["outcome"], len(delivery["attempts"])) == ("pending", 1)
    assert "settled_at" not in delivery


async def test_stream_sends_deliveries_as_they_settle(api: Api) -> None:
    """The stream sends each delivery when it settles."""
    async with open_stream(api) as events:
        notification = await deliver_to(api, 3)
        deliveries = await next_events(events, 3)
    assert {delivery["notification_id"] for _, delivery in deliveries} == {notification}
    assert [id_ for id_, _ in deliveries] == sorted(id_ for id_, _ in deliveries)


async def test_stream_resumes_after_the_last_event_id(api: Api) -> None:
    """A stream resumes after the Last-Event-ID without gaps or repetition."""
    await deliver_to(api, 5)
    async with open_stream(api, "?last_event_id=0") as events:
        before = await next_events(events, 3)
    async with open_stream(api, **{"Last-Event-ID": str(before[-1][0])}) as events:
        after = await next_events(events, 2)
    ids = [delivery["id"] for _, delivery in before + after]
    assert len(set(ids)) == 5


async def test_stream_ends_when_its_key_is_removed(api: Api) -> None:
    """After the API key of a stream is removed, the stream sends no more deliveries and ends."""
    path = f"/v1/applications/{api.parts.application['id']}/keys"
    key = await api.call_ok("POST", path, {"name": "reports", "scopes": ["read"]}, key=ADMIN)
    async with open_stream(api, Authorization=f"Bearer {key['key']}") as events:
        await deliver_to(api, 1)
        await next_events(events, 1)
        await api.call_ok("DELETE", f"{path}/{key['id']}", key=ADMIN)
        await deliver_to(api, 1)
        with pytest.raises(StopAsyncIteration):
            await next_events(events, 1)


async def test_stream_applies_filters(api: Api) -> None:
    """The stream sends only the deliveries that match its filters."""
    api.parts.sim.behave(Rule(status=410, share=0.5))
    async with open_stream(api, "?outcome=gone") as events:
        await deliver_to(api, 30)
        gone = (await api.call_ok("GET", "/v1/deliveries?outcome=gone"))["items"]
        deliveries = await next_events(events, len(gone))
    assert {delivery["outcome"] for _, delivery in deliveries} == {"gone"}
    assert 0 < len(gone) < 30


async def test_repeated_receipt_counts_once(api: Api) -> None:
    """A receipt that arrives twice is counted once in the delivery and in the counts."""
    [subscriber] = api.parts.subscribe(Vendor.MOZILLA, 1)
    await api.call_ok("POST", "/v1/devices", {"subscription": subscriber.to_json()})
    sent = await api.parts.submit(Kind.DIRECT)
    async with api.parts.run_worker():
        await api.parts.wait_until_done(sent.id)
    token = subscriber.messages[0].json()["notification"]["data"]["gateway"]["receipt"]
    for event, action in (("displayed", None), ("displayed", None), ("clicked", "open")):
        receipt = {"token": token, "event": event} | ({"action": action} if action else {})
        assert (await api.call("POST", "/v1/receipts", receipt, key=None)).status == 204
    [delivery] = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert delivery["displayed_at"]
    assert (delivery["clicked_at"] is not None, delivery["action"]) == (True, "open")
    progress = (await api.call_ok("GET", "/v1/notifications"))["items"][0]["progress"]
    assert (progress["displayed"], progress["clicked"], progress["dismissed"]) == (1, 1, 0)


async def test_unchanged_page_gets_304(api: Api) -> None:
    """A request with the current ETag gets 304 without a body."""
    await deliver_to(api, 1)
    first_response = await api.call("GET", "/v1/deliveries")
    unchanged = await api.call("GET", "/v1/deliveries", headers={"If-None-Match": first_response.headers["ETag"]})
    assert (unchanged.status, unchanged.body) == (304, "")
    await deliver_to(api, 1)
    assert (
        await api.call("GET", "/v1/deliveries", headers={"If-None-Match": first_response.headers["ETag"]})
    ).status == 200


async def test_stopping_server_ends_its_streams(database_url: str) -> None:
    """A stopping server ends its streams with a complete response."""
    async with gateway(database_url) as parts, aiohttp.ClientSession() as http:
        async with serve_api(parts) as api:
            headers = {"Authorization": f"Bearer {api.secret}"}
            response = await http.get(f"{api.origin}/v1/deliveries/stream", headers=headers)
            assert (await response.content.readline()).startswith(b":")
        async with asyncio.timeout(1):
            assert (await response.content.read()).strip() == b"id: 0"  # read() raises if the connection breaks
