"""Send policies over HTTP: local time, throttle, quiet hours, categories, caps and variants."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from gateway.domain import ids
from gateway.domain.notification import Lane
from gateway.service.notifications import lifecycle
from gateway.service.pipeline.planning import plan
from gateway.sim import Rule, Vendor
from tests.support.api import Api
from tests.support.gateway_parts import APP_ORIGIN, quick_config

CONTENT = {"title": "Autumn sale", "url": "/sale"}
CAMPAIGN = {"name": "Autumn", "content": CONTENT, "audience": {"everyone": True}}


async def create_campaign(api: Api, **fields: Any) -> Any:
    """Create the campaign CAMPAIGN; `fields` replace fields of the request body."""
    return await api.call_ok("POST", "/v1/campaigns", CAMPAIGN | fields)


def notification_id(sent: Any) -> UUID:
    id_ = ids.parse(ids.NOTIFICATION, sent["id"])
    assert id_ is not None
    return id_


async def wait_until_done(api: Api, sent: Any) -> Any:
    """Wait until a campaign is done, and return it."""
    await api.parts.wait_until_done(notification_id(sent))
    return await api.call_ok("GET", f"/v1/campaigns/{sent['id']}")


def format_local_time(instant: datetime, zone: str) -> str:
    """Return an instant as the local time of a zone, without an offset."""
    return instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None).isoformat(timespec="seconds")


async def test_time_zone_selects_the_instant(api: Api) -> None:
    """A local time with a time zone or an offset is one instant."""
    sent = await create_campaign(api, schedule={"at": "2027-07-01T09:00:00", "timezone": "Europe/Vienna"})
    assert sent["start_at"] == "2027-07-01T07:00:00Z"
    sent = await create_campaign(api, schedule={"at": "2027-07-01T09:00:00+05:45"})
    assert sent["start_at"] == "2027-07-01T03:15:00Z"


async def test_local_schedule_spans_all_time_zones(api: Api) -> None:
    """A schedule in device time starts with the first time zone and expires after the last."""
    sent = await create_campaign(
        api, schedule={"at": "2027-07-01T09:00:00", "timezone": "device"}, delivery={"ttl": 3600}
    )
    assert sent["start_at"] == "2027-06-30T19:00:00Z"
    assert sent["delivery"]["expires_at"] == "2027-07-01T22:00:00Z"
    assert sent["schedule"] == {"at": "2027-07-01T09:00:00", "timezone": "device"}


async def test_device_gets_message_at_its_local_time(api: Api) -> None:
    """The local time is due in Vienna and past in Kathmandu, and later in New York and in UTC."""
    zones = ("Europe/Vienna", "Asia/Kathmandu", "America/New_York", None, "Etc/UTC")
    for zone in zones:
        await api.register(client={"timezone": zone} if zone else {})
    due_at = datetime.now(UTC) - timedelta(minutes=1)
    schedule = {"at": format_local_time(due_at, "Europe/Vienna"), "timezone": "device"}
    sent = await create_campaign(api, schedule=schedule)
    async with api.parts.run_worker():
        await api.parts.wait_until(notification_id(sent), lambda progress: progress.accepted == 2)
        campaign = await api.call_ok("GET", f"/v1/campaigns/{sent['id']}")
    assert (campaign["progress"]["targets"], campaign["progress"]["pending"]) == (5, 3)
    due_times = await api.parts.scalar("SELECT array_agg(run_at ORDER BY run_at) FROM jobs")
    vienna_offset = ZoneInfo("Europe/Vienna").utcoffset(due_at.replace(tzinfo=None)) or timedelta(0)
    new_york_offset = ZoneInfo("America/New_York").utcoffset(due_at.replace(tzinfo=None)) or timedelta(0)
    due_in_utc = due_at.replace(microsecond=0) + vienna_offset
    assert due_times == [due_in_utc, due_in_utc - new_york_offset]
    assert campaign["progress"]["eta"] is not None
    assert datetime.fromisoformat(campaign["progress"]["eta"]) >= due_times[-1]


@pytest.mark.parametrize(
    ("schedule", "pointer"),
    [
        ({"at": "2027-07-01T09:00:00"}, "/schedule/at"),
        ({"at": "2027-07-01T09:00:00Z", "timezone": "device"}, "/schedule/at"),
        ({"at": "2027-07-01", "timezone": "device"}, "/schedule/at"),
        ({"at": "2027-07-01T09:00:00", "timezone": "Mars/Phobos"}, "/schedule/timezone"),
        ({"at": "2031-07-01T09:00:00", "timezone": "device"}, "/schedule/at"),
    ],
)
async def test_bad_schedules_are_reported(api: Api, schedule: Any, pointer: str) -> None:
    """Ambiguous or impossible schedules are reported by their JSON pointer."""
    before = await api.rows()
    response = await api.call("POST", "/v1/campaigns", CAMPAIGN | {"schedule": schedule})
    assert (response.status, pointer in response.pointers) == (422, True), response.body
    assert await api.rows() == before


async def test_two_workers_do_not_exceed_a_throttle(api: Api) -> None:
    """Two workers together send a throttled campaign at no more than its rate."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 120))
    sent = await create_campaign(api, throttle={"per_second": 30})
    async with api.parts.run_worker(), api.parts.run_worker():
        campaign = await wait_until_done(api, sent)
    assert (campaign["progress"]["accepted"], campaign["throttle"]) == (
        120,
        {"per_second": 30.0, "spread": None},
    )
    times = sorted(message.received_at.timestamp() for message in api.parts.sim.messages)
    assert 2.8 <= times[-1] - times[0] <= 10
    for start in times:  # a second may also have the messages that were in flight at its start
        assert sum(start <= received_at < start + 1 for received_at in times) <= 30 * 2


