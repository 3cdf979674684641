"""Workers that stop, lose their leases or their database: what was accepted is delivered, and logged once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
import structlog

from gateway.domain.delivery import ResultBatch
from gateway.domain.job import Job
from gateway.domain.notification import Lane, Status
from gateway.queue.postgres import PostgresQueue
from gateway.queue.protocol import LeaseLost
from gateway.sim import Rule, Subscriber, Vendor
from tests.support.gateway_parts import Parts, quick_config

Devices = dict[UUID, Subscriber]

TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to another database, from which ours can be troubled."""
    conn = await asyncpg.connect(postgres_url)
    yield conn
    await conn.close()


@pytest.fixture
async def devices(parts: Parts) -> Devices:
    return await parts.register([one for vendor in Vendor for one in parts.subscribe(vendor, 200, share_keys=True)])


async def everything_is_accepted_once(parts: Parts, notification_id: UUID, devices: Devices) -> None:
    rows = await parts.list_deliveries(notification_id)
    assert rows.keys() == devices.keys()
    assert Counter(row.outcome for row in rows.values()) == {"accepted": len(devices)}
    notification, progress = await parts.get_notification(notification_id)
    assert notification.status is Status.DONE
    assert (progress.targets, progress.accepted) == (len(devices), len(devices))
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


def repeats(devices: Devices) -> int:
    """Fails when a device was sent nothing."""
    counts = [len(subscriber.messages) for subscriber in devices.values()]
    assert min(counts) >= 1
    return sum(counts) - len(counts)


async def test_a_worker_told_to_stop_settles_what_is_in_flight_and_gives_back_the_rest(
    parts: Parts, devices: Devices
) -> None:
    parts.sim.behave(Rule(delay_ms=20))
    sent = await parts.submit()
    crew = quick_config(senders=16, lease=timedelta(hours=1), drain=timedelta(milliseconds=100))
    async with parts.run_worker(crew) as stop:
        await parts.sim.wait_for(count=50)
        stop.set()
    logged = await parts.list_deliveries(sent.id)
    assert 50 <= len(logged) == parts.sim.messages.total < len(devices)
    assert await parts.scalar("SELECT count(*) FROM jobs WHERE run_at > now()") == 0

    parts.sim.behave()
    async with parts.run_worker(crew):
        await parts.wait_until_done(sent.id)
    await everything_is_accepted_once(parts, sent.id, devices)
    assert repeats(devices) == 0


async def test_a_worker_told_to_stop_finishes_what_it_can_in_its_draining_time(parts: Parts, devices: Devices) -> None:
    sent = await parts.submit()
    async with parts.run_worker(quick_config(drain=timedelta(seconds=30))) as stop:
        await parts.sim.wait_for(count=50)
        stop.set()
    async with parts.run_worker():
        await parts.wait_until_done(sent.id)
    await everything_is_accepted_once(parts, sent.id, devices)
    assert repeats(devices) == 0


async def test_several_workers_beside_each_other_send_everything_once(parts: Parts, devices: Devices) -> None:
    sent = [await parts.submit() for _ in range(3)]
    crew = quick_config(senders=16, jobs=2)
    async with parts.run_worker(crew), parts.run_worker(crew), parts.run_worker(crew):
        for notification in sent:
            await parts.wait_until_done(notification.id)
    for notification in sent:
        await everything_is_accepted_once(parts, notification.id, devices)
    assert repeats(devices) == (len(sent) - 1) * len(devices)


async def test_a_worker_that_loses_its_lease_lets_go_and_the_job_is_finished_once(
    parts: Parts, devices: Devices
) -> None:
    """Its job comes due under its hands, and it may well be this very worker that claims it again."""
    parts.sim.behave(Rule(delay_ms=10))
    sent = await parts.submit()
    crew = quick_config(senders=16, jobs=4, lease=timedelta(seconds=1))
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker(crew):
            await parts.sim.wait_for(count=50)
            async with parts.engine.begin() as conn:
                await conn.exec_driver_sql("UPDATE jobs SET attempt = attempt + 1, run_at = now() WHERE attempt > 0")
                await conn.exec_driver_sql("NOTIFY gateway_jobs")
            await parts.wait_until_done(sent.id)
    await everything_is_accepted_once(parts, sent.id, devices)
    assert "job.lease_lost" in {entry["event"] for entry in logs}
    assert "job.failed" not in {entry["event"] for entry in logs}
    # Sent and not yet settled when the lease went, and sent until that was noticed.
    assert repeats(devices) < len(devices)


