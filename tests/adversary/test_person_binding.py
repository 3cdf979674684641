"""Messages for a user: the next person who uses the browser does not see them.

Anna shares a browser. After a message for her is planned, she leaves the browser in one of three ways (`leave`).
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.domain import ids
from gateway.domain.notification import Lane
from gateway.records.postgres import notifier
from gateway.service.pipeline import planning
from gateway.sim import Rule, Subscriber, Vendor
from gateway.worker import maintenance
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from tests.support.api import ADMIN, Api
from tests.support.bystander import Bystander
from tests.support.gateway_parts import APP_ORIGIN

RESULTS = {"title": "Your test results", "body": "negative"}
TO_ANNA: dict[str, Any] = {"audience": {"user_id": "anna"}, "content": RESULTS}
# The causes of skipped and of accepted deliveries in the log.
CAUSE = "the device no longer has the user for whom this was planned"
BY_PUSH_SERVICE = "the push service accepted it"
MINUTE = timedelta(minutes=1)


@dataclass
class Browser:
    """A browser that several people use, and the id and token of its device."""

    api: Api
    subscriber: Subscriber
    id: str
    token: str

    @classmethod
    async def open(cls, api: Api, vendor: Vendor = Vendor.FCM, **details: Any) -> "Browser":
        """Register a new browser, signed in as `user_id`."""
        [subscriber] = api.parts.subscribe(vendor, 1)
        registered = await cls._register(api, subscriber, **details)
        return cls(api, subscriber, registered["id"], registered["device_token"])

    @staticmethod
    async def _register(api: Api, subscriber: Subscriber, **details: Any) -> Any:
        body = {"subscription": subscriber.to_json(), **details}
        return await api.call_ok("POST", "/v1/devices", body, key=api.publishable, origin=APP_ORIGIN)

    async def register_as(self, user_id: str, **details: Any) -> None:
        """Register the browser again, as a page does after another user has signed in."""
        await self._register(self.api, self.subscriber, user_id=user_id, **details)

    async def change(self, **fields: Any) -> Any:
        """Change the device with its token, as a page does."""
        return await self.api.call_ok("PATCH", f"/v1/devices/{self.id}", fields, key=self.token)

    async def inbox(self) -> tuple[list[str], int]:
        """Return the titles in the inbox, and the number of unread items."""
        page = await self.api.call_ok("GET", f"/v1/devices/{self.id}/inbox", key=self.token)
        return [item["content"]["title"] for item in page["items"]], page["unread"]


async def sign_out(browser: Browser) -> None:
    """Remove the user from the device."""
    await browser.change(user_id=None)


async def register_other_user(browser: Browser) -> None:
    """Register the browser again for ben."""
    await browser.register_as("ben")


async def identify_other_user(browser: Browser) -> None:
    """Change the user of the device to ben."""
    await browser.change(user_id="ben")


Leave = Callable[[Browser], Awaitable[None]]
leaving = pytest.mark.parametrize("leave", [sign_out, register_other_user, identify_other_user])


async def plan(api: Api) -> None:
    """Execute the due plan jobs without sending, as a worker that stops after planning."""
    for job in await api.parts.queue().claim(lanes=[*Lane], limit=10, lease=MINUTE, wait=MINUTE):
        await planning.plan(api.parts.context, job)


async def make_due(api: Api) -> None:
    """Make all waiting jobs due now, as if their due time had come."""
    async with api.parts.engine.begin() as conn:
        await conn.exec_driver_sql("UPDATE jobs SET run_at = now()")
        await notifier.notify(conn, notifier.JOBS)


async def settle(api: Api, notification: Any) -> list[tuple[str | None, str, str]]:
    """Run a worker until the notification has ended; return (user, outcome, cause) of each delivery."""
    id_ = ids.parse(ids.NOTIFICATION, notification["id"])
    assert id_ is not None
    async with api.parts.run_worker():
        await api.parts.wait_until_done(id_)
    deliveries = (await api.call_ok("GET", f"/v1/deliveries?notification_id={notification['id']}"))["items"]
    return [(delivery["user_id"], delivery["outcome"], delivery["cause"]) for delivery in deliveries]


SKIPPED = [("anna", "skipped", CAUSE)]


@leaving
async def test_planned_message_is_not_sent_to_next_person(api: Api, leave: Leave) -> None:
    """A message that was planned for anna is skipped after she left the browser; the log has the cause."""
    browser = await Browser.open(api, user_id="anna")
    sent = await api.call_ok("POST", "/v1/notifications", TO_ANNA)
    await plan(api)
    await leave(browser)
    assert await settle(api, sent) == SKIPPED
    assert (browser.subscriber.messages, await browser.inbox()) == ([], ([], 0))


@leaving
async def test_retry_is_not_sent_to_next_person(api: Api, leave: Leave) -> None:
    """The user of the device is checked again before a retry."""
    browser = await Browser.open(api, user_id="anna")
    api.parts.sim.behave(Rule(status=503, times=1, retry_after=1))
    sent = await api.call_ok("POST", "/v1/notifications", TO_ANNA)
    id_ = ids.parse(ids.NOTIFICATION, sent["id"])
    assert id_ is not None
    async with api.parts.run_worker():
        await api.parts.wait_until(id_, lambda progress: progress.retries == 1)
        await leave(browser)
    assert await settle(api, sent) == SKIPPED
    assert browser.subscriber.messages == []


@leaving
async def test_message_held_by_quiet_hours_stays_with_anna(api: Api, leave: Leave) -> None:
    """A message that waited for the end of quiet hours is skipped if anna left the browser meanwhile."""
    browser = await Browser.open(api, user_id="anna")
    now = datetime.now(UTC)
    quiet_hours = {"start": f"{now - MINUTE:%H:%M}", "end": f"{now + 60 * MINUTE:%H:%M}", "timezone": "UTC"}
    campaign = {"name": "results", **TO_ANNA, "quiet_hours": quiet_hours}
    sent = await api.call_ok("POST", "/v1/campaigns", campaign)
    id_ = ids.parse(ids.NOTIFICATION, sent["id"])
    deferred = "SELECT count(*) FROM jobs WHERE notification_id = :id AND run_at > now() + interval '30 minutes'"
    with api.parts.notifier.subscribe(notifier.JOBS) as events:
        async with api.parts.run_worker():
            while not await api.parts.scalar(deferred, id=id_):
                await events.wait(1.0)
    await leave(browser)
    await make_due(api)
    assert await settle(api, sent) == SKIPPED


@leaving
async def test_paused_message_stays_with_anna(api: Api, leave: Leave) -> None:
    """The user of the device is checked again after a paused campaign is resumed."""
    browser = await Browser.open(api, user_id="anna")
    sent = await api.call_ok("POST", "/v1/campaigns", {"name": "results", **TO_ANNA})
    await plan(api)
    await api.call_ok("POST", f"/v1/campaigns/{sent['id']}/pause")
    await leave(browser)
    await api.call_ok("POST", f"/v1/campaigns/{sent['id']}/resume")
    assert await settle(api, sent) == SKIPPED


async def test_triggered_message_is_for_the_user_of_the_event(api: Api) -> None:
    """A message of a trigger is sent only to the user of its event."""
    browser = await Browser.open(api, user_id="anna")
    trigger = {"name": "Results", "event": "lab.result", "content": {"title": "{{ event.data.result }}"}}
    await api.call_ok("POST", "/v1/triggers", trigger)
    event = {"name": "lab.result", "user_id": "anna", "data": {"result": "negative"}}
    [run] = (await api.call_ok("POST", "/v1/events", event))["runs"]
    await plan(api)
    await register_other_user(browser)
    assert await settle(api, {"id": run["notification_id"]}) == SKIPPED


async def test_occurrence_of_reminder_is_for_its_user(api: Api) -> None:
    """An occurrence of a reminder that was planned for anna is skipped after she left the browser."""
    browser = await Browser.open(api, user_id="anna")
    reminder = {"name": "Pill", "cron": "0 9 * * *", "timezone": "UTC", **TO_ANNA}
    created = await api.call_ok("POST", "/v1/reminders", reminder)
    async with api.parts.engine.begin() as conn:
        await conn.exec_driver_sql("UPDATE notifications SET start_at = now(), occurrence = now()")
    await make_due(api)
    await plan(api)
    occurrence = await api.parts.scalar("SELECT id FROM notifications WHERE day IS NOT NULL")
    assert created["id"]
    await sign_out(browser)
    assert await settle(api, {"id": ids.format_id(ids.NOTIFICATION, occurrence)}) == SKIPPED


async def test_personal_campaign_stays_with_its_users(api: Api) -> None:
    """Content that uses the user's attributes is bound to the user, even if the audience is a topic."""
    browser = await Browser.open(api, user_id="anna", topics=["results"], attributes={"result": "negative"})
    anonymous = await Browser.open(api, topics=["results"], attributes={"result": "none"})
    content = {"title": "{{ user.attributes.result }}"}
    sent = await api.call_ok("POST", "/v1/notifications", {"audience": {"topic": "results"}, "content": content})
    await plan(api)
    await register_other_user(browser)
    await anonymous.change(user_id="carl")
    assert sorted(await settle(api, sent), key=str) == sorted(
        [*SKIPPED, ("carl", "accepted", BY_PUSH_SERVICE)], key=str
    )


