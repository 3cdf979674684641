"""Cancellation: sending stops, and every delivery is accounted for."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.domain.errors import Conflict, NotFound
from gateway.domain.ids import new_id
from gateway.domain.notification import Kind, Notification, Status
from gateway.records import notifications
from gateway.service.notifications import lifecycle
from gateway.sim import Rule, Vendor
from tests.support.gateway_parts import Parts, quick_config

# The senders of the worker, and so its maximum number of messages in flight.
SENDERS = 4


async def cancel(parts: Parts, notification: Notification) -> None:
    """Cancel a notification, without waiting for the workers."""
    async with parts.engine.begin() as conn:
        await lifecycle.cancel(conn, parts.application_id, notification.id)


async def test_cancelled_campaign_stops_at_once(
    parts: Parts,
) -> None:
    """A running campaign stops at once, and the remaining deliveries are logged as cancelled."""
    devices = await parts.register(parts.subscribe(Vendor.FCM, 700))
    parts.sim.behave(Rule(delay_ms=20))
    async with parts.run_worker(quick_config(senders=SENDERS, jobs=1)):
        sent = await parts.submit()
        await parts.sim.wait_for(count=40)
        await cancel(parts, sent)
        count = parts.sim.messages.total
        progress = await parts.wait_until_done(sent.id)

    # Each sender may have had a message in flight, and may have begun one before it knew of the cancellation.
    assert parts.sim.messages.total <= count + 2 * SENDERS
    assert (progress.accepted, progress.cancelled) == (parts.sim.messages.total, 700 - parts.sim.messages.total)
    rows = await parts.list_deliveries(sent.id)
    assert rows.keys() == devices.keys()
    for device_id, subscriber in devices.items():
        assert rows[device_id].outcome == ("accepted" if subscriber.messages else "cancelled")
    notification, _ = await parts.get_notification(sent.id)
    assert (notification.status, notification.finished_at is not None) == (Status.CANCELLED, True)
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


async def test_cancelled_scheduled_notification_is_never_sent(parts: Parts) -> None:
    """A scheduled notification that is cancelled is never sent."""
    await parts.register(parts.subscribe(Vendor.FCM, 3))
    sent = await parts.submit(start_at=datetime.now(UTC) + timedelta(milliseconds=500))
    await cancel(parts, sent)
    async with parts.run_worker():
        later = await parts.submit(start_at=datetime.now(UTC) + timedelta(seconds=1))
        await parts.wait_until_done(later.id)
    assert await parts.list_deliveries(sent.id) == {}
    assert parts.sim.messages.total == 3
    notification, progress = await parts.get_notification(sent.id)
    assert (notification.status, progress.targets) == (Status.CANCELLED, 0)
    assert notification.finished_at is not None


async def test_cancelled_retries_settle_at_once(parts: Parts) -> None:
    """Retries that wait for an hour settle at once when their notification is cancelled."""
    await parts.register(parts.subscribe(Vendor.FCM, 5))
    parts.sim.behave(Rule(status=429, retry_after=3600))
    async with parts.run_worker():
        sent = await parts.submit()
        await parts.wait_until(sent.id, lambda progress: progress.retries == 5)
        await cancel(parts, sent)
        progress = await parts.wait_until_done(sent.id, 10)
    assert (progress.cancelled, progress.accepted) == (5, 0)
    assert parts.sim.counters[Vendor.FCM] == {429: 5}


async def test_cancellation_without_worker_settles_on_start(parts: Parts) -> None:
    """A notification cancelled while no worker runs is settled by the next worker."""
    await parts.register(parts.subscribe(Vendor.FCM, 200))
    parts.sim.behave(Rule(delay_ms=20))
    sent = await parts.submit()
    async with parts.run_worker(quick_config(senders=SENDERS, drain=timedelta(0))):
        await parts.sim.wait_for(count=5)
    await cancel(parts, sent)
    count = parts.sim.messages.total
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id, 10)
    assert (progress.accepted, progress.cancelled) == (count, 200 - count)
    assert parts.sim.messages.total == count


async def test_cancellation_reaches_a_worker_without_signals(parts: Parts) -> None:
    """A worker that receives no NOTIFY of a cancellation detects it when it polls the status, once per lease."""
    await parts.register(parts.subscribe(Vendor.FCM, 400))
    parts.sim.behave(Rule(delay_ms=20))
    async with parts.run_worker(quick_config(senders=2, lease=timedelta(seconds=1))):
        sent = await parts.submit()
        await parts.sim.wait_for(count=4)
        async with parts.engine.begin() as conn:
            await notifications.set_status(conn, sent.id, Status.CANCELLED)
        progress = await parts.wait_until_done(sent.id)
    assert progress.cancelled > 100


async def test_second_cancellation_changes_nothing(parts: Parts) -> None:
    """Cancelling a cancelled notification changes nothing."""
    sent = await parts.submit()
    await cancel(parts, sent)
    await cancel(parts, sent)
    assert (await parts.get_notification(sent.id))[0].status is Status.CANCELLED


async def test_finished_notification_cannot_be_cancelled(parts: Parts) -> None:
    """Cancelling a finished notification raises Conflict."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    async with parts.run_worker():
        sent = await parts.submit()
        await parts.wait_until_done(sent.id)
    with pytest.raises(Conflict):
        await cancel(parts, sent)
    assert (await parts.get_notification(sent.id))[0].status is Status.DONE


async def test_cancel_needs_the_application_and_the_kind(parts: Parts) -> None:
    """A notification can be cancelled only by its application and under its kind."""
    sent = await parts.submit()
    for application_id, id_, kind in (
        (new_id(), sent.id, None),
        (parts.application_id, new_id(), None),
        (parts.application_id, sent.id, Kind.ALERT),
    ):
        async with parts.engine.begin() as conn:
            with pytest.raises(NotFound):
                await lifecycle.cancel(conn, application_id, id_, kind)
    assert (await parts.get_notification(sent.id))[0].status is Status.SCHEDULED