class AnswersLost(PostgresQueue):
    """The commit of every second settlement goes through and its answer is lost on the way."""

    settled = 0

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        await super().settle(job, settlement, remaining)
        self.settled += 1
        if self.settled % 2:
            raise ConnectionResetError


async def test_a_settlement_whose_answer_was_lost_counts_once(parts: Parts, devices: Devices) -> None:
    parts.sim.behave(Rule(status=503, share=0.3, times=1, retry_after=1))
    queue = AnswersLost(parts.engine, parts.notifier)
    sent = await parts.submit()
    async with parts.run_worker(queue=queue):
        progress = await parts.wait_until_done(sent.id)
    await everything_is_accepted_once(parts, sent.id, devices)
    refused = sum(counter[503] for counter in parts.sim.counters.values())
    assert progress.retries == refused
    assert repeats(devices) == 0


class LeaseAlwaysLost(PostgresQueue):
    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        raise LeaseLost


async def test_nothing_is_recorded_by_a_worker_without_a_lease(parts: Parts) -> None:
    devices = await parts.register(parts.subscribe(Vendor.FCM, 3))
    sent = await parts.submit()
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker(
            quick_config(lease=timedelta(hours=1)), queue=LeaseAlwaysLost(parts.engine, parts.notifier)
        ):
            await parts.sim.wait_for(count=len(devices))
    assert await parts.list_deliveries(sent.id) == {}
    assert "job.lease_lost" in {entry["event"] for entry in logs}


async def test_connections_that_break_while_settling_lose_and_repeat_nothing(
    parts: Parts, devices: Devices, server: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    parts.sim.behave(Rule(status=503, share=0.1, times=1, retry_after=1), Rule(delay_ms=10))
    sent = await parts.submit()
    broken = 0
    async with parts.run_worker(quick_config(senders=16, lease=timedelta(seconds=3))):
        for taken in range(80, 720, 80):
            await parts.sim.wait_for(count=taken, timeout=30)
            broken += await server.fetchval(TERMINATE, parts.url.rpartition("/")[2])
        await outlasting(parts, sent.id)
    assert broken > 8
    await everything_is_accepted_once(parts, sent.id, devices)
    assert repeats(devices) == 0


async def test_a_database_that_refuses_connections_for_a_while_loses_and_repeats_nothing(
    parts: Parts, devices: Devices, server: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """As when it starts up again: what was sent meanwhile is held until it can be written down."""
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
            await outlasting(parts, sent.id)
    await everything_is_accepted_once(parts, sent.id, devices)
    assert repeats(devices) == 0


async def test_a_worker_told_to_stop_while_its_database_is_away_stops(
    parts: Parts, server: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    name = parts.url.rpartition("/")[2]
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker():
            await server.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
            await server.execute(TERMINATE, name)
    assert "worker.stopped" in {entry["event"] for entry in logs}


class Failing(PostgresQueue):
    """The database goes away while a claim is on its way there."""

    asked = asyncio.Event()
    gone = asyncio.Event()

    async def _claim_now(self, *_: object) -> tuple[list[Job], float | None]:
        self.asked.set()
        await self.gone.wait()
        raise ConnectionResetError


async def test_a_claim_that_fails_after_it_was_cancelled_stays_cancelled(parts: Parts) -> None:
    queue = Failing(parts.engine, parts.notifier)
    claiming = asyncio.create_task(
        queue.claim(lanes=tuple(Lane), limit=1, lease=timedelta(minutes=1), wait=timedelta(minutes=1))
    )
    await queue.asked.wait()
    claiming.cancel()
    queue.gone.set()
    with pytest.raises(asyncio.CancelledError):
        await claiming


async def outlasting(parts: Parts, notification_id: UUID) -> None:
    """Like `parts.ended`, by one who shares the troubled connections."""
    async with asyncio.timeout(45):
        while True:
            try:
                await parts.wait_until_done(notification_id)
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                continue
