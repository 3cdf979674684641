"""Alerts overtake other messages in the queue, in the worker, and at a push service."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import insert

from gateway.domain import ids
from gateway.domain.notification import Kind, Lane, push_topic
from gateway.records import notifications
from gateway.records.postgres.schema import applications, jobs
from gateway.sim import Rule, Vendor
from tests.support.gateway_parts import Parts, quick_config

CAMPAIGN_DEVICES = 300


def notification_order(parts: Parts) -> list[str]:
    """Return the notification id of each message, in the order in which the push services accepted the messages."""
    return [message.json()["notification"]["data"]["gateway"]["id"] for message in parts.sim.messages]


async def test_alert_overtakes_a_campaign_on_all_senders(parts: Parts) -> None:
    """Senders reserved for urgent messages send the alert while a campaign occupies the others."""
    await parts.register(parts.subscribe(Vendor.FCM, CAMPAIGN_DEVICES))
    alert_devices = await parts.register(parts.subscribe(Vendor.FCM, 5), topics=("weather",))
    parts.sim.behave(Rule(delay_ms=40))
    config = quick_config(senders=4, urgent_senders=2, jobs=2, urgent_jobs=1)

    async with parts.run_worker(config) as stop:
        campaign = await parts.submit()
        await parts.sim.wait_for(count=8)
        alert = await parts.submit(Kind.ALERT, audience={"topic": "weather"})
        progress = await parts.wait_until_done(alert.id)
        assert progress.accepted == len(alert_devices)
        assert (await parts.get_notification(campaign.id))[1].pending > CAMPAIGN_DEVICES / 2
        stop.set()

    sent = notification_order(parts)
    last_of_alert = max(
        position for position, id_ in enumerate(sent) if id_ == ids.format_id(ids.NOTIFICATION, alert.id)
    )
    # Before the last message of the alert, the push services accepted its other messages, the first 8 of the campaign
    # and those in flight.
    assert last_of_alert < 8 + CAMPAIGN_DEVICES / 5


async def test_alert_overtakes_a_campaign_at_a_throttled_host(parts: Parts) -> None:
    """A host with a reduced limit gives its next slot to the alert, although a campaign waits for it."""
    await parts.register(parts.subscribe(Vendor.APPLE, 200))
    [subscriber] = parts.subscribe(Vendor.APPLE, 1)
    await parts.register([subscriber], topics=("weather",))
    parts.sim.behave(
        Rule(endpoint=subscriber.endpoint, delay_ms=30),  # the first matching rule applies, so this device gets no 429
        Rule(status=429, times=1, share=0.1, retry_after=3600),
        Rule(delay_ms=30),
    )

    async with parts.run_worker(quick_config(senders=8, urgent_senders=2)) as stop:
        await parts.submit()
        await parts.sim.wait_for(lambda: parts.sim.counters[Vendor.APPLE][429] >= 3)
        sent_before = parts.sim.messages.total
        alert = await parts.submit(Kind.ALERT, audience={"topic": "weather"}, collapse_key="storm")
        topic = push_topic(parts.application_id, "storm")
        await parts.sim.wait_for(lambda: any(message.topic == topic for message in parts.sim.messages))
        stop.set()

    assert notification_order(parts).index(ids.format_id(ids.NOTIFICATION, alert.id)) < sent_before + 40


async def test_normal_notification_overtakes_a_campaign(parts: Parts) -> None:
    """The normal lane is claimed and sent before the bulk lane."""
    await parts.register(parts.subscribe(Vendor.FCM, 100), topics=("offers",))
    [subscriber] = parts.subscribe(Vendor.MOZILLA, 1)
    await parts.register([subscriber], user_id="someone")
    parts.sim.behave(Rule(delay_ms=30))
    config = quick_config(senders=2, urgent_senders=1, jobs=2)

    async with parts.run_worker(config) as stop:
        campaign = await parts.submit(audience={"topic": "offers"})
        await parts.sim.wait_for(count=4)
        direct = await parts.submit(Kind.DIRECT, audience={"user_id": "someone"})
        await parts.wait_until_done(direct.id)
        assert (await parts.get_notification(campaign.id))[1].pending > 50
        stop.set()


async def test_worker_serves_its_lanes_only(parts: Parts) -> None:
    """A worker claims only jobs of its lanes; the others wait for a worker that serves their lane."""
    await parts.register(parts.subscribe(Vendor.FCM, 2))
    async with parts.run_worker(quick_config(lanes=(Lane.URGENT, Lane.NORMAL))):
        campaign = await parts.submit()
        direct = await parts.submit(Kind.DIRECT)
        alert = await parts.submit(Kind.ALERT)
        await parts.wait_until_done(alert.id)
        await parts.wait_until_done(direct.id)
    assert (await parts.get_notification(campaign.id))[0].day is None
    async with parts.run_worker(quick_config(lanes=(Lane.BULK,))):
        assert (await parts.wait_until_done(campaign.id)).accepted == 2


async def test_slow_push_service_does_not_delay_others(parts: Parts) -> None:
    """Messages for a slow host occupy the slots of that host only."""
    await parts.register(parts.subscribe(Vendor.WNS, 40))
    fast = await parts.register(parts.subscribe(Vendor.MOZILLA, 40))
    parts.sim.behave(Rule(status=429, vendor=Vendor.WNS, times=1, retry_after=1), Rule(vendor=Vendor.WNS, delay_ms=400))
    async with parts.run_worker(quick_config(senders=16)) as stop:
        sent = await parts.submit()
        await parts.wait_until(sent.id, lambda progress: progress.accepted >= len(fast))
        assert all(subscriber.messages for subscriber in fast.values())
        assert parts.sim.messages.total < 80
        stop.set()


async def test_applications_take_turns_in_a_lane(parts: Parts) -> None:
    """A tenant's campaign of many jobs, accepted first, does not delay the jobs of other tenants."""
    now = datetime.now(UTC)
    large, medium, small = (ids.new_id() for _ in range(3))
    await _insert_jobs(parts, large, 6, now - timedelta(minutes=3))
    await _insert_jobs(parts, medium, 2, now - timedelta(minutes=2))
    await _insert_jobs(parts, small, 1, now - timedelta(minutes=1))
    await _insert_jobs(parts, ids.new_id(), 3, now + timedelta(hours=1))

    queue = parts.queue()
    claimed_ids = []
    while claimed := await queue.claim(lanes=[Lane.BULK], limit=1, lease=timedelta(minutes=1), wait=timedelta(0)):
        claimed_ids += [job.application_id for job in claimed]

    assert len(claimed_ids) == 9
    assert set(claimed_ids[:3]) == {large, medium, small}
    assert set(claimed_ids[3:5]) == {large, medium}
    assert claimed_ids[5:] == [large] * 4


async def _insert_jobs(parts: Parts, application_id: UUID, count: int, due: datetime) -> None:
    """Insert send jobs of another application, as planning would."""
    async with parts.engine.begin() as conn:
        await conn.execute(
            insert(applications).values(id=application_id, name="Shop", subject="mailto:ops@example.org")
        )
    notification = replace(
        await parts.submit(start_at=datetime.now(UTC) + timedelta(hours=2)),
        id=ids.new_id(),
        application_id=application_id,
    )
    async with parts.engine.begin() as conn:
        await notifications.add(conn, [notification])
        rows = [
            {
                "application_id": application_id,
                "notification_id": notification.id,
                "lane": Lane.BULK,
                "day": due.date(),
                "run_at": due,
                "device_ids": [ids.new_id()],
            }
            for _ in range(count)
        ]
        await conn.execute(insert(jobs), rows)
