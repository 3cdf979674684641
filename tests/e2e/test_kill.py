"""Workers as real processes, killed and stopped in the middle: nothing is lost, nothing is logged twice."""

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
KILLS = 3
LEASE_S = 2
JOBS = 2
# What a killed worker may have sent and not yet settled: no more than the jobs it holds.
MOST_UNSETTLED = JOBS * MAX_CHUNK_SIZE


@pytest.fixture
async def devices(parts: Parts) -> dict[UUID, Subscriber]:
    parts.sim.messages.max_messages = None
    per_vendor = DEVICES // len(Vendor)
    return await parts.register(
        [one for vendor in Vendor for one in parts.subscribe(vendor, per_vendor, share_keys=True)]
    )


def copies(parts: Parts) -> Counter[str]:
    """How often the push services accepted a message, by endpoint."""
    return Counter(message.endpoint for message in parts.sim.messages)


async def test_workers_killed_in_the_middle_lose_nothing_and_log_everything_once(
    parts: Parts, devices: dict[UUID, Subscriber], tmp_path: Path
) -> None:
    """Each kill comes at a random moment; the next worker takes over when the dead one's leases have run out."""
    # A fifth of the devices needs a second try, so that retry jobs too are held by workers that die.
    parts.sim.behave(Rule(status=503, share=0.2, times=1, retry_after=1), Rule(delay_ms=10))
    sent = await parts.submit()
    moments = sorted(random.uniform(0.05, 0.85) * DEVICES for _ in range(KILLS))  # noqa: S311 - no secret

    outstanding: set[str] = set()
    for moment in moments:
        async with worker_process(parts, tmp_path, lease=LEASE_S, jobs=JOBS, senders=32) as worker:
            await parts.sim.wait_for(lambda least=moment: parts.sim.messages.total >= least, timeout=60)
            await worker.kill()
        logged = {devices[device_id].endpoint for device_id in await parts.list_deliveries(sent.id)}
        before, outstanding = outstanding, copies(parts).keys() - logged
        assert len(outstanding - before) <= MOST_UNSETTLED
    async with worker_process(parts, tmp_path, lease=LEASE_S, jobs=JOBS, senders=64) as worker:
        progress = await parts.wait_until_done(sent.id, 90)
        assert await worker.terminate() == 0

    rows = await parts.list_deliveries(sent.id)
    assert rows.keys() == devices.keys()
    assert {row.outcome for row in rows.values()} == {"accepted"}

    received = copies(parts)
    assert received.keys() == {subscriber.endpoint for subscriber in devices.values()}
    repeated = received.total() - DEVICES
    print(f"killed after {[round(moment) for moment in moments]} messages; {repeated} were sent again")
    assert repeated <= KILLS * MOST_UNSETTLED
    assert max(received.values()) <= 1 + KILLS

    notification, _ = await parts.get_notification(sent.id)
    assert notification.status is Status.DONE
    assert (progress.targets, progress.accepted, progress.pending) == (DEVICES, DEVICES, 0)
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


async def test_repeats_carry_the_topic_and_tag_that_fold_them_on_the_device(parts: Parts, tmp_path: Path) -> None:
    devices = await parts.register(parts.subscribe(Vendor.FCM, 600))
    parts.sim.behave(Rule(delay_ms=20))
    await parts.submit()
    async with worker_process(parts, tmp_path, lease=LEASE_S) as worker:
        await parts.sim.wait_for(count=100)
        await worker.kill()
    repeated = [one for one in devices.values() if one.messages]
    async with worker_process(parts, tmp_path, lease=LEASE_S):
        await parts.sim.wait_for(lambda: any(len(one.messages) > 1 for one in repeated), timeout=30)
    twice = next(one.messages for one in repeated if len(one.messages) > 1)
    assert len({message.topic for message in twice}) == 1
    assert len({message.json()["notification"]["tag"] for message in twice}) == 1


async def test_sigterm_drains_and_exits_with_0(parts: Parts, devices: dict[UUID, Subscriber], tmp_path: Path) -> None:
    """What was in flight is settled, the rest given back at once: no lease has to run out."""
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
    assert set(copies(parts).values()) == {1}


async def test_an_idle_worker_told_to_stop_exits_with_0(parts: Parts, tmp_path: Path) -> None:
    devices = await parts.register(parts.subscribe(Vendor.MOZILLA, 1))
    sent = await parts.submit()
    async with worker_process(parts, tmp_path) as worker:
        assert (await parts.wait_until_done(sent.id)).accepted == len(devices)
        assert await worker.terminate() == 0
        assert "worker.stopped" in worker.log
