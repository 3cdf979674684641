"""Pause, resume and cancel take effect at any stage of a notification, and every delivery is accounted for."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from gateway.domain.errors import Conflict
from gateway.domain.ids import new_id
from gateway.domain.notification import Notification, Status
from gateway.domain.send_policy import FailureLimit, SendPolicy
from gateway.records import jobs as job_records
from gateway.records.postgres import notifier
from gateway.records.postgres.schema import jobs
from gateway.records.postgres.schema import notifications as table
from gateway.service.notifications import lifecycle
from gateway.sim import Rule, Vendor
from tests.support.gateway_parts import Parts, quick_config

# The senders of the worker, and so its maximum number of messages in flight.
SENDERS = 4


async def apply(parts: Parts, transition: lifecycle.Transition, notification: Notification) -> None:
    """Apply a life-cycle transition to a notification."""
    async with parts.engine.begin() as conn:
        await transition(conn, parts.application_id, notification.id)


async def status(parts: Parts, notification: Notification) -> Status:
    """Return the current status of a notification."""
    return (await parts.get_notification(notification.id))[0].status


async def wait_until_nothing_claimed(parts: Parts) -> None:
    """Wait until no worker has the lease of a job."""
    query = "SELECT count(*) FROM jobs WHERE NOT parked AND (attempt > 0 OR run_at <= now())"
    async with asyncio.timeout(20):
        with parts.notifier.subscribe(notifier.LOG) as waiter:
            while await parts.scalar(query):
                await waiter.wait(0.05)


async def test_paused_campaign_resumes_where_it_stopped(parts: Parts) -> None:
    """A paused campaign stops at once and resumes with the remaining devices."""
    devices = await parts.register(parts.subscribe(Vendor.FCM, 900))
    parts.sim.behave(Rule(delay_ms=20))
    async with parts.run_worker(quick_config(senders=SENDERS, jobs=2)):
        sent = await parts.submit()
        await parts.sim.wait_for(count=40)
        await apply(parts, lifecycle.pause, sent)
        count = parts.sim.messages.total
        assert await status(parts, sent) is Status.PAUSED
        await wait_until_nothing_claimed(parts)
        paused_at = parts.sim.messages.total
        # Each sender may have had a message in flight, and may have begun one before it knew of the pause.
        assert paused_at <= count + 2 * SENDERS
        assert await parts.scalar("SELECT bool_and(parked) FROM jobs")
        assert len(await parts.list_deliveries(sent.id)) == paused_at

        parts.sim.behave()
        other_notification = await parts.submit()  # another notification is sent meanwhile
        await parts.wait_until_done(other_notification.id)
        assert parts.sim.messages.total == paused_at + 900

        await apply(parts, lifecycle.resume, sent)
        progress = await parts.wait_until_done(sent.id)
    assert progress.accepted == 900
    assert {len(subscriber.messages) for subscriber in devices.values()} == {2}
    assert await status(parts, sent) is Status.DONE


async def test_notification_paused_before_start_plans_on_resume(parts: Parts) -> None:
    """A notification that is paused before its start is planned when it resumes."""
    await parts.register(parts.subscribe(Vendor.FCM, 3))
    sent = await parts.submit(start_at=datetime.now(UTC) + timedelta(milliseconds=300))
    await apply(parts, lifecycle.pause, sent)
    async with parts.run_worker():
        later = await parts.submit(start_at=datetime.now(UTC) + timedelta(milliseconds=600))
        await parts.wait_until_done(later.id)
        assert await parts.list_deliveries(sent.id) == {}
        new_devices = await parts.register(parts.subscribe(Vendor.FCM, 1))
        await apply(parts, lifecycle.resume, sent)
        await parts.wait_until_done(sent.id)
    assert new_devices.keys() <= (await parts.list_deliveries(sent.id)).keys()


async def test_paused_past_expiry_settles_as_expired(parts: Parts) -> None:
    """Deliveries that stay paused past the expiry settle as expired."""
    await parts.register(parts.subscribe(Vendor.FCM, 300))
    parts.sim.behave(Rule(delay_ms=20))
    async with parts.run_worker(quick_config(senders=SENDERS)):
        sent = await parts.submit()
        await parts.sim.wait_for(count=5)
        await apply(parts, lifecycle.pause, sent)
        await wait_until_nothing_claimed(parts)
        count = parts.sim.messages.total
        async with parts.engine.begin() as conn:
            soon = datetime.now(UTC) + timedelta(milliseconds=200)
            await conn.execute(update(table).where(table.c.id == sent.id).values(expires_at=soon))
            # A parked job is due at the expiry of its notification.
            await conn.execute(update(jobs).values(run_at=soon))
            await notifier.notify(conn, notifier.JOBS)
        progress = await parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.expired) == (count, 300 - count)
    assert await status(parts, sent) is Status.DONE


async def test_unplanned_paused_past_expiry_is_settled(parts: Parts) -> None:
    """A notification that expires while paused and unplanned is settled."""
    await parts.register(parts.subscribe(Vendor.FCM, 3))
    now = datetime.now(UTC)
    sent = await parts.submit(start_at=now + timedelta(seconds=0.2), expires_at=now + timedelta(seconds=1))
    await apply(parts, lifecycle.pause, sent)
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)
    assert progress.expired == 3
    assert parts.sim.messages.total == 0


async def test_paused_campaign_can_be_cancelled(parts: Parts) -> None:
    """A paused campaign can be cancelled, and all its deliveries are logged."""
    devices = await parts.register(parts.subscribe(Vendor.FCM, 700))
    parts.sim.behave(Rule(delay_ms=20))
    async with parts.run_worker(quick_config(senders=SENDERS)):
        sent = await parts.submit()
        await parts.sim.wait_for(count=5)
        await apply(parts, lifecycle.pause, sent)
        await wait_until_nothing_claimed(parts)
        await apply(parts, lifecycle.cancel, sent)
        progress = await parts.wait_until_done(sent.id)
    assert progress.accepted + progress.cancelled == 700
    assert progress.accepted == parts.sim.messages.total
    assert (await parts.list_deliveries(sent.id)).keys() == devices.keys()
    assert await status(parts, sent) is Status.CANCELLED


async def test_retries_wait_while_paused(parts: Parts) -> None:
    """Retries wait until the notification is resumed."""
    await parts.register(parts.subscribe(Vendor.FCM, 5))
    parts.sim.behave(Rule(status=429, retry_after=1))
    async with parts.run_worker():
        sent = await parts.submit()
        await parts.wait_until(sent.id, lambda progress: progress.retries == 5)
        await apply(parts, lifecycle.pause, sent)
        parts.sim.behave()
        with parts.notifier.subscribe(notifier.JOBS) as waiter:
            async with asyncio.timeout(20):
                while not await parts.scalar("SELECT bool_and(parked) FROM jobs"):
                    await waiter.wait(0.1)
        assert parts.sim.messages.total == 0
        await apply(parts, lifecycle.resume, sent)
        assert (await parts.wait_until_done(sent.id)).accepted == 5


async def test_second_pause_or_resume_changes_nothing(parts: Parts) -> None:
    """Pausing a paused notification and resuming a running one leave the status unchanged."""
    sent = await parts.submit(start_at=datetime.now(UTC) + timedelta(hours=1))
    for transition, expected in (
        (lifecycle.resume, Status.SCHEDULED),
        (lifecycle.pause, Status.PAUSED),
        (lifecycle.pause, Status.PAUSED),
        (lifecycle.resume, Status.SCHEDULED),
        (lifecycle.resume, Status.SCHEDULED),
    ):
        await apply(parts, transition, sent)
        assert await status(parts, sent) is expected


async def test_ended_notification_cannot_be_paused_or_resumed(parts: Parts) -> None:
    """Pausing or resuming an ended notification raises Conflict."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    async with parts.run_worker():
        done = await parts.submit()
        await parts.wait_until_done(done.id)
    cancelled = await parts.submit()
    await apply(parts, lifecycle.cancel, cancelled)
    for sent in (done, cancelled):
        before = await status(parts, sent)
        for transition in (lifecycle.pause, lifecycle.resume):
            with pytest.raises(Conflict):
                await apply(parts, transition, sent)
        assert await status(parts, sent) is before


