"""Events and triggers: audiences, delays, deduplication, caps and cancellation; each event runs exactly once."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.domain import ids
from gateway.sim import Vendor
from tests.support.api import Api
from tests.support.gateway_parts import APP_ORIGIN
from tests.support.worker_process import server_process

TRIGGER = {
    "name": "Abandoned carts",
    "event": "cart.abandoned",
    "condition": {"data": "cart.total", "gte": 50},
    "content": {"title": "{{ event.data.cart.items }} things are waiting", "url": "/cart/{{ event.data.cart.id }}"},
}
EVENT = {"name": "cart.abandoned", "user_id": "u-1", "data": {"cart": {"id": "c 1", "total": 60, "items": 3}}}


async def create_trigger(api: Api, **fields: Any) -> Any:
    """Create the trigger TRIGGER; `fields` replace fields of the request body."""
    return await api.call_ok("POST", "/v1/triggers", {**TRIGGER, **fields})


async def post_event(api: Api, **fields: Any) -> Any:
    """Post the event EVENT; `fields` replace fields of the request body."""
    return await api.call_ok("POST", "/v1/events", {**EVENT, **fields})


def outcomes(event: Any) -> list[tuple[str, str]]:
    """Return (trigger, outcome) of each run of an event."""
    return [(run["trigger"], run["outcome"]) for run in event["runs"]]


async def post_batch(api: Api, *events: Any) -> list[Any]:
    """Post events as NDJSON, and return the lines of the response."""
    raw = b"\n".join(json.dumps(event).encode() for event in events)
    response = await api.call("POST", "/v1/events/batch", raw=raw, headers={"Content-Type": "application/x-ndjson"})
    assert response.status == 200, response.body
    return [json.loads(line) for line in response.body.splitlines()]


async def wait_until_done(api: Api, run: Any) -> Any:
    """Wait until the notification of a run is done, and return it."""
    id_ = ids.parse(ids.NOTIFICATION, run["notification_id"])
    assert id_ is not None
    await api.parts.wait_until_done(id_)
    return await api.call_ok("GET", f"/v1/notifications/{run['notification_id']}")


async def test_event_notifies_its_user_with_event_values(api: Api) -> None:
    """An event notifies its user with content rendered from the event."""
    [own, other] = api.parts.subscribe(Vendor.MOZILLA, 2)
    for subscriber, user in ((own, "u-1"), (other, "u-2")):
        await api.call_ok("POST", "/v1/devices", {"subscription": subscriber.to_json(), "user_id": user})
    trigger = await create_trigger(api)
    event = await post_event(api)
    [run] = event["runs"]
    assert (run["outcome"], run["trigger_id"], run["cause"]) == ("started", trigger["id"], None)
    async with api.parts.run_worker():
        notification = await wait_until_done(api, run)
    assert (notification["kind"], notification["name"], notification["progress"]["accepted"]) == (
        "event",
        "Abandoned carts",
        1,
    )
    assert notification["details"] == {
        "event": "cart.abandoned",
        "event_id": event["id"],
        "trigger_id": trigger["id"],
    }
    [message] = own.messages
    payload = message.json()["notification"]
    assert (payload["title"], payload["navigate"]) == ("3 things are waiting", f"{APP_ORIGIN}/cart/c%201")
    assert other.messages == []
    assert await api.call_ok("GET", f"/v1/events/{event['id']}") == event
    assert (await api.call_ok("GET", f"/v1/triggers/{trigger['id']}/runs"))["items"] == event["runs"]


async def test_event_runs_every_matching_trigger(api: Api) -> None:
    """An event runs every active trigger that matches, and no other."""
    await create_trigger(api)
    await create_trigger(api, name="All carts", condition=None)
    await create_trigger(api, name="Large carts", condition={"data": "cart.total", "gt": 1000})
    await create_trigger(api, name="Payments", event="order.paid")
    paused = await create_trigger(api, name="Paused")
    await api.call_ok("PATCH", f"/v1/triggers/{paused['id']}", {"status": "paused"})
    assert outcomes(await post_event(api)) == [("Abandoned carts", "started"), ("All carts", "started")]
    assert outcomes(await post_event(api, data={})) == [("All carts", "started")]
    assert outcomes(await post_event(api, name="other.event")) == []


async def test_audience_takes_values_from_the_event(api: Api) -> None:
    """An audience may contain values of the event; a missing or invalid value is the cause of the run's outcome."""
    audience = {"all": [{"topic": {"from_event": "data.team"}}, {"not": {"user_id": {"from_event": "user_id"}}}]}
    audience["all"].append({"near": {"lat": {"from_event": "data.lat"}, "lon": 16.4, "radius_m": 5000}})
    await create_trigger(api, condition=None, audience=audience)
    location = {"lat": 48.2, "lon": 16.4}
    matching = await api.register(user_id="u-2", topics=["reds"], location=location)
    await api.register(user_id="u-1", topics=["reds"], location=location)
    await api.register(user_id="u-3", topics=["blues"], location=location)
    event = await post_event(api, data={"team": "reds", "lat": 48.2})
    async with api.parts.run_worker():
        await wait_until_done(api, event["runs"][0])
    [delivery] = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert delivery["device_id"] == matching["id"]
    missing = await post_event(api, data={"lat": 48.2})
    assert [(run["outcome"], run["cause"]) for run in missing["runs"]] == [("unfilled", "the event has no data.team")]
    invalid = await post_event(api, data={"team": "!", "lat": "north"})
    assert [run["outcome"] for run in invalid["runs"]] == ["refused"]
    assert "/audience/all/0/topic" in invalid["runs"][0]["cause"]


