"""The SDK in a real Chromium. No push service can be ours there: a subscription is played, and a push comes by CDP."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from fake_gateway import KEY, FakeGateway, VapidPair
from playwright.async_api import Browser, BrowserContext, CDPSession, Page

pytestmark = pytest.mark.browser

# What Chromium's own would answer; kept for the page, as the browser keeps its own.
PLAYED = """
  const octets = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const held = () => JSON.parse(sessionStorage.getItem("played") ?? "null");
  const made = (kept) => kept && {
    endpoint: kept.endpoint, expirationTime: kept.expires ?? null,
    options: { applicationServerKey: octets(kept.key).buffer },
    toJSON: () => ({ endpoint: kept.endpoint, keys: { p256dh: "p", auth: "a" } }),
    unsubscribe: async () => { sessionStorage.removeItem("played"); return true; },
  };
  PushManager.prototype.getSubscription = async () => made(held());
  PushManager.prototype.subscribe = async ({ applicationServerKey }) => {
    const key = btoa(String.fromCharCode(...applicationServerKey)).replace(/\\+/g, "-").replace(/\\//g, "_");
    const kept = { endpoint: `https://push.example/${Math.random()}`, key };
    sessionStorage.setItem("played", JSON.stringify(kept));
    return made(kept);
  };
"""


def sdk(call: str, **options: Any) -> str:
    given = json.dumps({"key": KEY, "serviceWorker": "/sample/service-worker.js"} | options)
    return f"import('/sdk/webpush.js').then(({{init}}) => init({{gateway: location.origin, ...{given}}}).{call})"


@pytest.fixture
async def context(chromium: Browser, fake_gateway: FakeGateway) -> AsyncIterator[BrowserContext]:
    context = await chromium.new_context()
    await context.grant_permissions(["notifications"], origin=fake_gateway.origin)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext, fake_gateway: FakeGateway) -> Page:
    """The sample page's origin, with a push service that is played."""
    page = await context.new_page()
    await page.add_init_script(PLAYED)
    await page.goto(f"{fake_gateway.origin}/sample/icon.svg")
    await page.goto(f"{fake_gateway.origin}/sample/")
    return page


async def registration_of(session: CDPSession) -> str:
    """The id by which Chromium knows the service worker."""
    known: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def heard(said: dict[str, Any]) -> None:
        for one in said["registrations"]:
            if not known.done():
                known.set_result(one["registrationId"])

    session.on("ServiceWorker.workerRegistrationUpdated", heard)
    await session.send("ServiceWorker.enable")
    return await asyncio.wait_for(known, 20)


async def test_what_was_said_before_subscribing_is_told_with_it_and_a_lost_subscription_is_healed_at_load(
    fake_gateway: FakeGateway, page: Page
) -> None:
    assert await page.evaluate(sdk("state()")) == "ready"
    await page.evaluate(sdk("identify('u-7', 'ab')"))
    await page.evaluate(sdk("setAttributes({plan: 'pro', age: 30})"))
    assert [path for _, path, _, _ in fake_gateway.requests if path.startswith("/v1/devices")] == []
    first = await page.evaluate(sdk("subscribe({topics: ['news']}).then(({id}) => id)"))
    device = fake_gateway.devices[first]
    assert (device["user_id"], device["user_hash"], device["topics"]) == ("u-7", "ab", ["news"])
    assert device["attributes"] == {"plan": "pro", "age": 30}
    await page.evaluate(sdk("setAttributes({age: null})"))
    assert fake_gateway.requests[-1][::3] == ("PATCH", {"attributes": {"age": None}})

    # In step: a load asks for nothing. Lost: it subscribes anew, with all that was said.
    before = len(fake_gateway.requests)
    assert await page.evaluate(sdk("sync()")) == "subscribed"
    assert len(fake_gateway.requests) == before
    await page.evaluate("sessionStorage.removeItem('played')")
    assert await page.evaluate(sdk("sync()", sync=False)) == "subscribed"
    second = list(fake_gateway.devices)[-1]
    assert second != first
    assert fake_gateway.devices[second]["attributes"] == {"plan": "pro"}
    assert fake_gateway.devices[second]["topics"] == ["news"]
    assert fake_gateway.requests[-1][:2] == ("DELETE", f"/v1/devices/{first}")

    # About to expire: the same.
    soon = "JSON.stringify({...JSON.parse(sessionStorage.getItem('played')), expires: Date.now() + 1000})"
    await page.evaluate(f"sessionStorage.setItem('played', {soon})")
    await page.evaluate(sdk("sync()", sync=False))
    assert list(fake_gateway.devices)[-1] != second


async def test_a_subscription_that_another_sender_made_is_taken_over_at_load_with_our_key(
    fake_gateway: FakeGateway, page: Page
) -> None:
    """So is one of ours when the key was changed, once a day."""
    await page.evaluate(sdk("subscribe({topics: ['news']})"))
    forget = "new Promise((done) => { indexedDB.deleteDatabase('webpush-gateway').onsuccess = done; }).then(() => null)"
    await page.evaluate(forget)
    fake_gateway.vapid = VapidPair()
    assert await page.evaluate(sdk("sync()", sync=False)) == "subscribed"
    assert list(fake_gateway.devices.values())[-1]["vapid_public_key"] == fake_gateway.vapid.public
    fake_gateway.vapid = VapidPair()
    await page.evaluate(sdk("sync()", sync=False))
    assert list(fake_gateway.devices.values())[-1]["vapid_public_key"] != fake_gateway.vapid.public
    await page.evaluate("Date.now = ((now) => () => now() + 2 * 86400000)(Date.now)")
    await page.evaluate(sdk("sync()", sync=False))
    assert list(fake_gateway.devices.values())[-1]["vapid_public_key"] == fake_gateway.vapid.public


async def test_a_device_that_the_gateway_has_lost_is_registered_again_by_what_is_changed_next(
    fake_gateway: FakeGateway, page: Page
) -> None:
    first = await page.evaluate(sdk("subscribe({topics: ['news'], attributes: {plan: 'pro'}}).then(({id}) => id)"))
    del fake_gateway.devices[first]
    fake_gateway.refuse[f"/v1/devices/{first}/topics/offers"] = web.json_response({"code": "not_found"}, status=404)
    await page.evaluate(sdk("topics.add('offers')"))
    [device] = fake_gateway.devices.values()
    assert (device["topics"], device["attributes"]) == (["news", "offers"], {"plan": "pro"})


async def test_an_app_s_own_service_worker_is_never_replaced(fake_gateway: FakeGateway, page: Page) -> None:
    await page.evaluate("navigator.serviceWorker.register('/sample/service-worker.js')")
    failing = "subscribe().catch(({code, message}) => [code, message.includes('importScripts')])"
    assert await page.evaluate(sdk(failing, serviceWorker="/sample/sample.js")) == ["worker_taken", True]
    scripts = "navigator.serviceWorker.getRegistrations().then((all) => all.map((one) => one.scope))"
    assert await page.evaluate(scripts) == [f"{fake_gateway.origin}/sample/"]


async def test_a_location_is_shared_coarsely_and_asked_for_once(
    fake_gateway: FakeGateway, context: BrowserContext, page: Page
) -> None:
    await page.evaluate(sdk("subscribe()"))
    await page.evaluate("localStorage.setItem('webpush-location-' + new URL('/sample/', location.href), '1')")
    assert await page.evaluate(sdk("location.share()")) is None, "asked before, and not answered"
    await context.grant_permissions(["notifications", "geolocation"], origin=fake_gateway.origin)
    await context.set_geolocation({"latitude": 48.20849, "longitude": 16.37208, "accuracy": 12})
    assert await page.evaluate(sdk("location.share()")) == {"lat": 48.21, "lon": 16.37, "accuracy_m": 1500}
    assert fake_gateway.requests[-1][::3] == ("PUT", {"lat": 48.21, "lon": 16.37, "accuracy_m": 1500})


async def test_a_push_is_shown_and_its_receipt_is_kept_until_the_gateway_can_be_reached(
    fake_gateway: FakeGateway, context: BrowserContext, page: Page
) -> None:
    await page.evaluate(sdk("subscribe()"))
    session = await context.new_cdp_session(page)
    registration = await registration_of(session)
    fake_gateway.refuse["/v1/receipts"] = web.json_response({"code": "unavailable"}, status=503)
    heard = "new Promise((told) => navigator.serviceWorker.addEventListener('message', ({data}) => told(data)))"
    await page.evaluate(f"(navigator.serviceWorker.startMessages(), window.heard = {heard}, null)")
    data = {
        "web_push": 8030,
        "notification": {"title": "Storm", "body": "Stay inside", "data": {"gateway": fake_gateway.receipt_of("r1")}},
    }
    message = {"origin": fake_gateway.origin, "registrationId": registration, "data": json.dumps(data)}
    await session.send("ServiceWorker.deliverPushMessage", message)
    told = await page.evaluate("window.heard")
    assert (told["event"], told["title"], told["reported"]) == ("displayed", "Storm", False)
    shown = "navigator.serviceWorker.getRegistration('/sample/').then((one) => one.getNotifications())"
    assert await page.evaluate(f"{shown}.then((all) => all.map((one) => one.title))") == ["Storm"]

    del fake_gateway.refuse["/v1/receipts"]
    sync = {
        "origin": fake_gateway.origin,
        "registrationId": registration,
        "tag": "webpush-receipts",
        "lastChance": False,
    }
    await session.send("ServiceWorker.dispatchSyncEvent", sync)
    receipt = await fake_gateway.next_receipt()
    assert (receipt["token"], receipt["event"]) == ("r1", "displayed")


async def test_a_browser_that_shows_the_declarative_form_itself_is_left_to_it_and_displayed_is_reported(
    fake_gateway: FakeGateway, context: BrowserContext, page: Page
) -> None:
    """Safari refuses a notification in its place that has no address of its own, and shows its own after the event."""
    await page.evaluate(sdk("subscribe()"))
    [worker] = context.service_workers
    notification = {
        "title": "Storm",
        "navigate": "https://app.example/",
        "data": {"gateway": fake_gateway.receipt_of("r2")},
    }
    hand_over = """async (notification) => {
      const event = new ExtendableEvent("push");
      const waited = new Promise((done) => Object.assign(event, { data: null, notification, waitUntil: done }));
      self.dispatchEvent(event);
      await waited;
      return (await self.registration.getNotifications()).length;
    }"""
    assert await worker.evaluate(hand_over, notification) == 0
    receipt = await fake_gateway.next_receipt()
    assert (receipt["token"], receipt["event"]) == ("r2", "displayed")


async def test_the_polite_question_is_asked_before_the_browser_s_and_not_again_when_put_away(
    fake_gateway: FakeGateway, page: Page
) -> None:
    asking = "import('/sdk/prompt.js').then(({ask}) => ask(push, {registration: {topics: ['news']}}))"
    start = f"{sdk('state()')}; window.answer = import('/sdk/webpush.js').then(({{init}}) => {{ const push = init("
    options = "{gateway: location.origin, key: 'pk_test', serviceWorker: '/sample/service-worker.js'}"
    start = f"{start}{options}); return {asking}; }}); null"
    await page.evaluate(start)
    await page.get_by_role("dialog", name="Get notifications?").wait_for()
    await page.get_by_role("button", name="Not now").press("Escape")
    assert await page.evaluate("window.answer") == "dismissed"
    await page.evaluate(start)
    assert await page.evaluate("window.answer") == "hidden"
    await page.evaluate("localStorage.clear()")
    await page.evaluate(start)
    await page.get_by_role("button", name="Allow").click()
    assert await page.evaluate("window.answer") == "subscribed"
    [device] = fake_gateway.devices.values()
    assert device["topics"] == ["news"]


async def test_without_a_push_service_subscribing_fails_in_words(
    fake_gateway: FakeGateway, context: BrowserContext
) -> None:
    page = await context.new_page()
    await page.goto(f"{fake_gateway.origin}/sample/")
    failing = "subscribe().catch(({name, code}) => [name, code])"
    assert await page.evaluate(sdk(failing)) == ["WebPushError", "subscribe_failed"]
    assert fake_gateway.devices == {}


async def test_an_iphone_is_told_to_install_the_page_first(chromium: Browser, fake_gateway: FakeGateway) -> None:
    agent = (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile Safari/604.1"
    )
    context = await chromium.new_context(user_agent=agent)
    page = await context.new_page()
    await page.add_init_script("delete window.PushManager; Object.defineProperty(navigator, 'userAgentData', {})")
    await page.goto(f"{fake_gateway.origin}/sample/")
    assert await page.evaluate(sdk("state()")) == "needs-install"
    await context.close()
