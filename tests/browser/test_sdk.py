"""The SDK in a real Firefox: what a web page may ask of it, and what the gateway then hears."""

import gzip
import json
import re
from typing import Any

import pytest
import rjsmin
from aiohttp import web
from fake_gateway import KEY, STATIC, FakeGateway, VapidPair
from firefox import Firefox, Tab

pytestmark = pytest.mark.browser

STATE = "document.getElementById('state').dataset.state"


def sdk(call: str, **options: Any) -> str:
    """A call on the SDK as the sample page's own worker scope sees it."""
    given = json.dumps({"key": KEY, "serviceWorker": "/sample/service-worker.js"} | options)
    start = f"import('/sdk/webpush.js').then(({{init}}) => init({{gateway: location.origin, ...{given}}})"
    return f"{start}.{call})"


def failing(call: str, **options: Any) -> str:
    """The same, answering the error's members."""
    describe = "({name: e.name, code: e.code, status: e.status, message: e.message, errors: e.errors})"
    return f"{sdk(call, **options)}.then(() => null, e => {describe})"


async def test_a_click_on_the_sample_page_registers_this_browser(fake_gateway: FakeGateway, sample: Tab) -> None:
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


async def test_the_registration_outlives_the_page(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    await subscribed.open(f"{fake_gateway.origin}/sample/?again#key={KEY}")
    await subscribed.until(f"{STATE} === 'subscribed'")


async def test_subscribing_again_refreshes_the_same_device(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    answer = await subscribed.js(sdk("subscribe({attributes: {plan: 'pro'}}).then(a => a.id)"))
    assert [answer] == list(fake_gateway.devices)
    method, path, _, body = fake_gateway.requests[-1]
    assert (method, path) == ("POST", "/v1/devices")
    assert body["attributes"] == {"plan": "pro"}
    assert "topics" not in body


async def test_topics_and_location_are_changed_with_the_device_token(
    fake_gateway: FakeGateway, subscribed: Tab
) -> None:
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
    kept = await subscribed.js(sdk("device()"))
    assert kept["topics"] == ["weather", "sports"]
    assert kept["location"] == {"lat": 1, "lon": 2, "accuracy_m": 30}


async def test_a_browser_opts_out_of_a_category_and_stays_out_when_it_subscribes_anew(
    fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    [device] = fake_gateway.devices
    assert [one["enabled"] for one in await subscribed.js(sdk("preferences.list()"))] == [True, True]
    await subscribed.js(sdk("preferences.set('offers', false)"))
    path, body = f"/v1/devices/{device}/preferences", {"categories": {"offers": False}}
    assert fake_gateway.requests[-1] == ("PATCH", path, f"dt_{device}", body)
    fake_gateway.vapid = VapidPair()
    new = await subscribed.js(sdk("subscribe().then(a => a.id)"))
    assert fake_gateway.devices[new]["muted"] == ["offers"]
    chosen = await subscribed.js(sdk("preferences.list()"))
    assert {one["category"]: one["enabled"] for one in chosen} == {"news": True, "offers": False}
    await subscribed.js(sdk("preferences.set('offers', true)"))
    fake_gateway.vapid = VapidPair()
    again = await subscribed.js(sdk("subscribe().then(a => a.id)"))
    assert fake_gateway.devices[again]["muted"] == []


async def test_unsubscribing_deletes_the_device_and_ends_the_subscription(
    fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    [device] = fake_gateway.devices
    await subscribed.click("#unsubscribe")
    await subscribed.until(f"{STATE} === 'ready'")
    assert fake_gateway.requests[-1] == ("DELETE", f"/v1/devices/{device}", f"dt_{device}", None)
    assert await fake_gateway.send("anyone there?") in {404, 410}
    assert await subscribed.js(sdk("device()")) is None


async def test_a_subscription_made_with_another_vapid_key_is_made_anew(
    fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    [(old, before)] = fake_gateway.devices.items()
    fake_gateway.vapid = VapidPair()
    new = await subscribed.js(sdk("subscribe().then(a => a.id)"))
    after = fake_gateway.devices[new]
    assert after["subscription"]["endpoint"] != before["subscription"]["endpoint"]
    assert after["vapid_public_key"] == fake_gateway.vapid.public
    assert after["topics"] == before["topics"], "what was said of the old device is said again of the new one"
    assert fake_gateway.requests[-1] == ("DELETE", f"/v1/devices/{old}", f"dt_{old}", None)
    assert await fake_gateway.send("now with the new key") == 201


async def test_a_denied_permission_is_a_clear_error_and_nothing_is_registered(
    firefox: Firefox, fake_gateway: FakeGateway
) -> None:
    await firefox.permit(fake_gateway.origin, "denied")
    async with firefox.tab(f"{fake_gateway.origin}/sample/#key={KEY}") as tab:
        await tab.until(f"{STATE} === 'denied'")
        error = await tab.js(failing("subscribe()"))
    assert (error["name"], error["code"]) == ("WebPushError", "denied")
    assert fake_gateway.requests == []


async def test_the_gateways_problem_is_the_error_thrown(fake_gateway: FakeGateway, sample: Tab) -> None:
    problem = {
        "type": "about:blank",
        "title": "The input is not valid",
        "status": 422,
        "detail": "/topics/0: not a topic name",
        "code": "invalid",
        "errors": [{"pointer": "/topics/0", "detail": "not a topic name"}],
    }
    fake_gateway.refuse["/v1/devices"] = web.Response(
        status=422, text=json.dumps(problem), content_type="application/problem+json"
    )
    error = await sample.js(failing("subscribe({topics: ['no good']})"))
    assert error == {
        "name": "WebPushError",
        "code": "invalid",
        "status": 422,
        "message": "/topics/0: not a topic name",
        "errors": problem["errors"],
    }
    assert await sample.js(sdk("state()")) == "ready"


async def test_a_gateway_that_is_not_there_is_said_so(sample: Tab) -> None:
    error = await sample.js(failing("subscribe()", gateway="http://127.0.0.1:1"))
    assert (error["code"], error["status"]) == ("unreachable", 0)


async def test_calls_that_need_a_subscription_say_so_without_one(sample: Tab) -> None:
    assert (await sample.js(failing("topics.add('weather')")))["code"] == "not_subscribed"
    assert await sample.js(sdk("unsubscribe()")) is False


async def test_a_secret_key_in_a_page_is_refused(sample: Tab) -> None:
    assert (await sample.js(failing("subscribe()", key="sk_oops")))["code"] == "secret_key"


def test_the_sdk_and_its_worker_are_small() -> None:
    files = [(STATIC / "sdk" / name).read_text() for name in ("webpush.js", "service-worker.js")]
    assert sum(len(gzip.compress(rjsmin.jsmin(file).encode())) for file in files) < 8192


def test_what_the_types_declare_is_what_the_module_has() -> None:
    for name in ("webpush", "prompt"):
        code, types = ((STATIC / "sdk" / f"{name}{ending}").read_text() for ending in (".js", ".d.ts"))
        exported = re.findall(r"^export (?:async )?(?:function|class) (\w+)", code, re.MULTILINE)
        declared = re.findall(r"^export (?:function|class) (\w+)", types, re.MULTILINE)
        assert sorted(exported) == sorted(declared)
    code, types = ((STATIC / "sdk" / f"webpush{ending}").read_text() for ending in (".js", ".d.ts"))
    made = code[code.index("  return {\n    subscribe,") : code.index("\n  };\n}\n")]
    methods = re.findall(r"^    (\w+)[,:(]", made, re.MULTILINE)
    interface = types[
        types.index("export interface WebPush {") : types.index("\n}\n", types.index("interface WebPush {"))
    ]
    assert sorted(methods) == sorted(re.findall(r"^  (\w+)[(:]", interface, re.MULTILINE))
