"""Erasure: no table contains an erased user, also when messages to the user are in flight."""

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

# The id of the user that the tests erase.
ADA = "u-ada-lovelace"
# A text in every personal value of the user, and in no other value.
PERSONAL = "difference-engine"
PERSONAL_CONTENT = {"title": "Hi {{ user.attributes.first_name }}", "body": PERSONAL, "data": {"for": PERSONAL}}
IN_30_DAYS = {"at": (datetime.now(UTC) + timedelta(days=30)).replace(tzinfo=None).isoformat(), "timezone": "UTC"}
CATEGORY = {"name": "offers", "title": "Offers", "cap": {"limit": 5, "window": 604_800}}
TRIGGER = {"name": "Carts", "event": "cart.abandoned", "content": {"title": "Left", "body": "{{ event.data.thing }}"}}


async def dump_tables(parts: Parts) -> dict[str, str]:
    """Return every row of every table as text, with binary values in hexadecimal."""
    rows_by_table = {}
    async with parts.engine.connect() as conn:
        for table in metadata.tables:
            rows = await conn.execute(text(f"SELECT CAST(t AS text) FROM {table} AS t"))  # noqa: S608
            rows_by_table[table] = "\n".join(rows.scalars())
    return rows_by_table


def find_traces(rows_by_table: dict[str, str], traces: list[str]) -> set[tuple[str, str]]:
    """Return (table, trace) for each trace that a table contains, as text or in hexadecimal."""
    forms = [(trace, form) for trace in traces for form in (trace, trace.encode().hex())]
    return {(table, trace) for table, rows in rows_by_table.items() for trace, form in forms if form in rows}


async def register_user(api: Api) -> tuple[list[Any], list[str]]:
    """Register two devices of the user; return the responses, and the personal texts to search for."""
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
    """Send a notification and wait until it is done."""
    id_ = ids.parse(ids.NOTIFICATION, (await api.call_ok("POST", "/v1/notifications", body))["id"])
    assert id_ is not None
    await api.parts.wait_until_done(id_)


async def fill_every_table(api: Api) -> list[str]:
    """Store data of the user in every table that may contain such data; return the texts to search for."""
    await api.call_ok("POST", "/v1/webhooks", {"name": "All", "url": "https://shop.example/hooks", "events": ["*"]})
    await api.call_ok("POST", "/v1/categories", CATEGORY)
    await api.call_ok("POST", "/v1/triggers", TRIGGER)
    await api.call_ok("POST", "/v1/triggers", {**TRIGGER, "name": "Team", "audience": {"everyone": True}})
    async with api.parts.run_worker():
        for audience in ({"user_id": [ADA, "u-nobody"]}, {"all": [{"everyone": True}, {"not": {"user_id": ADA}}]}):
            await send(api, {"audience": audience, "content": {"title": "Before the registration"}})
    devices, traces = await register_user(api)
    await api.register(user_id="u-grace")
    event = {"name": "cart.abandoned", "user_id": ADA, "key": PERSONAL, "data": {"thing": PERSONAL}}
    async with api.parts.run_worker():
        personal = {"content": PERSONAL_CONTENT, "category": "offers", "delivery": {"collapse_key": PERSONAL}}
        for audience in ({"user_id": ADA}, {"user_id": [ADA]}, {"device_id": devices[0]["id"]}):
            await send(api, {**personal, "audience": audience})
        mixed = {"any": [{"user_id": [ADA, "u-grace"]}, {"topic": "news"}]}
        await send(api, {"audience": mixed, "content": {"title": "To some"}})
        await send(api, {"audience": {"everyone": True}, "content": {"title": PERSONAL_CONTENT["title"]}})
        await api.call_ok("POST", "/v1/events", event)
        for triggered in (await api.call_ok("GET", "/v1/notifications?limit=2"))["items"]:
            await api.parts.wait_until_done(ids.parse(ids.NOTIFICATION, triggered["id"]) or ids.new_id())
    for audience, content in (
        ({"user_id": ADA}, PERSONAL_CONTENT),
        ({"not": {"user_id": ADA}}, {"title": "To others"}),
    ):
        await api.call_ok(
            "POST", "/v1/notifications", {"audience": audience, "content": content, "schedule": IN_30_DAYS}
        )
    await api.call_ok("POST", "/v1/events", {**event, "key": f"{PERSONAL} again"})
    reminder = {
        "name": PERSONAL,
        "cron": "0 9 * * *",
        "timezone": "UTC",
        "content": PERSONAL_CONTENT,
        "audience": {"user_id": ADA},
    }
    await api.call_ok("POST", "/v1/reminders", reminder)
    token = devices[0]["device_token"]
    await api.call_ok("POST", f"/v1/devices/{devices[0]['id']}/inbox/read", {"upto": 1_000}, key=token)
    await store_receipt_and_live_message(api, devices[0]["id"])
    return traces