async def test_spread_campaign_takes_its_period(api: Api) -> None:
    """A campaign that is spread over a period takes about that period."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 40))
    sent = await create_campaign(api, throttle={"spread": 4})
    async with api.parts.run_worker():
        await wait_until_done(api, sent)
    times = sorted(message.received_at.timestamp() for message in api.parts.sim.messages)
    assert 2.8 <= times[-1] - times[0] <= 10


async def test_backlog_of_throttled_campaign_is_sent_at_rate(api: Api) -> None:
    """Messages that became due while no worker ran are sent at the campaign's rate, not in one burst."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 60))
    sent = await create_campaign(api, throttle={"per_second": 20})
    async with api.parts.run_worker():
        await api.parts.wait_until(notification_id(sent), lambda progress: progress.accepted >= 20)
    async with api.parts.engine.begin() as conn:  # move all times an hour into the past
        hour = "interval '1 hour'"
        await conn.exec_driver_sql(f"UPDATE jobs SET run_at = run_at - {hour}, slot = slot - {hour}")  # noqa: S608
        await conn.exec_driver_sql("UPDATE progress SET free_at = free_at - interval '1 hour'")
    before = api.parts.sim.messages.total
    async with api.parts.run_worker():
        await wait_until_done(api, sent)
    times = sorted(message.received_at.timestamp() for message in api.parts.sim.messages)[before:]
    assert times[-1] - times[0] >= (len(times) - 20) / 20 * 0.8


