"""Workers that stop, or lose their leases or their database, deliver every message and log it once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import cast
from uuid import UUID

import asyncpg
import pytest
import structlog

from gateway.domain.delivery import ResultBatch
from gateway.domain.job import Job
from gateway.domain.notification import Lane, Status
from gateway.queue.postgres import PostgresQueue
from gateway.queue.protocol import LeaseLost
from gateway.records.postgres.engine import Engine
from gateway.sim import Rule, Subscriber, Vendor
from tests.support.gateway_parts import Parts, quick_config

Devices = dict[UUID, Subscriber]

# Terminates all connections to a database.
TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to another database of the server, which can terminate the connections of the tested database."""
    conn = await asyncpg.connect(postgres_url)
    yield conn
    await conn.close()


@pytest.fixture
async def devices(parts: Parts) -> Devices:
    """200 registered devices of each vendor, by id."""
    return await parts.register(
        [subscriber for vendor in Vendor for subscriber in parts.subscribe(vendor, 200, share_keys=True)]
    )


async def assert_all_accepted_once(parts: Parts, notification_id: UUID, devices: Devices) -> None:
    """Check that the log has one accepted delivery for each device."""
    rows = await parts.list_deliveries(notification_id)
    assert rows.keys() == devices.keys()
    assert Counter(row.outcome for row in rows.values()) == {"accepted": len(devices)}
    notification, progress = await parts.get_notification(notification_id)
    assert notification.status is Status.DONE
    assert (progress.targets, progress.accepted) == (len(devices), len(devices))
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


def count_repeats(devices: Devices) -> int:
    """Return the number of repeated messages; fail when a device got none."""
    counts = [len(subscriber.messages) for subscriber in devices.values()]
    assert min(counts) >= 1
    return sum(counts) - len(counts)


async def test_stopped_worker_settles_in_flight_and_requeues(parts: Parts, devices: Devices) -> None:
    """A stopped worker logs the results of messages in flight, and its other devices are due at once."""
    parts.sim.behave(Rule(delay_ms=20))
    sent = await parts.submit()
    config = quick_config(senders=16, lease=timedelta(hours=1), drain=timedelta(milliseconds=100))
    async with parts.run_worker(config) as stop:
        await parts.sim.wait_for(count=50)
        stop.set()
    logged = await parts.list_deliveries(sent.id)
    assert 50 <= len(logged) == parts.sim.messages.total < len(devices)
    assert await parts.scalar("SELECT count(*) FROM jobs WHERE run_at > now()") == 0

    parts.sim.behave()
    async with parts.run_worker(config):
        await parts.wait_until_done(sent.id)
    await assert_all_accepted_once(parts, sent.id, devices)
    assert count_repeats(devices) == 0


async def test_stopped_worker_uses_its_drain_time(parts: Parts, devices: Devices) -> None:
    """A stopped worker whose drain time is long enough sends all messages of the jobs that it has claimed."""
    sent = await parts.submit()
    async with parts.run_worker(quick_config(drain=timedelta(seconds=30))) as stop:
        await parts.sim.wait_for(count=50)
        stop.set()
    async with parts.run_worker():
        await parts.wait_until_done(sent.id)
    await assert_all_accepted_once(parts, sent.id, devices)
    assert count_repeats(devices) == 0


async def test_several_workers_send_everything_once(parts: Parts, devices: Devices) -> None:
    """Three workers on one queue send a campaign without repeating a message."""
    sent = [await parts.submit() for _ in range(3)]
    config = quick_config(senders=16, jobs=2)
    async with parts.run_worker(config), parts.run_worker(config), parts.run_worker(config):
        for notification in sent:
            await parts.wait_until_done(notification.id)
    for notification in sent:
        await assert_all_accepted_once(parts, notification.id, devices)
    assert count_repeats(devices) == (len(sent) - 1) * len(devices)


async def test_lost_lease_stops_sending_and_job_completes(parts: Parts, devices: Devices) -> None:
    """A job that becomes due again while it is sent is claimed again, possibly by the same worker."""
    parts.sim.behave(Rule(delay_ms=10))
    sent = await parts.submit()
    config = quick_config(senders=16, jobs=4, lease=timedelta(seconds=1))
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker(config):
            await parts.sim.wait_for(count=50)
            async with parts.engine.begin() as conn:
                await conn.exec_driver_sql("UPDATE jobs SET attempt = attempt + 1, run_at = now() WHERE attempt > 0")
                await conn.exec_driver_sql("NOTIFY gateway_jobs")
            await parts.wait_until_done(sent.id)
    await assert_all_accepted_once(parts, sent.id, devices)
    assert "job.lease_lost" in {entry["event"] for entry in logs}
    assert "job.failed" not in {entry["event"] for entry in logs}
    # Messages sent but not settled when the lease was lost, and those sent until the worker noticed.
    assert count_repeats(devices) < len(devices)


