"""The SDK in a real Firefox, against a fake gateway."""

import gzip
import json
import re

import pytest
import rjsmin
from aiohttp import web
from fake_gateway import KEY, STATIC, FakeGateway, VapidPair
from firefox import Firefox, Tab
from sdk_calls import sdk, sdk_error

pytestmark = pytest.mark.browser

STATE = "document.getElementById('state').dataset.state"


async def test_click_on_sample_page_registers_browser(fake_gateway: FakeGateway, sample: Tab) -> None:
    """The registration has the subscription, the user, the topics, the location and details of the browser."""
    await sample.until(f"{STATE} === 'ready'")
    await sample.js(
        "(document.getElementById('user').value = 'u-42', document.getElementById('place').value = '48.2082,16.3738')"
    )
    await sample.click("#subscribe")
    await sample.until(f"{STATE} === 'subscribed'")
    [device] = fake_gateway.devices.values()
    assert device["subscription"]["endpoint"].startswith("http")
    assert set(device["subscription"]["keys"]) == {"p256dh", "auth"}
    assert device["user_id"] == "u-42"
    assert device["topics"] == ["weather", "offers"]
    assert device["location"] == {"lat": 48.2082, "lon": 16.3738}
    assert device["vapid_public_key"] == fake_gateway.vapid.public
    assert device["client"]["platform"] == "linux"
    assert device["client"]["browser"].startswith("Firefox ")
    assert device["client"]["locale"]
    assert device["client"]["timezone"]


