"""The console in a real Firefox, on a real gateway."""

from collections.abc import AsyncIterator

import pytest
from firefox import Firefox, Tab

from gateway.sim import Rule, Vendor
from tests.support.api import Api, serving
from tests.support.gateway_parts import gateway

pytestmark = pytest.mark.browser

ROWS = "document.querySelectorAll('#deliveries tr').length"


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with gateway(database_url) as parts, serving(parts) as api:
        yield api


@pytest.fixture
async def console(firefox: Firefox, api: Api) -> AsyncIterator[Tab]:
    async with firefox.tab(f"{api.origin}/console/#key={api.secret}") as tab:
        await tab.until("document.getElementById('live').textContent === 'live'")
        yield tab


async def deliver(api: Api, count: int) -> None:
    await api.parts.register(api.parts.subscribe(Vendor.FCM, count))
    sent = await api.parts.submit(name="Autumn offers")
    async with api.parts.working():
        await api.parts.ended(sent.id)


async def test_deliveries_appear_by_themselves_with_what_was_sent_above(console: Tab, api: Api) -> None:
    assert "#" not in await console.js("location.href")  # the key is gone from the address
    await deliver(api, 12)
    await console.until(f"{ROWS} === 12")
    await console.until("document.querySelector('#notifications')?.textContent.includes('12 accepted')")
    await console.until("document.querySelector('#notifications')?.textContent.includes('Autumn offers')")


async def test_filters_narrow_the_table_and_are_kept_in_the_address(console: Tab, api: Api) -> None:
    api.parts.sim.behave(Rule(status=410, share=0.4))
    await deliver(api, 20)
    await console.until(f"{ROWS} === 20")
    gone = len((await api.made("GET", "/v1/deliveries?outcome=gone"))["items"])
    await console.js(
        "(() => { const filters = document.getElementById('filters'); filters.elements.outcome.value = 'gone';"
        " filters.dispatchEvent(new Event('change')); })()"
    )
    await console.until(f"{ROWS} === {gone}")
    assert await console.js("location.search") == "?outcome=gone"


async def test_a_delivery_is_told_attempt_by_attempt(console: Tab, api: Api) -> None:
    api.parts.sim.behave(Rule(status=503, times=1, retry_after=1))
    await deliver(api, 1)
    await console.until(f"{ROWS} === 1")
    await console.click("#deliveries button")
    await console.until("document.querySelectorAll('#detail-body li').length === 2")
    told = await console.js("document.getElementById('detail-body').textContent")
    assert "503" in told
    assert "the push service holds it for the browser" in told


async def test_a_notification_is_sent_with_its_reach_beside_it(console: Tab, api: Api) -> None:
    await api.register(topics=["weather"])
    await console.click("#compose")
    await console.js(
        "(() => { const { elements } = document.getElementById('draft'); elements.title.value = 'Storm';"
        " elements.which.value = 'weather'; elements.which.dispatchEvent(new Event('change')); })()"
    )
    await console.until("document.getElementById('reach').textContent.startsWith('Reaches 1 devices')")
    await console.click("#draft button.primary")
    await console.until("!document.getElementById('send').open")
    [sent] = (await api.made("GET", "/v1/notifications"))["items"]
    assert (sent["content"]["title"], sent["audience"]) == ("Storm", {"topic": "weather"})


async def test_a_campaign_is_paused_and_goes_on(console: Tab, api: Api) -> None:
    await api.register()
    new = {"name": "Autumn", "content": {"title": "Sale"}, "audience": {"everyone": True}}
    sent = await api.made("POST", "/v1/campaigns", new)
    await console.open(f"{api.origin}/console/?again")
    for expected in ("paused", "scheduled"):
        await console.until("document.querySelector('#notifications .orders button') !== null")
        await console.click("#notifications .orders button:first-child")
        await console.until(f"document.querySelector('#notifications').textContent.includes('{expected}')")
        assert (await api.made("GET", f"/v1/campaigns/{sent['id']}"))["status"] == expected


async def test_a_wrong_key_is_answered_in_words(firefox: Firefox, api: Api) -> None:
    async with firefox.tab(f"{api.origin}/console/#key=sk_wrong") as tab:
        await tab.until("document.querySelector('#sign-in .problem').textContent.includes('unknown')")
        assert await tab.js("document.getElementById('console').hidden") is True
        assert await tab.js("sessionStorage.length") == 0


async def test_one_stays_signed_in_without_the_key_until_signing_out(console: Tab, api: Api) -> None:
    assert await console.js("sessionStorage.length + localStorage.length") == 0
    assert await console.js("document.cookie") == ""
    await console.open(f"{api.origin}/console/?again")
    await console.until("document.getElementById('live').textContent === 'live'")
    await console.click("#sign-out")
    await console.until("!document.getElementById('sign-in').hidden")
    await console.open(f"{api.origin}/console/?once-more")
    await console.until("document.readyState === 'complete'")
    assert (await console.js("fetch('/v1/session').then((answer) => answer.status)")) == 401
    assert await console.js("document.getElementById('console').hidden") is True