async def test_cancelled_throttled_campaign_settles_at_once(api: Api) -> None:
    """The remaining deliveries of a cancelled throttled campaign settle at once."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 30))
    sent = await create_campaign(api, throttle={"per_second": 0.1})
    async with api.parts.run_worker():
        await api.parts.wait_until(notification_id(sent), lambda progress: progress.accepted >= 1)
        await api.call_ok("POST", f"/v1/campaigns/{sent['id']}/cancel")
        progress = await api.parts.wait_until_done(notification_id(sent), 10)
    assert progress.accepted + progress.cancelled == 30
    assert progress.cancelled >= 25


def current_quiet_hours(zone: str = "UTC") -> dict[str, str]:
    """Return quiet hours that began an hour ago and end in two hours, in the time of a zone."""
    now = datetime.now(ZoneInfo(zone))
    return {"start": f"{now - timedelta(hours=1):%H:%M}", "end": f"{now + timedelta(hours=2):%H:%M}"}


async def test_quiet_hours_delay_a_message(api: Api) -> None:
    """A message waits until the quiet hours of its device end."""
    outside_quiet_hours = await api.register(client={"timezone": "Asia/Tokyo"})
    await api.register(client={"timezone": "UTC"})
    sent = await create_campaign(api, quiet_hours=current_quiet_hours())
    async with api.parts.run_worker():
        await api.parts.wait_until(notification_id(sent), lambda progress: progress.accepted == 1)
        [delivery] = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert delivery["device_id"] == outside_quiet_hours["id"]
    campaign = await api.call_ok("GET", f"/v1/campaigns/{sent['id']}")
    assert (campaign["progress"]["pending"], campaign["progress"]["retries"]) == (1, 0)
    [due_at] = await api.parts.scalar("SELECT array_agg(run_at) FROM jobs WHERE cardinality(device_ids) > 0")
    assert f"{due_at:%H:%M}" == campaign["quiet_hours"]["end"]


async def test_message_expiring_in_quiet_hours_is_dropped(api: Api) -> None:
    """A message that expires before the quiet hours end is logged as expired."""
    await api.register(client={"timezone": "UTC"})
    sent = await create_campaign(api, quiet_hours=current_quiet_hours(), delivery={"ttl": 1800})
    async with api.parts.run_worker():
        campaign = await wait_until_done(api, sent)
    assert campaign["progress"]["expired"] == 1
    [delivery] = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert "quiet hours" in delivery["cause"]


async def test_category_is_created_read_changed_and_removed(api: Api) -> None:
    """Categories are created, read, listed, changed and removed."""
    request = {
        "name": "offers",
        "title": "Offers",
        "cap": {"limit": 2, "window": 60},
        "quiet_hours": current_quiet_hours(),
    }
    category = await api.call_ok("POST", "/v1/categories", request)
    path = f"/v1/categories/{category['id']}"
    assert (await api.call_ok("GET", path)) == category
    assert (await api.call_ok("GET", "/v1/categories"))["items"] == [category]
    assert (category["cap"], category["quiet_hours"]["timezone"]) == ({"limit": 2, "window": 60}, "device")
    changed = await api.call_ok("PATCH", path, {"title": "Special offers", "cap": None})
    assert (changed["title"], changed["cap"], changed["quiet_hours"]) == (
        "Special offers",
        None,
        category["quiet_hours"],
    )
    assert (await api.call("POST", "/v1/categories", request)).status == 409
    assert (await api.call("DELETE", path)).status == 204
    assert (await api.call("GET", path)).status == 404
    response = await api.call("POST", "/v1/campaigns", CAMPAIGN | {"category": "offers"})
    assert (response.status, response.pointers) == (422, ["/category"])


async def test_cap_counts_notifications_per_user(api: Api) -> None:
    """A frequency cap counts notifications per user, not per device."""
    await api.call_ok(
        "POST", "/v1/categories", {"name": "offers", "title": "Offers", "cap": {"limit": 2, "window": 3600}}
    )
    for user in ("u-1", "u-1", "u-2", None):
        await api.call_ok("POST", "/v1/devices", api.device(**({"user_id": user} if user else {})))
    totals = []
    async with api.parts.run_worker():
        for audience in ({"everyone": True}, {"user_id": "u-1"}, {"everyone": True}):
            sent = await create_campaign(api, category="offers", audience=audience)
            progress = (await wait_until_done(api, sent))["progress"]
            totals.append((progress["accepted"], progress["skipped"]))
        without_category = await create_campaign(api)
        assert (await wait_until_done(api, without_category))["progress"]["accepted"] == 4
    assert totals == [(4, 0), (2, 0), (2, 2)]
    skipped = (await api.call_ok("GET", "/v1/deliveries?outcome=skipped"))["items"]
    assert {row["user_id"] for row in skipped} == {"u-1"}
    assert "cap of 2" in skipped[0]["cause"]


async def test_concurrent_campaigns_share_one_cap(api: Api) -> None:
    """Concurrent campaigns cannot exceed a frequency cap together."""
    await api.call_ok("POST", "/v1/categories", {"name": "offers", "title": "O", "cap": {"limit": 1, "window": 3600}})
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 50))
    sent = [await create_campaign(api, category="offers") for _ in range(4)]
    async with api.parts.run_worker(), api.parts.run_worker():
        campaigns = [await wait_until_done(api, item) for item in sent]
    assert sum(item["progress"]["accepted"] for item in campaigns) == 50
    assert sum(item["progress"]["skipped"] for item in campaigns) == 150
    assert api.parts.sim.messages.total == 50


async def test_deleting_a_user_deletes_their_cap_history(api: Api) -> None:
    """Deleting a user deletes their entries in the frequency-cap ledger."""
    await api.call_ok("POST", "/v1/categories", {"name": "offers", "title": "O", "cap": {"limit": 1, "window": 3600}})
    await api.call_ok("POST", "/v1/devices", api.device(user_id="u-1"))
    async with api.parts.run_worker():
        await wait_until_done(api, await create_campaign(api, category="offers"))
    assert await api.parts.scalar("SELECT count(*) FROM contacts") == 1
    await api.call_ok("DELETE", "/v1/users/u-1")
    assert await api.parts.scalar("SELECT count(*) FROM contacts") == 0


async def test_opt_out_applies_after_planning(api: Api) -> None:
    """A device that opts out of a category before or after the planning of a campaign is skipped."""
    await api.call_ok("POST", "/v1/categories", {"name": "offers", "title": "Offers", "description": "Now and then."})
    await api.call_ok("POST", "/v1/categories", {"name": "news", "title": "News"})
    first, second = await api.register(), await api.register()
    path = f"/v1/devices/{first['id']}/preferences"
    key = {"key": first["device_token"], "origin": APP_ORIGIN}
    preferences = await api.call_ok("PATCH", path, {"categories": {"offers": False}}, **key)
    assert preferences == await api.call_ok("GET", path, **key)
    assert [(category["category"], category["enabled"]) for category in preferences["categories"]] == [
        ("news", True),
        ("offers", False),
    ]
    sent = await create_campaign(api, category="offers", throttle={"per_second": 1})
    async with api.parts.run_worker():
        await api.parts.wait_until(notification_id(sent), lambda progress: progress.targets == 1)
        assert (await wait_until_done(api, sent))["progress"]["accepted"] == 1
    planned = await create_campaign(api, category="news")
    [job] = await api.parts.queue().claim(lanes=[Lane.BULK], limit=1, lease=timedelta(minutes=1), wait=timedelta(0))
    await plan(api.parts.context, job)
    assert (await api.parts.get_notification(notification_id(planned)))[1].targets == 2
    await api.call_ok("PATCH", f"/v1/devices/{second['id']}/preferences", {"categories": {"news": False}})
    async with api.parts.run_worker():
        progress = (await wait_until_done(api, planned))["progress"]
    assert (progress["accepted"], progress["skipped"]) == (1, 1)
    response = await api.call("PATCH", path, {"categories": {"nonsense": True}}, **key)
    assert (response.status, response.pointers) == (422, ["/categories/nonsense"])


async def test_opt_out_survives_registering_again(api: Api) -> None:
    """Registering again keeps the categories that a device opted out of."""
    await api.call_ok("POST", "/v1/categories", {"name": "offers", "title": "Offers"})
    request = api.device(muted=["offers"])
    device = await api.call_ok("POST", "/v1/devices", request)
    del request["muted"]
    await api.call_ok("POST", "/v1/devices", request)
    assert (await api.call_ok("GET", f"/v1/devices/{device['id']}"))["muted"] == ["offers"]


async def test_urgent_alert_ignores_all_limits_but_opt_outs(api: Api) -> None:
    """An urgent alert ignores quiet hours and caps, and respects opt-outs."""
    rules = {"cap": {"limit": 1, "window": 3600}, "quiet_hours": current_quiet_hours()}
    await api.call_ok("POST", "/v1/categories", {"name": "storms", "title": "Storms", **rules})
    await api.register(client={"timezone": "UTC"})
    await api.register(client={"timezone": "UTC"}, muted=["storms"])
    alert = {"event": "Storm", "audience": {"everyone": True}, "category": "storms"}
    async with api.parts.run_worker():
        for _ in range(3):
            sent = await api.call_ok("POST", "/v1/alerts", alert | {"severity": "Extreme", "urgency": "Immediate"})
            assert (sent["cap"], sent["quiet_hours"]) == (None, None)
            assert (await api.parts.wait_until_done(notification_id(sent))).accepted == 1
        minor = await api.call_ok("POST", "/v1/alerts", alert | {"severity": "Minor"})
        await api.parts.wait_until(notification_id(minor), lambda progress: progress.targets == 1)
        assert minor["quiet_hours"] is not None
    assert api.parts.sim.messages.total == 3


VARIANTS = [
    {"name": "a", "content": {}},
    {"name": "b", "weight": 3, "content": {"title": "Only today", "url": "/today"}},
]


async def test_user_gets_one_variant_on_every_device(api: Api) -> None:
    """Variants share the audience by weight, and a user gets one variant on every device."""
    subscribers = api.parts.subscribe(Vendor.FCM, 400)
    for number, subscriber in enumerate(subscribers):
        await api.parts.register([subscriber], user_id=f"u-{number // 2}")
    sent = await create_campaign(api, variants=VARIANTS)
    async with api.parts.run_worker():
        campaign = await wait_until_done(api, sent)
    titles = [subscriber.messages[0].json()["notification"]["title"] for subscriber in subscribers]
    assert all(titles[i] == titles[i + 1] for i in range(0, 400, 2))
    counts = Counter(titles)
    assert 50 < counts["Autumn sale"] < 150
    assert [variant["accepted"] for variant in campaign["variants"]] == [
        counts["Autumn sale"],
        counts["Only today"],
    ]
    urls = {subscriber.messages[0].json()["notification"]["navigate"] for subscriber in subscribers}
    assert urls == {f"{APP_ORIGIN}/sale", f"{APP_ORIGIN}/today"}
    second = await create_campaign(api, variants=VARIANTS)
    async with api.parts.run_worker():
        await wait_until_done(api, second)
    assert titles != [subscriber.messages[1].json()["notification"]["title"] for subscriber in subscribers]


async def test_winning_variant_goes_to_the_rest(api: Api) -> None:
    """The variant with the most clicks in the sample is sent to all other devices."""
    subscribers = api.parts.subscribe(Vendor.FCM, 300)
    await api.parts.register(subscribers)
    sent = await create_campaign(
        api, variants=[VARIANTS[0], VARIANTS[1] | {"weight": 1}], winner={"sample": 0.3, "after": 3}
    )
    async with api.parts.run_worker():
        await api.parts.wait_until(notification_id(sent), lambda progress: progress.accepted > 50)
        for subscriber in subscribers:
            for message in subscriber.messages:
                payload = message.json()["notification"]
                if payload["title"] == "Only today":
                    token = payload["data"]["gateway"]["receipt"]
                    await api.call_ok("POST", "/v1/receipts", {"token": token, "event": "clicked"}, key=None)
        sample_size = api.parts.sim.messages.total
        campaign = await wait_until_done(api, sent)
    assert 50 < sample_size < 130
    assert [variant["won"] for variant in campaign["variants"]] == [False, True]
    assert campaign["variants"][1]["clicked"] == campaign["progress"]["clicked"] > 10
    later_messages = list(api.parts.sim.messages)[sample_size:]
    titles = Counter(message.json()["notification"]["title"] for message in later_messages)
    assert titles == {"Only today": 300 - sample_size}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"throttle": {}}, "/throttle"),
        ({"throttle": {"per_second": 0}}, "/throttle/per_second"),
        ({"throttle": {"spread": 3600}, "delivery": {"ttl": 60}}, "/throttle/spread"),
        ({"quiet_hours": {"start": "22:00", "end": "8"}}, "/quiet_hours/end"),
        ({"quiet_hours": {"start": "24:00", "end": "08:00"}}, "/quiet_hours/start"),
        ({"quiet_hours": {"start": "08:00", "end": "08:00"}}, "/quiet_hours/end"),
        ({"quiet_hours": {"start": "22:00", "end": "08:00", "timezone": "Nowhere"}}, "/quiet_hours/timezone"),
        ({"variants": VARIANTS[:1]}, "/variants"),
        ({"variants": [VARIANTS[0], VARIANTS[0]]}, "/variants/1/name"),
        ({"variants": [VARIANTS[0], VARIANTS[1] | {"weight": 0}]}, "/variants/1/weight"),
        ({"variants": [VARIANTS[0], {"name": "c", "content": {"url": "javascript:1"}}]}, "/variants/1/content/url"),
        ({"winner": {"sample": 0.2, "after": 60}}, "/winner"),
        ({"variants": VARIANTS, "winner": {"sample": 1.0, "after": 60}}, "/winner/sample"),
        ({"variants": VARIANTS, "winner": {"sample": 0.5, "after": 60}, "delivery": {"ttl": 60}}, "/winner/after"),
        ({"pause_when": {"failure_share": 0}}, "/pause_when/failure_share"),
        ({"category": "nonsense"}, "/category"),
    ],
)
async def test_bad_send_policies_are_reported(api: Api, change: Any, pointer: str) -> None:
    """Invalid send policies are reported by their JSON pointer and store nothing."""
    before = await api.rows()
    response = await api.call("POST", "/v1/campaigns", CAMPAIGN | change)
    assert (response.status, response.pointers) == (422, [pointer]), response.body
    assert await api.rows() == before
    assert (await api.call("POST", "/v1/campaigns", CAMPAIGN)).status == 201


async def test_campaign_is_paused_and_resumed(api: Api) -> None:
    """A campaign is paused and resumed over HTTP; pausing a finished campaign is a conflict."""
    sent = await create_campaign(api)
    paused = await api.call_ok("POST", f"/v1/campaigns/{sent['id']}/pause")
    assert (paused["status"], paused["progress"]["eta"]) == ("paused", None)
    assert (await api.call_ok("GET", "/v1/notifications?status=paused"))["items"][0]["id"] == sent["id"]
    assert (await api.call_ok("POST", f"/v1/notifications/{sent['id']}/resume"))["status"] == "scheduled"
    async with api.parts.run_worker():
        await api.parts.wait_until_done(notification_id(sent))
    response = await api.call("POST", f"/v1/campaigns/{sent['id']}/pause")
    assert (response.status, response.body["code"]) == (409, "conflict")
    assert (await api.call("POST", f"/v1/alerts/{sent['id']}/pause")).status == 404


@pytest.mark.parametrize("transition", ["pause", "cancel"])
async def test_nothing_is_sent_after_the_pause_response(api: Api, transition: str) -> None:
    """After the response to a pause or a cancellation, no message of the campaign is sent."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 600))
    api.parts.sim.behave(Rule(delay_ms=30))
    sent = await create_campaign(api)
    async with api.parts.run_worker(quick_config(senders=16)), api.parts.run_worker(quick_config(senders=16)):
        await api.parts.sim.wait_for(count=50)
        await api.call_ok("POST", f"/v1/campaigns/{sent['id']}/{transition}")
        count = api.parts.sim.messages.total
        assert count < 600
        api.parts.sim.behave()
        other_campaign = await create_campaign(api)
        await wait_until_done(api, other_campaign)
        assert api.parts.sim.messages.total == count + 600
        if transition == "pause":
            await api.call_ok("POST", f"/v1/campaigns/{sent['id']}/resume")
        progress = await api.parts.wait_until_done(notification_id(sent))
    assert progress.accepted == (600 if transition == "pause" else count)


