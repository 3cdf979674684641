"""The main job with nothing left out: a real Firefox subscribes on the sample page of a real gateway, an alert posted
to the API is on its screen, and the delivery's log tells what became of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from firefox import Firefox, Tab

from gateway.sim import Sim
from tests.support.command import PATIENCE_S, command, free_ports, running

pytestmark = pytest.mark.browser

# Where the page says it is, by its own choice of places.
AROUND_VIENNA = {"type": "Polygon", "coordinates": [[[16, 48], [17, 48], [17, 49], [16, 49], [16, 48]]]}


@dataclass(slots=True)
class Gateway:
    origin: str
    secret: str
    publishable: str

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.secret}"}
        async with (
            aiohttp.ClientSession(self.origin, headers=headers) as http,
            http.request(method, path, json=body) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def until_told(self, event: str) -> Any:
        """The one delivery in full, once it has this receipt. The log has no event for receipts: it is asked again."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                # A browser may show what the log does not have yet.
                for listed in (await self.call("GET", "/v1/deliveries"))["items"]:
                    delivery = await self.call("GET", f"/v1/deliveries/{listed['id']}")
                    if delivery[f"{event}_at"]:
                        return delivery


@pytest.fixture
async def real_gateway(sim: Sim, database_url: str) -> AsyncIterator[Gateway]:
    port = free_ports(1)
    origin = f"http://127.0.0.1:{port}"
    settings = {
        "GATEWAY_DATABASE_URL": database_url,
        "GATEWAY_MASTER_KEY": "a master key for tests that is long enough",
        "GATEWAY_ADMIN_TOKEN": "an admin token for tests, of 32 characters",
        "GATEWAY_PUSH_HOSTS": ",".join(sim.origins.values()),
        "GATEWAY_PORT": str(port),
    }
    async with running("up", **settings) as up:
        await up.until_said("worker.started")
        made = await command(
            *("apps", "create", "Skyline", "--subject", "mailto:ops@example.org", "--origin", origin, "--json"),
            **settings,
        )
        yield Gateway(origin, made.json["secret_key"], made.json["publishable_key"])


@pytest.fixture
async def registered(firefox: Firefox, real_gateway: Gateway) -> AsyncIterator[Tab]:
    """The sample page, subscribed by a click, with a topic and a place."""
    async with firefox.tab(f"{real_gateway.origin}/sample/#key={real_gateway.publishable}") as tab:
        await tab.until("!document.getElementById('subscribe').disabled")
        await tab.js("document.getElementById('user').value = 'u-42'")
        await tab.js("document.getElementById('place').value = '48.2082,16.3738'")
        await tab.click("#subscribe")
        await tab.until("document.getElementById('state').dataset.state === 'subscribed'")
        yield tab
        await firefox.dismiss_all_alerts()


async def test_an_alert_is_shown_by_a_browser_in_its_area_and_the_log_tells_all_of_it(
    firefox: Firefox, real_gateway: Gateway, registered: Tab
) -> None:
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
    alert = await firefox.alert("Thunderstorms over Vienna")
    assert "Go indoors." in alert.body
    displayed = await real_gateway.until_told("displayed")
    assert (displayed["notification_id"], displayed["device_id"]) == (sent["id"], device["id"])
    assert (displayed["outcome"], displayed["status"], displayed["clicked_at"]) == ("accepted", 201, None)
    await firefox.click_alert(alert)
    clicked = await real_gateway.until_told("clicked")
    assert clicked["clicked_at"] >= displayed["displayed_at"]
    await registered.until("document.querySelector('#log li[data-event=clicked]') !== null")
    shown = await real_gateway.call("GET", f"/v1/alerts/{sent['id']}")
    assert (shown["status"], shown["progress"]["displayed"], shown["progress"]["clicked"]) == ("done", 1, 1)


