"""Erasure: an erased user is in no table, whatever was stored and whatever is in flight."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from gateway.domain import ids
from gateway.domain.notification import Status
from gateway.push.client import PushClient
from gateway.records.postgres.schema import metadata
from gateway.service.operations import erasure
from gateway.service.operations.erasure import replace_user
from gateway.sim import Vendor
from gateway.worker import maintenance
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from tests.support.api import Api
from tests.support.gateway_parts import APP_ORIGIN, Parts

ADA = "u-ada-lovelace"
# Part of every value of the user, and of no other value.
PERSONAL = "difference-engine"
HI = {"title": "Hi {{ user.attributes.first_name }}", "body": PERSONAL, "data": {"for": PERSONAL}}
LATER = {"at": (datetime.now(UTC) + timedelta(days=30)).replace(tzinfo=None).isoformat(), "timezone": "UTC"}
OFFERS = {"name": "offers", "title": "Offers", "cap": {"limit": 5, "window": 604_800}}
CARTS = {"name": "Carts", "event": "cart.abandoned", "content": {"title": "Left", "body": "{{ event.data.thing }}"}}


async def dump(parts: Parts) -> dict[str, str]:
    """Return every row of every table as text, with binary values in hexadecimal."""
    dumped = {}
    async with parts.engine.connect() as conn:
        for table in metadata.tables:
            rows = await conn.execute(text(f"SELECT CAST(each AS text) FROM {table} AS each"))  # noqa: S608
            dumped[table] = "\n".join(rows.scalars())
    return dumped


def find_traces(dumped: dict[str, str], traces: list[str]) -> set[tuple[str, str]]:
    forms = [(trace, form) for trace in traces for form in (trace, trace.encode().hex())]
    return {(table, trace) for table, rows in dumped.items() for trace, form in forms if form in rows}


async def register(api: Api) -> tuple[list[Any], list[str]]:
    """Register two devices of the user; return the responses and the traces to look for."""
    registered, traces = [], [ADA, PERSONAL, "48.123456"]
    for _ in range(2):
        new_device = api.device(
            user_id=ADA,
            attributes={"first_name": PERSONAL},
            topics=[PERSONAL],
            location={"lat": 48.123456, "lon": 16.654321},
            client={"platform": "android", "browser": PERSONAL, "locale": "de-AT", "timezone": "Europe/Vienna"},
        )
        registered.append(await api.call_ok("POST", "/v1/devices", new_device, key=api.publishable, origin=APP_ORIGIN))
        endpoint = new_device["subscription"]["endpoint"]
        traces += [endpoint, endpoint.rpartition("/")[2]]
    return registered, traces


async def send(api: Api, body: Any) -> None:
    sent = ids.parse(ids.NOTIFICATION, (await api.call_ok("POST", "/v1/notifications", body))["id"])
    assert sent is not None
    await api.parts.wait_until_done(sent)


async def fill_every_table(api: Api) -> list[str]:
    """Store something of the user in every table that may hold it; return the traces to look for."""
    await api.call_ok("POST", "/v1/webhooks", {"name": "All", "url": "https://shop.example/hooks", "events": ["*"]})
    await api.call_ok("POST", "/v1/categories", OFFERS)
    await api.call_ok("POST", "/v1/triggers", CARTS)
    await api.call_ok("POST", "/v1/triggers", {**CARTS, "name": "Team", "audience": {"everyone": True}})
    async with api.parts.run_worker():
        for audience in ({"user_id": [ADA, "u-nobody"]}, {"all": [{"everyone": True}, {"not": {"user_id": ADA}}]}):
            await send(api, {"audience": audience, "content": {"title": "Ended before there was a device"}})
    devices, traces = await register(api)
    await api.register(user_id="u-grace")
    event = {"name": "cart.abandoned", "user_id": ADA, "key": PERSONAL, "data": {"thing": PERSONAL}}
    async with api.parts.run_worker():
        personal = {"content": HI, "category": "offers", "delivery": {"collapse_key": PERSONAL}}
        for audience in ({"user_id": ADA}, {"user_id": [ADA]}, {"device_id": devices[0]["id"]}):
            await send(api, {**personal, "audience": audience})
        mixed = {"any": [{"user_id": [ADA, "u-grace"]}, {"topic": "news"}]}
        await send(api, {"audience": mixed, "content": {"title": "To some"}})
        await send(api, {"audience": {"everyone": True}, "content": {"title": HI["title"]}})
        await api.call_ok("POST", "/v1/events", event)
        for started in (await api.call_ok("GET", "/v1/notifications?limit=2"))["items"]:
            await api.parts.wait_until_done(ids.parse(ids.NOTIFICATION, started["id"]) or ids.new_id())
    for audience, content in (({"user_id": ADA}, HI), ({"not": {"user_id": ADA}}, {"title": "To others"})):
        await api.call_ok("POST", "/v1/notifications", {"audience": audience, "content": content, "schedule": LATER})
    await api.call_ok("POST", "/v1/events", {**event, "key": f"{PERSONAL} again"})
    reminder = {"name": PERSONAL, "cron": "0 9 * * *", "timezone": "UTC", "content": HI, "audience": {"user_id": ADA}}
    await api.call_ok("POST", "/v1/reminders", reminder)
    token = devices[0]["device_token"]
    await api.call_ok("POST", f"/v1/devices/{devices[0]['id']}/inbox/read", {"upto": 1_000}, key=token)
    await report_and_wait(api, devices[0]["id"])
    return traces


async def report_and_wait(api: Api, device_public_id: str) -> None:
    """Send a receipt of the device, and leave a message for its open page."""
    device_id = ids.parse(ids.DEVICE, device_public_id)
    assert device_id is not None
    first = "SELECT notification_id FROM deliveries WHERE device_id = :id ORDER BY position LIMIT 1"
    notification_id = await api.parts.scalar(first, id=device_id)
    until = int((datetime.now(UTC) + timedelta(days=1)).timestamp())
    receipt = api.parts.context.keyring.receipt_token(notification_id, device_id, None, until)
    await api.call_ok("POST", "/v1/receipts", {"token": receipt, "event": "clicked"}, key=None)
    async with api.parts.engine.begin() as conn:
        waits = "INSERT INTO live_waiting (notification_id, device_id, application_id) VALUES (:sent, :id, :app)"
        values = {"sent": notification_id, "id": device_id, "app": api.parts.application_id}
        await conn.execute(text(waits), values)


async def test_erased_user_is_in_no_table(api: Api) -> None:
    """An erased user appears in no table."""
    traces = await fill_every_table(api)
    before = find_traces(await dump(api.parts), traces)
    assert {table for table, _ in before} >= {
        *("devices", "contacts", "events", "trigger_runs", "happenings", "notifications", "deliveries", "reminders"),
    }
    assert {trace for _, trace in before} == set(traces)
    counts = await api.rows()
    assert (await api.call_ok("DELETE", f"/v1/users/{ADA}")) == {"devices": 2}
    assert find_traces(await dump(api.parts), traces) == set()
    after = await api.rows()
    assert (after["inbox_reads"], after["live_waiting"], after["devices"]) == (0, 0, 1)
    assert (after["deliveries"], after["receipts"]) == (counts["deliveries"], counts["receipts"])


async def test_response_naming_an_erased_user_is_not_replayed(api: Api) -> None:
    """A stored response that named an erased user is not replayed."""
    for name, expected in ((ADA, (None, None)), ("u-grace", (None, "true"))):
        body = {"audience": {"user_id": name}, "content": {"title": "Dear friend"}}
        replayed = []
        for _ in expected:
            answer = await api.call("POST", "/v1/notifications", body, headers={"Idempotency-Key": name})
            assert answer.status == 201
            replayed.append(answer.headers.get("Idempotency-Replayed"))
            await api.call_ok("DELETE", f"/v1/users/{ADA}")
        assert tuple(replayed) == expected


async def test_pending_sends_to_an_erased_user_are_cancelled(api: Api) -> None:
    """Notifications that wait for an erased user only are cancelled."""
    await register(api)
    await api.call_ok("POST", "/v1/notifications", {"audience": {"user_id": ADA}, "content": HI, "schedule": LATER})
    to_everyone = {"audience": {"everyone": True}, "content": {"title": "To all"}, "schedule": LATER}
    await api.call_ok("POST", "/v1/notifications", to_everyone)
    await api.call_ok("DELETE", f"/v1/users/{ADA}")
    to_all, cancelled = (await api.call_ok("GET", "/v1/notifications"))["items"]
    assert (cancelled["status"], cancelled["content"]) == (Status.CANCELLED, {"title": "…"})
    assert to_all["status"] == Status.SCHEDULED
    await register(api)
    async with api.parts.run_worker():
        await send(api, {"audience": {"user_id": ADA}, "content": {"title": "Welcome back"}})
    assert api.parts.sim.messages.total == 2


class Gate(PushClient):
    """A client whose requests wait until the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def post(self, *args: Any, **named: Any) -> Any:
        self.reached.set()
        await self.open.wait()
        return await super().post(*args, **named)