async def test_delay_counts_from_the_time_of_the_event(api: Api) -> None:
    """The delay of a trigger counts from the time of the event."""
    await create_trigger(api, delay=3600)
    event = await post_event(api, occurred_at="2020-01-01T00:00:00Z")
    body = await api.call_ok("GET", f"/v1/notifications/{event['runs'][0]['notification_id']}")
    assert body["start_at"] == body["created_at"]
    event = await post_event(api)
    delay_s = await api.parts.scalar("SELECT extract(epoch FROM max(start_at - created_at)) FROM notifications")
    assert 3599 <= delay_s <= 3600
    assert event["runs"][0]["outcome"] == "started"


async def test_trigger_deduplicates_and_caps_per_user(api: Api) -> None:
    """`dedupe` allows one run per user in a period, and `cap` a number of runs per user in a window."""
    await create_trigger(api, name="Once", dedupe=3600)
    await create_trigger(api, name="Twice", cap={"limit": 2, "window": 3600})
    outcomes_in_order = [outcomes(await post_event(api)) for _ in range(3)]
    assert outcomes_in_order == [
        [("Once", "started"), ("Twice", "started")],
        [("Once", "deduplicated"), ("Twice", "started")],
        [("Once", "deduplicated"), ("Twice", "capped")],
    ]
    assert outcomes(await post_event(api, user_id="u-2")) == [("Once", "started"), ("Twice", "started")]
    async with api.parts.engine.begin() as conn:
        await conn.exec_driver_sql("UPDATE trigger_runs SET at = at - interval '2 hours'")
    assert outcomes(await post_event(api)) == [("Once", "started"), ("Twice", "started")]


async def test_concurrent_events_of_one_user_start_one_run(api: Api) -> None:
    """Concurrent events of one user start one run."""
    await create_trigger(api, dedupe=3600)
    events = await asyncio.gather(*(post_event(api) for _ in range(8)))
    assert sorted(outcome for event in events for _, outcome in outcomes(event)) == ["deduplicated"] * 7 + ["started"]


