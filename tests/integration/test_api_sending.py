"""Notifications, campaigns and alerts over HTTP, up to the messages that the push service receives."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.sim import Vendor
from gateway.web.server import ROUTES
from tests.support.api import ADMIN, Api, example_body
from tests.support.gateway_parts import APP_ORIGIN

CONTENT = {"title": "Storm", "body": "Stay inside", "url": "/storm"}
VIENNA = {"type": "Polygon", "coordinates": [[[16, 48], [17, 48], [17, 49], [16, 49], [16, 48]]]}
ALERT = {"event": "Severe Thunderstorm Warning", "severity": "Severe", "urgency": "Immediate", "area": VIENNA}


async def deliver(api: Api, sent: Any) -> Any:
    """Run a worker until the notification has settled, and return it."""
    id_ = await api.parts.scalar("SELECT id FROM notifications ORDER BY id DESC LIMIT 1")
    async with api.parts.run_worker():
        await api.parts.wait_until_done(id_)
    return await api.call_ok("GET", f"/v1/notifications/{sent['id']}")


async def test_notification_reaches_only_its_audience(api: Api) -> None:
    """A notification reaches the devices of its audience and no others."""
    subscribers = api.parts.subscribe(Vendor.MOZILLA, 2)
    for subscriber, topics in zip(subscribers, (["weather"], ["offers"]), strict=True):
        await api.call_ok("POST", "/v1/devices", {"subscription": subscriber.to_json(), "topics": topics})
    sent = await api.call_ok("POST", "/v1/notifications", {"content": CONTENT, "audience": {"topic": "weather"}})
    assert (sent["kind"], sent["status"], sent["delivery"]["lane"]) == ("direct", "scheduled", "normal")
    done = await deliver(api, sent)
    assert (done["status"], done["progress"]["targets"], done["progress"]["accepted"]) == ("done", 1, 1)
    [message] = subscribers[0].messages
    assert subscribers[1].messages == []
    payload = message.json()
    assert payload["web_push"] == 8030
    assert (payload["notification"]["title"], payload["notification"]["navigate"]) == ("Storm", f"{APP_ORIGIN}/storm")
    assert payload["notification"]["data"]["gateway"]["id"] == sent["id"]
    assert message.urgency == "normal"
    assert message.ttl is not None
    assert 86_400 - 60 < message.ttl <= 86_400  # the default of one day, less the time since the submission
    assert message.topic is not None
    assert len(message.topic) == 32


async def test_alert_is_urgent_and_limited_to_its_area(api: Api) -> None:
    """An alert is sent in the urgent lane to the devices in its area."""
    inside = await api.register(location={"lat": 48.2, "lon": 16.37})
    await api.register(location={"lat": 47.07, "lon": 15.44})
    sent = await api.call_ok("POST", "/v1/alerts", ALERT)
    assert (sent["kind"], sent["delivery"]["lane"], sent["delivery"]["urgency"]) == ("alert", "urgent", "high")
    done = await deliver(api, sent)
    assert done["progress"]["targets"] == 1
    [delivery] = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert delivery["device_id"] == inside["id"]


async def test_alert_never_outlives_its_expiry(api: Api) -> None:
    """The TTL of an alert ends at its expiry, and an expired alert is refused."""
    expires = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    sent = await api.call_ok("POST", "/v1/alerts", ALERT | {"expires": expires})
    assert sent["delivery"]["ttl"] <= 600
    expired = await api.call("POST", "/v1/alerts", ALERT | {"expires": "2020-01-01T00:00:00Z"})
    assert (expired.status, expired.pointers) == (422, ["/expires"])


async def test_test_alert_reaches_only_opted_in_devices(api: Api) -> None:
    """An alert with the status Test is sent only to devices with the topic for test alerts."""
    await api.register(location={"lat": 48.2, "lon": 16.37})
    opted_in = await api.register(location={"lat": 48.2, "lon": 16.37}, topics=["test-alerts"])
    sent = await api.call_ok("POST", "/v1/alerts", ALERT | {"status": "Test"})
    assert sent["content"]["title"].startswith("[Test]")
    await deliver(api, sent)
    [delivery] = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert delivery["device_id"] == opted_in["id"]


async def test_campaign_uses_the_bulk_lane(api: Api) -> None:
    """A campaign uses the bulk lane; a campaign in the urgent lane is refused."""
    request = {"name": "Autumn", "content": CONTENT, "audience": {"everyone": True}}
    sent = await api.call_ok("POST", "/v1/campaigns", request)
    assert (sent["kind"], sent["name"], sent["delivery"]["lane"]) == ("campaign", "Autumn", "bulk")
    refused = await api.call("POST", "/v1/campaigns", request | {"delivery": {"lane": "urgent"}})
    assert (refused.status, refused.pointers) == (422, ["/delivery/lane"])


async def test_publishing_to_a_topic_reaches_subscribers(api: Api) -> None:
    """Publishing to a topic reaches the devices that have it."""
    await api.register(topics=["scores"])
    await api.register()
    sent = await api.call_ok("POST", "/v1/topics/scores/publish", {"content": CONTENT, "delivery": {"ttl": 60}})
    done = await deliver(api, sent)
    assert (done["progress"]["targets"], done["delivery"]["ttl"]) == (1, 60)


async def test_scheduled_notification_waits_and_is_cancellable(api: Api) -> None:
    """A scheduled notification waits for its time and can be cancelled before."""
    await api.register()
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    request = {"content": CONTENT, "audience": {"everyone": True}, "schedule": {"at": at}}
    sent = await api.call_ok("POST", "/v1/notifications", request)
    assert sent["start_at"][:19] == at[:19]
    async with api.parts.run_worker():
        immediate = await api.parts.submit()
        await api.parts.wait_until_done(immediate.id)
        waiting = await api.call_ok("GET", f"/v1/notifications/{sent['id']}")
        assert waiting["status"] == "scheduled"
    for _ in range(2):
        cancelled = await api.call_ok("POST", f"/v1/notifications/{sent['id']}/cancel")
        assert (cancelled["status"], cancelled["progress"]["targets"]) == ("cancelled", 0)
    assert cancelled["finished_at"] is not None


async def test_finished_notification_cannot_be_cancelled(api: Api) -> None:
    """The response to the cancellation of a finished notification is 409."""
    sent = await api.call_ok("POST", "/v1/notifications", {"content": CONTENT, "audience": {"everyone": True}})
    await deliver(api, sent)
    response = await api.call("POST", f"/v1/notifications/{sent['id']}/cancel")
    assert (response.status, response.body["code"]) == (409, "conflict")


async def test_each_kind_has_its_path_and_a_common_list(api: Api) -> None:
    """Each kind has its own path; /v1/notifications lists all kinds."""
    alert = await api.call_ok("POST", "/v1/alerts", ALERT)
    request = {"name": "n", "content": CONTENT, "audience": {"everyone": True}}
    campaign = await api.call_ok("POST", "/v1/campaigns", request)
    assert (await api.call("GET", f"/v1/alerts/{alert['id']}")).status == 200
    assert (await api.call("GET", f"/v1/campaigns/{alert['id']}")).status == 404
    assert (await api.call("POST", f"/v1/alerts/{campaign['id']}/cancel")).status == 404
    page = await api.call_ok("GET", "/v1/notifications")
    assert [notification["id"] for notification in page["items"]] == [campaign["id"], alert["id"]]
    filtered = await api.call_ok("GET", "/v1/notifications?kind=alert&status=scheduled&limit=1")
    assert [notification["id"] for notification in filtered["items"]] == [alert["id"]]


async def test_preview_counts_and_sends_nothing(api: Api) -> None:
    """A preview counts devices and users and sends nothing."""
    for user in ("ann", "ann", "bob"):
        await api.register(user_id=user, topics=["weather"])
    preview = await api.call_ok("POST", "/v1/audiences/preview", {"audience": {"topic": "weather"}})
    assert (preview["devices"], preview["users"], len(preview["sample"])) == (3, 2, 3)
    assert (await api.rows())["notifications"] == 0


async def test_message_too_large_for_push_is_refused(api: Api) -> None:
    """A notification whose payload is too large for a push message is refused and stores nothing."""
    request = {"content": CONTENT | {"data": {"long": "x" * 4000}}, "audience": {"everyone": True}}
    before = await api.rows()
    response = await api.call("POST", "/v1/notifications", request)
    assert (response.status, response.body["code"]) == (422, "payload_too_large")
    assert await api.rows() == before


@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.creates and "{" not in route.path])
async def test_same_idempotency_key_works_once(api: Api, path: str) -> None:
    """Five concurrent requests with one idempotency key create one resource and get equal responses."""
    [route] = [route for route in ROUTES if (route.method, route.path) == ("POST", path)]
    body = api.device() if path == "/v1/devices" else example_body(route)
    before = await api.rows()
    key = ADMIN if path == "/v1/applications" else ""
    headers = {"Idempotency-Key": "order-66"}
    responses = await asyncio.gather(*(api.call("POST", path, body, key=key, headers=headers) for _ in range(5)))
    assert {response.status for response in responses} == {201}
    assert all(response.body == responses[0].body for response in responses)
    assert sorted(response.headers.get("Idempotency-Replayed", "") for response in responses) == ["", *["true"] * 4]
    rows = await api.rows()
    counted_tables = rows.keys() - {"api_keys", "vapid_keys", "progress", "jobs"}
    added_rows = {table: rows[table] - before[table] for table in counted_tables if rows[table] != before[table]}
    assert set(added_rows.values()) == {1}  # one row each: the resource, its dependent row, the key, the audit entry
    added_rows.pop("audit", None)
    assert added_rows.keys() >= {"idempotency_keys"}
    assert len(added_rows) == (3 if path in ("/v1/reminders", "/v1/alerts") else 2)
    different = await api.call("POST", path, body | {"name": "other"}, key=key, headers=headers)
    assert (different.status, different.body["code"]) in {(422, "idempotency_mismatch"), (422, "invalid")}


async def test_failed_request_stores_no_idempotency_key(api: Api) -> None:
    """A failed request does not store its idempotency key; a stored key with another body is refused."""
    headers = {"Idempotency-Key": "k"}
    failed = await api.call("POST", "/v1/notifications", {"content": CONTENT, "audience": {}}, headers=headers)
    assert failed.status == 422
    request = {"content": CONTENT, "audience": {"everyone": True}}
    assert (await api.call("POST", "/v1/notifications", request, headers=headers)).status == 201
    different = await api.call("POST", "/v1/notifications", request | {"audience": {"topic": "t"}}, headers=headers)
    assert (different.status, different.body["code"]) == (422, "idempotency_mismatch")
    for invalid_key in ("", "x" * 256):
        invalid_headers = {"Idempotency-Key": invalid_key}
        assert (await api.call("POST", "/v1/notifications", request, headers=invalid_headers)).status == 422
    assert (await api.rows())["notifications"] == 1
