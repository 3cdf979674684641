"""The console in a real Chromium, on a real gateway: what operators and marketers come to it for."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy import text

from gateway.sim import Rule, Vendor
from gateway.web.http.load_shedding import Room
from gateway.web.pages import static_files
from tests.support.api import Api, serving
from tests.support.gateway_parts import gateway

pytestmark = pytest.mark.browser

PATIENCE_MS = 20_000
MARKUP = "<img src=x onerror=document.title='owned'>"
LARGEST = 200_000


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with gateway(database_url) as parts, serving(parts) as api:
        yield api


@pytest.fixture
async def console(chromium: Browser, api: Api) -> AsyncIterator[Page]:
    """Signed in, on the overview. Fails when a page broke, or met the content policy."""
    faults: list[str] = []
    context = await chromium.new_context(base_url=api.origin, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page = await context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
    await page.goto(f"/console/#key={api.secret}")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    yield page
    assert await page.title() != "owned"
    assert not faults
    await context.close()


async def to(page: Page, address: str, heading: str) -> None:
    await page.evaluate("address => { location.hash = address }", f"#/{address}")
    await expect(page.get_by_role("heading", name=heading, exact=True).first).to_be_visible()


async def deliver(api: Api, count: int, **details: Any) -> None:
    await api.parts.register(api.parts.subscribe(Vendor.FCM, count), **details)
    sent = await api.parts.submit(name=f"Autumn offers {MARKUP}")
    async with api.parts.working():
        await api.parts.ended(sent.id)


async def test_the_overview_moves_as_deliveries_settle_and_no_plot_breaks_the_policy(console: Page, api: Api) -> None:
    assert "key=" not in console.url  # it is gone from the address
    settled = console.locator(".tile", has_text="Settled").locator("b")
    await expect(settled).to_have_text("0")
    await deliver(api, 12)
    await expect(settled).to_have_text("12")
    await expect(console.locator(".notifications")).to_contain_text(f"Autumn offers {MARKUP}")
    await expect(console.locator(".measure .mix").first).to_contain_text("12 accepted")
    await expect(console.locator(".plot .line, .plot .bars")).to_have_count(5)
    await console.get_by_label("Range").select_option("month")
    await expect(settled).to_have_text("12")


async def test_the_log_fills_by_itself_is_filtered_and_tells_each_attempt(console: Page, api: Api) -> None:
    few = Room("streams", 1)
    object.__setattr__(api.front, "streams", few)
    with few.share(api.parts.application_id):
        await to(console, "log", "Delivery log")
        await expect(console.locator("#live")).to_have_text("reconnecting")
    await expect(console.locator("#live")).to_have_text("live")
    api.parts.sim.behave(Rule(status=503, times=1, retry_after=1, share=0.4))
    await deliver(api, 12, user_id=MARKUP)
    rows = console.locator(".log tbody tr")
    await expect(rows).to_have_count(12)
    await console.get_by_label("Outcome").select_option("gone")
    await expect(rows).to_have_count(0)
    assert console.url.endswith("#/log?outcome=gone")
    await console.get_by_role("button", name="Clear").click()
    await expect(rows).to_have_count(12)
    await rows.last.get_by_role("button").focus()
    await console.keyboard.press("Enter")
    dialog = console.get_by_role("dialog")
    await expect(dialog).to_contain_text("the push service holds it for the browser")
    await expect(dialog).to_contain_text(MARKUP)


async def test_a_campaign_is_composed_counted_previewed_tested_sent_paused_and_resumed(console: Page, api: Api) -> None:
    await api.register(topics=["offers"], user_id="u-1")
    await to(console, "compose", "New campaign")
    await console.get_by_label("Name of the campaign").fill("Autumn")
    await console.get_by_label("Title", exact=True).fill("Hi {{ user.attributes.first_name | default: 'there' }}")
    await console.get_by_label("Text", exact=True).fill(MARKUP)
    await console.get_by_text("Try a second wording").click()
    await console.get_by_label("Title of B").fill("Only today")
    await console.get_by_label("Which").fill("offers")
    await expect(console.locator(".reach")).to_have_text("1 device")
    await expect(console.locator(".phone .message b")).to_have_text("Hi there")  # as the gateway renders it
    await expect(console.locator(".desktop .message p")).to_have_text(MARKUP)

    await console.get_by_role("button", name="Send a test").click()
    await console.get_by_label("Send it now to the user").fill("u-1")
    await console.get_by_role("button", name="Send the test").click()
    await expect(console.get_by_role("status").filter(has_text="on its way")).to_be_visible()

    await console.get_by_role("button", name="Send", exact=True).click()
    await expect(console.get_by_role("dialog")).to_contain_text("goes to 1 device")
    await console.get_by_role("button", name="Send it").click()
    await expect(console.get_by_role("heading", name="Funnel")).to_be_visible()
    for button, status in (("Pause", "paused"), ("Resume", "scheduled")):
        await console.get_by_role("button", name=button).click()
        [campaign] = (await told(console, api, button, "/v1/notifications?kind=campaign"))["items"]
        assert (campaign["status"], campaign["audience"]) == (status, {"topic": "offers"})
    assert [variant["content"] for variant in campaign["variants"]] == [{}, {"title": "Only today"}]
    async with api.parts.working():
        await expect(console.locator(".funnel div", has_text="Accepted").locator("b")).to_have_text("1")
    [test] = (await api.made("GET", "/v1/notifications?kind=direct"))["items"]
    assert test["audience"] == {"user_id": "u-1"}


async def told(page: Page, api: Api, button: str, path: str) -> Any:
    """What the API says once the button has done its work and is gone."""
    await expect(page.get_by_role("button", name=button)).to_have_count(0)
    return await api.made("GET", path)


async def test_an_alert_is_drawn_on_the_map_counted_and_told_to_whom_it_is_for(console: Page, api: Api) -> None:
    for lon in (16.4, 16.5, 2.3):
        await api.register(location={"lat": 48.2, "lon": lon})
    await to(console, "alerts", "Alerts")
    await console.get_by_label("Area: longitude").fill("16,48 17,48 17,48.6 16,48.6")
    await console.get_by_label("Area: longitude").blur()
    reach = console.locator(".reach")
    await expect(reach).to_have_text("2 devices inside, of 0 known users")
    await console.get_by_role("button", name="Clear").click()
    await expect(reach).to_have_text("Draw an area, or name zones.")
    chart = console.locator(".map svg")
    box = await chart.bounding_box()
    assert box is not None
    for x, y in ((0.2, 0.2), (0.7, 0.2), (0.7, 0.8)):
        await chart.click(position={"x": box["width"] * x, "y": box["height"] * y})
    await expect(chart.locator(".corner")).to_have_count(3)
    await console.mouse.move(box["x"] + 300, box["y"] + 200)
    await console.mouse.down()
    await chart.dispatch_event("pointercancel", {"pointerId": 1})
    seen = await chart.get_attribute("viewBox")
    await console.mouse.move(box["x"] + 200, box["y"] + 100, steps=3)
    await console.mouse.up()
    assert await chart.get_attribute("viewBox") == seen  # the map no longer follows a finger that was taken away
    await expect(chart.locator(".corner")).to_have_count(3)
    await chart.focus()
    await console.keyboard.press("Backspace")
    await console.keyboard.press("Enter")
    await expect(chart.locator(".corner")).to_have_count(3)
    await console.get_by_role("button", name="Take what is seen").click()
    await expect(reach).to_have_text("2 devices inside, of 0 known users")
    await console.get_by_label("Event").fill(f"Storm {MARKUP}")
    await console.get_by_role("button", name="Send the alert").click()
    await expect(console.get_by_role("dialog")).to_contain_text("is told to 2 devices now")
    await console.get_by_role("button", name="Send it").click()
    async with api.parts.working():
        await expect(console.locator(".notifications")).to_contain_text("2 accepted")
    await expect(chart.locator(".told")).to_have_count(1)
    assert (await api.made("GET", "/console/settings.json")) == {"map_tiles": None}


async def test_a_device_is_found_and_its_history_told_and_it_is_removed(console: Page, api: Api) -> None:
    await deliver(api, 2, user_id="u-1")
    other = await api.register(user_id=MARKUP, attributes={"plan": MARKUP}, location={"lat": 48.2, "lon": 16.4})
    await to(console, "devices", "Devices")
    await expect(console.locator("tbody tr")).to_have_count(3)
    await console.get_by_label("User").fill("u-1")
    await console.keyboard.press("Enter")
    await expect(console.locator("tbody tr")).to_have_count(2)
    await console.locator("tbody a").first.click()
    await expect(console.locator(".log tbody tr")).to_have_count(1)
    await expect(console.locator(".log")).to_contain_text("the push service accepted it")
    await to(console, f"devices/{other['id']}", f"A device of {MARKUP}")
    await expect(console.locator(".place")).to_have_count(1)
    await console.get_by_role("button", name="Remove").click()
    await console.get_by_role("button", name="Remove it").click()
    await expect(console.locator("tbody tr")).to_have_count(2)


async def test_what_is_kept_is_made_changed_and_removed_and_the_audit_log_tells(console: Page, api: Api) -> None:
    await to(console, "segments", "Segments")
    await console.get_by_role("button", name="New segment").click()
    await console.get_by_label("Name").fill(MARKUP)
    await console.get_by_role("button", name="Make it").click()
    await expect(console.get_by_role("alert")).to_have_text("This must be said.")
    await console.get_by_label("Which").fill("offers")
    await console.get_by_role("button", name="Make it").click()
    await expect(console.locator("tbody tr")).to_contain_text(MARKUP)
    await console.get_by_role("button", name="Change").click()
    await console.get_by_label("Name").fill("Offers")
    await console.get_by_role("button", name="Save").click()
    await expect(console.locator("tbody tr b")).to_have_text("Offers")
    await console.get_by_role("button", name="Remove").click()
    await console.get_by_role("button", name="Remove it").click()
    await expect(console.locator("tbody tr")).to_have_count(0)

    await to(console, "audit", "Audit log")
    for act in ("segments.create", "segments.change", "segments.remove"):
        await expect(console.locator("tbody")).to_contain_text(act)


async def edit(page: Page, api: Api, button: str, told: dict[str, str], save: str) -> Any:
    """Fills a form by its labels, as a marketer does, and answers what is kept by it."""
    await page.get_by_role("button", name=button).click()
    dialog = page.get_by_role("dialog")
    for label, said in told.items():
        # The options of a select are among the text of its label, and are not in its name.
        control = dialog.get_by_label(label, exact=True).or_(dialog.get_by_role("combobox", name=label, exact=True))
        if await control.evaluate("one => one.tagName") == "SELECT":
            await control.select_option(said)
        else:
            await control.fill(said)
    await page.get_by_role("button", name=save, exact=True).click()
    await expect(dialog).to_have_count(0)
    [kept] = (await api.made("GET", f"/v1/{page.url.split('#/')[1]}"))["items"]
    return kept


async def test_a_trigger_is_made_and_changed_by_form_and_what_is_wrong_is_told_where(console: Page, api: Api) -> None:
    await to(console, "triggers", "Triggers")
    await console.get_by_role("button", name="New trigger").click()
    await console.get_by_role("button", name="Make it").click()
    await expect(console.get_by_role("alert")).to_have_count(3)  # its name, its event, its title
    await console.get_by_label("Name").fill("Carts")
    await console.get_by_label("Title", exact=True).fill("Still there {{ ")
    await console.get_by_label("Event", exact=True).fill("cart.abandoned")
    await console.get_by_role("button", name="Only when").click()
    await console.get_by_label("Of the event").fill("cart.total")
    await console.get_by_label("Compared").select_option("is at least")
    await console.get_by_label("With", exact=True).fill("50")
    await console.get_by_role("button", name="Make it").click()
    await expect(console.locator(".asked", has=console.get_by_role("alert"))).to_contain_text("Title")
    await console.get_by_role("button", name="Close").click()

    trigger = await edit(
        console,
        api,
        "New trigger",
        {
            "Name": "Carts",
            "Event": "cart.abandoned",
            "Title": "Still there",
            "Sent after": "90",
            "At most so many times for a user": "2",
            "Within": "3",
            "Called off by these events of the same user": "order.paid, cart.emptied",
        },
        "Make it",
    )
    assert (trigger["delay"], trigger["cap"], trigger["dedupe"]) == (5400, {"most": 2, "window": 3 * 86_400}, None)
    assert trigger["cancel_on"] == ["order.paid", "cart.emptied"]
    assert (trigger["condition"], trigger["audience"]) == (None, {"user_id": {"from_event": "user_id"}})

    hidden = {
        "title": "Still there",
        "tag": "carts",
        "data": {"n": None},
        "locales": {"de": {"title": "Da", "tag": "k"}},
    }
    condition = {"any": [{"data": "cart.total", "gte": 50}, {"data": "kind", "in": ["a", "1"]}]}
    path = f"/v1/triggers/{trigger['id']}"
    travel = {"lane": "bulk", "urgency": None, "ttl": 600, "collapse_key": "cart"}
    await api.made("PATCH", path, {"content": hidden, "condition": condition, "delivery": travel})
    await console.reload()
    changed = await edit(
        console, api, "Change Carts", {"Text": "In your cart", "Its title": "Noch da", "Within": "4"}, "Save"
    )
    locales = {"de": {"title": "Noch da", "tag": "k"}}
    assert changed["content"] == hidden | {"body": "In your cart", "locales": locales}
    assert (changed["condition"], changed["cap"]) == (condition, {"most": 2, "window": 4 * 86_400})
    changed = await edit(console, api, "Change Carts", {"At most so many times for a user": ""}, "Save")
    assert (changed["cap"], changed["delay"], changed["content"]["tag"]) == (None, 5400, "carts")
    assert changed["delivery"] == travel
    changed = await edit(console, api, "Change Carts", {"Kept for": "", "Replaces what has the key": ""}, "Save")
    assert changed["delivery"] == {"lane": "bulk", "urgency": None, "ttl": None, "collapse_key": None}
    await console.get_by_role("button", name="Pause Carts").click()
    await expect(console.locator("tbody .badge")).to_have_text("paused")


async def test_a_reminder_and_a_template_are_made_and_changed_by_form_or_as_json(console: Page, api: Api) -> None:
    await to(console, "reminders", "Reminders")
    reminder = await edit(
        console,
        api,
        "New reminder",
        {
            "Name": "Digest",
            "Title": "This week",
            "How often": "Monday to Friday",
            "At": "07:30",
            "On the clocks of": "device",
            "Which": "digest",
        },
        "Make it",
    )
    assert (reminder["cron"], reminder["timezone"], reminder["audience"]) == (
        "30 7 * * 1-5",
        "device",
        {"topic": "digest"},
    )
    audience = {"all": [{"topic": "digest"}, {"attribute": "plan", "eq": "pro"}]}
    ends_at = "2036-12-31T23:00:59Z"
    path = f"/v1/reminders/{reminder['id']}"
    await api.made("PATCH", path, {"cron": "0 9 * * 1,4", "ends_at": ends_at, "audience": audience})
    await console.reload()
    changed = await edit(console, api, "Change Digest", {"How often": "every week", "At": "10:05"}, "Save")
    assert (changed["cron"], changed["audience"]) == ("5 10 * * 1,4", audience)
    assert changed["ends_at"] == (await api.made("GET", path))["ends_at"]
    assert changed["ends_at"].startswith(ends_at[:19])

    await to(console, "templates", "Templates")
    template = await edit(console, api, "New template", {"Name": "Welcome", "Title": "Hi"}, "Make it")
    assert (template["content"], template["strict"]) == ({"title": "Hi"}, False)
    await console.get_by_role("button", name="Change Welcome").click()
    await console.get_by_text("In other languages").click()
    await console.get_by_role("button", name="Another language").click()
    await console.get_by_label("Language", exact=True).fill("no language")
    await console.get_by_label("Its title").fill("Hallo")
    await console.get_by_role("button", name="Save").click()
    await expect(console.get_by_role("alert")).to_contain_text("must be a language tag")
    await console.get_by_label("Language", exact=True).fill("de")
    await console.get_by_role("button", name="As JSON").click()
    whole = json.loads(await console.get_by_label("All of it, as JSON").input_value())
    whole["content"]["locales"]["de"]["tag"] = "welcome"
    await console.get_by_label("All of it, as JSON").fill(json.dumps(whole))
    await console.get_by_role("button", name="As a form").click()
    await expect(console.get_by_label("Its title")).to_have_value("Hallo")
    await console.get_by_role("button", name="Save").click()
    await expect(console.get_by_role("dialog")).to_have_count(0)
    [template] = (await api.made("GET", "/v1/templates"))["items"]
    assert template["content"] == {"title": "Hi", "locales": {"de": {"title": "Hallo", "tag": "welcome"}}}


async def test_a_campaign_that_is_used_again_is_what_it_was_but_for_a_time_that_is_past(
    console: Page, api: Api
) -> None:
    at = (datetime.now(UTC) + timedelta(days=30)).replace(second=30, microsecond=0, tzinfo=None).isoformat()
    await api.made("POST", "/v1/categories", {"name": "offers", "title": "Offers", "cap": {"most": 2, "window": 60}})
    said = {
        "name": "Autumn sale",
        "content": {
            "title": "Sale",
            "tag": "sale",
            "url": "https://shop.example/",
            "locales": {"de": {"title": "Aus"}},
        },
        "audience": {"all": [{"topic": "offers"}, {"not": {"locale": "fr"}}]},
        "category": "offers",
        "schedule": {"at": at, "timezone": "device"},
        "throttle": {"per_second": 12.5, "spread": 3600},
        "quiet_hours": {"start": "21:00", "end": "08:00", "timezone": "Europe/Vienna"},
        "variants": [
            {"name": "plain", "weight": 1.0, "content": {}},
            {"name": "urging", "weight": 2.0, "content": {"title": "Only today", "icon": "https://shop.example/i.png"}},
        ],
        "winner": {"sample": 0.2, "after": 5400},
        "pause_when": {"failure_share": 0.3, "after": 1000},
        "delivery": {"ttl": 90_000, "urgency": "low", "lane": "normal", "collapse_key": "sale"},
    }
    was = await api.made("POST", "/v1/campaigns", said)
    again = await used_again(console, api, was["id"])
    kept = ("name", "content", "audience", "category", "schedule", "throttle", "quiet_hours", "winner", "pause_when")
    for name in (*kept, "variants", "cap"):
        assert again[name] == was[name], name
    assert again["delivery"] == was["delivery"]

    await api.made("POST", f"/v1/campaigns/{again['id']}/cancel")
    await api.made("POST", f"/v1/campaigns/{was['id']}/cancel")
    past = await api.made("POST", "/v1/campaigns", said | {"schedule": {"at": f"{at}Z"}})
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("UPDATE notifications SET start_at = start_at - interval '31 days'"))
        await conn.execute(text("UPDATE notifications SET created_at = created_at - interval '32 days'"))
    again = await used_again(console, api, past["id"], left_out="start at")
    assert again["schedule"] is None
    assert again["status"] == "scheduled"


async def used_again(page: Page, api: Api, id_: str, left_out: str = "") -> Any:
    await to(page, f"compose?from={id_}", "New campaign")
    if left_out:
        await expect(page.locator(".note")).to_contain_text(left_out)
    await page.get_by_role("button", name="Send", exact=True).click()
    await page.get_by_role("button", name="Send it").click()
    await expect(page.get_by_role("heading", name="Funnel")).to_be_visible()
    return await api.made("GET", f"/v1/campaigns/{page.url.split('/')[-1]}")


async def test_every_page_opens_on_a_phone_in_the_dark_and_none_is_wider(console: Page, api: Api) -> None:
    await deliver(api, 2, user_id="u-1")
    await console.set_viewport_size({"width": 390, "height": 800})
    await console.emulate_media(color_scheme="dark")
    await console.get_by_role("button", name="Menu").click()
    links = await console.locator("#nav a[href^='#/']").evaluate_all(
        "links => links.map((a) => [a.hash, a.textContent])"
    )
    assert len(links) >= 15
    for address, name in links:
        await to(console, address.removeprefix("#/"), "Campaigns and notifications" if name == "Campaigns" else name)
        assert await console.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


async def test_one_stays_signed_in_without_the_key_and_signs_out_and_a_wrong_key_is_told(
    console: Page, api: Api
) -> None:
    assert await console.evaluate("sessionStorage.length + document.cookie.length") == 0
    assert api.secret not in json.dumps(await console.evaluate("({...localStorage})"))
    await console.goto("/console/#/log")
    await console.reload()
    await expect(console.get_by_role("heading", name="Delivery log")).to_be_visible()
    await console.get_by_role("button", name="Sign out").click()
    await expect(console.get_by_label("Secret key")).to_be_focused()
    assert await console.evaluate("fetch('/v1/session').then((answer) => answer.status)") == 401
    await console.get_by_label("Secret key").fill("sk_wrong")
    await console.keyboard.press("Enter")
    await expect(console.get_by_role("alert")).to_contain_text("unknown")


async def test_a_session_that_is_over_is_told_wherever_one_is(console: Page, api: Api) -> None:
    for page in ("overview", "campaigns", "log"):
        await console.goto(f"{api.origin}/console/#/{page}")
        await console.context.clear_cookies()
        await console.get_by_text("Your session is over: sign in again.").wait_for(timeout=20_000)
        await console.locator("#key").fill(api.secret)
        await console.locator("#key").press("Enter")
        await console.locator("#page").wait_for()


def test_the_whole_console_is_light() -> None:
    assert sum(file.stat().st_size for file in (static_files.STATIC / "console").rglob("*.*")) < LARGEST