async def test_a_browser_that_opts_out_of_a_category_is_not_sent_it(
    firefox: Firefox, real_gateway: Gateway, registered: Tab
) -> None:
    await real_gateway.call("POST", "/v1/categories", {"name": "offers", "title": "Special offers"})
    options = f"gateway: location.origin, key: '{real_gateway.publishable}', serviceWorker: '/sample/service-worker.js'"
    sdk = f"import('/sdk/webpush.js').then(({{init}}) => init({{{options}}}).preferences"
    wanted = await registered.js(f"{sdk}.list())")
    assert [(one["category"], one["title"], one["enabled"]) for one in wanted] == [("offers", "Special offers", True)]
    await registered.js(f"{sdk}.set('offers', false))")
    new = {"name": "n", "content": {"title": "Sale"}, "audience": {"everyone": True}, "category": "offers"}
    sent = await real_gateway.call("POST", "/v1/campaigns", new)
    other = await real_gateway.call("POST", "/v1/campaigns", new | {"category": None, "content": {"title": "For all"}})
    await firefox.alert("For all")
    shown = [await real_gateway.call("GET", f"/v1/campaigns/{one['id']}") for one in (sent, other)]
    assert [one["progress"]["targets"] for one in shown] == [0, 1]


async def test_what_a_browser_unsubscribes_from_does_not_reach_it(
    firefox: Firefox, real_gateway: Gateway, registered: Tab
) -> None:
    await registered.click("#topics input[value=offers]")
    await registered.until("document.body.getAttribute('aria-busy') === null")
    preview = await real_gateway.call("POST", "/v1/audiences/preview", {"audience": {"topic": "offers"}})
    assert preview["devices"] == 0
    await registered.click("#unsubscribe")
    await registered.until("document.getElementById('state').dataset.state === 'ready'")
    assert (await real_gateway.call("GET", "/v1/devices"))["items"] == []


async def test_an_open_page_takes_its_notifications_over_the_live_channel(
    firefox: Firefox, real_gateway: Gateway, registered: Tab
) -> None:
    """Beside Web Push, then instead of it; a connection that breaks misses nothing; the inbox has it all."""
    options = f"gateway: location.origin, key: '{real_gateway.publishable}', serviceWorker: '/sample/service-worker.js'"
    sdk = f"import('/sdk/webpush.js').then(({{init}}) => init({{{options}}})"
    await registered.js("(window.heard = [], window.states = [], true)")
    live = (
        "live({{mode: '{}', onNotification: (mail) => void heard.push(mail.content.title), "
        "onState: (state) => void states.push(state)}})"
    )
    await registered.js(f"{sdk}.{live.format('beside')}).then((stop) => (window.stop = stop, true))")
    await registered.until("states.includes('open')")
    new = {"content": {"title": "Beside", "url": "/sample/"}, "audience": {"user_id": "u-42"}}
    await real_gateway.call("POST", "/v1/notifications", new)
    await registered.until("heard.includes('Beside')")
    await firefox.dismiss_alert(await firefox.alert("Beside"))

    await registered.js("(stop(), states.length = 0, true)")
    await real_gateway.call("POST", "/v1/notifications", new | {"content": {"title": "Missed", "silent": True}})
    await firefox.dismiss_alert(await firefox.alert("Missed"))
    await registered.js(f"{sdk}.{live.format('instead')}).then((stop) => (window.stop = stop, true))")
    await registered.until("heard.includes('Missed')")
    sent = await real_gateway.call("POST", "/v1/notifications", new | {"content": {"title": "Instead"}})
    await registered.until("heard.includes('Instead')")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            shown = await real_gateway.call("GET", f"/v1/notifications/{sent['id']}")
            if shown["status"] == "done":
                break
    [delivery] = (await real_gateway.call("GET", f"/v1/deliveries?notification_id={sent['id']}"))["items"]
    assert (delivery["outcome"], delivery["status"]) == ("accepted", None)
    assert await registered.js("heard") == ["Beside", "Missed", "Instead"]
    inbox = await registered.js(f"{sdk}.inbox.list())")
    assert [item["content"]["title"] for item in inbox["items"]] == ["Instead", "Missed", "Beside"]
    await registered.js(f"{sdk}.inbox.markRead({inbox['position']}))")
    assert (await registered.js(f"{sdk}.inbox.list())"))["unread"] == 0
