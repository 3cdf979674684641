"""The service worker in a real Firefox shows a notification for every push and sends receipts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from fake_gateway import KEY, FakeGateway, serve_app
from firefox import Firefox, Tab

pytestmark = pytest.mark.browser


def declarative(title: str, **members: Any) -> dict[str, Any]:
    """Return a Declarative Web Push message."""
    return {"web_push": 8030, "notification": {"title": title, "navigate": "https://example.org/", **members}}


async def open_notifications(tab: Tab) -> list[dict[str, Any]]:
    """Return the notifications of the sample page that are open, as the browser lists them."""
    notifications: list[dict[str, Any]] = await tab.js(
        "navigator.serviceWorker.getRegistration('/sample/').then(r => r.getNotifications()).then(list => list.map("
        "n => ({title: n.title, body: n.body, tag: n.tag, icon: n.icon, data: n.data, silent: n.silent})))"
    )
    return notifications


async def assert_no_receipt(gateway: FakeGateway) -> None:
    """Send a further message, and check that its receipt is the next: no other receipt was sent before."""
    await gateway.send(declarative("a later message", data={"gateway": gateway.receipt_of("later")}))
    assert await gateway.next_receipt() == {"token": "later", "event": "displayed"}


async def test_declarative_message_is_shown_with_all_options(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    """The notification has the message's options, and a receipt reports that it was displayed."""
    message = declarative(
        "Storm tonight",
        body="größer als gestern ✓",
        icon=f"{fake_gateway.origin}/sample/icon.svg",
        tag="storm",
        silent=True,
        app_badge=3,
        data={"place": "Vienna", "gateway": fake_gateway.receipt_of("r1")},
    )
    assert await fake_gateway.send(message) == 201
    notification = await firefox.wait_for_notification("Storm tonight")
    assert notification.body == "größer als gestern ✓"
    assert await fake_gateway.next_receipt() == {"token": "r1", "event": "displayed"}
    [notification] = await open_notifications(subscribed)
    assert (notification["tag"], notification["silent"]) == ("storm", True)
    assert notification["icon"] == f"{fake_gateway.origin}/sample/icon.svg"
    assert notification["data"]["place"] == "Vienna"


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        pytest.param({"title": "Plain JSON", "body": "b"}, ("Plain JSON", "b"), id="other JSON with a title"),
        pytest.param({"body": "only a body"}, ("127.0.0.1", "only a body"), id="JSON without a title"),
        pytest.param("plain text", ("127.0.0.1", "plain text"), id="plain text"),
        pytest.param('{"web_push": 8030, "notif', ("127.0.0.1", '{"web_push": 8030, "notif'), id="broken JSON"),
        pytest.param([1, 2], ("127.0.0.1", "1,2"), id="JSON that is not an object"),
        pytest.param(None, ("127.0.0.1", ""), id="no data"),
        pytest.param(declarative(title={"x": 1}, body=["y"]), ("127.0.0.1", ""), id="members of the wrong type"),  # type: ignore[arg-type]
        pytest.param(
            declarative(
                "Odd options", actions="no", icon=5, image="http://[", dir="sideways", timestamp="later", tag=["t"],
                renotify=True, vibrate="x", data="words", silent="yes", app_badge=-1, lang={}, badge=None,
            ),
            ("Odd options", ""),
            id="invalid options",
        ),
    ],
)  # fmt: skip
async def test_every_push_shows_a_notification(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab, message: Any, texts: tuple[str, str]
) -> None:
    """A push with an invalid message shows a notification as well, because browsers revoke the permission otherwise."""
    assert await fake_gateway.send(message) == 201
    notification = await firefox.wait_for_notification(texts[0])
    assert (notification.title, notification.body) == texts
    await firefox.dismiss(notification)


