"""The console's main tasks, in a real Chromium with a real gateway."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, expect
from sqlalchemy import text

from gateway.sim import Rule, Vendor
from gateway.web.http.load_shedding import StreamLimiter
from gateway.web.pages import static_files
from tests.support.api import Api

pytestmark = pytest.mark.browser

TIMEOUT_MS = 20_000
# Markup that changes the page's title if the console inserts it as HTML.
MARKUP = "<img src=x onerror=document.title='owned'>"
# The total size of the console's files.
MAX_BYTES = 200_000


@pytest.fixture
async def console(chromium: Browser, api: Api) -> AsyncIterator[Page]:
    """The overview after sign-in. The test fails on script errors and on content policy violations."""
    errors: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            errors.append(message.text)

    context = await chromium.new_context(base_url=api.origin, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    expect.set_options(timeout=TIMEOUT_MS)
    page = await context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", on_console)
    await page.goto(f"/console/#key={api.secret}")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    yield page
    assert await page.title() != "owned"
    assert not errors
    await context.close()


async def open_page(page: Page, address: str, heading: str) -> None:
    """Navigate to the page `#/address` and wait for its heading."""
    await page.evaluate("address => { location.hash = address }", f"#/{address}")
    await expect(page.get_by_role("heading", name=heading, exact=True).first).to_be_visible()


async def deliver(api: Api, count: int, **details: Any) -> None:
    """Register devices and deliver a notification to them."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, count), **details)
    sent = await api.parts.submit(name=f"Autumn offers {MARKUP}")
    async with api.parts.run_worker():
        await api.parts.wait_until_done(sent.id)


async def test_overview_updates_while_deliveries_are_processed(console: Page, api: Api) -> None:
    """Tiles, charts and lists change without a reload, and the key is removed from the URL."""
    assert "key=" not in console.url
    processed = console.locator(".tile", has_text="Processed").locator("b")
    await expect(processed).to_have_text("0")
    await deliver(api, 12)
    await expect(processed).to_have_text("12")
    await expect(console.locator(".notification-list")).to_contain_text(f"Autumn offers {MARKUP}")
    await expect(console.locator(".meter .counts").first).to_contain_text("12 accepted")
    await expect(console.locator(".chart .line, .chart .bars")).to_have_count(5)
    await console.get_by_label("Range").select_option("month")
    await expect(processed).to_have_text("12")


async def test_delivery_log_follows_and_filters_deliveries(console: Page, api: Api) -> None:
    """New deliveries appear, filters apply, and a dialog lists the attempts of a delivery."""
    limiter = StreamLimiter("streams", 1)
    api.state.limits.log_streams = limiter
    with limiter.share(api.parts.application_id):
        await open_page(console, "log", "Delivery log")
        await expect(console.locator("#live")).to_have_text("reconnecting")
    await expect(console.locator("#live")).to_have_text("live")
    api.parts.sim.behave(Rule(status=503, times=1, retry_after=1, share=0.4))
    await deliver(api, 12, user_id=MARKUP)
    rows = console.locator(".log tbody tr")
    await expect(rows).to_have_count(12)
    await console.get_by_label("Outcome").select_option("gone")
    await expect(rows).to_have_count(0)
    assert console.url.endswith("#/log?outcome=gone")
    await console.get_by_role("button", name="Clear filters").click()
    await expect(rows).to_have_count(12)
    await rows.last.get_by_role("button").focus()
    await console.keyboard.press("Enter")
    dialog = console.get_by_role("dialog")
    await expect(dialog).to_contain_text("the push service stores the message until the browser is online")
    await expect(dialog).to_contain_text(MARKUP)


