"""A notification from the API to the screen: a real Firefox, a real gateway, and simulated push services."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from firefox import Firefox, Tab
from sdk_calls import sdk

from gateway.sim import Sim
from tests.support.command import TIMEOUT_S, command, free_ports, run_in_background

pytestmark = pytest.mark.browser

# An area that contains the location that the sample page sends.
AROUND_VIENNA = {"type": "Polygon", "coordinates": [[[16, 48], [17, 48], [17, 49], [16, 49], [16, 48]]]}


@dataclass(slots=True)
class Gateway:
    """A running gateway and the keys of its application."""

    origin: str
    secret: str
    publishable: str

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API with the secret key and return the JSON of the response."""
        headers = {"Authorization": f"Bearer {self.secret}"}
        async with (
            aiohttp.ClientSession(self.origin, headers=headers) as http,
            http.request(method, path, json=body) as response,
        ):
            assert response.status < 300, await response.text()
            return await response.json()

    async def wait_for_receipt(self, event: str) -> Any:
        """Poll until a delivery has this receipt, and return the delivery."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                # The notification may be on screen before the delivery is in the log.
                for item in (await self.call("GET", "/v1/deliveries"))["items"]:
                    delivery = await self.call("GET", f"/v1/deliveries/{item['id']}")
                    if delivery[f"{event}_at"]:
                        return delivery


@pytest.fixture
async def real_gateway(sim: Sim, database_url: str) -> AsyncIterator[Gateway]:
    """Run the gateway with one application."""
    port = free_ports(1)
    origin = f"http://127.0.0.1:{port}"
    settings = {
        "GATEWAY_DATABASE_URL": database_url,
        "GATEWAY_MASTER_KEY": "a master key for tests that is long enough",
        "GATEWAY_ADMIN_TOKEN": "an admin token for tests, of 32 characters",
        "GATEWAY_PUSH_HOSTS": ",".join(sim.origins.values()),
        "GATEWAY_PORT": str(port),
    }
    async with run_in_background("up", **settings) as up:
        await up.wait_for_output("worker.started")
        application = await command(
            *("apps", "create", "Skyline", "--subject", "mailto:ops@example.org", "--origin", origin, "--json"),
            **settings,
        )
        yield Gateway(origin, application.json["secret_key"], application.json["publishable_key"])


@pytest.fixture
async def subscribed_tab(firefox: Firefox, real_gateway: Gateway) -> AsyncIterator[Tab]:
    """Open the sample page of the real gateway and subscribe with a user and a location."""
    async with firefox.tab(f"{real_gateway.origin}/sample/#key={real_gateway.publishable}") as tab:
        await tab.until("!document.getElementById('subscribe').disabled")
        await tab.js("document.getElementById('user').value = 'u-42'")
        await tab.js("document.getElementById('place').value = '48.2082,16.3738'")
        await tab.click("#subscribe")
        await tab.until("document.getElementById('state').dataset.state === 'subscribed'")
        yield tab
        await firefox.dismiss_all()


async def test_alert_is_shown_and_logged_with_its_receipts(
    firefox: Firefox, real_gateway: Gateway, subscribed_tab: Tab
) -> None:
    """A browser inside the area shows the alert; display and click are in the delivery log."""
    [device] = (await real_gateway.call("GET", "/v1/devices"))["items"]
    assert (device["user_id"], device["client"]["browser"].split()[0]) == ("u-42", "Firefox")
    assert "weather" in device["topics"]
    sent = await real_gateway.call(
        "POST",
        "/v1/alerts",
        {
            "event": "Severe Thunderstorm Warning",
            "headline": "Thunderstorms over Vienna",
            "description": "Hail and gusts.",
            "instruction": "Go indoors.",
            "severity": "Severe",
            "urgency": "Immediate",
            "area": AROUND_VIENNA,
            "audience": {"topic": "weather"},
            "url": "/sample/",
        },
    )
    notification = await firefox.wait_for_notification("Thunderstorms over Vienna")
    assert "Go indoors." in notification.body
    displayed = await real_gateway.wait_for_receipt("displayed")
    assert (displayed["notification_id"], displayed["device_id"]) == (sent["id"], device["id"])
    assert (displayed["outcome"], displayed["status"], displayed["clicked_at"]) == ("accepted", 201, None)
    await firefox.click_notification(notification)
    clicked = await real_gateway.wait_for_receipt("clicked")
    assert clicked["clicked_at"] >= displayed["displayed_at"]
    await subscribed_tab.until("document.querySelector('#log li[data-event=clicked]') !== null")
    alert = await real_gateway.call("GET", f"/v1/alerts/{sent['id']}")
    assert (alert["status"], alert["progress"]["displayed"], alert["progress"]["clicked"]) == ("done", 1, 1)


async def test_opt_out_excludes_campaigns_of_its_category_only(
    firefox: Firefox, real_gateway: Gateway, subscribed_tab: Tab
) -> None:
    """A browser that has opted out of a category still receives campaigns without this category."""
    await real_gateway.call("POST", "/v1/categories", {"name": "offers", "title": "Special offers"})
    key = real_gateway.publishable
    preferences = await subscribed_tab.js(sdk("preferences.list()", key=key))
    assert [(item["category"], item["title"], item["enabled"]) for item in preferences] == [
        ("offers", "Special offers", True)
    ]
    await subscribed_tab.js(sdk("preferences.set('offers', false)", key=key))
    request = {"name": "n", "content": {"title": "Sale"}, "audience": {"everyone": True}, "category": "offers"}
    sent = await real_gateway.call("POST", "/v1/campaigns", request)
    other_request = request | {"category": None, "content": {"title": "For all"}}
    other = await real_gateway.call("POST", "/v1/campaigns", other_request)
    await firefox.wait_for_notification("For all")
    campaigns = [await real_gateway.call("GET", f"/v1/campaigns/{id_}") for id_ in (sent["id"], other["id"])]
    assert [campaign["progress"]["targets"] for campaign in campaigns] == [0, 1]


async def test_unsubscribing_removes_topic_and_then_device(
    firefox: Firefox, real_gateway: Gateway, subscribed_tab: Tab
) -> None:
    """Clearing the box of the topic `offers` removes the device from it; unsubscribing deletes the device."""
    await subscribed_tab.click("#topics input[value=offers]")
    await subscribed_tab.until("document.body.getAttribute('aria-busy') === null")
    preview = await real_gateway.call("POST", "/v1/audiences/preview", {"audience": {"topic": "offers"}})
    assert preview["devices"] == 0
    await subscribed_tab.click("#unsubscribe")
    await subscribed_tab.until("document.getElementById('state').dataset.state === 'ready'")
    assert (await real_gateway.call("GET", "/v1/devices"))["items"] == []


async def test_live_channel_delivers_notifications_to_open_page(
    firefox: Firefox, real_gateway: Gateway, subscribed_tab: Tab
) -> None:
    """The live channel delivers in addition to Web Push, or instead of it.

    After a reconnect it delivers what was sent in between, and the inbox has all notifications.
    """
    key = real_gateway.publishable
    await subscribed_tab.js("(window.titles = [], window.states = [], true)")
    live = (
        "live({{mode: '{}', onNotification: (item) => void titles.push(item.content.title), "
        "onState: (state) => void states.push(state)}})"
    )
    await subscribed_tab.js(f"{sdk(live.format('additional'), key=key)}.then((stop) => (window.stop = stop, true))")
    await subscribed_tab.until("states.includes('open')")
    request = {"content": {"title": "Additional", "url": "/sample/"}, "audience": {"user_id": "u-42"}}
    await real_gateway.call("POST", "/v1/notifications", request)
    await subscribed_tab.until("titles.includes('Additional')")
    await firefox.dismiss(await firefox.wait_for_notification("Additional"))

    await subscribed_tab.js("(stop(), states.length = 0, true)")
    await real_gateway.call("POST", "/v1/notifications", request | {"content": {"title": "Missed", "silent": True}})
    await firefox.dismiss(await firefox.wait_for_notification("Missed"))
    await subscribed_tab.js(f"{sdk(live.format('exclusive'), key=key)}.then((stop) => (window.stop = stop, true))")
    await subscribed_tab.until("titles.includes('Missed')")
    sent = await real_gateway.call("POST", "/v1/notifications", request | {"content": {"title": "Exclusive"}})
    await subscribed_tab.until("titles.includes('Exclusive')")
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            notification = await real_gateway.call("GET", f"/v1/notifications/{sent['id']}")
            if notification["status"] == "done":
                break
    [delivery] = (await real_gateway.call("GET", f"/v1/deliveries?notification_id={sent['id']}"))["items"]
    assert (delivery["outcome"], delivery["status"]) == ("accepted", None)
    assert await subscribed_tab.js("titles") == ["Additional", "Missed", "Exclusive"]
    inbox = await subscribed_tab.js(sdk("inbox.list()", key=key))
    assert [item["content"]["title"] for item in inbox["items"]] == ["Exclusive", "Missed", "Additional"]
    await subscribed_tab.js(sdk(f"inbox.markRead({inbox['position']})", key=key))
    assert (await subscribed_tab.js(sdk("inbox.list()", key=key)))["unread"] == 0
