"""Devices over HTTP: register, refresh, change, list, import and delete."""

import asyncio
import hashlib
import hmac
import json
from typing import Any

import pytest

from gateway.sim import Vendor
from gateway.web.http import ndjson
from tests.support.api import ADMIN, Api
from tests.support.gateway_parts import APP_ORIGIN


async def test_registered_device_is_returned_without_secrets(api: Api) -> None:
    """A registered device is returned without its endpoint and keys."""
    body = api.device(
        user_id="u-42",
        client={"platform": "android", "browser": "Chrome 141", "locale": "de-AT"},
        attributes={"plan": "pro", "tags": ["a", "b"]},
        topics=["weather", "offers", "weather"],
        location={"lat": 48.2, "lon": 16.37, "accuracy_m": 30},
    )
    response = await api.call("POST", "/v1/devices", body, key=api.publishable, origin=APP_ORIGIN)
    assert response.status == 201
    assert response.headers["Location"] == f"/v1/devices/{response.body['id']}"
    device = await api.call_ok("GET", f"/v1/devices/{response.body['id']}", key=response.body["device_token"])
    assert (device["status"], device["user_id"], device["topics"]) == ("active", "u-42", ["weather", "offers"])
    assert device["attributes"] == {"plan": "pro", "tags": ["a", "b"]}
    assert (device["location"]["lat"], device["location"]["lon"]) == (48.2, 16.37)
    text = json.dumps(device)
    subscription = body["subscription"]
    for secret in (subscription["endpoint"], subscription["keys"]["auth"], subscription["keys"]["p256dh"]):
        assert secret not in text


async def test_refresh_keeps_the_id_and_omitted_fields(api: Api) -> None:
    """The response to a repeated registration is 200 with the same id; fields that the request omits are kept."""
    body = api.device(user_id="u-1", topics=["weather"], attributes={"a": 1}, location={"lat": 1, "lon": 2})
    first = await api.call_ok("POST", "/v1/devices", body, key=api.publishable, origin=APP_ORIGIN)
    refresh = {"subscription": body["subscription"], "client": {"browser": "Firefox 140"}}
    response = await api.call("POST", "/v1/devices", refresh, key=api.publishable, origin=APP_ORIGIN)
    assert (response.status, response.body["id"]) == (200, first["id"])
    device = await api.call_ok("GET", f"/v1/devices/{first['id']}")
    assert (device["user_id"], device["topics"], device["attributes"]) == ("u-1", ["weather"], {"a": 1})
    assert device["client"]["browser"] == "Firefox 140"
    assert device["location"]["lat"] == 1


async def test_refresh_with_empty_values_clears_them(api: Api) -> None:
    """Empty topics and attributes in a refresh replace the stored topics and attributes."""
    body = api.device(topics=["weather"], attributes={"a": 1})
    first = await api.call_ok("POST", "/v1/devices", body)
    await api.call_ok("POST", "/v1/devices", body | {"topics": [], "attributes": {}})
    device = await api.call_ok("GET", f"/v1/devices/{first['id']}")
    assert (device["topics"], device["attributes"]) == ([], {})


async def test_attributes_merge_and_null_removes_one(api: Api) -> None:
    """PATCH merges attributes into the stored ones; the value null removes an attribute."""
    device = await api.register(attributes={"a": 1, "b": 2})
    path = f"/v1/devices/{device['id']}"
    changed = await api.call_ok("PATCH", path, {"attributes": {"a": None, "c": 3}}, key=device["device_token"])
    assert changed["attributes"] == {"b": 2, "c": 3}


async def test_device_changes_its_topics_and_location(api: Api) -> None:
    """A device token may change the device's topics and location."""
    device = await api.register(topics=["news"])
    path, token = f"/v1/devices/{device['id']}", device["device_token"]
    for method, below, body in (
        ("PUT", "/topics/weather", None),
        ("PUT", "/topics/weather", None),
        ("DELETE", "/topics/news", None),
        ("PUT", "/location", {"lat": -33.9, "lon": 151.2}),
    ):
        assert (await api.call(method, path + below, body, key=token)).status == 204
    device = await api.call_ok("GET", path, key=token)
    assert device["topics"] == ["weather"]
    assert device["location"]["lat"] == -33.9
    await api.call_ok("DELETE", f"{path}/location", key=token)
    assert (await api.call_ok("GET", path, key=token))["location"] is None


async def test_unregistered_device_invalidates_its_token(api: Api) -> None:
    """An unregistered device is not found, and its token is refused."""
    device = await api.register()
    path = f"/v1/devices/{device['id']}"
    assert (await api.call("DELETE", path, key=device["device_token"])).status == 204
    assert (await api.call("GET", path)).status == 404
    assert (await api.call("GET", path, key=device["device_token"])).status == 401


