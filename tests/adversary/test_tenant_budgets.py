"""A tenant that uses too much database time, memory or rendering time delays no other tenant."""

import asyncio
import json
from typing import Any
from uuid import UUID

import aiohttp
from sqlalchemy import text

from gateway.domain import ids
from gateway.domain.notification import Kind
from gateway.records import notifications
from gateway.sim import Vendor
from tests.support.api import Api
from tests.support.bystander import Bystander
from tests.support.gateway_parts import Parts

CONTENT = {"title": "Storm", "body": "Stay inside"}
# 100 texts of 1,000 characters each.
LARGE_LIST = ["x" * 1000] * 100


class Tenant:
    """The attacking application: a client of the HTTP API with its secret key."""

    def __init__(self, parts: Parts, origin: str, http: aiohttp.ClientSession) -> None:
        self.parts = parts
        self._origin = origin
        self._http = http

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the parsed body of a response."""
        headers = {"Authorization": f"Bearer {self.parts.application['secret_key']}"}
        async with self._http.request(method, f"{self._origin}{path}", json=body, headers=headers) as response:
            raw = await response.text()
            return response.status, json.loads(raw) if raw else None

    async def call_ok(self, method: str, path: str, body: Any = None) -> Any:
        """Return the body of a response that must be a success."""
        status, payload = await self.call(method, path, body)
        assert status < 300, (status, payload)
        return payload

    async def register(self, count: int) -> list[UUID]:
        """Register `count` devices of the simulator, and return their ids."""
        return list(await self.parts.register(self.parts.subscribe(Vendor.FCM, count, share_keys=True)))

    async def store_attributes(self, device_ids: list[UUID], attributes: Any) -> None:
        """Store attributes without the API's limit, as versions of the gateway before the limit did."""
        async with self.parts.engine.begin() as conn:
            await conn.execute(
                text("UPDATE devices SET attributes = CAST(:attributes AS jsonb) WHERE id = ANY(:ids)"),
                {"attributes": json.dumps(attributes), "ids": device_ids},
            )