async def test_campaign_is_composed_tested_sent_and_paused(console: Page, api: Api) -> None:
    """The composer counts the audience, previews the content, sends a test and starts the campaign."""
    await api.register(topics=["offers"], user_id="u-1")
    await open_page(console, "compose", "New campaign")
    await console.get_by_label("Campaign name").fill("Autumn")
    await console.get_by_label("Title", exact=True).fill("Hi {{ user.attributes.first_name | default: 'there' }}")
    await console.get_by_label("Text", exact=True).fill(MARKUP)
    await console.get_by_text("A/B test").click()
    await console.get_by_label("Variant B title").fill("Only today")
    await console.get_by_label("Value", exact=True).fill("offers")
    await expect(console.locator(".audience-size")).to_have_text("1 device")
    await expect(console.locator(".phone .message b")).to_have_text("Hi there")  # as the gateway renders it
    await expect(console.locator(".desktop .message p")).to_have_text(MARKUP)

    await console.get_by_role("button", name="Send test…").click()
    dialog = console.get_by_role("dialog")
    await dialog.get_by_label("User ID").fill("u-1")
    await dialog.get_by_role("button", name="Send test").click()
    await expect(console.get_by_role("status").filter(has_text="Test notification sent.")).to_be_visible()

    await console.get_by_role("button", name="Send campaign").click()
    await expect(dialog).to_contain_text("Send campaign to 1 device?")
    await dialog.get_by_role("button", name="Send", exact=True).click()
    await expect(console.get_by_role("heading", name="Funnel")).to_be_visible()
    for button, status in (("Pause", "paused"), ("Resume", "scheduled")):
        await console.get_by_role("button", name=button).click()
        await expect(console.get_by_role("button", name=button)).to_have_count(0)
        [campaign] = (await api.call_ok("GET", "/v1/notifications?kind=campaign"))["items"]
        assert (campaign["status"], campaign["audience"]) == (status, {"topic": "offers"})
    assert [variant["content"] for variant in campaign["variants"]] == [{}, {"title": "Only today"}]
    async with api.parts.run_worker():
        await expect(console.locator(".funnel div", has_text="Accepted").locator("b")).to_have_text("1")
    [test] = (await api.call_ok("GET", "/v1/notifications?kind=direct"))["items"]
    assert test["audience"] == {"user_id": "u-1"}


async def test_alert_is_drawn_on_map_and_sent_to_its_area(console: Page, api: Api) -> None:
    """The area's corners are typed, clicked and set by keyboard; the page counts the audience and sends the alert."""
    for lon in (16.4, 16.5, 2.3):
        await api.register(location={"lat": 48.2, "lon": lon})
    await open_page(console, "alerts", "Alerts")
    await console.get_by_label("Area corners").fill("16,48 17,48 17,48.6 16,48.6")
    await console.get_by_label("Area corners").blur()
    size = console.locator(".audience-size")
    await expect(size).to_have_text("2 devices, 0 known users")
    await console.get_by_role("button", name="Clear area").click()
    await expect(size).to_have_text("Draw an area on the map or enter alert zones.")
    map_ = console.locator(".map svg")
    box = await map_.bounding_box()
    assert box is not None
    for x, y in ((0.2, 0.2), (0.7, 0.2), (0.7, 0.8)):
        await map_.click(position={"x": box["width"] * x, "y": box["height"] * y})
    await expect(map_.locator(".corner")).to_have_count(3)
    await console.mouse.move(box["x"] + 300, box["y"] + 200)
    await console.mouse.down()
    await map_.dispatch_event("pointercancel", {"pointerId": 1})
    view = await map_.get_attribute("viewBox")
    await console.mouse.move(box["x"] + 200, box["y"] + 100, steps=3)
    await console.mouse.up()
    assert await map_.get_attribute("viewBox") == view  # a cancelled pointer no longer drags the map
    await expect(map_.locator(".corner")).to_have_count(3)
    await map_.focus()
    await console.keyboard.press("Backspace")
    await console.keyboard.press("Enter")
    await expect(map_.locator(".corner")).to_have_count(3)
    await console.get_by_role("button", name="Use visible area").click()
    await expect(size).to_have_text("2 devices, 0 known users")
    await console.get_by_label("Event").fill(f"Storm {MARKUP}")
    await console.get_by_role("button", name="Send alert").click()
    await expect(console.get_by_role("dialog")).to_contain_text("to 2 devices?")
    await console.get_by_role("button", name="Send", exact=True).click()
    async with api.parts.run_worker():
        await expect(console.locator(".notification-list")).to_contain_text("2 accepted")
    await expect(map_.locator(".sent-area")).to_have_count(1)
    assert (await api.call_ok("GET", "/console/settings.json")) == {"map_tiles": None}


async def test_device_page_shows_deliveries_and_deletes_device(console: Page, api: Api) -> None:
    """Devices are filtered by user; a device's page shows its deliveries and location, and can delete the device."""
    await deliver(api, 2, user_id="u-1")
    device = await api.register(user_id=MARKUP, attributes={"plan": MARKUP}, location={"lat": 48.2, "lon": 16.4})
    await open_page(console, "devices", "Devices")
    await expect(console.locator("tbody tr")).to_have_count(3)
    await console.get_by_label("User ID").fill("u-1")
    await console.keyboard.press("Enter")
    await expect(console.locator("tbody tr")).to_have_count(2)
    await console.locator("tbody a").first.click()
    await expect(console.locator(".log tbody tr")).to_have_count(1)
    await expect(console.locator(".log")).to_contain_text("the push service accepted it")
    await open_page(console, f"devices/{device['id']}", f"Device of {MARKUP}")
    await expect(console.locator(".map .device")).to_have_count(1)
    await console.get_by_role("button", name="Delete").click()
    await console.get_by_role("button", name="Delete device").click()
    await expect(console.locator("tbody tr")).to_have_count(2)