async def test_click_opens_url_and_is_reported_once(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    """The close event of a clicked notification is not reported as a dismissal."""
    address = f"{fake_gateway.origin}/sample/?offer=7"
    await fake_gateway.send(
        declarative("Half price", navigate=address, data={"gateway": fake_gateway.receipt_of("r2")})
    )
    notification = await firefox.wait_for_notification("Half price")
    assert await fake_gateway.next_receipt() == {"token": "r2", "event": "displayed"}
    await firefox.click_notification(notification)
    assert await fake_gateway.next_receipt() == {"token": "r2", "event": "clicked"}
    await firefox.wait_until_closed(notification)
    await firefox.wait_for_page(address)
    await assert_no_receipt(fake_gateway)
    await firefox.close_pages(address)


async def test_click_without_url_focuses_open_page(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    """The open page has the focus, and no page is opened."""
    await fake_gateway.send({"title": "No address", "data": {"gateway": fake_gateway.receipt_of("r3")}})
    notification = await firefox.wait_for_notification("No address")
    pages = await firefox.urls()
    await firefox.click_notification(notification)
    assert [(await fake_gateway.next_receipt())["event"] for _ in range(2)] == ["displayed", "clicked"]
    await subscribed.until("document.hasFocus()")
    assert await firefox.urls() == pages


async def test_dismissal_is_reported(firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """The close event of a notification sends a receipt."""
    await fake_gateway.send(declarative("To be dismissed", data={"gateway": fake_gateway.receipt_of("r5")}))
    notification = await firefox.wait_for_notification("To be dismissed")
    assert (await fake_gateway.next_receipt())["event"] == "displayed"
    await firefox.dismiss(notification)
    assert await fake_gateway.next_receipt() == {"token": "r5", "event": "dismissed"}


async def test_same_tag_replaces_notification_without_dismissal(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """The close event of the replaced notification sends no receipt."""
    for number in (1, 2):
        gateway = fake_gateway.receipt_of(f"r6-{number}")
        await fake_gateway.send(declarative(f"Score {number}", tag="score", data={"gateway": gateway}))
        await fake_gateway.next_receipt()
    assert [notification["title"] for notification in await open_notifications(subscribed)] == ["Score 2"]
    await assert_no_receipt(fake_gateway)


async def test_message_delivered_twice_shows_one_notification(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """The tag defaults to the notification's id, so the second message replaces the first without a dismissal."""
    for _ in range(2):
        await fake_gateway.send(declarative("Once", data={"gateway": fake_gateway.receipt_of("r7")}))
        assert await fake_gateway.next_receipt() == {"token": "r7", "event": "displayed"}
    assert len(await open_notifications(subscribed)) == 1
    await assert_no_receipt(fake_gateway)


@pytest.mark.parametrize("failure", ["an error", "unreachable"])
async def test_failed_receipt_does_not_prevent_notification(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab, failure: str
) -> None:
    """The browser displays the notification, and the worker tells the open page that it sent no receipt."""
    gateway = fake_gateway.receipt_of("r8")
    if failure == "an error":
        fake_gateway.overrides["/v1/receipts"] = web.Response(status=500)
    else:
        gateway["receipts"] = "http://127.0.0.1:1/v1/receipts"
    await fake_gateway.send(declarative("Shown without receipt", data={"gateway": gateway}))
    await firefox.dismiss(await firefox.wait_for_notification("Shown without receipt"))
    line = await subscribed.until("document.querySelector('#log li')?.textContent")
    assert "Shown without receipt" in line
    assert "no receipt" in line


async def test_message_with_wrong_auth_secret_is_not_shown(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    """The browser cannot decrypt the message and discards it."""
    subscription = fake_gateway.subscription
    keys = subscription["keys"] | {"auth": "AAAAAAAAAAAAAAAAAAAAAA"}
    forged = declarative("Forged", data={"gateway": fake_gateway.receipt_of("forged")})
    assert await fake_gateway.send(forged, subscription | {"keys": keys}) == 201
    await assert_no_receipt(fake_gateway)
    assert "Forged" not in [notification.title for notification in await firefox.notifications()]


async def test_open_pages_receive_messages_of_worker(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    """The worker's message to the page names the event and whether the receipt was accepted."""
    await fake_gateway.send(declarative("Reported", data={"gateway": fake_gateway.receipt_of("r9")}))
    line = await subscribed.until("document.querySelector('#log li')?.textContent")
    assert line.startswith("displayed")
    assert "receipt accepted" in line


@asynccontextmanager
async def app_with_own_worker(gateway: FakeGateway, script: str) -> AsyncIterator[str]:
    """Serve an application on another origin; its worker imports the gateway's worker and then runs `script`."""
    worker_script = f"importScripts({json.dumps(gateway.origin + '/sdk/service-worker.js')});\n{script}"

    async def worker(_: web.Request) -> web.Response:
        return web.Response(text=worker_script, content_type="text/javascript")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>app</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/service-worker.js", worker)
    app.router.add_get("/", page)
    async with serve_app(app) as origin:
        yield origin


async def subscribe_from(tab: Tab, gateway: FakeGateway) -> None:
    """Subscribe a page of another origin with the SDK."""
    options = json.dumps({"gateway": gateway.origin, "key": KEY})
    subscribe = f"sdk.init({options}).subscribe().then(device => device.id)"
    assert await tab.js(f"import('{gateway.origin}/sdk/webpush.js').then(sdk => {subscribe})") in gateway.devices


async def test_worker_runs_inside_worker_of_another_origin(firefox: Firefox, fake_gateway: FakeGateway) -> None:
    """The gateway's worker defines no global names, so the application's worker may define any."""
    async with (
        app_with_own_worker(fake_gateway, "const show = 'no clash of names';") as origin,
        firefox.tab(origin) as tab,
    ):
        await subscribe_from(tab, fake_gateway)
        await fake_gateway.send(declarative("Across origins", data={"gateway": fake_gateway.receipt_of("r10")}))
        await firefox.wait_for_notification("Across origins")
        assert await fake_gateway.next_receipt() == {"token": "r10", "event": "displayed"}


# Firefox's notification windows have no action buttons, so the application's worker dispatches the click event.
CLICK_ACTION_SCRIPT = """
self.addEventListener("message", async ({data: action, source}) => {
  self.clients.openWindow = async (url) => source.postMessage({opened: url});
  const [notification] = await self.registration.getNotifications();
  const click = new NotificationEvent("notificationclick", {notification, action});
  Object.defineProperty(click, "waitUntil", {value: () => {}});
  self.dispatchEvent(click);
});
"""


async def test_action_opens_its_url_and_is_reported(firefox: Firefox, fake_gateway: FakeGateway) -> None:
    """A click on an action opens the URL of the action, and its receipt names the action."""
    action = {"action": "map", "title": "Show the map", "navigate": "https://example.org/map"}
    async with app_with_own_worker(fake_gateway, CLICK_ACTION_SCRIPT) as origin, firefox.tab(origin) as tab:
        await subscribe_from(tab, fake_gateway)
        data = {"gateway": fake_gateway.receipt_of("r4")}
        await fake_gateway.send(declarative("Flood", actions=[action], data=data))
        assert (await fake_gateway.next_receipt())["event"] == "displayed"
        opened = await tab.js(
            "new Promise(async resolve => {"
            " navigator.serviceWorker.onmessage = ({data}) => data.opened && resolve(data.opened);"
            " (await navigator.serviceWorker.ready).active.postMessage('map'); })"
        )
        assert opened == "https://example.org/map"
        assert await fake_gateway.next_receipt() == {"token": "r4", "event": "clicked", "action": "map"}


async def test_dropped_subscription_is_renewed_with_its_details(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    """When the browser loses the subscription, the worker registers a new device and deletes the old device."""
    [(old_id, old_device)] = fake_gateway.devices.items()
    await firefox.drop_subscription(f"{fake_gateway.origin}/sample/")
    async with asyncio.timeout(15):
        while ("DELETE", f"/v1/devices/{old_id}", f"dt_{old_id}", None) not in fake_gateway.requests:
            await fake_gateway.request_received.wait()
    [new_device] = [device for id_, device in fake_gateway.devices.items() if id_ != old_id]
    assert new_device["subscription"]["endpoint"] != old_device["subscription"]["endpoint"]
    for member in ("topics", "client", "vapid_public_key"):
        assert new_device[member] == old_device[member]
    await fake_gateway.send(declarative("After the change", data={"gateway": fake_gateway.receipt_of("r11")}))
    assert await fake_gateway.next_receipt() == {"token": "r11", "event": "displayed"}
