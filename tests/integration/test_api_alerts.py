"""Alert ingestion over HTTP with real documents: recipients, languages, updates and cancellations."""

import asyncio
import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from gateway.domain import ids
from gateway.sim import Rule, Subscriber, Vendor
from tests.support import alerts
from tests.support.api import Api, ApiResponse

CAP, GEOJSON = alerts.CAP, alerts.GEOJSON


async def post_file(api: Api, name: str, **move_options: Any) -> ApiResponse:
    """Post an alert document with its times moved to the present; `move_options` are those of `alerts.move_to_now`."""
    return await post(api, alerts.move_to_now(name, **move_options), alerts.media_type(name))


async def post(api: Api, raw: bytes, media_type: str) -> ApiResponse:
    """Post an alert document with a media type to the ingestion endpoint."""
    return await api.call("POST", "/v1/alerts", raw=raw, headers={"Content-Type": media_type})


async def register_device(api: Api, **details: Any) -> tuple[str, Subscriber]:
    """Register a Mozilla device with the secret key; return (device id, subscriber)."""
    [subscriber] = api.parts.subscribe(Vendor.MOZILLA, 1)
    registered = await api.call_ok("POST", "/v1/devices", {"subscription": subscriber.to_json(), **details})
    return registered["id"], subscriber


def titles(subscriber: Subscriber) -> list[str]:
    """Return the titles of the messages that a device received, in order."""
    return [message.json()["notification"]["title"] for message in subscriber.messages]


def tags(subscriber: Subscriber) -> set[str]:
    """Return the tags of the messages that a device received."""
    return {message.json()["notification"]["tag"] for message in subscriber.messages}


async def wait_until_delivered(api: Api, response: ApiResponse) -> list[Any]:
    """Wait until the notifications of an ingestion response are done, and return them."""
    assert response.status in (200, 201), response.body
    items = response.body.get("items", [{"notifications": [response.body]}])
    notifications = [notification for item in items for notification in item["notifications"]]
    for notification in notifications:
        await api.parts.wait_until_done(notification_id(notification))
    return [await api.call_ok("GET", f"/v1/alerts/{notification['id']}") for notification in notifications]


async def wait_until_settled(api: Api) -> None:
    """Wait until every delivery of an alert has settled."""
    page = await api.call_ok("GET", "/v1/notifications?kind=alert")
    for notification in page["items"]:
        await api.parts.wait_until_done(notification_id(notification))


def notification_id(notification: Any) -> UUID:
    id_ = ids.parse(ids.NOTIFICATION, notification["id"])
    assert id_ is not None
    return id_


# Alert documents that are refused, with the status and a part of the reason.
REFUSED = {
    "cap/bad-metno-mock-failing.xml": (400, "has no CAP alert"),
    "cap/bad-missing-scope.xml": (422, "scope is ''"),
    "cap/bad-sc-invalid-schema.xml": (400, "root element is 'schema'"),
    "cap/hostile-xxe.xml": (400, "document type or entities"),
}


@pytest.mark.parametrize("name", [name for name in alerts.list_files() if name not in REFUSED])
async def test_every_real_alert_is_accepted(api: Api, name: str) -> None:
    """Real CAP and NWS documents are accepted once; a second post reports them as repeated."""
    raw, media_type = alerts.move_to_now(name), alerts.media_type(name)
    response = await post(api, raw, media_type)
    assert response.status == 201, response.body
    for item in response.body["items"]:
        assert item["identifier"] in raw.decode()
        if item["outcome"] == "refused":  # it expired before the newest alert of its collection was sent
            assert (len(response.body["items"]) > 1, item["detail"]) == (
                True,
                "/expires: is in the past: the alert has expired",
            )
        else:
            assert (item["outcome"], len(item["notifications"]) >= 1) == ("accepted", True)
    repeated = await post(api, raw, media_type)
    assert repeated.status == 200
    assert {item["outcome"] for item in repeated.body["items"]} <= {"repeated", "refused"}


@pytest.mark.parametrize("name", REFUSED)
async def test_unusable_alert_is_refused_without_side_effects(api: Api, name: str) -> None:
    """A document that holds no usable alert is refused with a reason and stores nothing."""
    before = await api.rows()
    response = await post_file(api, name)
    status, reason = REFUSED[name]
    assert (response.status, reason in str(response.body)) == (status, True), response.body
    assert await api.rows() == before