async def test_message_waits_for_the_same_person(api: Api) -> None:
    """If anna signs out and in again before the message is sent, she gets it."""
    browser = await Browser.open(api, user_id="anna", topics=["weather"], attributes={"plan": "pro"})
    sent = await api.call_ok("POST", "/v1/notifications", TO_ANNA)
    await plan(api)
    await sign_out(browser)
    again = await browser.change(user_id="anna")
    assert (again["topics"], again["attributes"]) == (["weather"], {"plan": "pro"})
    assert await settle(api, sent) == [("anna", "accepted", BY_PUSH_SERVICE)]
    assert await browser.inbox() == ([RESULTS["title"]], 1)
    assert (await maintenance.run_once(api.parts.engine, RetentionPolicy()))["bound_deliveries"] == 1


@leaving
async def test_inbox_shows_nothing_of_former_user(api: Api, leave: Leave) -> None:
    """Messages for anna are in the inbox only while she is the user; the next user can neither read nor mark them."""
    browser = await Browser.open(api, user_id="anna")
    sent = await api.call_ok("POST", "/v1/notifications", TO_ANNA)
    assert await settle(api, sent) == [("anna", "accepted", BY_PUSH_SERVICE)]
    await leave(browser)
    assert await browser.inbox() == ([], 0)
    path = f"/v1/devices/{browser.id}/inbox"
    delivery_id = sent["id"].replace("ntf", "dlv") + browser.id.removeprefix("dev_")
    assert (await api.call("PUT", f"{path}/{delivery_id}/read", key=browser.token)).status == 404
    assert (await api.call_ok("POST", f"{path}/read", {"upto": 2**53}, key=browser.token))["marked"] == 0
    await browser.change(user_id="anna")
    assert await browser.inbox() == ([RESULTS["title"]], 1)