async def store_receipt_and_live_message(api: Api, device_public_id: str) -> None:
    """Send a receipt of the device, and insert a message that waits for its live channel."""
    device_id = ids.parse(ids.DEVICE, device_public_id)
    assert device_id is not None
    select_first = "SELECT notification_id FROM deliveries WHERE device_id = :id ORDER BY position LIMIT 1"
    notification_id = await api.parts.scalar(select_first, id=device_id)
    expires_at = int((datetime.now(UTC) + timedelta(days=1)).timestamp())
    receipt = api.parts.context.keyring.issue_receipt_token(notification_id, device_id, None, expires_at)
    await api.call_ok("POST", "/v1/receipts", {"token": receipt, "event": "clicked"}, key=None)
    async with api.parts.engine.begin() as conn:
        insert = "INSERT INTO live_waiting (notification_id, device_id, application_id) VALUES (:sent, :id, :app)"
        values = {"sent": notification_id, "id": device_id, "app": api.parts.application_id}
        await conn.execute(text(insert), values)


async def test_erased_user_is_in_no_table(api: Api) -> None:
    """After the erasure, no table contains a personal text of the user."""
    traces = await fill_every_table(api)
    before = find_traces(await dump_tables(api.parts), traces)
    assert {table for table, _ in before} >= {
        *("devices", "contacts", "events", "trigger_runs", "happenings", "notifications", "deliveries", "reminders"),
    }
    assert {trace for _, trace in before} == set(traces)
    counts = await api.rows()
    assert (await api.call_ok("DELETE", f"/v1/users/{ADA}")) == {"devices": 2}
    assert find_traces(await dump_tables(api.parts), traces) == set()
    after = await api.rows()
    assert (after["inbox_reads"], after["live_waiting"], after["devices"]) == (0, 0, 1)
    assert (after["deliveries"], after["receipts"]) == (counts["deliveries"], counts["receipts"])


async def test_response_naming_an_erased_user_is_not_replayed(api: Api) -> None:
    """The stored response to a request that names the erased user is deleted; other responses are replayed."""
    for name, expected in ((ADA, (None, None)), ("u-grace", (None, "true"))):
        body = {"audience": {"user_id": name}, "content": {"title": "Dear friend"}}
        replayed = []
        for _ in expected:
            response = await api.call("POST", "/v1/notifications", body, headers={"Idempotency-Key": name})
            assert response.status == 201
            replayed.append(response.headers.get("Idempotency-Replayed"))
            await api.call_ok("DELETE", f"/v1/users/{ADA}")
        assert tuple(replayed) == expected


async def test_pending_sends_to_an_erased_user_are_cancelled(api: Api) -> None:
    """A scheduled notification is cancelled if the erased user is its only recipient."""
    await register_user(api)
    await api.call_ok(
        "POST", "/v1/notifications", {"audience": {"user_id": ADA}, "content": PERSONAL_CONTENT, "schedule": IN_30_DAYS}
    )
    to_everyone = {"audience": {"everyone": True}, "content": {"title": "To all"}, "schedule": IN_30_DAYS}
    await api.call_ok("POST", "/v1/notifications", to_everyone)
    await api.call_ok("DELETE", f"/v1/users/{ADA}")
    to_all, cancelled = (await api.call_ok("GET", "/v1/notifications"))["items"]
    assert (cancelled["status"], cancelled["content"]) == (Status.CANCELLED, {"title": "…"})
    assert to_all["status"] == Status.SCHEDULED
    await register_user(api)
    async with api.parts.run_worker():
        await send(api, {"audience": {"user_id": ADA}, "content": {"title": "Welcome back"}})
    assert api.parts.sim.messages.total == 2


class GatedPushClient(PushClient):
    """A push client whose requests wait until `open` is set; `reached` is set when a request waits."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def post(self, *args: Any, **named: Any) -> Any:
        self.reached.set()
        await self.open.wait()
        return await super().post(*args, **named)


async def test_in_flight_delivery_is_logged_without_user(api: Api) -> None:
    """A worker that loads the device before the erasure, and settles after it, logs no user id."""
    parts = api.parts
    await parts.register(parts.subscribe(Vendor.MOZILLA, 2), user_id=ADA)
    await parts.register(parts.subscribe(Vendor.MOZILLA, 1), user_id="u-grace")
    async with GatedPushClient() as gate, parts.run_worker(client=gate):
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
    await register_user(api)
    await api.call_ok("DELETE", f"/v1/users/{ADA}")
    assert (await maintenance.run_once(api.parts.engine, RetentionPolicy()))["erasure_tombstones"] == 0
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("UPDATE forgotten SET at = now() - interval '8 days'"))
    assert (await maintenance.run_once(api.parts.engine, RetentionPolicy()))["erasure_tombstones"] == 2


async def test_same_user_of_another_application_stays(api: Api) -> None:
    """An erasure in another application deletes no device of the user with the same id."""
    await register_user(api)
    async with api.parts.engine.begin() as conn:
        assert await erasure.erase_user(conn, api.parts.context.keyring, ids.new_id(), ADA) == 0
    assert (await api.rows())["devices"] == 2


def test_erasure_removes_only_the_user_id_from_audiences() -> None:
    """`replace_user` replaces the id in `user_id` filters and leaves equal texts in other filters."""
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
