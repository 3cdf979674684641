"""Refused VAPID keys: a device with another key is quarantined; sending with a key that all devices refuse pauses."""

from typing import Any
from uuid import UUID

import pytest
import structlog
from sqlalchemy import text

from gateway.push.vapid import VapidKey
from gateway.service.pipeline import key_health, push_sender
from gateway.sim import Rule, Vendor
from gateway.worker.maintenance import quarantine
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from tests.support.gateway_parts import Parts, quick_config

# The senders of the worker, and so its maximum number of messages in flight.
SENDERS = 4


pytestmark = pytest.mark.usefixtures("short_retry_delays")


async def shift_refusal(parts: Parts, device_id: UUID, hours: int) -> None:
    """Move the first refusal of a device into the past."""
    async with parts.engine.begin() as conn:
        shift = "UPDATE devices SET refused_since = now() - CAST(:hours AS int) * interval '1 hour' WHERE id = :id"
        await conn.execute(text(shift), {"hours": hours, "id": device_id})


async def wait_until_refused(parts: Parts, notification_id: UUID, count: int) -> None:
    """Wait until `count` messages of a notification have been refused and will be retried."""
    await parts.wait_until(notification_id, lambda progress: progress.retries >= count)


@pytest.mark.parametrize("vendor", [Vendor.FCM, Vendor.MOZILLA, Vendor.APPLE])
async def test_subscription_with_another_key_is_quarantined(parts: Parts, vendor: Vendor) -> None:
    """After one response that names the mismatch, the device is in quarantine and in no audience."""
    accepted_devices = await parts.register(parts.subscribe(vendor, 3))
    mismatched = parts.sim.subscribe_many(vendor, 1, VapidKey.generate().public_key)
    [device_id] = await parts.register(mismatched)

    async with parts.run_worker(quick_config(senders=SENDERS)):
        sent = await parts.submit()
        progress = await parts.wait_until_done(sent.id)
        assert (progress.accepted, progress.rejected) == (len(accepted_devices), 1)
        second_progress = await parts.wait_until_done((await parts.submit()).id)

    assert await parts.device_status(device_id) == "quarantined"
    assert second_progress.targets == len(accepted_devices)
    row = (await parts.list_deliveries(sent.id))[device_id]
    assert row.attempts == 1
    assert "another VAPID key" in row.cause


async def test_device_is_quarantined_after_a_day_of_refusals(parts: Parts) -> None:
    """WNS does not name a mismatch: the device is refused for a day while others are accepted."""
    await parts.register(parts.subscribe(Vendor.WNS, 3))
    [device_id] = await parts.register(parts.sim.subscribe_many(Vendor.WNS, 1, VapidKey.generate().public_key))
    async with parts.run_worker(quick_config(senders=SENDERS)):
        sent = await parts.submit()
        await wait_until_refused(parts, sent.id, push_sender.MAX_DEVICE_REFUSALS + 1)
        assert await parts.device_status(device_id) == "active"
        await shift_refusal(parts, device_id, 23)
        await wait_until_refused(parts, sent.id, (await parts.get_notification(sent.id))[1].retries + 1)
        assert await parts.device_status(device_id) == "active"
        await shift_refusal(parts, device_id, 25)
        progress = await parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.rejected) == (3, 1)
    assert await parts.device_status(device_id) == "quarantined"
    assert "accepts the key for other devices" in (await parts.list_deliveries(sent.id))[device_id].cause


