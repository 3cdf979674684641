"""Devices and campaigns against a model of what they may become, in any order that hypothesis thinks of.

The model holds what an application was told; after each step the API must say the same. A worker runs in one of the
rules only, so that whom a campaign is for is known: whoever matched when it began.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from gateway.domain import ids, retry
from gateway.domain.notification import Progress
from gateway.sim import Subscriber, Vendor
from tests.support.api import ADMIN, Api, ApiResponse
from tests.support.gateway_parts import APP_ORIGIN, Parts

TOPICS = st.sampled_from(["weather", "offers"])
USERS = st.sampled_from(["u-1", "u-2"])
VENDORS = st.sampled_from([Vendor.FCM, Vendor.MOZILLA])
T = TypeVar("T")


@dataclass
class Device:
    id: str
    subscriber: Subscriber
    user_id: str | None = None
    topics: set[str] = field(default_factory=set)
    status: str = "active"


@dataclass
class Campaign:
    id: str
    topic: str
    later: bool
    status: str = "scheduled"
    targets: int | None = None
    """None until it began."""


class LifeCycles(RuleBasedStateMachine):
    """Runs beside the event loop that the API lives in, with an application of its own."""

    api: Api
    loop: asyncio.AbstractEventLoop

    devices = Bundle("devices")
    campaigns = Bundle("campaigns")

    def __init__(self) -> None:
        super().__init__()
        self.application = self.run(
            self.api.call_ok(
                "POST",
                "/v1/applications",
                {"name": "a", "subject": "mailto:a@example.org", "allowed_origins": [APP_ORIGIN]},
                key=ADMIN,
            )
        )
        id_ = ids.parse(ids.APPLICATION, self.application["id"])
        assert id_ is not None
        self.parts = replace(self.api.parts, application_id=id_, application=self.application)
        self.known: dict[str, Device] = {}
        self.sent: dict[str, Campaign] = {}

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> ApiResponse:
        return self.run(self.api.call(method, path, body, **{"key": self.application["secret_key"]} | more))

    def register_at(self, subscriber: Subscriber, **details: Any) -> ApiResponse:
        body = {"subscription": subscriber.to_json(), **details}
        return self.call("POST", "/v1/devices", body, key=self.application["publishable_key"], origin=APP_ORIGIN)

    @initialize(target=devices)
    def a_beginning(self) -> Any:
        return multiple(
            self.registered(Vendor.FCM, "u-1", {"weather", "offers"}),
            self.registered(Vendor.MOZILLA, None, {"weather"}),
        )

    # Devices

    @rule(target=devices, vendor=VENDORS, user=st.none() | USERS, topics=st.sets(TOPICS))
    def register(self, vendor: Vendor, user: str | None, topics: set[str]) -> Device:
        return self.registered(vendor, user, topics)

    def registered(self, vendor: Vendor, user: str | None, topics: set[str]) -> Device:
        [subscriber] = self.run(subscribed(self.parts, vendor))
        said = self.register_at(subscriber, user_id=user, topics=sorted(topics))
        assert said.status == 201
        device = Device(said.body["id"], subscriber, user, set(topics))
        self.known[device.id] = device
        return device

    @rule(device=devices, topics=st.none() | st.sets(TOPICS))
    def refresh(self, device: Device, topics: set[str] | None) -> None:
        """What it leaves out stays; whoever was gone is back; whoever was removed is somebody new."""
        said = self.register_at(device.subscriber, **({} if topics is None else {"topics": sorted(topics)}))
        if device.id in self.known:
            assert (said.status, said.body["id"]) == (200, device.id)
            device.topics = device.topics if topics is None else set(topics)
        else:
            assert (said.status, said.body["id"] != device.id) == (201, True)
            device.id, device.user_id, device.topics = said.body["id"], None, set(topics or ())
            self.known[device.id] = device
        device.status = "active"

    @rule(device=devices, topic=TOPICS, on=st.booleans(), user=st.none() | USERS)
    def change(self, device: Device, topic: str, on: bool, user: str | None) -> None:
        said = self.call("PUT" if on else "DELETE", f"/v1/devices/{device.id}/topics/{topic}")
        assert said.status == (204 if device.id in self.known else 404)
        (device.topics.add if on else device.topics.discard)(topic)
        if user is not None:
            said = self.call("PATCH", f"/v1/devices/{device.id}", {"user_id": user})
            assert said.status == (200 if device.id in self.known else 404)
            device.user_id = user

    @rule(device=devices, user=st.none() | USERS)
    def leave(self, device: Device, user: str | None) -> None:
        """One browser, or a person with all of theirs."""
        if user is None:
            said = self.call("DELETE", f"/v1/devices/{device.id}")
            assert said.status == (204 if self.known.pop(device.id, None) else 404)
            return
        theirs = [device.id for device in self.known.values() if device.user_id == user]
        said = self.call("DELETE", f"/v1/users/{user}")
        assert (said.status, said.body) == (200, {"devices": len(theirs)})
        for id_ in theirs:
            del self.known[id_]

    @rule(device=devices)
    def take_permission_away(self, device: Device) -> None:
        """Only the push service knows of it, until something is sent."""
        self.loop.call_soon_threadsafe(self.api.parts.sim.unsubscribe, device.subscriber)

    # Campaigns

    @rule(target=campaigns, topic=TOPICS, later=st.sampled_from([False, False, True]), sent=st.booleans())
    def start(self, topic: str, later: bool, sent: bool) -> Campaign:
        body = {"name": "c", "content": {"title": "t"}, "audience": {"topic": topic}}
        said = self.call("POST", "/v1/campaigns", body | ({"schedule": {"at": later_on()}} if later else {}))
        assert said.status == 201
        campaign = Campaign(said.body["id"], topic, later)
        self.sent[campaign.id] = campaign
        if sent:
            self.worked()
        return campaign

    @rule(campaign=campaigns, order=st.sampled_from(["pause", "pause", "resume", "resume", "cancel"]))
    def steer(self, campaign: Campaign, order: str) -> None:
        """What was done or cancelled stays so; cancelling twice is the same as once."""
        said = self.call("POST", f"/v1/campaigns/{campaign.id}/{order}")
        if campaign.status == "done" or (campaign.status == "cancelled" and order != "cancel"):
            assert (said.status, said.body["code"]) == (409, "conflict")
            return
        assert said.status == 200
        campaign.status = {"pause": "paused", "resume": "scheduled", "cancel": "cancelled"}[order]

    @rule()
    def work(self) -> None:
        self.worked()

    def teardown(self) -> None:
        self.worked()

    def worked(self) -> None:
        """A worker sends all that is to be sent, and finds out who is gone."""
        due = [one for one in self.sent.values() if one.status == "scheduled" and not one.later]
        if not due:
            return
        matching = {one.id: self.matching(one.topic) for one in due}
        progress = self.run(worked(self.parts, [one.id for one in due]))
        for campaign in due:
            whom = matching[campaign.id]
            away = [device for device in whom if device.subscriber.gone]
            counts = progress[campaign.id]
            # Whoever another campaign found gone in the meantime may have been left out of this one.
            assert counts.accepted == len(whom) - len(away)
            assert counts.gone <= len(away)
            assert counts.targets == counts.accepted + counts.gone
            campaign.status, campaign.targets = "done", counts.targets
        for device in {device.id: device for whom in matching.values() for device in whom}.values():
            if device.subscriber.gone:
                device.status = "gone"

    def matching(self, topic: str) -> list[Device]:
        return [one for one in self.known.values() if one.status == "active" and topic in one.topics]

    @invariant()
    def devices_are_as_they_were_told(self) -> None:
        listed = self.call("GET", "/v1/devices?limit=1000").body["items"]
        assert {one["id"]: (one["status"], one["user_id"], set(one["topics"])) for one in listed} == {
            one.id: (one.status, one.user_id, one.topics) for one in self.known.values()
        }

    @invariant()
    def audiences_are_whom_they_should_be(self) -> None:
        for topic in ("weather", "offers"):
            said = self.call("POST", "/v1/audiences/preview", {"audience": {"topic": topic}}).body
            assert said["devices"] == len(self.matching(topic))

    @invariant()
    def campaigns_are_where_they_should_be(self) -> None:
        listed = self.call("GET", "/v1/notifications?limit=1000").body["items"]
        assert {one["id"]: one["status"] for one in listed} == {one.id: one.status for one in self.sent.values()}
        for one in listed:
            if self.sent[one["id"]].targets is not None:
                assert one["progress"]["pending"] == 0


def later_on() -> str:
    return (datetime.now(UTC) + timedelta(days=7)).isoformat()


async def subscribed(parts: Parts, vendor: Vendor) -> list[Subscriber]:
    return parts.subscribe(vendor, 1, share_keys=True)


async def worked(parts: Parts, campaigns: list[str]) -> dict[str, Progress]:
    async with parts.run_worker():
        found = {}
        for shown in campaigns:
            id_ = ids.parse(ids.NOTIFICATION, shown)
            assert id_ is not None
            found[shown] = await parts.wait_until_done(id_)
            await parts.list_deliveries(id_)  # no device twice
        return found


async def test_devices_and_campaigns_follow_the_model(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices and campaigns behave as the model says after any sequence of requests."""
    monkeypatch.setattr(retry, "FIRST_DELAY", timedelta(milliseconds=50))
    LifeCycles.api, LifeCycles.loop = api, asyncio.get_running_loop()
    bounds = settings(
        max_examples=12,
        stateful_step_count=20,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    await asyncio.to_thread(run_state_machine_as_test, LifeCycles, settings=bounds)