async def test_cancel_event_cancels_the_users_pending_run(api: Api) -> None:
    """An event of `cancel_on` cancels the pending run of the same user."""
    await create_trigger(api, delay=3600, cancel_on=["order.paid"])
    own, other = await post_event(api), await post_event(api, user_id="u-2")
    await post_event(api, name="order.paid", data={})
    body = await api.call_ok("GET", f"/v1/events/{own['id']}")
    assert [(run["outcome"], run["cause"]) for run in body["runs"]] == [
        ("cancelled", "cancelled by the event order.paid")
    ]
    assert outcomes(await api.call_ok("GET", f"/v1/events/{other['id']}")) == [("Abandoned carts", "started")]
    cancelled = await api.call_ok("GET", f"/v1/notifications/{own['runs'][0]['notification_id']}")
    assert cancelled["status"] == "cancelled"


async def test_batch_is_processed_line_by_line_in_order(api: Api) -> None:
    """A batch is processed line by line and in order."""
    await create_trigger(api, delay=3600, dedupe=60, cancel_on=["order.paid"])
    lines = await post_batch(
        api,
        EVENT,
        EVENT,
        {"name": "order.paid", "user_id": "u-1"},
        {"name": "bad name!"},
        EVENT | {"user_id": "u-2", "key": "k-1"},
        EVENT | {"user_id": "u-2", "key": "k-1"},
    )
    assert [line.get("status") for line in lines] == ["stored"] * 3 + ["refused", "stored", "repeated", None]
    assert lines[3]["errors"][0]["pointer"] == "/name"
    assert lines[4]["id"] == lines[5]["id"]
    assert lines[6] == {"done": True, "stored": 4, "repeated": 1, "refused": 1}
    by_id = {event["id"]: outcomes(event) for event in (await api.call_ok("GET", "/v1/events"))["items"]}
    assert [by_id[lines[n]["id"]] for n in (0, 1, 2, 4)] == [
        [("Abandoned carts", "cancelled")],
        [("Abandoned carts", "deduplicated")],
        [],
        [("Abandoned carts", "started")],
    ]
    assert await api.parts.scalar("SELECT count(*) FROM notifications") == 1


async def test_same_key_is_one_event(api: Api) -> None:
    """Two events with one key are one event."""
    await create_trigger(api)
    first = await api.call("POST", "/v1/events", EVENT | {"key": "k"})
    second = await api.call("POST", "/v1/events", EVENT | {"key": "k", "data": {}})
    assert (first.status, second.status) == (201, 200)
    assert first.body == second.body
    assert await api.parts.scalar("SELECT count(*) FROM notifications") == 1


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"condition": {"data": "a"}}, "/condition"),
        ({"audience": {"topic": {"from_event": 1}}}, "/audience/topic"),
        ({"audience": {"nope": 1}}, "/audience"),
        ({"content": {"title": "{{ nope.x }}"}}, "/content/title"),
        ({"delivery": {"expires_at": "2030-01-01T00:00:00Z"}}, "/delivery/expires_at"),
        ({"delay": -1}, "/delay"),
        ({"cap": {"limit": 1}}, "/cap/window"),
        ({"event": "no spaces"}, "/event"),
        ({"category": "unknown"}, "/category"),
    ],
)
async def test_trigger_that_could_never_run_is_refused(api: Api, change: Any, pointer: str) -> None:
    """A trigger that could never run is refused with a JSON pointer."""
    before = await api.rows()
    refused = await api.call("POST", "/v1/triggers", {**TRIGGER, **change})
    assert refused.status == 422
    assert pointer in refused.pointers
    assert await api.rows() == before