async def test_open_page_of_next_person_gets_no_offer(api: Api) -> None:
    """A message that was offered to anna's open page is not offered to the page of the next user."""
    browser = await Browser.open(api, user_id="anna")
    live, hello = f"/v1/devices/{browser.id}/live", {"type": "hello", "token": browser.token, "mode": "exclusive"}
    async with api.parts.run_worker(), api.http.ws_connect(live, headers={"Origin": APP_ORIGIN}) as page:
        await page.send_json(hello)
        assert (await page.receive_json(timeout=15))["type"] == "ready"
        sent = await api.call_ok("POST", "/v1/notifications", TO_ANNA)
        assert (await page.receive_json(timeout=15))["content"]["title"] == RESULTS["title"]
        await register_other_user(browser)
        async with api.http.ws_connect(live, headers={"Origin": APP_ORIGIN}) as next_page:
            await next_page.send_json(hello)
            assert (await next_page.receive_json(timeout=15))["type"] == "ready"
            # This message is for all devices; it must be the first message that the next page receives.
            everybody = {"audience": {"everyone": True}, "content": {"title": "Closed on Monday"}}
            await api.call_ok("POST", "/v1/notifications", everybody)
            assert (await next_page.receive_json(timeout=15))["content"]["title"] == "Closed on Monday"
    assert await settle(api, sent) == SKIPPED


