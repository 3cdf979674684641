"""Devices and campaigns compared with a model, in sequences of requests that hypothesis generates.

The model has the expected state, which the API must return after each step. A worker runs only in `run_worker`, so the
recipients of a campaign are known: the devices that match at that time.
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
    """The expected state of a device."""

    id: str
    subscriber: Subscriber
    user_id: str | None = None
    topics: set[str] = field(default_factory=set)
    status: str = "active"


@dataclass
class Campaign:
    """The expected state of a campaign; `targets` is None until it is sent, and `later` is whether it is scheduled."""

    id: str
    topic: str
    later: bool
    status: str = "scheduled"
    targets: int | None = None


class DeviceAndCampaignMachine(RuleBasedStateMachine):
    """The rules and invariants. They run in a separate thread, and each machine has a new application."""

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
        self.registered: dict[str, Device] = {}
        self.sent: dict[str, Campaign] = {}

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> ApiResponse:
        return self.run(self.api.call(method, path, body, **{"key": self.application["secret_key"]} | options))

    def register_at(self, subscriber: Subscriber, **details: Any) -> ApiResponse:
        body = {"subscription": subscriber.to_json(), **details}
        return self.call("POST", "/v1/devices", body, key=self.application["publishable_key"], origin=APP_ORIGIN)

    @initialize(target=devices)
    def first_devices(self) -> Any:
        return multiple(
            self.register_device(Vendor.FCM, "u-1", {"weather", "offers"}),
            self.register_device(Vendor.MOZILLA, None, {"weather"}),
        )

    # Devices

    @rule(target=devices, vendor=VENDORS, user=st.none() | USERS, topics=st.sets(TOPICS))
    def register(self, vendor: Vendor, user: str | None, topics: set[str]) -> Device:
        return self.register_device(vendor, user, topics)

    def register_device(self, vendor: Vendor, user: str | None, topics: set[str]) -> Device:
        [subscriber] = self.run(subscribe(self.parts, vendor))
        response = self.register_at(subscriber, user_id=user, topics=sorted(topics))
        assert response.status == 201
        device = Device(response.body["id"], subscriber, user, set(topics))
        self.registered[device.id] = device
        return device

    @rule(device=devices, topics=st.none() | st.sets(TOPICS))
    def refresh(self, device: Device, topics: set[str] | None) -> None:
        """Register again: omitted fields do not change, a gone device becomes active, and a removed device is new."""
        response = self.register_at(device.subscriber, **({} if topics is None else {"topics": sorted(topics)}))
        if device.id in self.registered:
            assert (response.status, response.body["id"]) == (200, device.id)
            device.topics = device.topics if topics is None else set(topics)
        else:
            assert (response.status, response.body["id"] != device.id) == (201, True)
            device.id, device.user_id, device.topics = response.body["id"], None, set(topics or ())
            self.registered[device.id] = device
        device.status = "active"

    @rule(device=devices, topic=TOPICS, add=st.booleans(), user=st.none() | USERS)
    def change(self, device: Device, topic: str, add: bool, user: str | None) -> None:
        """Add or remove a topic, and set the user."""
        response = self.call("PUT" if add else "DELETE", f"/v1/devices/{device.id}/topics/{topic}")
        assert response.status == (204 if device.id in self.registered else 404)
        (device.topics.add if add else device.topics.discard)(topic)
        if user is not None:
            response = self.call("PATCH", f"/v1/devices/{device.id}", {"user_id": user})
            assert response.status == (200 if device.id in self.registered else 404)
            if device.user_id not in (None, user):
                device.topics.clear()  # they were those of the former user
            device.user_id = user

    @rule(device=devices, user=st.none() | USERS)
    def remove(self, device: Device, user: str | None) -> None:
        """Remove a device, or a user with all devices."""
        if user is None:
            response = self.call("DELETE", f"/v1/devices/{device.id}")
            assert response.status == (204 if self.registered.pop(device.id, None) else 404)
            return
        user_devices = [device.id for device in self.registered.values() if device.user_id == user]
        response = self.call("DELETE", f"/v1/users/{user}")
        assert (response.status, response.body) == (200, {"devices": len(user_devices)})
        for id_ in user_devices:
            del self.registered[id_]

    @rule(device=devices)
    def unsubscribe(self, device: Device) -> None:
        """End the subscription at the push service, which then returns 410 for the next message."""
        self.loop.call_soon_threadsafe(self.api.parts.sim.unsubscribe, device.subscriber)

    # Campaigns

    @rule(target=campaigns, topic=TOPICS, later=st.sampled_from([False, False, True]), sent=st.booleans())
    def start(self, topic: str, later: bool, sent: bool) -> Campaign:
        body = {"name": "c", "content": {"title": "t"}, "audience": {"topic": topic}}
        response = self.call("POST", "/v1/campaigns", body | ({"schedule": {"at": next_week()}} if later else {}))
        assert response.status == 201
        campaign = Campaign(response.body["id"], topic, later)
        self.sent[campaign.id] = campaign
        if sent:
            self.run_worker()
        return campaign

    @rule(campaign=campaigns, transition=st.sampled_from(["pause", "pause", "resume", "resume", "cancel"]))
    def apply(self, campaign: Campaign, transition: str) -> None:
        """Pause, resume or cancel; a done campaign refuses all of these, and a cancelled one accepts only cancel."""
        response = self.call("POST", f"/v1/campaigns/{campaign.id}/{transition}")
        if campaign.status == "done" or (campaign.status == "cancelled" and transition != "cancel"):
            assert (response.status, response.body["code"]) == (409, "conflict")
            return
        assert response.status == 200
        campaign.status = {"pause": "paused", "resume": "scheduled", "cancel": "cancelled"}[transition]

    @rule()
    def work(self) -> None:
        self.run_worker()

    def teardown(self) -> None:
        self.run_worker()

    def run_worker(self) -> None:
        """Run a worker until all due campaigns are sent, and mark the devices whose subscription has ended as gone."""
        due = [campaign for campaign in self.sent.values() if campaign.status == "scheduled" and not campaign.later]
        if not due:
            return
        recipients_by_id = {campaign.id: self.matching_devices(campaign.topic) for campaign in due}
        progress = self.run(run_worker(self.parts, [campaign.id for campaign in due]))
        for campaign in due:
            recipients = recipients_by_id[campaign.id]
            gone_devices = [device for device in recipients if device.subscriber.gone]
            counts = progress[campaign.id]
            # A device that became gone with an earlier campaign may not be a target of this one.
            assert counts.accepted == len(recipients) - len(gone_devices)
            assert counts.gone <= len(gone_devices)
            assert counts.targets == counts.accepted + counts.gone
            campaign.status, campaign.targets = "done", counts.targets
        for recipients in recipients_by_id.values():
            for device in recipients:
                if device.subscriber.gone:
                    device.status = "gone"

    def matching_devices(self, topic: str) -> list[Device]:
        return [device for device in self.registered.values() if device.status == "active" and topic in device.topics]

    @invariant()
    def devices_equal_the_model(self) -> None:
        items = self.call("GET", "/v1/devices?limit=1000").body["items"]
        assert {item["id"]: (item["status"], item["user_id"], set(item["topics"])) for item in items} == {
            item.id: (item.status, item.user_id, item.topics) for item in self.registered.values()
        }

    @invariant()
    def audience_sizes_equal_the_model(self) -> None:
        for topic in ("weather", "offers"):
            response = self.call("POST", "/v1/audiences/preview", {"audience": {"topic": topic}}).body
            assert response["devices"] == len(self.matching_devices(topic))

    @invariant()
    def campaign_statuses_equal_the_model(self) -> None:
        items = self.call("GET", "/v1/notifications?limit=1000").body["items"]
        assert {item["id"]: item["status"] for item in items} == {item.id: item.status for item in self.sent.values()}
        for item in items:
            if self.sent[item["id"]].targets is not None:
                assert item["progress"]["pending"] == 0


def next_week() -> str:
    """Return the time in a week, as the API accepts it."""
    return (datetime.now(UTC) + timedelta(days=7)).isoformat()


async def subscribe(parts: Parts, vendor: Vendor) -> list[Subscriber]:
    return parts.subscribe(vendor, 1, share_keys=True)


async def run_worker(parts: Parts, campaigns: list[str]) -> dict[str, Progress]:
    async with parts.run_worker():
        progress = {}
        for campaign_id in campaigns:
            id_ = ids.parse(ids.NOTIFICATION, campaign_id)
            assert id_ is not None
            progress[campaign_id] = await parts.wait_until_done(id_)
            await parts.list_deliveries(id_)  # fails if a device has two deliveries
        return progress


async def test_devices_and_campaigns_follow_the_model(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any sequence of requests, the API returns the devices and campaigns of the model."""
    monkeypatch.setattr(retry, "FIRST_DELAY", timedelta(milliseconds=50))
    DeviceAndCampaignMachine.api, DeviceAndCampaignMachine.loop = api, asyncio.get_running_loop()
    bounds = settings(
        max_examples=12,
        stateful_step_count=20,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    await asyncio.to_thread(run_state_machine_as_test, DeviceAndCampaignMachine, settings=bounds)