async def test_zones_polygons_and_circles_select_devices(api: Api) -> None:
    """Zones, polygons, circles and holes of an alert decide which devices receive it."""
    devices = {
        "northern ireland": await register_device(api, zones=["UK113"]),
        "northern ireland with scheme": await register_device(api, zones=["EMMA_ID:UK114"]),
        "elsewhere": await register_device(api, zones=["UK999"]),
        "in the fire": await register_device(api, location={"lat": -35.4, "lon": 147.1}),
        "in the polygon": await register_device(api, location={"lat": 62.2, "lon": 5.06}),
    }
    async with api.parts.run_worker():
        for name in (
            "cap/gb-metoffice-ni-ice.xml",
            "cap/au-nswrfs-fire-prefixed.xml",
            "cap/no-metno-gale-20210921.xml",
        ):
            await wait_until_delivered(api, await post_file(api, name))
    counts = {name: len(subscriber.messages) for name, (_, subscriber) in devices.items()}
    assert counts["northern ireland"] == counts["northern ireland with scheme"] == 1
    assert counts["elsewhere"] == 0
    assert counts["in the polygon"] == 1
    assert counts["in the fire"] == 2  # two infos in one language are two notifications
    [message] = devices["northern ireland"][1].messages
    assert message.ttl is not None
    assert 0 < message.ttl <= 86_400 * 3


async def test_device_in_a_hole_of_the_polygon_gets_nothing(api: Api) -> None:
    """A device inside a hole of the alert's polygon receives nothing."""
    _, subscriber = await register_device(api, location={"lat": 51.6985, "lon": 10.4500})
    await post_and_deliver(api, "cap/de-dwd-1687514160000.xml")
    assert subscriber.messages == []


async def post_and_deliver(api: Api, name: str, **move_options: Any) -> list[Any]:
    """Post an alert document, wait until its notifications are delivered, and return them."""
    async with api.parts.run_worker():
        return await wait_until_delivered(api, await post_file(api, name, **move_options))


async def test_each_device_gets_its_own_language(api: Api) -> None:
    """A device receives the alert in the device's language, or else in the alert's first language."""
    zones = ["006037"]
    devices = {
        locale: await register_device(api, zones=zones, client={"locale": locale})
        for locale in ("es-MX", "en-GB", "fr")
    }
    without_locale = await register_device(api, zones=zones)
    [alert] = await post_and_deliver(api, "cap/oasis-cap12-amber-en-es.xml")
    assert alert["details"]["languages"] == ["en-US", "es-US"]
    assert titles(devices["es-MX"][1]) == ["Alerta Amber en el condado de Los Ángeles"]
    english = "Amber Alert in Los Angeles County"
    assert titles(devices["en-GB"][1]) == titles(devices["fr"][1]) == titles(without_locale[1]) == [english]


async def test_nine_languages_include_norwegian(api: Api) -> None:
    """An alert in nine languages has texts in all of them, and `nb` devices receive Norwegian."""
    nb = await register_device(api, location={"lat": 62.2, "lon": 5.06}, client={"locale": "nb-NO"})
    [alert] = await post_and_deliver(api, "cap/no-metno-gale-20210921.xml")
    assert set(alert["content"]["locales"]) >= {"no", "nb", "nn", "en", "en-GB"}
    assert len(nb[1].messages) == 1


@pytest.mark.parametrize(
    ("name", "lane", "urgency"),
    [
        ("nws/chain-tornado-watch-641-1-alert.json", "normal", "high"),
        ("nws/flood-warning-ends-null.json", "urgent", "high"),
        ("nws/air-quality-note-unknown.json", "normal", "normal"),
        ("cap/oasis-cap12-amber-en-es.xml", "urgent", "high"),
        ("cap/ie-smallcraft-20250413.xml", "normal", "high"),
    ],
)
async def test_severity_urgency_and_certainty_choose_the_lane(api: Api, name: str, lane: str, urgency: str) -> None:
    """Severity, urgency and certainty choose the lane and the urgency header."""
    [item] = (await post_file(api, name)).body["items"]
    delivery = item["notifications"][0]["delivery"]
    assert (delivery["lane"], delivery["urgency"]) == (lane, urgency)


async def test_expires_bounds_the_ttl(api: Api) -> None:
    """The TTL of a message never exceeds the time until the alert expires."""
    _, subscriber = await register_device(api, zones=["MDC031"], topics=["test-alerts"])
    [alert] = await post_and_deliver(api, "nws/test-message-keepalive.json")  # expires ten minutes after it is sent
    [message] = subscriber.messages
    assert message.ttl is not None
    assert message.ttl <= 540
    assert alert["delivery"]["ttl"] <= 540
    assert titles(subscriber)[0].startswith("[Test]")


