"""Responses of push services that concern one device or application have no effect on other ones.

Each test attacks the push service of the bystander: the devices of a stranger, or of one application, get responses
that look like a fault of the push service or of the application's VAPID key.
"""

from collections.abc import Sequence

import aiohttp
import pytest

from gateway.domain.notification import Kind, Notification
from gateway.push.vapid import VapidKey
from gateway.service.pipeline import key_health, push_sender
from gateway.sim import Rule, Subscriber, Vendor
from tests.support.bystander import DEVICES, Bystander
from tests.support.gateway_parts import Parts

# The audience of the owner's devices that have accepted a message.
GOOD = {"topic": "good"}


@pytest.fixture
async def bystander(parts: Parts, worker: None, origin: str, http: aiohttp.ClientSession) -> Bystander:
    """An application that nobody attacks, whose devices use the same push service as the attackers' devices."""
    return await Bystander.create(parts, origin, http, Vendor.MOZILLA)


@pytest.fixture
async def owner(parts: Parts, bystander: Bystander) -> Bystander:
    """The application of the attackers' devices; it also has devices of the topic `good`, which accepted an alert."""
    owner = Bystander(parts, bystander.origin, bystander.http)
    await parts.register(parts.subscribe(Vendor.MOZILLA, DEVICES), topics=("good",))
    owner.idle_s = await owner.time_alert(audience=GOOD)
    return owner


def respond(subscribers: Sequence[Subscriber], status: int, reason: str | None = None) -> list[Rule]:
    """Return rules by which the push service responds with `status` to messages for the devices of `subscribers`."""
    return [Rule(endpoint=subscriber.endpoint, status=status, reason=reason) for subscriber in subscribers]


async def send_campaign(parts: Parts, subscribers: Sequence[Subscriber]) -> Notification:
    """Register devices under the topic `strange`, as a page of the application does, and send them a campaign."""
    await parts.register(subscribers, topics=("strange",))
    return await parts.submit(audience={"topic": "strange"})


async def check_bystander_and_owner(bystander: Bystander, owner: Bystander) -> None:
    """Fail unless the alerts of both applications are on time, and a campaign of the bystander is accepted at once."""
    await bystander.check_alert()
    await owner.check_alert(audience=GOOD)
    sent = await bystander.parts.submit(Kind.CAMPAIGN)
    progress = await bystander.parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.retries) == (DEVICES, 0)


async def test_foreign_keys_are_charged_to_their_devices(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 3: 300 devices subscribed with another VAPID key are quarantined after one POST each."""
    parts.sim.clear()
    foreign = parts.sim.subscribe_many(Vendor.MOZILLA, 300, VapidKey.generate().public_key, share_keys=True)
    sent = await send_campaign(parts, foreign)
    await check_bystander_and_owner(bystander, owner)
    progress = await parts.wait_until_done(sent.id)
    assert progress.rejected == len(foreign)
    assert parts.sim.counters[Vendor.MOZILLA][401] == len(foreign)
    assert await parts.scalar("SELECT count(*) FROM devices WHERE status = 'quarantined'") == len(foreign)


async def test_invented_devices_do_not_pause_the_key(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 4: refusals of invented devices do not stop messages to devices that have accepted one before."""
    invented = parts.subscribe(Vendor.MOZILLA, 2 * key_health.FAILURES_TO_OPEN)
    parts.sim.behave(*respond(invented, 401))
    sent = await send_campaign(parts, invented)
    await parts.wait_until(sent.id, lambda progress: progress.retries >= len(invented))
    await check_bystander_and_owner(bystander, owner)


async def test_unconnected_devices_open_no_breaker(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 4: a UnifiedPush server responds with 507 for an endpoint without a subscriber, which is no failure."""
    unconnected = parts.subscribe(Vendor.MOZILLA, 60, share_keys=True)
    parts.sim.behave(*respond(unconnected, 507))
    sent = await send_campaign(parts, unconnected)
    await parts.wait_until(sent.id, lambda progress: progress.retries >= len(unconnected))
    await check_bystander_and_owner(bystander, owner)


async def test_errors_of_one_application_pause_it_alone(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 4: errors for known devices of one application do not open the breaker of the push service."""
    failing = parts.subscribe(Vendor.MOZILLA, 60, share_keys=True)
    accepted = await send_campaign(parts, failing)
    await parts.wait_until_done(accepted.id)
    parts.sim.behave(*respond(failing, 500))
    sent = await parts.submit(audience={"topic": "strange"})
    await parts.wait_until(sent.id, lambda progress: progress.retries >= key_health.FAILURES_TO_OPEN)
    await bystander.check_alert()
    campaign = await bystander.parts.submit(Kind.CAMPAIGN)
    progress = await bystander.parts.wait_until_done(campaign.id)
    assert (progress.accepted, progress.retries) == (DEVICES, 0)
    assert await parts.scalar("SELECT count(*) FROM devices WHERE status <> 'active'") == 0


async def test_temporary_refusals_quarantine_no_device(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 5: devices that were refused fewer than MAX_DEVICE_REFUSALS times get the next message."""
    count = push_sender.MAX_DEVICE_REFUSALS - 1
    subscribers = [
        subscriber for subscriber in parts.sim.subscribers if subscriber.vapid_public_key == parts.vapid_public_key
    ]
    refused = subscribers[:count]
    parts.sim.behave(*respond(refused, 401))
    sent = await parts.submit(audience=GOOD)
    min_retries = count * (push_sender.MAX_DEVICE_REFUSALS - 1) + 1
    await parts.wait_until(sent.id, lambda progress: progress.retries >= min_retries)
    await bystander.check_alert()
    parts.sim.behave()
    await owner.check_alert(audience=GOOD)
    assert await parts.scalar("SELECT count(*) FROM devices WHERE status <> 'active'") == 0