async def test_segment_is_created_edited_deleted_and_audited(console: Page, api: Api) -> None:
    """The audit log lists each change of a segment."""
    await open_page(console, "segments", "Segments")
    await console.get_by_role("button", name="New segment").click()
    await console.get_by_label("Name").fill(MARKUP)
    await console.get_by_role("button", name="Create").click()
    await expect(console.get_by_role("alert")).to_have_text("Required.")
    await console.get_by_label("Value", exact=True).fill("offers")
    await console.get_by_role("button", name="Create").click()
    await expect(console.locator("tbody tr")).to_contain_text(MARKUP)
    await console.get_by_role("button", name="Edit").click()
    await console.get_by_label("Name").fill("Offers")
    await console.get_by_role("button", name="Save").click()
    await expect(console.locator("tbody tr b")).to_have_text("Offers")
    await console.get_by_role("button", name="Delete").click()
    await expect(console.get_by_role("dialog")).to_contain_text("Delete segment “Offers”?")
    await console.get_by_role("button", name="Delete", exact=True).click()
    await expect(console.locator("tbody tr")).to_have_count(0)

    await open_page(console, "audit", "Audit log")
    for action in ("segments.create", "segments.change", "segments.remove"):
        await expect(console.locator("tbody")).to_contain_text(action)
    await console.get_by_label("Action").fill("segments.remove")
    await console.keyboard.press("Enter")
    await expect(console.locator("tbody tr")).to_have_count(1)


async def submit_form(page: Page, api: Api, button: str, values: dict[str, str], save: str) -> Any:
    """Open a form with a button, fill in its fields by label and save; return the only item of the page's resource."""
    await page.get_by_role("button", name=button).click()
    dialog = page.get_by_role("dialog")
    for label, value in values.items():
        # The label of a select contains the text of its options, but its accessible name does not.
        control = dialog.get_by_label(label, exact=True).or_(dialog.get_by_role("combobox", name=label, exact=True))
        if await control.evaluate("node => node.tagName") == "SELECT":
            await control.select_option(value)
        else:
            await control.fill(value)
    await page.get_by_role("button", name=save, exact=True).click()
    await expect(dialog).to_have_count(0)
    [item] = (await api.call_ok("GET", f"/v1/{page.url.split('#/')[1]}"))["items"]
    return item


async def test_trigger_form_creates_edits_and_shows_errors(console: Page, api: Api) -> None:
    """Errors are shown at their fields, and values without a form field remain unchanged."""
    await open_page(console, "triggers", "Triggers")
    await console.get_by_role("button", name="New trigger").click()
    await console.get_by_role("button", name="Create").click()
    await expect(console.get_by_role("alert")).to_have_count(3)  # name, event name and title
    await console.get_by_label("Name", exact=True).fill("Carts")
    await console.get_by_label("Title", exact=True).fill("Still there {{ ")
    await console.get_by_label("Event name", exact=True).fill("cart.abandoned")
    await console.get_by_role("button", name="Add condition").click()
    await console.get_by_label("Event property").fill("cart.total")
    await console.get_by_label("Operator").select_option("is at least")
    await console.get_by_label("Property value").fill("50")
    await console.get_by_role("button", name="Create").click()
    await expect(console.locator(".form-field", has=console.get_by_role("alert"))).to_contain_text("Title")
    await console.get_by_role("button", name="Close").click()

    trigger = await submit_form(
        console,
        api,
        "New trigger",
        {
            "Name": "Carts",
            "Event name": "cart.abandoned",
            "Title": "Still there",
            "Delay": "90",
            "Frequency cap, messages per user": "2",
            "Cap period": "3",
            "Cancel when the same user triggers": "order.paid, cart.emptied",
        },
        "Create",
    )
    assert (trigger["delay"], trigger["cap"], trigger["dedupe"]) == (5400, {"limit": 2, "window": 3 * 86_400}, None)
    assert trigger["cancel_on"] == ["order.paid", "cart.emptied"]
    assert (trigger["condition"], trigger["audience"]) == (None, {"user_id": {"from_event": "user_id"}})

    content_with_unedited_values = {
        "title": "Still there",
        "tag": "carts",
        "data": {"n": None},
        "locales": {"de": {"title": "Da", "tag": "k"}},
    }
    condition = {"any": [{"data": "cart.total", "gte": 50}, {"data": "kind", "in": ["a", "1"]}]}
    path = f"/v1/triggers/{trigger['id']}"
    delivery = {"lane": "bulk", "urgency": None, "ttl": 600, "collapse_key": "cart"}
    changes = {"content": content_with_unedited_values, "condition": condition, "delivery": delivery}
    await api.call_ok("PATCH", path, changes)
    await console.reload()
    changed = await submit_form(
        console, api, "Edit Carts", {"Text": "In your cart", "Translated title": "Noch da", "Cap period": "4"}, "Save"
    )
    locales = {"de": {"title": "Noch da", "tag": "k"}}
    assert changed["content"] == content_with_unedited_values | {"body": "In your cart", "locales": locales}
    assert (changed["condition"], changed["cap"]) == (condition, {"limit": 2, "window": 4 * 86_400})
    changed = await submit_form(console, api, "Edit Carts", {"Frequency cap, messages per user": ""}, "Save")
    assert (changed["cap"], changed["delay"], changed["content"]["tag"]) == (None, 5400, "carts")
    assert changed["delivery"] == delivery
    changed = await submit_form(console, api, "Edit Carts", {"Time to live": "", "Collapse key": ""}, "Save")
    assert changed["delivery"] == {"lane": "bulk", "urgency": None, "ttl": None, "collapse_key": None}
    await console.get_by_role("button", name="Pause Carts").click()
    await expect(console.locator("tbody .badge")).to_have_text("paused")


