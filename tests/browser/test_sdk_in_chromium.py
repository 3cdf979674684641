"""The SDK in a real Chromium, with a fake push subscription; pushes are delivered over the DevTools protocol."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from fake_gateway import FakeGateway, VapidPair
from playwright.async_api import Browser, BrowserContext, CDPSession, Page
from sdk_calls import sdk

pytestmark = pytest.mark.browser

# Replaces Chromium's push manager; the subscription survives reloads, as a real one does.
FAKE_PUSH_MANAGER = """
  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const load = () => JSON.parse(sessionStorage.getItem("subscription") ?? "null");
  const create = (stored) => stored && {
    endpoint: stored.endpoint, expirationTime: stored.expires ?? null,
    options: { applicationServerKey: bytes(stored.key).buffer },
    toJSON: () => ({ endpoint: stored.endpoint, keys: { p256dh: "p", auth: "a" } }),
    unsubscribe: async () => { sessionStorage.removeItem("subscription"); return true; },
  };
  PushManager.prototype.getSubscription = async () => create(load());
  PushManager.prototype.subscribe = async ({ applicationServerKey }) => {
    const key = btoa(String.fromCharCode(...applicationServerKey)).replace(/\\+/g, "-").replace(/\\//g, "_");
    const stored = { endpoint: `https://push.example/${Math.random()}`, key };
    sessionStorage.setItem("subscription", JSON.stringify(stored));
    return create(stored);
  };
"""


@pytest.fixture
async def context(chromium: Browser, fake_gateway: FakeGateway) -> AsyncIterator[BrowserContext]:
    context = await chromium.new_context()
    await context.grant_permissions(["notifications"], origin=fake_gateway.origin)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext, fake_gateway: FakeGateway) -> Page:
    """Open the sample page with the fake push manager."""
    page = await context.new_page()
    await page.add_init_script(FAKE_PUSH_MANAGER)
    await page.goto(f"{fake_gateway.origin}/sample/icon.svg")
    await page.goto(f"{fake_gateway.origin}/sample/")
    return page


async def get_registration_id(session: CDPSession) -> str:
    """Return the id of the service worker registration in the DevTools protocol."""
    registration_id: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_update(event: dict[str, Any]) -> None:
        for registration in event["registrations"]:
            if not registration_id.done():
                registration_id.set_result(registration["registrationId"])

    session.on("ServiceWorker.workerRegistrationUpdated", on_update)
    await session.send("ServiceWorker.enable")
    return await asyncio.wait_for(registration_id, 20)


async def test_sync_repairs_lost_and_expiring_subscriptions(fake_gateway: FakeGateway, page: Page) -> None:
    """sync() replaces a subscription that is lost or about to expire; each new device has all details set before."""
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

    # With a valid registration, sync() sends no request. A lost subscription is replaced, with all details.
    count_before = len(fake_gateway.requests)
    assert await page.evaluate(sdk("sync()")) == "subscribed"
    assert len(fake_gateway.requests) == count_before
    await page.evaluate("sessionStorage.removeItem('subscription')")
    assert await page.evaluate(sdk("sync()", sync=False)) == "subscribed"
    second = list(fake_gateway.devices)[-1]
    assert second != first
    assert fake_gateway.devices[second]["attributes"] == {"plan": "pro"}
    assert fake_gateway.devices[second]["topics"] == ["news"]
    assert fake_gateway.requests[-1][:2] == ("DELETE", f"/v1/devices/{first}")

    # A subscription that is about to expire is replaced as well.
    expiring = "JSON.stringify({...JSON.parse(sessionStorage.getItem('subscription')), expires: Date.now() + 1000})"
    await page.evaluate(f"sessionStorage.setItem('subscription', {expiring})")
    await page.evaluate(sdk("sync()", sync=False))
    assert list(fake_gateway.devices)[-1] != second


async def test_sync_takes_over_subscription_of_another_sender(fake_gateway: FakeGateway, page: Page) -> None:
    """A subscription with another sender's VAPID key is replaced at once, and later changes of the key once a day."""
    await page.evaluate(sdk("subscribe({topics: ['news']})"))
    delete = "indexedDB.deleteDatabase('webpush-gateway')"
    await page.evaluate(f"new Promise((resolve) => {{ {delete}.onsuccess = resolve; }}).then(() => null)")
    fake_gateway.vapid = VapidPair()
    assert await page.evaluate(sdk("sync()", sync=False)) == "subscribed"
    assert list(fake_gateway.devices.values())[-1]["vapid_public_key"] == fake_gateway.vapid.public
    fake_gateway.vapid = VapidPair()
    await page.evaluate(sdk("sync()", sync=False))
    assert list(fake_gateway.devices.values())[-1]["vapid_public_key"] != fake_gateway.vapid.public
    await page.evaluate("Date.now = ((now) => () => now() + 2 * 86400000)(Date.now)")
    await page.evaluate(sdk("sync()", sync=False))
    assert list(fake_gateway.devices.values())[-1]["vapid_public_key"] == fake_gateway.vapid.public


async def test_change_registers_device_that_gateway_has_lost(fake_gateway: FakeGateway, page: Page) -> None:
    """When the gateway does not know the device, the SDK registers a new device with the change and all details."""
    first = await page.evaluate(sdk("subscribe({topics: ['news'], attributes: {plan: 'pro'}}).then(({id}) => id)"))
    del fake_gateway.devices[first]
    fake_gateway.overrides[f"/v1/devices/{first}/topics/offers"] = web.json_response({"code": "not_found"}, status=404)
    await page.evaluate(sdk("topics.add('offers')"))
    [device] = fake_gateway.devices.values()
    assert (device["topics"], device["attributes"]) == (["news", "offers"], {"plan": "pro"})


async def test_service_worker_of_application_is_not_replaced(fake_gateway: FakeGateway, page: Page) -> None:
    """subscribe() throws an error whose message names importScripts, and the application's worker remains."""
    await page.evaluate("navigator.serviceWorker.register('/sample/service-worker.js')")
    failing = "subscribe().catch(({code, message}) => [code, message.includes('importScripts')])"
    assert await page.evaluate(sdk(failing, serviceWorker="/sample/sample.js")) == ["worker_taken", True]
    scripts = "navigator.serviceWorker.getRegistrations().then((list) => list.map((r) => r.scope))"
    assert await page.evaluate(scripts) == [f"{fake_gateway.origin}/sample/"]


async def test_location_is_rounded_and_prompted_for_once(
    fake_gateway: FakeGateway, context: BrowserContext, page: Page
) -> None:
    """Without `precise`, the location is rounded to about a kilometre."""
    await page.evaluate(sdk("subscribe()"))
    await page.evaluate("localStorage.setItem('webpush-location-' + new URL('/sample/', location.href), '1')")
    assert await page.evaluate(sdk("location.share()")) is None
    await context.grant_permissions(["notifications", "geolocation"], origin=fake_gateway.origin)
    await context.set_geolocation({"latitude": 48.20849, "longitude": 16.37208, "accuracy": 12})
    assert await page.evaluate(sdk("location.share()")) == {"lat": 48.21, "lon": 16.37, "accuracy_m": 1500}
    assert fake_gateway.requests[-1][::3] == ("PUT", {"lat": 48.21, "lon": 16.37, "accuracy_m": 1500})


async def test_receipt_is_stored_until_gateway_is_reachable(
    fake_gateway: FakeGateway, context: BrowserContext, page: Page
) -> None:
    """The notification is shown although its receipt fails; background sync sends the receipt later."""
    await page.evaluate(sdk("subscribe()"))
    session = await context.new_cdp_session(page)
    registration = await get_registration_id(session)
    fake_gateway.overrides["/v1/receipts"] = web.json_response({"code": "unavailable"}, status=503)
    message_event = (
        "new Promise((resolve) => navigator.serviceWorker.addEventListener('message', ({data}) => resolve(data)))"
    )
    await page.evaluate(f"(navigator.serviceWorker.startMessages(), window.received = {message_event}, null)")
    data = {
        "web_push": 8030,
        "notification": {"title": "Storm", "body": "Stay inside", "data": {"gateway": fake_gateway.receipt_of("r1")}},
    }
    message = {"origin": fake_gateway.origin, "registrationId": registration, "data": json.dumps(data)}
    await session.send("ServiceWorker.deliverPushMessage", message)
    report = await page.evaluate("window.received")
    assert (report["event"], report["title"], report["reported"]) == ("displayed", "Storm", False)
    notifications = "navigator.serviceWorker.getRegistration('/sample/').then((r) => r.getNotifications())"
    assert await page.evaluate(f"{notifications}.then((list) => list.map((n) => n.title))") == ["Storm"]

    del fake_gateway.overrides["/v1/receipts"]
    sync = {
        "origin": fake_gateway.origin,
        "registrationId": registration,
        "tag": "webpush-receipts",
        "lastChance": False,
    }
    await session.send("ServiceWorker.dispatchSyncEvent", sync)
    receipt = await fake_gateway.next_receipt()
    assert (receipt["token"], receipt["event"]) == ("r1", "displayed")


async def test_declarative_notification_is_left_to_browser(
    fake_gateway: FakeGateway, context: BrowserContext, page: Page
) -> None:
    """A browser with Declarative Web Push shows the notification itself, so the worker sends only the receipt."""
    await page.evaluate(sdk("subscribe()"))
    [worker] = context.service_workers
    notification = {
        "title": "Storm",
        "navigate": "https://app.example/",
        "data": {"gateway": fake_gateway.receipt_of("r2")},
    }
    dispatch_push = """async (notification) => {
      const event = new ExtendableEvent("push");
      const handled = new Promise((resolve) => {
        Object.assign(event, { data: null, notification, waitUntil: resolve });
      });
      self.dispatchEvent(event);
      await handled;
      return (await self.registration.getNotifications()).length;
    }"""
    assert await worker.evaluate(dispatch_push, notification) == 0
    receipt = await fake_gateway.next_receipt()
    assert (receipt["token"], receipt["event"]) == ("r2", "displayed")


async def test_soft_prompt_subscribes_and_remembers_dismissal(fake_gateway: FakeGateway, page: Page) -> None:
    """A dismissed prompt is not shown again; `Allow` subscribes with the given topics."""
    show_prompt = "import('/sdk/prompt.js').then(({ask}) => ask(push, {registration: {topics: ['news']}}))"
    start = f"{sdk('state()')}; window.answer = import('/sdk/webpush.js').then(({{init}}) => {{ const push = init("
    options = "{gateway: location.origin, key: 'pk_test', serviceWorker: '/sample/service-worker.js'}"
    start = f"{start}{options}); return {show_prompt}; }}); null"
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


async def test_subscribe_without_push_service_raises(fake_gateway: FakeGateway, context: BrowserContext) -> None:
    """subscribe() throws an error with the code `subscribe_failed`."""
    page = await context.new_page()
    await page.goto(f"{fake_gateway.origin}/sample/")
    failing = "subscribe().catch(({name, code}) => [name, code])"
    assert await page.evaluate(sdk(failing)) == ["WebPushError", "subscribe_failed"]
    assert fake_gateway.devices == {}


async def test_state_on_iphone_browser_is_needs_install(chromium: Browser, fake_gateway: FakeGateway) -> None:
    """The state is `needs-install`, because on iOS only web apps on the home screen have Web Push."""
    agent = (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile Safari/604.1"
    )
    context = await chromium.new_context(user_agent=agent)
    page = await context.new_page()
    await page.add_init_script("delete window.PushManager; Object.defineProperty(navigator, 'userAgentData', {})")
    await page.goto(f"{fake_gateway.origin}/sample/")
    assert await page.evaluate(sdk("state()")) == "needs-install"
    await context.close()