async def test_in_flight_delivery_is_logged_without_user(api: Api) -> None:
    """The worker has loaded the device with its user before the erasure and logs the delivery after it."""
    parts = api.parts
    await parts.register(parts.subscribe(Vendor.MOZILLA, 2), user_id=ADA)
    await parts.register(parts.subscribe(Vendor.MOZILLA, 1), user_id="u-grace")
    async with Gate() as gate, parts.run_worker(client=gate):
        sent = await parts.submit()
        await asyncio.wait_for(gate.reached.wait(), 30)
        async with parts.engine.begin() as conn:
            assert await erasure.erase_user(conn, parts.context.keyring, parts.application_id, ADA) == 2
        gate.open.set()
        assert (await parts.wait_until_done(sent.id)).accepted == 3
    rows = await parts.list_deliveries(sent.id)
    assert sorted(str(row.user_id) for row in rows.values()) == ["None", "None", "u-grace"]
    assert [row.message is None for row in rows.values()].count(True) == 2


async def test_tombstones_are_deleted_after_a_week(api: Api) -> None:
    """Erasure tombstones are deleted after a week."""
    await register(api)
    await api.call_ok("DELETE", f"/v1/users/{ADA}")
    assert (await maintenance.run_once(api.parts.engine, RetentionPolicy()))["erasure_tombstones"] == 0
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("UPDATE forgotten SET at = now() - interval '8 days'"))
    assert (await maintenance.run_once(api.parts.engine, RetentionPolicy()))["erasure_tombstones"] == 2


async def test_same_user_id_of_another_application_stays(api: Api) -> None:
    """The user with the same id in another application stays."""
    await register(api)
    async with api.parts.engine.begin() as conn:
        assert await erasure.erase_user(conn, api.parts.context.keyring, ids.new_id(), ADA) == 0
    assert (await api.rows())["devices"] == 2


def test_erasure_removes_only_the_user_id_from_audiences() -> None:
    """Erasure replaces the user id in an audience and nothing else."""
    audience = {
        "all": [{"user_id": [ADA, "b"]}, {"not": {"user_id": ADA}}, {"attribute": "id", "eq": ADA}, {"topic": "x"}]
    }
    assert replace_user(audience, ADA, "nobody") == {
        "all": [
            {"user_id": ["nobody", "b"]},
            {"not": {"user_id": "nobody"}},
            {"attribute": "id", "eq": ADA},
            {"topic": "x"},
        ]
    }