async def test_worker_without_signals_stops_on_pause(parts: Parts) -> None:
    """A worker that receives no NOTIFY of a pause detects it by polling, and stops sending."""
    await parts.register(parts.subscribe(Vendor.FCM, 400))
    parts.sim.behave(Rule(delay_ms=20))
    async with parts.run_worker(quick_config(senders=2, lease=timedelta(seconds=1))):
        sent = await parts.submit()
        await parts.sim.wait_for(count=4)
        async with parts.engine.begin() as conn:
            await conn.execute(update(table).where(table.c.id == sent.id).values(status=Status.PAUSED))
        async with asyncio.timeout(20):
            with parts.notifier.subscribe(notifier.LOG) as waiter:
                while not await parts.scalar("SELECT bool_and(parked) FROM jobs"):
                    await waiter.wait(0.2)
        assert parts.sim.messages.total < 300
        await apply(parts, lifecycle.resume, sent)
        parts.sim.behave()
        assert (await parts.wait_until_done(sent.id)).accepted == 400


async def test_pause_between_claim_and_park_keeps_the_resume(parts: Parts) -> None:
    """A requeue reads the status under the lock of pause and resume, so a pause or resume since the claim counts."""
    await parts.register(parts.subscribe(Vendor.FCM, 3))
    sent = await parts.submit()
    queue = parts.queue()
    [plan] = await queue.claim(lanes=[sent.delivery.lane], limit=1, lease=timedelta(minutes=1), wait=timedelta(0))
    await apply(parts, lifecycle.pause, sent)
    async with parts.engine.begin() as conn:
        await lifecycle.requeue(conn, plan)
    assert await parts.scalar("SELECT parked FROM jobs")
    await apply(parts, lifecycle.resume, sent)
    assert await parts.scalar("SELECT NOT parked AND run_at <= now() FROM jobs")
    [plan] = await queue.claim(lanes=[sent.delivery.lane], limit=1, lease=timedelta(minutes=1), wait=timedelta(0))
    await apply(parts, lifecycle.pause, sent)
    await apply(parts, lifecycle.resume, sent)
    async with parts.engine.begin() as conn:
        await lifecycle.requeue(conn, plan)
    assert await parts.scalar("SELECT NOT parked AND run_at <= now() FROM jobs")
    async with parts.engine.connect() as conn:
        assert await job_records.last_due(conn, sent.id) is None


