"""Our service worker in a real Firefox: it shows whatever comes, and says what became of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from fake_gateway import KEY, FakeGateway, serving
from firefox import Firefox, Tab

pytestmark = pytest.mark.browser


def declarative(title: str, **members: Any) -> dict[str, Any]:
    return {"web_push": 8030, "notification": {"title": title, "navigate": "https://example.org/", **members}}


async def shown(tab: Tab) -> list[dict[str, Any]]:
    """The notifications the browser itself says are up for the sample app."""
    shown: list[dict[str, Any]] = await tab.js(
        "navigator.serviceWorker.getRegistration('/sample/').then(r => r.getNotifications()).then(list => list.map("
        "n => ({title: n.title, body: n.body, tag: n.tag, icon: n.icon, data: n.data, silent: n.silent})))"
    )
    return shown


async def no_receipt(gateway: FakeGateway) -> None:
    """Everything that was sent has been handled once a later message's own receipt is in."""
    await gateway.send(declarative("a later one", data={"gateway": gateway.receipt_of("later")}))
    assert await gateway.next_receipt() == {"token": "later", "event": "displayed"}


async def test_a_declarative_message_is_on_screen_with_all_it_says_and_displayed_is_reported(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
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
    alert = await firefox.alert("Storm tonight")
    assert alert.body == "größer als gestern ✓"
    assert await fake_gateway.next_receipt() == {"token": "r1", "event": "displayed"}
    [notification] = await shown(subscribed)
    assert (notification["tag"], notification["silent"]) == ("storm", True)
    assert notification["icon"] == f"{fake_gateway.origin}/sample/icon.svg"
    assert notification["data"]["place"] == "Vienna"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        pytest.param({"title": "Plain JSON", "body": "b"}, ("Plain JSON", "b"), id="other JSON with a title"),
        pytest.param({"body": "only a body"}, ("127.0.0.1", "only a body"), id="JSON without a title"),
        pytest.param("just words", ("127.0.0.1", "just words"), id="plain text"),
        pytest.param('{"web_push": 8030, "notif', ("127.0.0.1", '{"web_push": 8030, "notif'), id="broken JSON"),
        pytest.param([1, 2], ("127.0.0.1", "1,2"), id="JSON that is no object"),
        pytest.param(None, ("127.0.0.1", ""), id="no data"),
        pytest.param(declarative(title={"x": 1}, body=["y"]), ("127.0.0.1", ""), id="members of the wrong type"),  # type: ignore[arg-type]
        pytest.param(
            declarative(
                "Odd options", actions="no", icon=5, image="http://[", dir="sideways", timestamp="later", tag=["t"],
                renotify=True, vibrate="x", data="words", silent="yes", app_badge=-1, lang={}, badge=None,
            ),
            ("Odd options", ""),
            id="options no browser takes",
        ),
    ],
)  # fmt: skip
async def test_every_push_shows_a_notification(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab, message: Any, words: tuple[str, str]
) -> None:
    assert await fake_gateway.send(message) == 201
    alert = await firefox.alert(words[0])
    assert (alert.title, alert.body) == words
    await firefox.dismiss_alert(alert)