async def test_pause_does_not_wait_for_a_dead_worker(api: Api) -> None:
    """A pause gets its response although a worker that died still has the lease of a job."""
    await api.register()
    sent = await create_campaign(api)
    await api.parts.queue().claim(lanes=[Lane.BULK], limit=1, lease=timedelta(minutes=1), wait=timedelta(0))
    async with asyncio.timeout(lifecycle.MAX_IDLE_WAIT.total_seconds() + 5):
        paused = await api.call_ok("POST", f"/v1/campaigns/{sent['id']}/pause")
    assert paused["status"] == "paused"


async def test_click_implies_display(api: Api) -> None:
    """A click receipt also counts the notification as displayed."""
    [subscriber] = api.parts.subscribe(Vendor.FCM, 1)
    await api.parts.register([subscriber])
    sent = await create_campaign(api)
    async with api.parts.run_worker():
        await wait_until_done(api, sent)
    token = subscriber.messages[0].json()["notification"]["data"]["gateway"]["receipt"]
    for event in ("clicked", "displayed", "clicked"):
        await api.call_ok("POST", "/v1/receipts", {"token": token, "event": event, "action": "open"}, key=None)
    progress = (await api.call_ok("GET", f"/v1/campaigns/{sent['id']}"))["progress"]
    assert (progress["accepted"], progress["displayed"], progress["clicked"]) == (1, 1, 1)