# (transition, messages to wait for before the next transition)
transitions = st.tuples(st.sampled_from([lifecycle.pause, lifecycle.resume]), st.integers(0, 25))


@settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],  # no shrinking: the interleaving of workers is not reproducible
)
@given(steps=st.lists(transitions, max_size=8), cancelled=st.booleans())
async def test_random_transitions_deliver_at_most_once(
    parts: Parts, steps: list[tuple[lifecycle.Transition, int]], cancelled: bool
) -> None:
    """With two workers, retries and random pauses and resumes, every device gets at most one message."""
    topic = new_id().hex
    devices = await parts.register(parts.subscribe(Vendor.FCM, 150), topics=(topic,))
    slow = Rule(delay_ms=5)
    parts.sim.behave(Rule(share=0.1, times=1, status=503, retry_after=1, delay_ms=5), slow)
    config = quick_config(senders=SENDERS, jobs=2)
    async with parts.run_worker(config), parts.run_worker(config):
        sent = await parts.submit(audience={"topic": topic})
        for transition, messages in steps:
            with suppress(Conflict):  # the notification may be done
                await apply(parts, transition, sent)
            if await status(parts, sent) is not Status.PAUSED:
                remaining = sum(not subscriber.messages for subscriber in devices.values())
                await parts.sim.wait_for(count=parts.sim.messages.total + min(messages, remaining), timeout=20)
        with suppress(Conflict):
            await apply(parts, lifecycle.cancel if cancelled else lifecycle.resume, sent)
        progress = await parts.wait_until_done(sent.id)
    outcomes = Counter(row.outcome for row in (await parts.list_deliveries(sent.id)).values())
    assert outcomes.total() == progress.targets
    assert max(len(subscriber.messages) for subscriber in devices.values()) <= 1
    assert sum(len(subscriber.messages) for subscriber in devices.values()) == outcomes["accepted"]
    if not cancelled:
        assert outcomes == {"accepted": 150}
    else:
        assert progress.targets == outcomes["accepted"] + outcomes["cancelled"]


async def test_failing_campaign_is_paused_once(parts: Parts) -> None:
    """A campaign that exceeds its failure limit is paused once; after a resume it is not paused again."""
    await parts.register(parts.subscribe(Vendor.FCM, 1200))
    parts.sim.behave(Rule(status=413))
    policy = SendPolicy(pause_when=FailureLimit(0.3, 50))
    async with parts.run_worker(quick_config(senders=SENDERS, jobs=1)):
        sent = await parts.submit(policy=policy)
        async with asyncio.timeout(30):
            with parts.notifier.subscribe(notifier.LOG) as waiter:
                while await status(parts, sent) is not Status.PAUSED:
                    await waiter.wait(0.5)
        notification, progress = await parts.get_notification(sent.id)
        assert notification.auto_paused is not None
        assert "more than the limit of 30%" in notification.auto_paused
        assert 0 < progress.rejected < 1200
        await apply(parts, lifecycle.resume, sent)
        progress = await parts.wait_until_done(sent.id)
    assert progress.rejected == 1200