async def test_attributes_are_bounded_over_many_changes(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """Changes of a device's attributes cannot add up to more than the limit (without it, 12 changes made 11.9 MB)."""
    tenant = Tenant(parts, origin, http)
    [device_id] = await tenant.register(1)
    path = f"/v1/devices/{ids.format_id(ids.DEVICE, device_id)}"
    for number in range(12):
        patch = {f"list-{number}-{index}": LARGE_LIST for index in range(9)}
        status, problem = await tenant.call("PATCH", path, {"attributes": patch})
        assert (status, problem["errors"][0]["pointer"]) == (422, "/attributes")
    small = {f"text-{index}": "x" * 1000 for index in range(15)}
    await tenant.call_ok("PATCH", path, {"attributes": small})
    assert (await tenant.call("PATCH", path, {"attributes": {"more": ["x" * 1000] * 2}}))[0] == 422
    await tenant.call_ok("PATCH", path, {"attributes": {"text-0": None, "more": "x" * 1000}})
    octets = await parts.scalar("SELECT octet_length(attributes::text) FROM devices WHERE id = :id", id=device_id)
    assert octets < 17_000
    await bystander.check_alert()


async def test_device_above_the_limit_may_lose_attributes(
    parts: Parts, origin: str, http: aiohttp.ClientSession
) -> None:
    """A device whose stored attributes exceed the limit may lose attributes, but not get more."""
    tenant = Tenant(parts, origin, http)
    [device_id] = await tenant.register(1)
    await tenant.store_attributes([device_id], {"a": LARGE_LIST, "b": LARGE_LIST})
    path = f"/v1/devices/{ids.format_id(ids.DEVICE, device_id)}"
    assert (await tenant.call("PATCH", path, {"attributes": {"c": 1}}))[0] == 422
    changed = await tenant.call_ok("PATCH", path, {"attributes": {"b": None}})
    assert list(changed["attributes"]) == ["a"]


async def test_list_of_large_devices_is_cut_into_small_pages(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """Devices with a megabyte of attributes each are listed in small pages (a page of 150 took 435 MB of memory)."""
    tenant = Tenant(parts, origin, http)
    device_ids = await tenant.register(30)
    await tenant.store_attributes(device_ids, {f"list-{index}": LARGE_LIST for index in range(10)})
    listed: list[str] = []
    path: str | None = "/v1/devices?limit=1000"
    while path is not None:
        page = await tenant.call_ok("GET", path)
        assert len(json.dumps(page)) < 4_000_000
        listed += [device["id"] for device in page["items"]]
        path = page["next_cursor"] and f"/v1/devices?limit=1000&cursor={page['next_cursor']}"
        if len(listed) == 10:
            await bystander.check_alert()
    assert sorted(listed) == sorted(ids.format_id(ids.DEVICE, id_) for id_ in device_ids)


async def test_inbox_of_large_notifications_is_cut(parts: Parts, api: Api) -> None:
    """A page of an inbox ends when its notifications have about two megabytes in the database.

    The notifications are large because their audience has 1,000 user ids of 250 characters.
    """
    [device_id] = await parts.register(parts.subscribe(Vendor.FCM, 1), user_id="u-1")
    audience = {"any": [{"user_id": ["u-1"]}, {"user_id": [f"{number:0250}" for number in range(1000)]}]}
    async with parts.run_worker():
        for number in range(12):
            sent = await parts.submit(Kind.DIRECT, audience, content={"title": str(number)})
            await parts.wait_until_done(sent.id)
    titles: list[str] = []
    path: str | None = f"/v1/devices/{ids.format_id(ids.DEVICE, device_id)}/inbox?limit=1000"
    pages = 0
    while path is not None:
        page = await api.call_ok("GET", path)
        titles += [item["content"]["title"] for item in page["items"]]
        pages += 1
        cursor = page["next_cursor"]
        path = cursor and f"/v1/devices/{ids.format_id(ids.DEVICE, device_id)}/inbox?limit=1000&cursor={cursor}"
    assert titles == [str(number) for number in reversed(range(12))]
    assert pages == 2


async def test_recipient_with_excessive_data_fails_alone(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """Three devices with too much data for the template are rejected, and the other 40 accept their message."""
    tenant = Tenant(parts, origin, http)
    device_ids = await tenant.register(43)
    await tenant.store_attributes(device_ids[:3], {"tags": LARGE_LIST})
    await tenant.store_attributes(device_ids[3:], {"tags": ["storm", "wind"]})
    content = {"title": "Your topics", "body": "{{ user.attributes.tags | join: ', ' }}"}
    campaign = await tenant.call_ok(
        "POST", "/v1/campaigns", {"name": "Topics", "audience": {"everyone": True}, "content": content}
    )
    id_ = ids.parse(ids.NOTIFICATION, campaign["id"])
    assert id_ is not None
    progress = await parts.wait_until_done(id_)
    assert (progress.accepted, progress.rejected) == (40, 3)
    deliveries = await parts.list_deliveries(id_)
    causes = {deliveries[device_id].cause for device_id in device_ids[:3]}
    assert len(causes) == 1
    assert "8192 characters" in causes.pop()
    await bystander.check_alert()


async def test_audience_of_40000_user_ids_is_sent(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """40 leaves of 1,000 user ids are 40 parameters of the query, not 40,000, and select the devices of the users."""
    tenant = Tenant(parts, origin, http)
    await parts.register(parts.subscribe(Vendor.FCM, 2), user_id="user-39-999")
    leaves = [{"user_id": [f"user-{leaf}-{number}" for number in range(1000)]} for leaf in range(40)]
    audience = {"any": leaves}
    preview = await tenant.call_ok("POST", "/v1/audiences/preview", {"audience": audience})
    assert preview["devices"] == 2
    sent = await tenant.call_ok("POST", "/v1/notifications", {"audience": audience, "content": CONTENT})
    id_ = ids.parse(ids.NOTIFICATION, sent["id"])
    assert id_ is not None
    assert (await parts.wait_until_done(id_)).accepted == 2
    await bystander.check_alert()


async def test_throttle_that_never_ends_is_refused(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """A throttle so slow that it sends no message within the campaign's lifetime is refused by the API."""
    tenant = Tenant(parts, origin, http)
    await tenant.register(1)
    campaign = {"name": "Slow", "audience": {"everyone": True}, "content": CONTENT}
    for rate, ttl in ((1e-300, 3600), (0.0001, 3600)):
        body = campaign | {"throttle": {"per_second": rate}, "delivery": {"ttl": ttl}}
        status, problem = await tenant.call("POST", "/v1/campaigns", body)
        assert status == 422
        assert [error["pointer"] for error in problem["errors"]] == ["/throttle/per_second"]
    await bystander.check_alert()


async def test_stored_endless_throttle_ends_at_the_expiry(parts: Parts) -> None:
    """A stored campaign with such a throttle gets its slot at its expiry, not after it."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    sent = await parts.submit()
    async with parts.engine.begin() as conn:
        await conn.execute(text("UPDATE progress SET per_second = 1e-300"))
        for _ in range(3):
            slot = await notifications.reserve_slot(conn, sent.id, 1, sent.delivery.expires_at)
    assert slot == sent.delivery.expires_at


async def test_segment_cannot_outgrow_queries_that_use_it(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """A change of a segment is refused if a campaign or segment that uses it would become too large for one query."""
    tenant = Tenant(parts, origin, http)
    await tenant.register(1)
    segment = await tenant.call_ok("POST", "/v1/segments", {"name": "small", "audience": {"topic": "a"}})
    audience_of_segments = {"any": [{"segment": segment["id"]}] * 100}
    outer = await tenant.call_ok("POST", "/v1/segments", {"name": "outer", "audience": audience_of_segments})
    path = f"/v1/segments/{segment['id']}"
    await tenant.call_ok("PATCH", path, {"audience": {"any": [{"topic": f"t-{n}"} for n in range(10)]}})
    larger_audience = {"audience": {"any": [{"topic": f"t-{n}"} for n in range(11)]}}
    status, problem = await tenant.call("PATCH", path, larger_audience)
    assert (status, problem["errors"][0]["pointer"]) == (422, "/audience")
    assert "the segment 'outer'" in problem["errors"][0]["detail"]
    await tenant.call_ok("PATCH", f"/v1/segments/{outer['id']}", {"audience": {"topic": "b"}})
    campaign = {
        "name": "Tomorrow",
        "audience": audience_of_segments,
        "content": CONTENT,
        "schedule": {"at": "2027-11-01T09:00:00Z"},
    }
    scheduled = await tenant.call_ok("POST", "/v1/campaigns", campaign)
    status, problem = await tenant.call("PATCH", path, larger_audience)
    assert status == 422
    assert scheduled["id"] in problem["errors"][0]["detail"]
    values = {"audience": {"user_id": [f"u-{n}" for n in range(1000)]}}
    await tenant.call_ok("PATCH", path, values)
    await bystander.check_alert()


async def test_segments_too_large_together_are_not_loaded(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """An audience of 100 segments of 250 kB each is refused before the segments are parsed."""
    tenant = Tenant(parts, origin, http)
    values = [{"user_id": [f"{number:0250}" for number in range(1000)]}]
    first = await tenant.call_ok("POST", "/v1/segments", {"name": "0", "audience": {"any": values}})
    async with parts.engine.begin() as conn:
        await conn.execute(
            text("""
                INSERT INTO segments (id, application_id, name, audience)
                SELECT gen_random_uuid(), application_id, number::text, audience
                FROM segments, generate_series(1, 99) AS number
            """)
        )
    listed = await tenant.call_ok("GET", "/v1/segments?limit=1000")
    assert 3 < len(listed["items"]) < 10
    assert listed["next_cursor"]
    segment_ids = [ids.format_id(ids.SEGMENT, id_) for id_ in await _segment_ids(parts)]
    assert first["id"] in segment_ids
    audience = {"any": [{"segment": id_} for id_ in segment_ids]}
    status, problem = await tenant.call("POST", "/v1/audiences/preview", {"audience": audience})
    assert (status, problem["errors"][0]["pointer"]) == (422, "/audience")
    await bystander.check_alert()


async def _segment_ids(parts: Parts) -> list[UUID]:
    async with parts.engine.connect() as conn:
        return list((await conn.execute(text("SELECT id FROM segments"))).scalars())


async def wait_for_queries(parts: Parts, condition: str) -> None:
    """Wait until another connection to this database matches `condition`, an SQL condition on pg_stat_activity."""
    count = f"""SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}"""  # noqa: S608
    async with asyncio.timeout(10):
        while not await parts.scalar(count):  # noqa: ASYNC110 - another process gives no event
            await asyncio.sleep(0.02)


# Inserts 40,000 devices of an application.
FILL_DEVICES = text("""
    INSERT INTO devices (id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, attributes)
    SELECT gen_random_uuid(), :application_id, 'https://fcm.googleapis.com/fcm/send/' || n, sha256(n::text::bytea),
           'fcm.googleapis.com', sha256('p'), sha256('a'),
           (SELECT id FROM vapid_keys WHERE application_id = :application_id), :attributes
    FROM generate_series(1, 40000) AS n
""")


async def test_slow_previews_delay_no_alert(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """Twelve previews of 200 `contains` leaves over 40,000 devices delay no alert (it failed with 503 before)."""
    tenant = Tenant(parts, origin, http)
    async with parts.engine.begin() as conn:
        values = {"application_id": parts.application_id, "attributes": json.dumps({"text": "wind and rain " * 30})}
        await conn.execute(FILL_DEVICES, values)
    leaves = [{"attribute": "text", "contains": f"storm {number}"} for number in range(200)]
    preview = {"audience": {"any": leaves}}
    async with asyncio.TaskGroup() as group:
        previews = [group.create_task(tenant.call("POST", "/v1/audiences/preview", preview)) for _ in range(12)]
        await wait_for_queries(parts, "state = 'active' AND query LIKE '%strpos%'")
        await bystander.check_alert()
        own_status, _ = await tenant.call("GET", "/v1/segments")
        assert own_status == 200
    for status, body in [task.result() for task in previews]:
        assert status in (200, 503)
        if status == 503:
            assert body["code"] in ("share_exhausted", "statement_timeout")
            assert "previews" in body["detail"]


async def test_slow_audiences_of_alerts_delay_no_alert(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """Ten alerts whose audiences take seconds to load leave loading slots and connections to another tenant's alert."""
    tenant = Tenant(parts, origin, http)
    async with parts.engine.begin() as conn:
        values = {"application_id": parts.application_id, "attributes": json.dumps({"text": "wind and rain " * 30})}
        await conn.execute(FILL_DEVICES, values)
    leaves = [{"attribute": "text", "contains": f"storm {number}"} for number in range(200)]
    alert = {"event": "Storm", "headline": "Storm", "severity": "Extreme", "urgency": "Immediate"}
    alert |= {"certainty": "Observed", "audience": {"any": leaves}}
    for _ in range(10):
        await tenant.call_ok("POST", "/v1/alerts", alert)
    await wait_for_queries(parts, "state = 'active' AND query LIKE '%strpos%'")
    await bystander.check_alert()


async def test_requests_that_wait_for_locks_delay_no_alert(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """Changes of segments that wait for a lock use only the database connections of their application's share."""
    tenant = Tenant(parts, origin, http)
    segment = await tenant.call_ok("POST", "/v1/segments", {"name": "s", "audience": {"topic": "a"}})
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
    async with asyncio.TaskGroup() as group, parts.engine.begin() as conn:
        await conn.execute(lock, {"name": f"segments {parts.application_id}"})
        path, patch = f"/v1/segments/{segment['id']}", {"audience": {"topic": "b"}}
        changes = [group.create_task(tenant.call("PATCH", path, patch)) for _ in range(30)]
        await wait_for_queries(parts, "wait_event_type = 'Lock'")
        await bystander.check_alert()
    assert {task.result()[0] for task in changes} <= {200, 503}


async def test_registrations_that_wait_for_locks_delay_no_other(
    parts: Parts, origin: str, http: aiohttp.ClientSession, bystander: Bystander
) -> None:
    """A registration that waits for the lock on a device row does not delay one of another application."""
    [subscriber] = parts.subscribe(Vendor.FCM, 1)
    await parts.register([subscriber])
    headers = {"Authorization": f"Bearer {parts.application['secret_key']}"}
    bystander_headers = {"Authorization": f"Bearer {bystander.parts.application['secret_key']}"}
    async with asyncio.TaskGroup() as group, parts.engine.begin() as conn:
        await conn.execute(text("SELECT FROM devices FOR UPDATE"))
        body = {"subscription": subscriber.to_json()}
        blocked = group.create_task(_post(http, f"{origin}/v1/devices", body, headers))
        await wait_for_queries(parts, "wait_event_type = 'Lock'")
        [new] = bystander.parts.subscribe(Vendor.FCM, 1)
        bystander_body = {"subscription": new.to_json()}
        assert await _post(http, f"{origin}/v1/devices", bystander_body, bystander_headers) == 201
        assert not blocked.done()
    assert blocked.result() == 200


async def _post(http: aiohttp.ClientSession, url: str, body: Any, headers: dict[str, str]) -> int:
    async with http.post(url, json=body, headers=headers) as response:
        return response.status