async def test_quarantined_device_is_retried_and_released(parts: Parts) -> None:
    """A device with long refusals is tried again after a day, and acceptance ends its refusals."""
    stale, mismatched, good = [*parts.subscribe(Vendor.WNS, 3)]
    stale_id, mismatched_id, _ = await parts.register([stale, mismatched, good])
    async with parts.engine.begin() as conn:
        refused = "UPDATE devices SET status = 'quarantined', updated_at = now() - interval '25 hours'"
        await conn.execute(text(f"{refused} WHERE id IN (:a, :b)"), {"a": stale_id, "b": mismatched_id})
    await shift_refusal(parts, stale_id, 60)
    parts.sim.behave(Rule(status=403, endpoint=stale.endpoint))

    async def release() -> int:
        async with parts.engine.begin() as conn:
            return await quarantine.release_refused_devices(conn, RetentionPolicy())

    assert await release() == 1
    assert await release() == 0
    assert await parts.device_status(mismatched_id) == "quarantined"
    async with parts.run_worker(quick_config(senders=SENDERS)):
        refused_again = await parts.wait_until_done((await parts.submit()).id)
        assert (refused_again.accepted, refused_again.rejected) == (1, 1)
        assert await parts.device_status(stale_id) == "quarantined"
        parts.sim.behave()
        async with parts.engine.begin() as conn:
            await conn.execute(text("UPDATE devices SET updated_at = now() - interval '25 hours'"))
        assert await release() == 1
        assert (await parts.wait_until_done((await parts.submit()).id)).accepted == 2
    assert await parts.device_status(stale_id) == "active"
    assert await parts.scalar("SELECT count(*) FROM devices WHERE refused_since IS NOT NULL") == 0


async def test_first_acceptance_is_recorded_once(parts: Parts) -> None:
    """Later messages leave the time of the first acceptance; a subscription with another key starts anew."""
    [subscriber] = parts.subscribe(Vendor.FCM, 1)
    [device_id] = await parts.register([subscriber])
    accepted_at = "SELECT accepted_at FROM devices WHERE id = :id"
    assert await parts.scalar(accepted_at, id=device_id) is None
    async with parts.run_worker():
        await parts.wait_until_done((await parts.submit()).id)
        first_accepted_at = await parts.scalar(accepted_at, id=device_id)
        assert first_accepted_at is not None
        await parts.wait_until_done((await parts.submit()).id)
    await parts.register([subscriber])
    assert await parts.scalar(accepted_at, id=device_id) == first_accepted_at
    async with parts.engine.begin() as conn:
        old_key = UUID(int=1)
        add_key = "INSERT INTO vapid_keys SELECT CAST(:id AS uuid), application_id, '', private_key FROM vapid_keys"
        await conn.execute(text(add_key), {"id": old_key})
        await conn.execute(text("UPDATE devices SET vapid_key_id = :id"), {"id": old_key})
    await parts.register([subscriber], vapid_public_key=parts.vapid_public_key)
    assert await parts.scalar(accepted_at, id=device_id) is None


async def test_failures_before_a_refusal_do_not_quarantine(parts: Parts) -> None:
    """Failures that are not refusals do not count towards the quarantine."""
    devices = await parts.register(parts.subscribe(Vendor.MOZILLA, 20))
    faults = Rule(status=500, times=push_sender.MAX_DEVICE_REFUSALS - 1, share=0.3)
    parts.sim.behave(faults, Rule(status=401, times=1, share=0.6))
    async with parts.run_worker(quick_config(senders=SENDERS)):
        sent = await parts.submit()
        progress = await parts.wait_until_done(sent.id)
    assert progress.accepted == len(devices)
    assert (
        max(row.attempts for row in (await parts.list_deliveries(sent.id)).values()) > push_sender.MAX_DEVICE_REFUSALS
    )


async def test_many_refused_devices_do_not_pause_the_key(parts: Parts) -> None:
    """Refusals of devices that were never accepted are no evidence while others are accepted."""
    accepted_devices = await parts.register(parts.subscribe(Vendor.WNS, 20))
    async with parts.run_worker(quick_config(senders=SENDERS)):
        await parts.wait_until_done((await parts.submit()).id)
        count = 4 * key_health.FAILURES_TO_OPEN
        other_key_devices = await parts.register(
            parts.sim.subscribe_many(Vendor.WNS, count, VapidKey.generate().public_key), topics=("stale",)
        )
        refused = await parts.submit(audience={"topic": "stale"})
        await wait_until_refused(parts, refused.id, len(other_key_devices))
        with structlog.testing.capture_logs() as logs:
            sent = await parts.submit()
            await parts.wait_until(sent.id, lambda progress: progress.accepted == len(accepted_devices))
    assert {row.attempts for row in (await parts.list_deliveries(sent.id)).values()} == {1}
    assert "host.refuses_our_key" not in {entry["event"] for entry in logs}


