"""Responses of push services that concern one device or one application are charged to nobody else.

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

GOOD = {"topic": "good"}


@pytest.fixture
async def bystander(parts: Parts, worker: None, origin: str, http: aiohttp.ClientSession) -> Bystander:
    """Another application, whose devices use the attacked push service."""
    return await Bystander.create(parts, origin, http, Vendor.MOZILLA)


@pytest.fixture
async def owner(parts: Parts, bystander: Bystander) -> Bystander:
    """The attacked application, with devices of the topic `good` that were accepted before."""
    owner = Bystander(parts, bystander.origin, bystander.http)
    await parts.register(parts.subscribe(Vendor.MOZILLA, DEVICES), topics=("good",))
    owner.idle_s = await owner.time_alert(audience=GOOD)
    return owner


def respond(subscribers: Sequence[Subscriber], status: int, reason: str | None = None) -> list[Rule]:
    """Return the rules by which the push service responds to messages for these devices."""
    return [Rule(endpoint=subscriber.endpoint, status=status, reason=reason) for subscriber in subscribers]


async def send_campaign(parts: Parts, subscribers: Sequence[Subscriber]) -> Notification:
    """Register devices in an application, as its page does, and send them a campaign."""
    await parts.register(subscribers, topics=("strange",))
    return await parts.submit(audience={"topic": "strange"})


async def check_others(bystander: Bystander, owner: Bystander) -> None:
    """Fail unless the alerts of both applications are on time, and a campaign of the bystander is accepted at once."""
    await bystander.check_alert()
    await owner.check_alert(audience=GOOD)
    sent = await bystander.parts.submit(Kind.CAMPAIGN)
    progress = await bystander.parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.retries) == (DEVICES, 0)


async def test_foreign_keys_are_charged_to_their_devices(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 3: 300 subscriptions of another VAPID key are quarantined with one POST each."""
    parts.sim.clear()
    foreign = parts.sim.subscribe_many(Vendor.MOZILLA, 300, VapidKey.generate().public_key, share_keys=True)
    sent = await send_campaign(parts, foreign)
    await check_others(bystander, owner)
    progress = await parts.wait_until_done(sent.id)
    assert progress.rejected == len(foreign)
    assert parts.sim.counters[Vendor.MOZILLA][401] == len(foreign)
    assert await parts.scalar("SELECT count(*) FROM devices WHERE status = 'quarantined'") == len(foreign)


async def test_invented_devices_do_not_pause_the_key(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 4: refusals of devices that were never accepted keep no message from those that were."""
    invented = parts.subscribe(Vendor.MOZILLA, 2 * key_health.FAILURES_TO_OPEN)
    parts.sim.behave(*respond(invented, 401))
    sent = await send_campaign(parts, invented)
    await parts.wait_until(sent.id, lambda progress: progress.retries >= len(invented))
    await check_others(bystander, owner)


async def test_unconnected_devices_open_no_breaker(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 4: a UnifiedPush server answers 507 for each endpoint without a subscriber, and is not at fault."""
    unconnected = parts.subscribe(Vendor.MOZILLA, 60, share_keys=True)
    parts.sim.behave(*respond(unconnected, 507))
    sent = await send_campaign(parts, unconnected)
    await parts.wait_until(sent.id, lambda progress: progress.retries >= len(unconnected))
    await check_others(bystander, owner)


async def test_errors_of_one_application_pause_it_alone(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 4: errors for accepted devices of one application are no evidence against the push service."""
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


async def test_passing_refusal_quarantines_nobody(parts: Parts, bystander: Bystander, owner: Bystander) -> None:
    """Case 5: browsers that were refused for a while receive the next message."""
    count = push_sender.MAX_DEVICE_REFUSALS - 1
    owned = [
        subscriber for subscriber in parts.sim.subscribers if subscriber.vapid_public_key == parts.vapid_public_key
    ]
    refused = owned[:count]
    parts.sim.behave(*respond(refused, 401))
    sent = await parts.submit(audience=GOOD)
    enough = count * (push_sender.MAX_DEVICE_REFUSALS - 1) + 1
    await parts.wait_until(sent.id, lambda progress: progress.retries >= enough)
    await bystander.check_alert()
    parts.sim.behave()
    await owner.check_alert(audience=GOOD)
    assert await parts.scalar("SELECT count(*) FROM devices WHERE status <> 'active'") == 0
