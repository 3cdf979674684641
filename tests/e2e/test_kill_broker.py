"""NATS as the queue: workers without a database, and workers, relays and brokers that are killed or stopped."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import nats
import pytest

from gateway.domain.database_work import REQUEST
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
# The number of jobs that a worker claims at once.
JOBS = 2
# The duration of the broker's outage.
OUTAGE_S = 20.0
# The upper bound of messages that are sent again: four times those of a worker's claimed jobs, for the killed worker,
# the killed relay and the time without a leader of the cluster.
MAX_REPEATED = 4 * JOBS * MAX_CHUNK_SIZE


@pytest.fixture
async def parts(database_url: str) -> AsyncIterator[Parts]:
    async with gateway(database_url) as parts:
        parts.sim.messages.max_messages = None
        yield parts


@pytest.fixture
async def devices(parts: Parts) -> dict[UUID, Subscriber]:
    per_vendor = DEVICES // len(Vendor)
    return await parts.register(
        [subscriber for vendor in Vendor for subscriber in parts.subscribe(vendor, per_vendor, share_keys=True)]
    )


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[list[Node]]:
    async with start_nodes(3, tmp_path) as cluster:
        yield cluster


async def find_leader(cluster: list[Node], lane: Lane) -> Node:
    async with await nats.connect([node.url for node in cluster]) as client:
        info = await client.jetstream().stream_info(jobs_stream(lane))
    assert info.cluster is not None
    assert info.cluster.leader is not None
    return cluster[int(info.cluster.leader.removeprefix("n"))]


async def test_killed_worker_relay_and_leader_lose_nothing(
    parts: Parts, devices: dict[UUID, Subscriber], cluster: list[Node], tmp_path: Path
) -> None:
    """A worker, a relay and the leader of the NATS cluster are killed during a campaign, which all devices accept."""
    parts.sim.behave(Rule(status=503, share=0.1, times=1, retry_after=1), Rule(delay_ms=10))
    settings = {"queue": ",".join(node.url for node in cluster), "lease": LEASE_S}
    worker_settings = settings | {"database_url": "", "worker_jobs": JOBS}
    campaign = await parts.submit()

    async def wait_for_share(share: float) -> None:
        await parts.sim.wait_for(lambda: parts.sim.messages.total >= share * DEVICES, timeout=60)

    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relay_process(parts, tmp_path, **settings))
        other_relay = await stack.enter_async_context(relay_process(parts, tmp_path, **settings))
        first = await stack.enter_async_context(
            worker_process(parts, tmp_path, worker_concurrency=32, **worker_settings)
        )
        await wait_for_share(0.15)
        await first.kill()
        second = await stack.enter_async_context(
            worker_process(parts, tmp_path, worker_concurrency=32, **worker_settings)
        )
        await wait_for_share(0.4)
        await (await find_leader(cluster, Lane.BULK)).kill()
        await wait_for_share(0.6)
        await relay.kill()
        relay = await stack.enter_async_context(relay_process(parts, tmp_path, **settings))
        progress = await parts.wait_until_done(campaign.id, 100)
        assert await second.terminate() == 0
        assert await relay.terminate() == 0
        assert await other_relay.terminate() == 0

    rows = await parts.list_deliveries(campaign.id)
    assert rows.keys() == devices.keys()
    assert {row.outcome for row in rows.values()} == {"accepted"}
    received = Counter(message.endpoint for message in parts.sim.messages)
    assert received.keys() == {subscriber.endpoint for subscriber in devices.values()}
    print(f"{received.total() - DEVICES} messages were repeated")
    assert received.total() - DEVICES <= MAX_REPEATED
    notification, _ = await parts.get_notification(campaign.id)
    assert notification.status is Status.DONE
    assert (progress.targets, progress.accepted, progress.pending) == (DEVICES, DEVICES, 0)
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


async def test_broker_outage_of_twenty_seconds_loses_nothing(
    parts: Parts, devices: dict[UUID, Subscriber], tmp_path: Path
) -> None:
    """The outage outlasts the broker's acknowledgement timeout and the leases; the broker's store survives it."""
    parts.sim.behave(Rule(delay_ms=10))
    async with start_nodes(1, tmp_path) as [node]:
        settings = {"queue": node.url, "lease": LEASE_S}
        async with (
            relay_process(parts, tmp_path, **settings) as relay,
            worker_process(
                parts, tmp_path, worker_concurrency=32, database_url="", worker_jobs=JOBS, **settings
            ) as worker,
        ):
            campaign = await parts.submit()
            await parts.sim.wait_for(count=DEVICES // 4, timeout=60)
            await node.stop()
            await asyncio.sleep(OUTAGE_S)
            await node.start()
            progress = await parts.wait_until_done(campaign.id, 60)
            assert await worker.terminate() == 0
            assert await relay.terminate() == 0
    rows = await parts.list_deliveries(campaign.id)
    assert rows.keys() == devices.keys()
    assert (progress.accepted, progress.pending) == (DEVICES, 0)
    received = Counter(message.endpoint for message in parts.sim.messages)
    print(f"{received.total() - DEVICES} messages were repeated")
    # The worker keeps its jobs through the outage: it settles the messages that it sent during the outage and sends
    # no message twice.
    assert received.total() == DEVICES
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


async def test_lifecycle_and_throttle_work_without_a_database(
    parts: Parts, devices: dict[UUID, Subscriber], cluster: list[Node], tmp_path: Path
) -> None:
    """A worker that is connected only to the broker pauses, resumes, cancels and throttles, and sends alerts first."""

    async def apply(transition: lifecycle.Transition, id_: UUID) -> None:
        async with parts.engine.begin() as conn:
            await transition(conn, parts.application_id, id_)
        wait = lifecycle.wait_until_suspended if transition is lifecycle.pause else lifecycle.wait_until_idle
        await wait(parts.context.connections.share(REQUEST, parts.application_id), id_)

    parts.sim.behave(Rule(delay_ms=20))
    settings = {"queue": ",".join(node.url for node in cluster), "lease": LEASE_S}
    async with (
        relay_process(parts, tmp_path, **settings),
        worker_process(parts, tmp_path, worker_concurrency=16, database_url="", **settings),
    ):
        campaign = await parts.submit()
        await parts.sim.wait_for(count=300, timeout=60)
        await apply(lifecycle.pause, campaign.id)
        paused_at = parts.sim.messages.total
        assert paused_at < DEVICES
        alert = await parts.submit(Kind.ALERT)
        assert (await parts.wait_until_done(alert.id)).accepted == DEVICES
        assert parts.sim.messages.total == paused_at + DEVICES, "messages of the paused campaign were sent"
        await apply(lifecycle.resume, campaign.id)
        await parts.sim.wait_for(lambda: parts.sim.messages.total > paused_at + DEVICES + 200, timeout=30)
        await apply(lifecycle.cancel, campaign.id)
        progress = await parts.wait_until_done(campaign.id)
        assert progress.accepted + progress.cancelled == DEVICES
        assert progress.cancelled > 0
        start = asyncio.get_running_loop().time()
        throttled = await parts.submit(policy=SendPolicy(throttle=Throttle(2000.0)))
        assert (await parts.wait_until_done(throttled.id)).accepted == DEVICES
        assert asyncio.get_running_loop().time() - start > 0.9
