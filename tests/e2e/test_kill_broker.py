"""NATS as the queue, in a cluster of three: workers without a database, everything killed in the middle."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import nats
import pytest

from gateway.domain.job import MAX_CHUNK_SIZE
from gateway.domain.notification import Kind, Lane, Status
from gateway.domain.send_policy import SendPolicy, Throttle
from gateway.queue.nats import jobs_stream
from gateway.service.notifications import lifecycle
from gateway.sim import Rule, Subscriber, Vendor
from tests.support.gateway_parts import Parts, gateway
from tests.support.nats_server import Node, start_nodes
from tests.support.worker_process import relay_process, worker_process

DEVICES = 4_000
LEASE_S = 4
JOBS = 2
AWAY_S = 20.0
# Of every worker that was killed, and of the moment in which the cluster had no leader.
MOST_REPEATED = 4 * JOBS * MAX_CHUNK_SIZE


@pytest.fixture
async def parts(database_url: str) -> AsyncIterator[Parts]:
    async with gateway(database_url) as parts:
        parts.sim.messages.max_messages = None
        yield parts


@pytest.fixture
async def devices(parts: Parts) -> dict[UUID, Subscriber]:
    per_vendor = DEVICES // len(Vendor)
    return await parts.register(
        [one for vendor in Vendor for one in parts.subscribe(vendor, per_vendor, share_keys=True)]
    )


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[list[Node]]:
    async with start_nodes(3, tmp_path) as several:
        yield several


async def leader_of(cluster: list[Node], lane: Lane) -> Node:
    async with await nats.connect([node.url for node in cluster]) as client:
        info = await client.jetstream().stream_info(jobs_stream(lane))
    assert info.cluster is not None
    assert info.cluster.leader is not None
    return cluster[int(info.cluster.leader.removeprefix("n"))]


async def test_worker_relay_and_leader_killed_in_the_middle_lose_nothing(
    parts: Parts, devices: dict[UUID, Subscriber], cluster: list[Node], tmp_path: Path
) -> None:
    parts.sim.behave(Rule(status=503, share=0.1, times=1, retry_after=1), Rule(delay_ms=10))
    said = {"queue": ",".join(node.url for node in cluster), "lease": LEASE_S}
    alone = said | {"database_url": "", "jobs": JOBS}
    sent = await parts.submit()

    async def reached(share: float) -> None:
        await parts.sim.wait_for(lambda: parts.sim.messages.total >= share * DEVICES, timeout=60)

    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relay_process(parts, tmp_path, **said))
        other = await stack.enter_async_context(relay_process(parts, tmp_path, **said))
        first = await stack.enter_async_context(worker_process(parts, tmp_path, senders=32, **alone))
        await reached(0.15)
        await first.kill()
        second = await stack.enter_async_context(worker_process(parts, tmp_path, senders=32, **alone))
        await reached(0.4)
        await (await leader_of(cluster, Lane.BULK)).kill()
        await reached(0.6)
        await relay.kill()
        relay = await stack.enter_async_context(relay_process(parts, tmp_path, **said))
        progress = await parts.wait_until_done(sent.id, 100)
        assert await second.terminate() == 0
        assert await relay.terminate() == 0
        assert await other.terminate() == 0

    rows = await parts.list_deliveries(sent.id)
    assert rows.keys() == devices.keys()
    assert {row.outcome for row in rows.values()} == {"accepted"}
    received = Counter(message.endpoint for message in parts.sim.messages)
    assert received.keys() == {subscriber.endpoint for subscriber in devices.values()}
    print(f"{received.total() - DEVICES} were sent again")
    assert received.total() - DEVICES <= MOST_REPEATED
    notification, _ = await parts.get_notification(sent.id)
    assert notification.status is Status.DONE
    assert (progress.targets, progress.accepted, progress.pending) == (DEVICES, DEVICES, 0)
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


async def test_a_broker_that_is_away_for_twenty_seconds_loses_nothing(
    parts: Parts, devices: dict[UUID, Subscriber], tmp_path: Path
) -> None:
    """Longer than jobs are held in it and longer than leases in the database; its store is there again with it."""
    parts.sim.behave(Rule(delay_ms=10))
    async with start_nodes(1, tmp_path) as [node]:
        said = {"queue": node.url, "lease": LEASE_S}
        async with (
            relay_process(parts, tmp_path, **said) as relay,
            worker_process(parts, tmp_path, senders=32, database_url="", jobs=JOBS, **said) as worker,
        ):
            sent = await parts.submit()
            await parts.sim.wait_for(count=DEVICES // 4, timeout=60)
            await node.stop()
            await asyncio.sleep(AWAY_S)
            await node.start()
            progress = await parts.wait_until_done(sent.id, 60)
            assert await worker.terminate() == 0
            assert await relay.terminate() == 0
    rows = await parts.list_deliveries(sent.id)
    assert rows.keys() == devices.keys()
    assert (progress.accepted, progress.pending) == (DEVICES, 0)
    received = Counter(message.endpoint for message in parts.sim.messages)
    print(f"{received.total() - DEVICES} were sent again")
    # What was in hand; on a slow machine the lease of what was handed out again runs out once more.
    assert received.total() - DEVICES <= 2 * JOBS * MAX_CHUNK_SIZE
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


async def test_pause_resume_cancel_throttle_and_lanes_reach_workers_without_a_database(
    parts: Parts, devices: dict[UUID, Subscriber], cluster: list[Node], tmp_path: Path
) -> None:

    async def told(order: lifecycle.Order, id_: UUID) -> None:
        async with parts.engine.begin() as conn:
            await order(conn, parts.application_id, id_)
        await lifecycle.wait_until_idle(parts.engine, id_)

    parts.sim.behave(Rule(delay_ms=20))
    said = {"queue": ",".join(node.url for node in cluster), "lease": LEASE_S}
    async with (
        relay_process(parts, tmp_path, **said),
        worker_process(parts, tmp_path, senders=16, database_url="", **said),
    ):
        sent = await parts.submit()
        await parts.sim.wait_for(count=300, timeout=60)
        await told(lifecycle.pause, sent.id)
        paused_at = parts.sim.messages.total
        assert paused_at < DEVICES
        alert = await parts.submit(Kind.ALERT)
        assert (await parts.wait_until_done(alert.id)).accepted == DEVICES
        assert parts.sim.messages.total == paused_at + DEVICES, "nothing of what is paused goes out"
        await told(lifecycle.resume, sent.id)
        await parts.sim.wait_for(lambda: parts.sim.messages.total > paused_at + DEVICES + 200, timeout=30)
        await told(lifecycle.cancel, sent.id)
        progress = await parts.wait_until_done(sent.id)
        assert progress.accepted + progress.cancelled == DEVICES
        assert progress.cancelled > 0
        began = asyncio.get_running_loop().time()
        slow = await parts.submit(steering=SendPolicy(throttle=Throttle(2000.0)))
        assert (await parts.wait_until_done(slow.id)).accepted == DEVICES
        assert asyncio.get_running_loop().time() - began > 0.9