async def test_application_rules_precede_the_default_table(api: Api) -> None:
    """The alert rules of an application are matched before the default routing."""
    rules = [
        {"when": {"event": ["tornado watch"]}, "lane": "urgent"},
        {"when": {"severity": ["Minor"]}, "tell": False},
    ]
    stored = await api.call_ok("PUT", "/v1/alert-settings", {"rules": rules, "audience": {"topic": "weather"}})
    assert stored["rules"][0]["lane"] == "urgent"
    assert await api.call_ok("GET", "/v1/alert-settings") == stored
    [item] = (await post_file(api, "nws/chain-tornado-watch-641-1-alert.json")).body["items"]
    [notification] = item["notifications"]
    assert notification["delivery"]["lane"] == "urgent"
    assert {"topic": "weather"} in notification["audience"]["all"]
    [minor] = (await post_file(api, "cap/gb-ea-flood-cdata.xml")).body["items"]
    assert (minor["outcome"], minor["notifications"]) == ("suppressed", [])
    assert "not `lat,lon`" in minor["ignored"][0]  # the polygon of this file ends in "..."
    refused = await api.call("PUT", "/v1/alert-settings", {"audience": {"topic": "!"}})
    assert (refused.status, refused.pointers) == (422, ["/audience/topic"])


def square(west: float, south: float) -> dict[str, Any]:
    """Return the polygon of a square degree."""
    east, north = west + 1, south + 1
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


STORM = {"event": "Storm", "severity": "Severe", "urgency": "Immediate", "identifier": "storm-1"}


async def wait_until_claimed(api: Api) -> None:
    """Wait until a worker has claimed a send job."""
    async with asyncio.timeout(20):
        count_claimed = "SELECT count(*) FROM jobs WHERE task = 'send' AND attempt > 0"
        while not await api.parts.scalar(count_claimed):  # noqa: ASYNC110 - a claim raises no event
            await asyncio.sleep(0.02)


async def move_device(api: Api, device: tuple[str, Subscriber], lat: float, lon: float) -> None:
    """Set the location of a device."""
    await api.call_ok("PUT", f"/v1/devices/{device[0]}/location", {"lat": lat, "lon": lon})


async def test_alert_update_and_end_follow_moving_devices(api: Api) -> None:
    """Updates and cancellations reach the devices in the area, and end the alert for those that have left it."""
    staying = await register_device(api, location={"lat": 48.5, "lon": 16.5})
    leaving = await register_device(api, location={"lat": 48.5, "lon": 16.6})
    arriving = await register_device(api, location={"lat": 10.0, "lon": 10.0})
    returning = await register_device(api, location={"lat": 48.5, "lon": 16.7})
    outside = await register_device(api, location={"lat": 10.0, "lon": 11.0})
    devices = (staying, leaving, arriving, returning, outside)

    async with api.parts.run_worker():
        await api.call_ok("POST", "/v1/alerts", STORM | {"area": square(16, 48)})
        await wait_until_settled(api)
        assert [titles(device[1]) for device in devices] == [["Storm"], ["Storm"], [], ["Storm"], []]

        await move_device(api, leaving, 10, 10)
        await move_device(api, returning, 10, 10)
        await move_device(api, arriving, 48.5, 16.5)
        update = STORM | {"identifier": "storm-2", "message_type": "Update", "references": ["storm-1"]}
        await api.call_ok("POST", "/v1/alerts", update | {"headline": "Storm grows", "area": square(16, 48)})
        await wait_until_settled(api)
        end_title = "No longer in effect: Storm"
        assert titles(staying[1]) == ["Storm", "Storm grows"]
        assert titles(leaving[1]) == titles(returning[1]) == ["Storm", end_title]
        assert titles(arriving[1]) == ["Storm grows"]

        await move_device(api, returning, 48.5, 16.5)
        second_update = STORM | {"identifier": "storm-3", "message_type": "Update", "references": ["storm-2"]}
        await api.call_ok("POST", "/v1/alerts", second_update | {"headline": "Storm stays", "area": square(16, 48)})
        await wait_until_settled(api)
        assert titles(returning[1]) == ["Storm", end_title, "Storm stays"]

        await move_device(api, staying, 20, 20)  # a cancellation reaches the earlier recipients wherever they are
        cancellation = STORM | {"identifier": "storm-4", "message_type": "Cancel", "references": ["storm-3"]}
        await api.call_ok("POST", "/v1/alerts", cancellation)
        await wait_until_settled(api)
    assert titles(staying[1]) == ["Storm", "Storm grows", "Storm stays", end_title]
    assert titles(arriving[1]) == ["Storm grows", "Storm stays", end_title]
    assert titles(returning[1]) == ["Storm", end_title, "Storm stays", end_title]
    assert titles(leaving[1]) == ["Storm", end_title]  # it received the end with the first update
    assert titles(outside[1]) == []
    assert {tag for device in devices for tag in tags(device[1])} == {"storm-1"}