async def test_funnel_counts_displays_and_clicks(api: Api) -> None:
    """The funnel counts targets, displays and clicks, by action and by variant."""
    subscribers = api.parts.subscribe(Vendor.FCM, 20)
    await api.parts.register(subscribers)
    sent = await create_campaign(api, variants=VARIANTS)
    async with api.parts.run_worker():
        await wait_until_done(api, sent)
    for number, subscriber in enumerate(subscribers[:15]):
        token = subscriber.messages[0].json()["notification"]["data"]["gateway"]["receipt"]
        receipt = {"token": token, "event": "displayed"}
        if number < 6:
            receipt |= {"event": "clicked"} | ({"action": "buy"} if number < 2 else {})
        for _ in range(2):  # a repeated receipt counts once
            await api.call_ok("POST", "/v1/receipts", receipt, key=None)
    funnel = await api.call_ok("GET", f"/v1/campaigns/{sent['id']}/funnel")
    assert (funnel["targets"], funnel["accepted"], funnel["displayed"], funnel["clicked"]) == (20, 20, 15, 6)
    assert (funnel["display_rate"], funnel["click_rate"]) == (0.75, 0.4)
    assert funnel["actions"] == [{"action": "", "clicked": 4}, {"action": "buy", "clicked": 2}]
    for step in ("accepted", "displayed", "clicked"):
        assert sum(variant[step] for variant in funnel["variants"]) == funnel[step]