async def test_registration_survives_page_reload(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """After a reload, the page's state is `subscribed`."""
    await subscribed.open(f"{fake_gateway.origin}/sample/?again#key={KEY}")
    await subscribed.until(f"{STATE} === 'subscribed'")


async def test_subscribing_again_updates_same_device(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """The second registration is a request with only the new details, and the device keeps its id."""
    id_ = await subscribed.js(sdk("subscribe({attributes: {plan: 'pro'}}).then(a => a.id)"))
    assert [id_] == list(fake_gateway.devices)
    method, path, _, body = fake_gateway.requests[-1]
    assert (method, path) == ("POST", "/v1/devices")
    assert body["attributes"] == {"plan": "pro"}
    assert "topics" not in body


async def test_topics_and_location_change_with_device_token(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """Each change is a request with the device token, and the registration that the SDK stores has the change."""
    [device] = fake_gateway.devices
    await subscribed.click("#topics input[value=sports]")
    await subscribed.until("document.body.ariaBusy === null")
    await subscribed.js(sdk("topics.remove('offers')"))
    await subscribed.js(sdk("location.set({lat: 1, lon: 2, accuracy_m: 30})"))
    assert fake_gateway.requests[-3:] == [
        ("PUT", f"/v1/devices/{device}/topics/sports", f"dt_{device}", None),
        ("DELETE", f"/v1/devices/{device}/topics/offers", f"dt_{device}", None),
        ("PUT", f"/v1/devices/{device}/location", f"dt_{device}", {"lat": 1, "lon": 2, "accuracy_m": 30}),
    ]
    stored = await subscribed.js(sdk("device()"))
    assert stored["topics"] == ["weather", "sports"]
    assert stored["location"] == {"lat": 1, "lon": 2, "accuracy_m": 30}


async def test_opt_out_survives_new_subscription(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """A new subscription is registered with the categories that the user has opted out of."""
    [device] = fake_gateway.devices
    assert [item["enabled"] for item in await subscribed.js(sdk("preferences.list()"))] == [True, True]
    await subscribed.js(sdk("preferences.set('offers', false)"))
    path, body = f"/v1/devices/{device}/preferences", {"categories": {"offers": False}}
    assert fake_gateway.requests[-1] == ("PATCH", path, f"dt_{device}", body)
    fake_gateway.vapid = VapidPair()
    second = await subscribed.js(sdk("subscribe().then(device => device.id)"))
    assert fake_gateway.devices[second]["muted"] == ["offers"]
    preferences = await subscribed.js(sdk("preferences.list()"))
    assert {item["category"]: item["enabled"] for item in preferences} == {"news": True, "offers": False}
    await subscribed.js(sdk("preferences.set('offers', true)"))
    fake_gateway.vapid = VapidPair()
    third = await subscribed.js(sdk("subscribe().then(device => device.id)"))
    assert fake_gateway.devices[third]["muted"] == []


async def test_unsubscribe_deletes_device_and_subscription(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """The gateway deletes the device, and the push service refuses messages for the old subscription."""
    [device] = fake_gateway.devices
    await subscribed.click("#unsubscribe")
    await subscribed.until(f"{STATE} === 'ready'")
    assert fake_gateway.requests[-1] == ("DELETE", f"/v1/devices/{device}", f"dt_{device}", None)
    assert await fake_gateway.send("after unsubscribing") in {404, 410}
    assert await subscribed.js(sdk("device()")) is None


async def test_subscription_with_old_vapid_key_is_replaced(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """The new device has the details of the old device, and the old device is deleted."""
    [(old_id, old_device)] = fake_gateway.devices.items()
    fake_gateway.vapid = VapidPair()
    new_id = await subscribed.js(sdk("subscribe().then(device => device.id)"))
    new_device = fake_gateway.devices[new_id]
    assert new_device["subscription"]["endpoint"] != old_device["subscription"]["endpoint"]
    assert new_device["vapid_public_key"] == fake_gateway.vapid.public
    assert new_device["topics"] == old_device["topics"]
    assert fake_gateway.requests[-1] == ("DELETE", f"/v1/devices/{old_id}", f"dt_{old_id}", None)
    assert await fake_gateway.send("with the new key") == 201


async def test_denied_permission_raises_and_registers_nothing(firefox: Firefox, fake_gateway: FakeGateway) -> None:
    """subscribe() throws an error with the code `denied`, and no request is sent."""
    await firefox.set_permission(fake_gateway.origin, "denied")
    async with firefox.tab(f"{fake_gateway.origin}/sample/#key={KEY}") as tab:
        await tab.until(f"{STATE} === 'denied'")
        error = await tab.js(sdk_error("subscribe()"))
    assert (error["name"], error["code"]) == ("WebPushError", "denied")
    assert fake_gateway.requests == []


async def test_problem_response_becomes_webpush_error(fake_gateway: FakeGateway, sample: Tab) -> None:
    """The error has code, status, message and field errors of the problem+json response."""
    problem = {
        "type": "about:blank",
        "title": "The input is not valid",
        "status": 422,
        "detail": "/topics/0: not a topic name",
        "code": "invalid",
        "errors": [{"pointer": "/topics/0", "detail": "not a topic name"}],
    }
    fake_gateway.overrides["/v1/devices"] = web.Response(
        status=422, text=json.dumps(problem), content_type="application/problem+json"
    )
    error = await sample.js(sdk_error("subscribe({topics: ['no good']})"))
    assert error == {
        "name": "WebPushError",
        "code": "invalid",
        "status": 422,
        "message": "/topics/0: not a topic name",
        "errors": problem["errors"],
    }
    assert await sample.js(sdk("state()")) == "ready"


async def test_unreachable_gateway_raises_unreachable(sample: Tab) -> None:
    """The error has the code `unreachable` and the status 0."""
    error = await sample.js(sdk_error("subscribe()", gateway="http://127.0.0.1:1"))
    assert (error["code"], error["status"]) == ("unreachable", 0)


async def test_calls_without_subscription_raise_not_subscribed(sample: Tab) -> None:
    """topics.add() throws an error with the code `not_subscribed`; unsubscribe() returns false."""
    assert (await sample.js(sdk_error("topics.add('weather')")))["code"] == "not_subscribed"
    assert await sample.js(sdk("unsubscribe()")) is False


async def test_secret_key_in_page_is_refused(sample: Tab) -> None:
    """init() throws an error with the code `secret_key`."""
    assert (await sample.js(sdk_error("subscribe()", key="sk_oops")))["code"] == "secret_key"


def test_sdk_and_worker_stay_small() -> None:
    """Minified and compressed, the SDK and the service worker together are smaller than 9 KiB."""
    files = [(STATIC / "sdk" / name).read_text() for name in ("webpush.js", "service-worker.js")]
    assert sum(len(gzip.compress(rjsmin.jsmin(file).encode())) for file in files) < 9216


def test_type_declarations_match_modules() -> None:
    """Exports and methods have the same names in the .js and .d.ts files."""
    for name in ("webpush", "prompt"):
        code, types = ((STATIC / "sdk" / f"{name}{ending}").read_text() for ending in (".js", ".d.ts"))
        exported = re.findall(r"^export (?:async )?(?:function|class) (\w+)", code, re.MULTILINE)
        declared = re.findall(r"^export (?:function|class) (\w+)", types, re.MULTILINE)
        assert sorted(exported) == sorted(declared)
    code, types = ((STATIC / "sdk" / f"webpush{ending}").read_text() for ending in (".js", ".d.ts"))
    body = code[code.index("  return {\n    subscribe,") : code.index("\n  };\n}\n")]
    methods = re.findall(r"^    (\w+)[,:(]", body, re.MULTILINE)
    interface = types[
        types.index("export interface WebPush {") : types.index("\n}\n", types.index("interface WebPush {"))
    ]
    assert sorted(methods) == sorted(re.findall(r"^  (\w+)[(:]", interface, re.MULTILINE))