class ResponseLosingQueue(PostgresQueue):
    """A queue that commits every settlement and loses the response to every second one."""

    settle_count = 0

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        await super().settle(job, settlement, remaining)
        self.settle_count += 1
        if self.settle_count % 2:
            raise ConnectionResetError


async def test_settlement_with_lost_response_counts_once(parts: Parts, devices: Devices) -> None:
    """A commit whose response is lost is repeated, and counted once."""
    parts.sim.behave(Rule(status=503, share=0.3, times=1, retry_after=1))
    queue = ResponseLosingQueue(parts.engine, parts.notifier)
    sent = await parts.submit()
    async with parts.run_worker(queue=queue):
        progress = await parts.wait_until_done(sent.id)
    await assert_all_accepted_once(parts, sent.id, devices)
    refused = sum(counter[503] for counter in parts.sim.counters.values())
    assert progress.retries == refused
    assert count_repeats(devices) == 0


class LeaseLosingQueue(PostgresQueue):
    """A queue that raises LeaseLost for every settlement."""

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        raise LeaseLost


async def test_worker_without_lease_records_nothing(parts: Parts) -> None:
    """Results are not logged when every settlement raises LeaseLost."""
    devices = await parts.register(parts.subscribe(Vendor.FCM, 3))
    sent = await parts.submit()
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker(
            quick_config(lease=timedelta(hours=1)), queue=LeaseLosingQueue(parts.engine, parts.notifier)
        ):
            await parts.sim.wait_for(count=len(devices))
    assert await parts.list_deliveries(sent.id) == {}
    assert "job.lease_lost" in {entry["event"] for entry in logs}


async def test_broken_connections_lose_and_repeat_nothing(
    parts: Parts, devices: Devices, server: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Database connections are terminated eight times while a campaign is sent."""
    parts.sim.behave(Rule(status=503, share=0.1, times=1, retry_after=1), Rule(delay_ms=10))
    sent = await parts.submit()
    terminated_count = 0
    async with parts.run_worker(quick_config(senders=16, lease=timedelta(seconds=3))):
        for count in range(80, 720, 80):
            await parts.sim.wait_for(count=count, timeout=30)
            terminated_count += await server.fetchval(TERMINATE, parts.url.rpartition("/")[2])
        await wait_through_outage(parts, sent.id)
    assert terminated_count > 8
    await assert_all_accepted_once(parts, sent.id, devices)
    assert count_repeats(devices) == 0


async def test_database_outage_loses_and_repeats_nothing(
    parts: Parts, devices: Devices, server: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Results of messages that are sent during the outage are settled after it."""
    name = parts.url.rpartition("/")[2]
    parts.sim.behave(Rule(delay_ms=10))
    sent = await parts.submit()
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker(quick_config(senders=16, lease=timedelta(seconds=30))):
            await parts.sim.wait_for(count=100)
            await server.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
            await server.execute(TERMINATE, name)
            async with asyncio.timeout(10):
                while "settle.database_unavailable" not in {entry["event"] for entry in logs}:
                    await parts.sim.wait_for(count=parts.sim.messages.total + 1)
            await server.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
            await wait_through_outage(parts, sent.id)
    await assert_all_accepted_once(parts, sent.id, devices)
    assert count_repeats(devices) == 0


async def test_worker_stops_during_a_database_outage(
    parts: Parts, server: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """A worker that is stopped while the database is down stops without waiting for the database."""
    name = parts.url.rpartition("/")[2]
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker():
            await server.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
            await server.execute(TERMINATE, name)
    assert "worker.stopped" in {entry["event"] for entry in logs}


class FailingEngine:
    """A connection pool whose transactions begin when `may_fail` is set, with a database error."""

    def __init__(self) -> None:
        self.is_beginning, self.may_fail = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        self.is_beginning.set()
        await self.may_fail.wait()
        raise ConnectionResetError
        yield


async def test_failed_claim_stays_cancelled(parts: Parts) -> None:
    """A claim that is cancelled and then fails raises CancelledError, not the database error."""
    engine = FailingEngine()
    queue = PostgresQueue(cast("Engine", engine), parts.notifier)
    claiming = asyncio.create_task(
        queue.claim(lanes=tuple(Lane), limit=1, lease=timedelta(minutes=1), wait=timedelta(minutes=1))
    )
    await engine.is_beginning.wait()
    claiming.cancel()
    engine.may_fail.set()
    with pytest.raises(asyncio.CancelledError):
        await claiming


async def wait_through_outage(parts: Parts, notification_id: UUID) -> None:
    """Wait until the notification is done as `parts.wait_until_done` does, and retry while the database is down."""
    async with asyncio.timeout(45):
        while True:
            try:
                await parts.wait_until_done(notification_id)
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                continue