async def test_trigger_is_changed_and_removed(api: Api) -> None:
    """A trigger is changed and removed, and its name is unique."""
    await api.call_ok("POST", "/v1/categories", {"name": "carts", "title": "Carts"})
    trigger = await create_trigger(api, dedupe=60, strict=True, category="carts", delivery={"ttl": 60})
    assert (trigger["category"], trigger["delivery"]["ttl"]) == ("carts", 60)
    changed = await api.call_ok(
        "PATCH", f"/v1/triggers/{trigger['id']}", {"delay": 60, "dedupe": None, "condition": None}
    )
    assert (changed["delay"], changed["dedupe"], changed["condition"]) == (60, None, None)
    changes = {"content": {"title": "{{ event.data.cart.items }} wait"}, "category": None, "delivery": {"ttl": 70}}
    changed = await api.call_ok("PATCH", f"/v1/triggers/{trigger['id']}", changes)
    assert (changed["category"], changed["delivery"]["ttl"]) == (None, 70)
    assert await api.parts.scalar("SELECT draft->'templating'->>'strict' FROM triggers") == "true"
    assert (await api.call("POST", "/v1/triggers", TRIGGER)).status == 409
    refused = await api.call("PATCH", f"/v1/triggers/{trigger['id']}", {"content": {"title": "{{ x }}"}})
    assert refused.pointers == ["/content/title"]
    assert (await api.call("DELETE", f"/v1/triggers/{trigger['id']}")).status == 204
    assert (await api.call("GET", f"/v1/triggers/{trigger['id']}/runs")).status == 404


async def test_segment_of_a_trigger_cannot_be_removed(api: Api) -> None:
    """A segment that a trigger uses cannot be removed."""
    segment = await api.call_ok("POST", "/v1/segments", {"name": "s", "audience": {"topic": "t"}})
    await create_trigger(api, audience={"segment": segment["id"]})
    assert (await api.call("DELETE", f"/v1/segments/{segment['id']}")).status == 409


async def test_deleting_a_user_deletes_their_events(api: Api) -> None:
    """Deleting a user deletes their events."""
    await create_trigger(api)
    await post_event(api)
    await post_event(api, user_id="u-2")
    await api.call_ok("DELETE", "/v1/users/u-1")
    assert [event["user_id"] for event in (await api.call_ok("GET", "/v1/events"))["items"]] == ["u-2"]


# Enough events that the server is killed in the middle of the batch.
EVENT_COUNT = 3000


async def test_repeated_batch_after_a_kill_runs_once(api: Api, tmp_path: Path) -> None:
    """A client repeats a batch because the server was killed during it; each event of the batch runs once."""
    await create_trigger(api)
    await create_trigger(api, name="All carts", condition=None)
    lines = [EVENT | {"key": f"k-{n}", "user_id": f"u-{n}"} for n in range(EVENT_COUNT)]
    raw = b"\n".join(json.dumps(line).encode() for line in lines)
    headers = {"Content-Type": "application/x-ndjson", "Authorization": f"Bearer {api.secret}"}
    async with server_process(api.parts, tmp_path) as (server, origin):
        sending = asyncio.create_task(api.http.post(f"{origin}/v1/events/batch", data=raw, headers=headers))
        async with asyncio.timeout(30):
            while not await api.parts.scalar("SELECT count(*) FROM events"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # another process raises no event
        await server.kill()
        await asyncio.gather(sending, return_exceptions=True)
    stored_count = await api.parts.scalar("SELECT count(*) FROM events")
    assert 0 < stored_count < EVENT_COUNT
    results = await post_batch(api, *lines)
    assert results[-1] == {"done": True, "stored": EVENT_COUNT - stored_count, "repeated": stored_count, "refused": 0}
    assert await api.parts.scalar("SELECT count(*) FROM trigger_runs WHERE outcome = 'started'") == 2 * EVENT_COUNT
    assert await api.parts.scalar("SELECT count(DISTINCT notification_id) FROM trigger_runs") == 2 * EVENT_COUNT
    assert await api.parts.scalar("SELECT count(*) FROM notifications") == 2 * EVENT_COUNT
    assert await api.parts.scalar("SELECT count(*) FROM jobs WHERE task = 'plan'") == 2 * EVENT_COUNT
