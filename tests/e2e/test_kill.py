"""Worker processes that are killed or stopped during a campaign lose no delivery and log no delivery twice."""

import random
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from gateway.domain.job import MAX_CHUNK_SIZE
from gateway.domain.notification import Status
from gateway.sim import Rule, Subscriber, Vendor
from tests.support.gateway_parts import Parts
from tests.support.worker_process import worker_process

DEVICES = 5_000
# The number of workers that are killed, one after the other.
KILLS = 3
LEASE_S = 2
# The number of jobs that a worker claims at once.
JOBS = 2
# The messages that a killed worker may have sent and not settled: at most those of its claimed jobs.
MAX_UNSETTLED = JOBS * MAX_CHUNK_SIZE


@pytest.fixture
async def devices(parts: Parts) -> dict[UUID, Subscriber]:
    """DEVICES registered devices by id, equally distributed over the vendors; the simulator stores all messages."""
    parts.sim.messages.max_messages = None
    per_vendor = DEVICES // len(Vendor)
    return await parts.register(
        [subscriber for vendor in Vendor for subscriber in parts.subscribe(vendor, per_vendor, share_keys=True)]
    )


def count_messages(parts: Parts) -> Counter[str]:
    """Count the accepted messages by endpoint."""
    return Counter(message.endpoint for message in parts.sim.messages)


async def test_killed_workers_lose_nothing_and_log_once(
    parts: Parts, devices: dict[UUID, Subscriber], tmp_path: Path
) -> None:
    """Workers are killed at random times; the next worker claims the jobs of the killed one after the leases expire."""
    # A fifth of the devices need a retry, so that the killed workers also have retry jobs.
    parts.sim.behave(Rule(status=503, share=0.2, times=1, retry_after=1), Rule(delay_ms=10))
    campaign = await parts.submit()
    thresholds = sorted(random.uniform(0.05, 0.85) * DEVICES for _ in range(KILLS))  # noqa: S311 - not a secret

    unlogged: set[str] = set()
    for threshold in thresholds:
        async with worker_process(parts, tmp_path, lease=LEASE_S, worker_jobs=JOBS, worker_concurrency=32) as worker:
            await parts.sim.wait_for(lambda minimum=threshold: parts.sim.messages.total >= minimum, timeout=60)
            await worker.kill()
        logged = {devices[device_id].endpoint for device_id in await parts.list_deliveries(campaign.id)}
        previously_unlogged, unlogged = unlogged, count_messages(parts).keys() - logged
        assert len(unlogged - previously_unlogged) <= MAX_UNSETTLED
    async with worker_process(parts, tmp_path, lease=LEASE_S, worker_jobs=JOBS, worker_concurrency=64) as worker:
        progress = await parts.wait_until_done(campaign.id, 90)
        assert await worker.terminate() == 0

    rows = await parts.list_deliveries(campaign.id)
    assert rows.keys() == devices.keys()
    assert {row.outcome for row in rows.values()} == {"accepted"}

    received = count_messages(parts)
    assert received.keys() == {subscriber.endpoint for subscriber in devices.values()}
    repeated = received.total() - DEVICES
    print(f"killed after {[round(threshold) for threshold in thresholds]} messages; {repeated} were sent again")
    assert repeated <= KILLS * MAX_UNSETTLED
    assert max(received.values()) <= 1 + KILLS

    notification, _ = await parts.get_notification(campaign.id)
    assert notification.status is Status.DONE
    assert (progress.targets, progress.accepted, progress.pending) == (DEVICES, DEVICES, 0)
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


async def test_repeated_messages_have_the_same_topic_and_tag(parts: Parts, tmp_path: Path) -> None:
    """A message that is sent again after a kill replaces the first message on the device."""
    devices = await parts.register(parts.subscribe(Vendor.FCM, 600))
    parts.sim.behave(Rule(delay_ms=20))
    await parts.submit()
    async with worker_process(parts, tmp_path, lease=LEASE_S) as worker:
        await parts.sim.wait_for(count=100)
        await worker.kill()
    recipients = [subscriber for subscriber in devices.values() if subscriber.messages]
    async with worker_process(parts, tmp_path, lease=LEASE_S):
        await parts.sim.wait_for(lambda: any(len(subscriber.messages) > 1 for subscriber in recipients), timeout=30)
    messages = next(subscriber.messages for subscriber in recipients if len(subscriber.messages) > 1)
    assert len({message.topic for message in messages}) == 1
    assert len({message.json()["notification"]["tag"] for message in messages}) == 1


async def test_sigterm_drains_and_exits_with_0(parts: Parts, devices: dict[UUID, Subscriber], tmp_path: Path) -> None:
    """On SIGTERM a worker settles the messages in flight and releases its jobs.

    The next worker claims them at once; the lease of 600 s would outlast the test.
    """
    parts.sim.behave(Rule(delay_ms=20))
    sent = await parts.submit()
    async with worker_process(parts, tmp_path, lease=600, drain=0.2) as worker:
        await parts.sim.wait_for(count=1_000, timeout=60)
        assert await worker.terminate() == 0
    received = parts.sim.messages.total
    assert received < DEVICES
    assert len(await parts.list_deliveries(sent.id)) == received

    parts.sim.behave()
    async with worker_process(parts, tmp_path, lease=600) as worker:
        progress = await parts.wait_until_done(sent.id, 60)
        assert await worker.terminate() == 0
    assert progress.accepted == DEVICES
    assert set(count_messages(parts).values()) == {1}


async def test_idle_worker_exits_with_0_on_sigterm(parts: Parts, tmp_path: Path) -> None:
    """A worker without jobs logs `worker.stopped` and exits with 0."""
    devices = await parts.register(parts.subscribe(Vendor.MOZILLA, 1))
    sent = await parts.submit()
    async with worker_process(parts, tmp_path) as worker:
        assert (await parts.wait_until_done(sent.id)).accepted == len(devices)
        assert await worker.terminate() == 0
        assert "worker.stopped" in worker.log