async def test_a_click_opens_its_address_and_is_reported_once_and_not_as_a_dismissal(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    address = f"{fake_gateway.origin}/sample/?offer=7"
    await fake_gateway.send(
        declarative("Half price", navigate=address, data={"gateway": fake_gateway.receipt_of("r2")})
    )
    alert = await firefox.alert("Half price")
    assert await fake_gateway.next_receipt() == {"token": "r2", "event": "displayed"}
    await firefox.click_alert(alert)
    assert await fake_gateway.next_receipt() == {"token": "r2", "event": "clicked"}
    await firefox.alert_closed(alert)
    await firefox.page(address)
    await no_receipt(fake_gateway)
    await firefox.close_pages(address)


async def test_a_click_without_an_address_comes_back_to_the_open_page(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    await fake_gateway.send({"title": "No address", "data": {"gateway": fake_gateway.receipt_of("r3")}})
    alert = await firefox.alert("No address")
    pages = await firefox.urls()
    await firefox.click_alert(alert)
    assert [(await fake_gateway.next_receipt())["event"] for _ in range(2)] == ["displayed", "clicked"]
    await subscribed.until("document.hasFocus()")
    assert await firefox.urls() == pages


async def test_a_dismissal_is_reported(firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab) -> None:
    await fake_gateway.send(declarative("Away with it", data={"gateway": fake_gateway.receipt_of("r5")}))
    alert = await firefox.alert("Away with it")
    assert (await fake_gateway.next_receipt())["event"] == "displayed"
    await firefox.dismiss_alert(alert)
    assert await fake_gateway.next_receipt() == {"token": "r5", "event": "dismissed"}


async def test_the_same_tag_replaces_what_is_shown_and_that_is_no_dismissal(
    fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    for number in (1, 2):
        gateway = fake_gateway.receipt_of(f"r6-{number}")
        await fake_gateway.send(declarative(f"Score {number}", tag="score", data={"gateway": gateway}))
        await fake_gateway.next_receipt()
    assert [notification["title"] for notification in await shown(subscribed)] == ["Score 2"]
    await no_receipt(fake_gateway)


async def test_a_message_delivered_twice_is_one_notification(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    for _ in range(2):
        await fake_gateway.send(declarative("Once", data={"gateway": fake_gateway.receipt_of("r7")}))
        assert await fake_gateway.next_receipt() == {"token": "r7", "event": "displayed"}
    assert len(await shown(subscribed)) == 1
    await no_receipt(fake_gateway)


@pytest.mark.parametrize("refusal", ["an error", "nobody there"])
async def test_a_receipt_that_fails_does_not_keep_the_notification_from_showing(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab, refusal: str
) -> None:
    gateway = fake_gateway.receipt_of("r8")
    if refusal == "an error":
        fake_gateway.refuse["/v1/receipts"] = web.Response(status=500)
    else:
        gateway["receipts"] = "http://127.0.0.1:1/v1/receipts"
    await fake_gateway.send(declarative("Shown all the same", data={"gateway": gateway}))
    await firefox.dismiss_alert(await firefox.alert("Shown all the same"))
    line = await subscribed.until("document.querySelector('#log li')?.textContent")
    assert "Shown all the same" in line
    assert "no receipt" in line


async def test_a_message_under_another_auth_secret_is_not_shown(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    subscription = fake_gateway.subscription
    keys = subscription["keys"] | {"auth": "AAAAAAAAAAAAAAAAAAAAAA"}
    forged = declarative("Forged", data={"gateway": fake_gateway.receipt_of("forged")})
    assert await fake_gateway.send(forged, subscription | {"keys": keys}) == 201
    await no_receipt(fake_gateway)
    assert "Forged" not in [alert.title for alert in await firefox.alerts()]


async def test_open_pages_hear_what_the_worker_did(fake_gateway: FakeGateway, subscribed: Tab) -> None:
    await fake_gateway.send(declarative("Heard", data={"gateway": fake_gateway.receipt_of("r9")}))
    line = await subscribed.until("document.querySelector('#log li')?.textContent")
    assert line.startswith("displayed")
    assert "receipt accepted" in line


@asynccontextmanager
async def app_with_its_own_worker(gateway: FakeGateway, more: str) -> AsyncIterator[str]:
    """An app on another origin than the gateway's, whose worker takes ours in and does `more` besides."""
    script = f"importScripts({json.dumps(gateway.origin + '/sdk/service-worker.js')});\n{more}"

    async def worker(_: web.Request) -> web.Response:
        return web.Response(text=script, content_type="text/javascript")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>app</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/service-worker.js", worker)
    app.router.add_get("/", page)
    async with serving(app) as origin:
        yield origin


async def subscribe_from(tab: Tab, gateway: FakeGateway) -> None:
    options = json.dumps({"gateway": gateway.origin, "key": KEY})
    subscribing = f"sdk.init({options}).subscribe().then(answer => answer.id)"
    assert await tab.js(f"import('{gateway.origin}/sdk/webpush.js').then(sdk => {subscribing})") in gateway.devices


async def test_it_works_inside_an_apps_own_worker_on_another_origin_than_the_gateways(
    firefox: Firefox, fake_gateway: FakeGateway
) -> None:
    async with (
        app_with_its_own_worker(fake_gateway, "const show = 'no clash of names';") as origin,
        firefox.tab(origin) as tab,
    ):
        await subscribe_from(tab, fake_gateway)
        await fake_gateway.send(declarative("Across origins", data={"gateway": fake_gateway.receipt_of("r10")}))
        await firefox.alert("Across origins")
        assert await fake_gateway.next_receipt() == {"token": "r10", "event": "displayed"}


# Firefox's own notification windows have no action buttons, so the app's worker says the click itself.
CLICK_THE_ACTION = """
self.addEventListener("message", async ({data: action, source}) => {
  self.clients.openWindow = async (url) => source.postMessage({opened: url});
  const [notification] = await self.registration.getNotifications();
  const click = new NotificationEvent("notificationclick", {notification, action});
  Object.defineProperty(click, "waitUntil", {value: () => {}});
  self.dispatchEvent(click);
});
"""


async def test_an_action_opens_its_own_address_and_its_name_is_reported(
    firefox: Firefox, fake_gateway: FakeGateway
) -> None:
    action = {"action": "map", "title": "Show the map", "navigate": "https://example.org/map"}
    async with app_with_its_own_worker(fake_gateway, CLICK_THE_ACTION) as origin, firefox.tab(origin) as tab:
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


async def test_a_subscription_the_browser_dropped_is_made_anew_with_all_that_was_registered(
    firefox: Firefox, fake_gateway: FakeGateway, subscribed: Tab
) -> None:
    [(old, before)] = fake_gateway.devices.items()
    await firefox.drop_subscription(f"{fake_gateway.origin}/sample/")
    async with asyncio.timeout(15):
        while ("DELETE", f"/v1/devices/{old}", f"dt_{old}", None) not in fake_gateway.requests:
            await fake_gateway.asked.wait()
    [after] = [device for name, device in fake_gateway.devices.items() if name != old]
    assert after["subscription"]["endpoint"] != before["subscription"]["endpoint"]
    for member in ("topics", "client", "vapid_public_key"):
        assert after[member] == before[member]
    await fake_gateway.send(declarative("After the change", data={"gateway": fake_gateway.receipt_of("r11")}))
    assert await fake_gateway.next_receipt() == {"token": "r11", "event": "displayed"}