async def test_device_token_gives_access_to_one_device(api: Api) -> None:
    """A device token gives no access to another device."""
    device, other = await api.register(), await api.register()
    for method, body in (("GET", None), ("PATCH", {"attributes": {}}), ("DELETE", None)):
        response = await api.call(method, f"/v1/devices/{other['id']}", body, key=device["device_token"])
        assert response.status == 404
    forged = device["device_token"][:-4] + "AAAA"
    assert (await api.call("GET", f"/v1/devices/{device['id']}", key=forged)).status == 401


async def test_lists_are_filtered_and_paged_without_gaps(api: Api) -> None:
    """Device lists are filtered, and paged without gaps or repetition."""
    registered = [await api.register(topics=["odd" if n % 2 else "even"], user_id=f"u-{n % 3}") for n in range(7)]
    listed_ids: list[str] = []
    cursor = ""
    while True:
        page = await api.call_ok("GET", f"/v1/devices?limit=3{cursor}")
        listed_ids += [device["id"] for device in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert listed_ids == [device["id"] for device in reversed(registered)]
    odd_page = await api.call_ok("GET", "/v1/devices?topic=odd")
    assert {device["topics"][0] for device in odd_page["items"]} == {"odd"}
    assert len((await api.call_ok("GET", "/v1/devices?user_id=u-1"))["items"]) == 2
    assert (await api.call_ok("GET", "/v1/devices?status=gone"))["items"] == []


async def test_topics_are_listed_with_reachable_devices(api: Api) -> None:
    """Topics are listed with the number of their active devices."""
    for topics in (["weather", "offers"], ["weather"], ["Zoo", "weather.coast"]):
        await api.register(topics=topics)
    gone = await api.register(topics=["weather"])
    await api.call_ok("DELETE", f"/v1/devices/{gone['id']}")
    first_page = await api.call_ok("GET", "/v1/topics?limit=2")
    second_page = await api.call_ok("GET", f"/v1/topics?cursor={first_page['next_cursor']}")
    assert [(topic["topic"], topic["devices"]) for topic in first_page["items"] + second_page["items"]] == [
        ("Zoo", 1),
        ("offers", 1),
        ("weather", 2),
        ("weather.coast", 1),
    ]


async def test_signing_out_clears_the_user_id(api: Api) -> None:
    """After a change of `user_id` to null, the device belongs to no user."""
    device = await api.register(user_id="ann")
    path = f"/v1/devices/{device['id']}"
    assert (await api.call_ok("PATCH", path, {"attributes": {"a": 1}}))["user_id"] == "ann"
    assert (await api.call_ok("PATCH", path, {"user_id": None}))["user_id"] is None
    preview = await api.call_ok("POST", "/v1/audiences/preview", {"audience": {"user_id": "ann"}})
    assert preview["devices"] == 0


async def test_import_reports_a_result_for_every_line(api: Api) -> None:
    """The import reports one result for every line and a summary."""
    registered = api.device()
    await api.call_ok("POST", "/v1/devices", registered)
    off_curve = api.device()
    off_curve["subscription"]["keys"]["p256dh"] = "BA" + "A" * 85
    private_endpoint = api.device()
    private_endpoint["subscription"]["endpoint"] = "https://169.254.169.254/latest"
    lines: list[Any] = [json.dumps(api.device()), json.dumps(registered), "", "nonsense", json.dumps({"topics": []})]
    lines += [json.dumps(off_curve), json.dumps(private_endpoint), json.dumps(api.device(Vendor.APPLE))]
    response = await api.call(
        "POST", "/v1/devices/import", raw="\n".join(lines).encode(), headers={"Content-Type": "application/x-ndjson"}
    )
    *results, last = map(json.loads, response.body.strip().splitlines())
    assert [(result["line"], result["status"]) for result in results] == [
        (1, "created"),
        (2, "refreshed"),
        (4, "refused"),
        (5, "refused"),
        (6, "refused"),
        (7, "refused"),
        (8, "created"),
    ]
    codes = {result["line"]: result["code"] for result in results if result["status"] == "refused"}
    assert codes == {4: "malformed_body", 5: "invalid", 6: "invalid", 7: "endpoint_not_allowed"}
    assert last == {"done": True, "created": 2, "refreshed": 1, "refused": 4}


async def test_long_import_is_streamed_past_the_body_limit(api: Api) -> None:
    """An import is processed as it arrives and may exceed the limit of other bodies."""
    subscribers = api.parts.subscribe(Vendor.FCM, 6000, share_keys=True)
    body = b"\n".join(
        json.dumps({"subscription": subscriber.to_json(), "attributes": {"note": "x" * 100}}).encode()
        for subscriber in subscribers
    )
    assert len(body) > 2 << 20

    async def pieces() -> Any:
        for start in range(0, len(body), 70_001):
            yield body[start : start + 70_001]

    headers = {"Authorization": f"Bearer {api.secret}", "Content-Type": "application/x-ndjson"}
    async with api.http.post("/v1/devices/import", data=pieces(), headers=headers) as response:
        last = (await response.text()).strip().rpartition("\n")[2]
    assert json.loads(last) == {"done": True, "created": 6000, "refreshed": 0, "refused": 0}
    assert (await api.rows())["devices"] == 6000


async def test_later_import_line_of_one_browser_wins(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import batches run concurrently, but batches with lines of one browser run in order, so its last line wins."""
    monkeypatch.setattr(ndjson, "BATCH", 3)
    repeated = api.device()
    other_devices = [api.device() for _ in range(20)]
    lines = [line for n, other in enumerate(other_devices) for line in (other, repeated | {"attributes": {"n": n}})]
    response = await api.call(
        "POST",
        "/v1/devices/import",
        raw="\n".join(map(json.dumps, lines)).encode(),
        headers={"Content-Type": "application/x-ndjson"},
    )
    *results, last = map(json.loads, response.body.strip().splitlines())
    assert [result["line"] for result in results] == list(range(1, 41))
    assert last["refused"] == 0
    [device_id] = {result["id"] for result in results[1::2]}
    assert (await api.call_ok("GET", f"/v1/devices/{device_id}"))["attributes"] == {"n": 19}
    assert (await api.rows())["devices"] == 21


async def test_deleting_a_user_deletes_all_their_devices(api: Api) -> None:
    """Deleting a user deletes their devices and removes their id from the delivery log."""
    for user in ("ann", "ann", "bob"):
        await api.register(user_id=user)
    sent = await api.parts.submit()
    async with api.parts.run_worker():
        await api.parts.wait_until_done(sent.id)
    assert (await api.call_ok("DELETE", "/v1/users/ann")) == {"devices": 2}
    assert (await api.rows())["devices"] == 1
    log = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    assert sorted(str(delivery["user_id"]) for delivery in log) == ["None", "None", "bob"]


async def test_concurrent_registrations_create_one_device(api: Api) -> None:
    """Concurrent registrations of one browser create one device."""
    body = api.device(topics=["weather"])
    responses = await asyncio.gather(*(api.call("POST", "/v1/devices", body) for _ in range(8)))
    assert {response.status for response in responses} <= {200, 201}
    assert len({response.body["id"] for response in responses}) == 1


async def test_application_may_require_proof_of_a_user_id(api: Api) -> None:
    """An application may require an HMAC for a user id that a page sends."""
    path = f"/v1/applications/{api.parts.application['id']}"
    secret = (await api.call_ok("PATCH", path, {"require_identity": True}, key=ADMIN))["identity_secret"]
    body = api.device(user_id="u-42")
    for proof in ({}, {"user_hash": "00" * 32}):
        response = await api.call("POST", "/v1/devices", body | proof, key=api.publishable, origin=APP_ORIGIN)
        assert (response.status, response.body["code"]) == (403, "identity_unproven")
    assert (await api.rows())["devices"] == 0
    proof = {"user_hash": hmac.new(secret.encode(), b"u-42", hashlib.sha256).hexdigest()}
    device = await api.call_ok("POST", "/v1/devices", body | proof, key=api.publishable, origin=APP_ORIGIN)
    changed = {"user_id": "u-43"}
    response = await api.call("PATCH", f"/v1/devices/{device['id']}", changed, key=device["device_token"])
    assert response.status == 403
    # A request with the secret key needs no proof.
    assert (await api.call("PATCH", f"/v1/devices/{device['id']}", changed)).status == 200


async def test_device_is_found_by_its_zones(api: Api) -> None:
    """An audience with a zone selects the devices that have sent this zone code."""
    device = await api.register(zones=["TXC201", "TXZ213", "TXC201"])
    path = f"/v1/devices/{device['id']}"
    assert (await api.call_ok("GET", path))["zones"] == ["TXC201", "TXZ213"]
    for codes, count in (("TXC201", 1), (["DE131", "TXZ213"], 1), ("DE131", 0)):
        preview = await api.call_ok("POST", "/v1/audiences/preview", {"audience": {"zone": codes}})
        assert preview["devices"] == count
    assert (await api.call_ok("PATCH", path, {"zones": ["DE131"]}))["zones"] == ["DE131"]
    response = await api.call("PATCH", path, {"zones": ["no zone"]})
    assert (response.status, response.pointers) == (422, ["/zones/0"])