async def test_watch_is_narrowed_then_cancelled_for_one_county(api: Api) -> None:
    """Tornado watch 641 covers eleven counties, then seven; then Washington County (ALC129) alone is cancelled."""
    chain = [f"nws/chain-tornado-watch-641-{step}.json" for step in ("1-alert", "2-update", "3-cancel")]
    washington = await register_device(api, zones=["ALC129"])
    choctaw = await register_device(api, zones=["ALC023"])
    unaffected = await register_device(api, zones=["ALC025"])
    other_device = await register_device(api, zones=["TXC201"])
    async with api.parts.run_worker():
        for age, name in zip((30, 20, 10), chain, strict=True):
            response = await post_file(api, name, age=timedelta(minutes=age))
            assert response.status == 201, response.body
            await wait_until_settled(api)
    assert other_device[1].messages == []
    end = "No longer in effect: Tornado Watch"
    assert titles(washington[1])[-1] == end
    assert len(titles(washington[1])) == 3
    assert titles(unaffected[1])[-1] != end
    assert len(titles(unaffected[1])) == 2
    # Choctaw County is one of the eleven counties and not one of the seven.
    assert titles(choctaw[1])[-1] == end
    assert len(titles(choctaw[1])) == 2
    assert len(tags(washington[1]) | tags(unaffected[1])) == 1


async def test_partial_cancel_withdraws_queued_alert_and_resends(api: Api) -> None:
    """A partial cancellation withdraws the queued alert and sends it again where it still applies."""
    east = await register_device(api, location={"lat": 48.5, "lon": 16.75})
    west = await register_device(api, location={"lat": 48.5, "lon": 16.25})
    # No worker runs yet, so the alert stays in the queue.
    first_alert = await api.call_ok("POST", "/v1/alerts", STORM | {"area": square(16, 48)})
    cancellation = {"event": "Storm", "message_type": "Cancel", "references": ["storm-1"], "area": square(16.5, 48)}
    cancellation["area"]["coordinates"][0] = [[16.5, 48], [17, 48], [17, 49], [16.5, 49], [16.5, 48]]
    await api.call_ok("POST", "/v1/alerts", cancellation | {"identifier": "storm-2"})
    async with api.parts.run_worker():
        await wait_until_settled(api)
    alert = await api.call_ok("GET", f"/v1/alerts/{first_alert['id']}")
    assert (alert["status"], alert["progress"]["accepted"]) == ("cancelled", 0)
    assert titles(west[1]) == ["Storm"]
    assert titles(east[1]) == []  # the device has not received the alert, so it does not receive its end


async def test_cancellation_waits_for_messages_in_flight(api: Api) -> None:
    """A cancellation waits for in-flight messages and also reaches their recipients."""
    _, subscriber = await register_device(api, location={"lat": 48.5, "lon": 16.5})
    api.parts.sim.behave(Rule(delay_ms=1500))
    async with api.parts.run_worker():
        await api.call_ok("POST", "/v1/alerts", STORM | {"area": square(16, 48)})
        await wait_until_claimed(api)
        await api.call_ok("POST", "/v1/alerts", {"event": "Storm", "message_type": "Cancel", "references": ["storm-1"]})
        api.parts.sim.behave()
        await wait_until_settled(api)
    assert titles(subscriber) == ["Storm", "No longer in effect: Storm"]


async def test_end_without_references_is_linked_by_event_code(api: Api) -> None:
    """An all-clear without references is linked to its alert by the VTEC event key."""
    cleared = await register_device(api, zones=["MNZ022"])
    unaffected = await register_device(api, zones=["NDZ001"])
    raw = alerts.move_to_now("nws/heat-advisory-alert-allclear.json", age=timedelta(minutes=5))
    # Make an initial alert of the all-clear: another identifier, and NDZ001 as a second zone.
    first_alert = raw.replace(b"/O.CAN.", b"/O.NEW.").replace(b"allclear", b"").replace(b"AllClear", b"Avoid")
    first_alert = first_alert.replace(b".001.1", b".000.9").replace(b"MNZ022", b'MNZ022", "NDZ001', 1)
    async with api.parts.run_worker():
        first = await post(api, first_alert, GEOJSON)
        assert first.status == 201, first.body
        await wait_until_settled(api)
        assert (len(cleared[1].messages), len(unaffected[1].messages)) == (1, 1)
        second = await post_file(api, "nws/heat-advisory-alert-allclear.json")
        assert second.status == 201, second.body
        await wait_until_settled(api)
    assert titles(cleared[1])[-1] == "No longer in effect: Heat Advisory"
    assert len(unaffected[1].messages) == 1
    assert len(tags(cleared[1])) == 1


