"""Refused VAPID keys: a device with another key is quarantined, and a key that is refused for all pauses its host."""

from datetime import timedelta
from typing import Any

import pytest

from gateway.push.vapid import VapidKey
from gateway.service.pipeline import push_sender
from gateway.sim import Rule, Vendor
from tests.support.gateway_parts import Parts, quick_config

SENDERS = 4


pytestmark = pytest.mark.usefixtures("short_retry_delays")


@pytest.mark.parametrize("vendor", Vendor)
async def test_subscription_with_another_key_is_quarantined(parts: Parts, vendor: Vendor) -> None:
    """FCM and Apple report the mismatch; Mozilla and WNS repeatedly refuse only the messages of this device."""
    good = await parts.register(parts.subscribe(vendor, 3))
    mismatched = parts.sim.subscribe_many(vendor, 1, VapidKey.generate().public_key)
    [device_id] = await parts.register(mismatched)

    async with parts.run_worker(quick_config(senders=SENDERS)):
        sent = await parts.submit()
        progress = await parts.wait_until_done(sent.id)
        assert (progress.accepted, progress.rejected) == (len(good), 1)
        second = await parts.wait_until_done((await parts.submit()).id)

    assert await parts.device_status(device_id) == "quarantined"
    assert second.targets == len(good)
    row = (await parts.list_deliveries(sent.id))[device_id]
    names_mismatch = vendor in (Vendor.FCM, Vendor.APPLE)
    assert row.attempts == (1 if names_mismatch else push_sender.MAX_DEVICE_REFUSALS)
    assert row.cause


async def test_temporary_refusal_quarantines_nobody(parts: Parts) -> None:
    """Other failures before a refusal do not count towards the quarantine."""
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


async def test_many_mismatched_keys_do_not_pause_the_host(parts: Parts) -> None:
    """Devices with another key are retried together at the end, and their refusals must not count against the key."""
    count = 2 * push_sender.MAX_KEY_REFUSALS
    mismatched = parts.sim.subscribe_many(Vendor.MOZILLA, count, VapidKey.generate().public_key)
    # Devices are sent to in random order, so messages of other devices are sent between those of mismatched ones.
    await parts.register([*mismatched, *parts.subscribe(Vendor.MOZILLA, 4 * count)])
    async with parts.run_worker(quick_config(senders=SENDERS)):
        progress = await parts.wait_until_done((await parts.submit()).id)
    assert (progress.accepted, progress.rejected) == (4 * count, count)


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


async def test_key_refused_for_all_pauses_the_host(parts: Parts) -> None:
    """Sending to the host is paused, and no device is quarantined."""
    refused = await parts.register(parts.subscribe(Vendor.MOZILLA, 60))
    accepted_devices = await parts.register(parts.subscribe(Vendor.FCM, 10))
    parts.sim.behave(Rule(status=401, vendor=Vendor.MOZILLA, delay_ms=5))
    sent = await parts.submit()
    async with parts.run_worker(quick_config(senders=SENDERS)):
        _, progress = await parts.wait_until(
            sent.id, lambda progress: progress.accepted == len(accepted_devices) and progress.retries >= len(refused)
        )

    assert progress.pending == len(refused)
    assert parts.sim.counters[Vendor.MOZILLA][401] <= push_sender.MAX_KEY_REFUSALS + SENDERS
    assert await parts.scalar("SELECT count(*) FROM devices WHERE status <> 'active'") == 0
    delay = await parts.scalar("SELECT min(run_at) - now() FROM jobs WHERE tries = 0 AND attempt = 0")
    assert delay > push_sender.KEY_PAUSE - timedelta(seconds=30)


async def test_sending_resumes_after_the_key_pause(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pause, all devices get the message once."""
    monkeypatch.setattr(push_sender, "KEY_PAUSE", timedelta(seconds=1))
    devices = await parts.register(parts.subscribe(Vendor.MOZILLA, 30))
    parts.sim.behave(Rule(status=401))
    sent = await parts.submit()
    async with parts.run_worker(quick_config(senders=SENDERS)):
        await parts.wait_until(sent.id, lambda progress: progress.retries >= len(devices))
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