@pytest.mark.parametrize("signs_out_first", [False, True])
async def test_next_person_starts_without_former_ones_data(api: Api, signs_out_first: bool) -> None:
    """Topics and attributes of anna are not those of the device after she signed out or another user signed in."""
    browser = await Browser.open(api, user_id="anna", topics=["clinic"], attributes={"result": "negative"})
    if signs_out_first:
        await sign_out(browser)
        content = {"title": "Result: {{ user.attributes.result }}"}
        sent = await api.call_ok("POST", "/v1/notifications", {"audience": {"everyone": True}, "content": content})
        assert await settle(api, sent) == [(None, "accepted", BY_PUSH_SERVICE)]
        assert await browser.inbox() == (["Result: "], 1)
    await browser.register_as("ben", attributes={"plan": "free"})
    ben = await api.call_ok("GET", f"/v1/devices/{browser.id}")
    assert (ben["user_id"], ben["topics"], ben["attributes"]) == ("ben", [], {"plan": "free"})
    await browser.change(user_id="carl", topics=["news"])
    carl = await api.call_ok("GET", f"/v1/devices/{browser.id}")
    assert (carl["user_id"], carl["topics"], carl["attributes"]) == ("carl", ["news"], {})


async def test_unproven_user_gets_nothing_once_proofs_are_required(api: Api) -> None:
    """A stranger who signed in as anna before proofs were required gets none of her messages."""
    stranger = await Browser.open(api, user_id="anna")
    anna = await Browser.open(api, user_id="anna")
    trusted = await api.call_ok("POST", "/v1/devices", api.device(user_id="anna"))
    path = f"/v1/applications/{api.parts.application['id']}"
    secret = (await api.call_ok("PATCH", path, {"require_identity": True}, key=ADMIN))["identity_secret"]
    proof = hmac.digest(secret.encode(), b"anna", hashlib.sha256).hex()
    await anna.register_as("anna", user_hash=proof)
    sent = await api.call_ok("POST", "/v1/notifications", TO_ANNA)
    assert await settle(api, sent) == [("anna", "accepted", BY_PUSH_SERVICE)] * 2
    assert stranger.subscriber.messages == []
    assert (await stranger.inbox(), await anna.inbox()) == (([], 0), ([RESULTS["title"]], 1))
    devices = (await api.call_ok("GET", "/v1/devices?user_id=anna"))["items"]
    assert {device["id"]: device["user_proven"] for device in devices} == {
        stranger.id: False,
        anna.id: True,
        trusted["id"]: True,
    }


async def test_erased_user_leaves_nothing_to_next_person(api: Api) -> None:
    """After anna is erased, her messages are not in the inbox of the browser's current user."""
    browser = await Browser.open(api, user_id="anna")
    audience = {"user_id": ["anna", "grace"]}
    sent = await api.call_ok("POST", "/v1/notifications", {**TO_ANNA, "audience": audience})
    assert await settle(api, sent) == [("anna", "accepted", BY_PUSH_SERVICE)]
    waiting = await api.call_ok("POST", "/v1/notifications", {**TO_ANNA, "audience": audience})
    await plan(api)
    await register_other_user(browser)
    await api.call_ok("DELETE", "/v1/users/anna")
    [(user_id, outcome, _)] = await settle(api, waiting)
    assert (user_id != "anna", outcome, await browser.inbox()) == (True, "skipped", ([], 0))


async def test_campaign_without_persons_stores_no_users(api: Api) -> None:
    """A campaign whose audience and content do not depend on users stores no bound deliveries."""
    browser = await Browser.open(api, user_id="anna", topics=["news"])
    content = {"title": "{{ notification.kind }} of the day"}
    audience = {"all": [{"topic": "news"}, {"not": {"user_id": "eve"}}]}
    sent = await api.call_ok("POST", "/v1/notifications", {"audience": audience, "content": content})
    await plan(api)
    assert await api.parts.scalar("SELECT count(*) FROM bound_deliveries") == 0
    await register_other_user(browser)
    assert await settle(api, sent) == [("ben", "accepted", BY_PUSH_SERVICE)]


async def test_person_of_another_tenant_is_somebody_else(api: Api, bystander: Bystander) -> None:
    """Changes of the user in one application do not affect the same user id in another application, or its alerts."""
    [other] = await bystander.parts.register(list(api.parts.sim.subscribers)[:1], user_id="anna")
    browser = await Browser.open(api, user_id="anna")
    for leave in (sign_out, register_other_user, identify_other_user):
        await leave(browser)
    assert await api.parts.scalar("SELECT user_id FROM devices WHERE id = :id", id=other) == "anna"
    await bystander.check_alert()