async def test_alert_superseded_before_arrival_is_not_sent(api: Api) -> None:
    """An alert that arrives after an update of it is reported as superseded and not sent."""
    await post_file(api, "nws/chain-tornado-watch-641-2-update.json", age=timedelta(minutes=5))
    late_response = await post_file(api, "nws/chain-tornado-watch-641-1-alert.json", age=timedelta(minutes=10))
    [item] = late_response.body["items"]
    assert (late_response.status, item["outcome"], item["notifications"]) == (200, "superseded", [])


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"<alert", 400),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', 400),
        (
            b'<!DOCTYPE l [<!ENTITY a "ha">'
            + b"".join(b'<!ENTITY b%d "&a;&a;&a;">' % n for n in range(30))
            + b"]><l/>",
            400,
        ),
        (b"<a>" * 100_000, 400),
        (b'<?xml version="1.0" encoding="x-no-such"?><a/>', 400),
        (b"<a>" + b" " * (10 << 20) + b"</a>", 413),
        (b"\xff\xfe<\x00", 400),
    ],
)
async def test_hostile_xml_is_refused_without_side_effects(api: Api, raw: bytes, status: int) -> None:
    """Hostile XML is refused, stores nothing, and the response contains no local file."""
    before = await api.rows()
    response = await api.call("POST", "/v1/alerts", raw=raw, headers={"Content-Type": CAP})
    assert response.status == status, response.body
    assert "passwd" not in str(response.body)
    assert await api.rows() == before


# The order of the info blocks in the Alert and in the Update, and whether the ended part is in the Update as AllClear.
PART_ORDERS = [(False, False), (True, False), (False, True), (True, True)]


def reverse_infos(raw: bytes) -> bytes:
    """Return a CAP document with its info blocks in reverse order."""
    infos = re.findall(rb"<info>.*?</info>", raw, re.DOTALL)
    for number, info in enumerate(infos):
        raw = raw.replace(info, b"<%d>" % number)
    for number, info in enumerate(reversed(infos)):
        raw = raw.replace(b"<%d>" % number, info)
    return raw


@pytest.mark.parametrize(("is_reversed", "has_all_clear"), PART_ORDERS)
async def test_update_of_one_part_ends_the_other_part_only(api: Api, is_reversed: bool, has_all_clear: bool) -> None:
    """An Update that continues part B of an alert ends part A, whatever the order and number of the parts."""
    device_a = await register_device(api, location={"lat": 48.5, "lon": 16.5})
    device_b = await register_device(api, location={"lat": 48.5, "lon": 18.5})
    alert_document = alerts.move_to_now("made/parts-3-two-parts.xml", age=timedelta(minutes=10))
    update_document = alerts.move_to_now("made/parts-4-update-without-first.xml")
    if has_all_clear:
        [ended, *_] = re.findall(rb"<info>.*?</info>", alert_document, re.DOTALL)
        update_document = update_document.replace(b"<info>", ended.replace(b"Monitor", b"AllClear") + b"\n <info>", 1)
    if is_reversed:
        alert_document = reverse_infos(alert_document)
    async with api.parts.run_worker():
        await wait_until_delivered(api, await post(api, alert_document, CAP))
        await wait_until_delivered(api, await post(api, update_document, CAP))
    assert titles(device_a[1]) == ["yellow A", "No longer in effect: air quality"]
    assert titles(device_b[1]) == ["orange B", "orange B goes on, leave now"]
    assert (len(tags(device_a[1])), len(tags(device_b[1]))) == (1, 1)
    assert tags(device_a[1]) != tags(device_b[1])


async def test_infos_with_different_areas_are_not_translations(api: Api) -> None:
    """An English info for area A and a French one for area B each reach their own area, whatever the locale."""
    in_a = {"lat": 48.5, "lon": 16.5}
    devices = [
        await register_device(api, location=location, client={"locale": locale})
        for location in (in_a, {"lat": 48.5, "lon": 18.5})
        for locale in ("en", "fr")
    ]
    await post_and_deliver(api, "made/languages-differ-in-area.xml")
    assert [titles(device[1]) for device in devices] == [["english A"], ["english A"], ["french B"], ["french B"]]