async def test_reminder_and_template_are_edited_by_form_and_json(console: Page, api: Api) -> None:
    """A reminder is scheduled by form; a template is edited as a form and as JSON."""
    await open_page(console, "reminders", "Reminders")
    reminder = await submit_form(
        console,
        api,
        "New reminder",
        {
            "Name": "Digest",
            "Title": "This week",
            "Repeat": "Monday to Friday",
            "Time": "07:30",
            "Time zone": "device",
            "Value": "digest",
        },
        "Create",
    )
    assert (reminder["cron"], reminder["timezone"], reminder["audience"]) == (
        "30 7 * * 1-5",
        "device",
        {"topic": "digest"},
    )
    audience = {"all": [{"topic": "digest"}, {"attribute": "plan", "eq": "pro"}]}
    ends_at = "2036-12-31T23:00:59Z"
    path = f"/v1/reminders/{reminder['id']}"
    await api.call_ok("PATCH", path, {"cron": "0 9 * * 1,4", "ends_at": ends_at, "audience": audience})
    await console.reload()
    changed = await submit_form(console, api, "Edit Digest", {"Repeat": "Every week", "Time": "10:05"}, "Save")
    assert (changed["cron"], changed["audience"]) == ("5 10 * * 1,4", audience)
    assert changed["ends_at"] == (await api.call_ok("GET", path))["ends_at"]
    assert changed["ends_at"].startswith(ends_at[:19])

    await open_page(console, "templates", "Templates")
    template = await submit_form(console, api, "New template", {"Name": "Welcome", "Title": "Hi"}, "Create")
    assert (template["content"], template["strict"]) == ({"title": "Hi"}, False)
    await console.get_by_role("button", name="Edit Welcome").click()
    await console.get_by_text("Translations").click()
    await console.get_by_role("button", name="Add language").click()
    await console.get_by_label("Language", exact=True).fill("no language")
    await console.get_by_label("Translated title").fill("Hallo")
    await console.get_by_role("button", name="Save").click()
    await expect(console.get_by_role("alert")).to_contain_text("must be a language tag")
    await console.get_by_label("Language", exact=True).fill("de")
    await console.get_by_role("button", name="Edit as JSON").click()
    values = json.loads(await console.get_by_label("All values as JSON").input_value())
    values["content"]["locales"]["de"]["tag"] = "welcome"
    await console.get_by_label("All values as JSON").fill(json.dumps(values))
    await console.get_by_role("button", name="Edit as form").click()
    await expect(console.get_by_label("Translated title")).to_have_value("Hallo")
    await console.get_by_role("button", name="Save").click()
    await expect(console.get_by_role("dialog")).to_have_count(0)
    [template] = (await api.call_ok("GET", "/v1/templates"))["items"]
    assert template["content"] == {"title": "Hi", "locales": {"de": {"title": "Hallo", "tag": "welcome"}}}