async def test_new_subscription_ends_the_quarantine(parts: Parts) -> None:
    """A device that registers again with the application's key is active and receives messages."""
    [mismatched] = parts.sim.subscribe_many(Vendor.FCM, 1, VapidKey.generate().public_key)
    [device_id] = await parts.register([mismatched])
    async with parts.run_worker():
        assert (await parts.wait_until_done((await parts.submit()).id)).rejected == 1
        mismatched.vapid_public_key = parts.vapid_public_key
        await parts.register([mismatched])
        assert await parts.device_status(device_id) == "active"
        assert (await parts.wait_until_done((await parts.submit()).id)).accepted == 1


async def test_key_refused_for_all_pauses_the_host(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending with the key to that host is paused, and no device is put into quarantine."""
    monkeypatch.setattr(key_health, "INITIAL_PAUSE_S", 300.0)
    refused = await parts.register(parts.subscribe(Vendor.MOZILLA, 60))
    accepted_devices = await parts.register(parts.subscribe(Vendor.FCM, 10))
    parts.sim.behave(Rule(status=401, vendor=Vendor.MOZILLA, delay_ms=5))
    sent = await parts.submit()
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker(quick_config(senders=SENDERS)):
            _, progress = await parts.wait_until(
                sent.id,
                lambda progress: (
                    progress.accepted == len(accepted_devices) and progress.retries >= key_health.FAILURES_TO_OPEN
                ),
            )

    assert progress.pending == len(refused)
    assert parts.sim.counters[Vendor.MOZILLA][401] <= key_health.FAILURES_TO_OPEN + SENDERS
    assert await parts.scalar("SELECT count(*) FROM devices WHERE status <> 'active'") == 0
    assert [entry["event"] for entry in logs].count("host.refuses_our_key") == 1
    waiting = "SELECT count(*) FROM jobs WHERE tries = 0 AND attempt = 0 AND run_at < now() + interval '4 minutes'"
    assert await parts.scalar(waiting) == 0


async def test_sending_resumes_after_the_key_pause(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """All devices get their message once."""
    monkeypatch.setattr(key_health, "INITIAL_PAUSE_S", 1.0)
    devices = await parts.register(parts.subscribe(Vendor.MOZILLA, 30))
    parts.sim.behave(Rule(status=401))
    sent = await parts.submit()
    async with parts.run_worker(quick_config(senders=SENDERS)):
        await wait_until_refused(parts, sent.id, key_health.FAILURES_TO_OPEN)
        parts.sim.behave()
        progress = await parts.wait_until_done(sent.id)
    assert progress.accepted == len(devices)
    assert {len(subscriber.messages) for subscriber in devices.values()} == {1}


async def test_push_sender_caches_are_bounded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """With caches of size 1, keys and their states are evicted for every message, and all messages are sent."""
    monkeypatch.setattr(push_sender, "MAX_CACHED", 1)
    senders = []
    original = push_sender.PushSender.__init__

    def record(sender: push_sender.PushSender, *args: Any) -> None:
        senders.append(sender)
        original(sender, *args)

    monkeypatch.setattr(push_sender.PushSender, "__init__", record)
    devices = [await parts.register(parts.subscribe(vendor, 5)) for vendor in Vendor]
    async with parts.run_worker(quick_config(senders=SENDERS)):
        progress = await parts.wait_until_done((await parts.submit()).id)
    assert progress.accepted == sum(map(len, devices))
    [sender] = senders
    assert sender.cache_sizes() == (1, 1)