async def test_duplicate_copies_campaign_except_past_times(console: Page, api: Api) -> None:
    """Every option of the original is copied; a start time in the past is left out, and a notice names it."""
    start_at = (datetime.now(UTC) + timedelta(days=30)).replace(second=30, microsecond=0, tzinfo=None).isoformat()
    await api.call_ok(
        "POST", "/v1/categories", {"name": "offers", "title": "Offers", "cap": {"limit": 2, "window": 60}}
    )
    request = {
        "name": "Autumn sale",
        "content": {
            "title": "Sale",
            "tag": "sale",
            "url": "https://shop.example/",
            "locales": {"de": {"title": "Aus"}},
        },
        "audience": {"all": [{"topic": "offers"}, {"not": {"locale": "fr"}}]},
        "category": "offers",
        "schedule": {"at": start_at, "timezone": "device"},
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
    original = await api.call_ok("POST", "/v1/campaigns", request)
    copy = await duplicate(console, api, original["id"])
    names = ("name", "content", "audience", "category", "schedule", "throttle", "quiet_hours", "winner", "pause_when")
    for name in (*names, "variants", "cap"):
        assert copy[name] == original[name], name
    assert copy["delivery"] == original["delivery"]

    await api.call_ok("POST", f"/v1/campaigns/{copy['id']}/cancel")
    await api.call_ok("POST", f"/v1/campaigns/{original['id']}/cancel")
    past_campaign = await api.call_ok("POST", "/v1/campaigns", request | {"schedule": {"at": f"{start_at}Z"}})
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("UPDATE notifications SET start_at = start_at - interval '31 days'"))
        await conn.execute(text("UPDATE notifications SET created_at = created_at - interval '32 days'"))
    copy = await duplicate(console, api, past_campaign["id"], omitted="start at")
    assert copy["schedule"] is None
    assert copy["status"] == "scheduled"


async def duplicate(page: Page, api: Api, id_: str, omitted: str = "") -> Any:
    """Duplicate a campaign without changes, and return the copy; `omitted` is an option that the notice names."""
    await open_page(page, f"compose?from={id_}", "New campaign")
    if omitted:
        await expect(page.locator(".notice")).to_contain_text(omitted)
    await page.get_by_role("button", name="Send campaign").click()
    await page.get_by_role("dialog").get_by_role("button", name=re.compile("^(Send|Schedule)$")).click()
    await expect(page.get_by_role("heading", name="Funnel")).to_be_visible()
    return await api.call_ok("GET", f"/v1/campaigns/{page.url.split('/')[-1]}")


async def test_every_page_fits_a_phone_in_dark_mode(console: Page, api: Api) -> None:
    """No page is wider than the screen."""
    await deliver(api, 2, user_id="u-1")
    await console.set_viewport_size({"width": 390, "height": 800})
    await console.emulate_media(color_scheme="dark")
    await console.get_by_role("button", name="Menu").click()
    links = await console.locator("#nav a[href^='#/']").evaluate_all(
        "links => links.map((a) => [a.hash, a.textContent])"
    )
    assert len(links) >= 15
    for address, name in links:
        await open_page(
            console, address.removeprefix("#/"), "Campaigns and notifications" if name == "Campaigns" else name
        )
        assert await console.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


async def test_session_survives_reload_and_ends_at_sign_out(console: Page, api: Api) -> None:
    """The browser stores no key, and an unknown key is refused with a message."""
    assert await console.evaluate("sessionStorage.length + document.cookie.length") == 0
    assert api.secret not in json.dumps(await console.evaluate("({...localStorage})"))
    await console.goto("/console/#/log")
    await console.reload()
    await expect(console.get_by_role("heading", name="Delivery log")).to_be_visible()
    await console.get_by_role("button", name="Sign out").click()
    await expect(console.get_by_label("Secret key")).to_be_focused()
    assert await console.evaluate("fetch('/v1/session').then((response) => response.status)") == 401
    await console.get_by_label("Secret key").fill("sk_wrong")
    await console.keyboard.press("Enter")
    await expect(console.get_by_role("alert")).to_contain_text("unknown")


async def test_ended_session_asks_for_the_key_on_any_page(console: Page, api: Api) -> None:
    """A page that polls or streams notices that its session has ended."""
    for page in ("overview", "campaigns", "log"):
        await console.goto(f"{api.origin}/console/#/{page}")
        await console.context.clear_cookies()
        await console.get_by_text("Your session has ended. Sign in again.").wait_for(timeout=TIMEOUT_MS)
        await console.locator("#key").fill(api.secret)
        await console.locator("#key").press("Enter")
        await console.locator("#page").wait_for()


def test_console_files_stay_small() -> None:
    """The console has no framework; all its files together are smaller than MAX_BYTES."""
    assert sum(file.stat().st_size for file in (static_files.STATIC / "console").rglob("*.*")) < MAX_BYTES
