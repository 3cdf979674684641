"""The relay when the broker loses streams, and when results arrive late or in another order than they were sent."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from gateway.domain.ids import new_id
from gateway.domain.job import Job
from gateway.domain.notification import Lane, Status
from gateway.queue import wire
from gateway.queue.connection import BrokerUnavailable
from gateway.queue.nats import RESULTS, RESULTS_STREAM, STATUSES, STATUSES_STREAM, Broker, job_subject, jobs_stream
from gateway.queue.protocol import LeaseLost
from gateway.records.postgres import notifier
from gateway.records.postgres.schema import notifications
from tests.support.nats_server import start_nodes
from tests.support.queues import NatsEngine, PostgresEngine, accepted_batch, merge_batches, retry_batch

MINUTE = timedelta(minutes=1)
LONG = timedelta(seconds=20)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[NatsEngine]:
    """A NATS broker and a running relay."""
    async with NatsEngine.open(database_url) as engine:
        yield engine


async def wait_until_prepared(engine: NatsEngine) -> None:
    """Wait until the relay has created the streams of the broker."""
    async with asyncio.timeout(10):
        while not await engine.broker.is_prepared():  # noqa: ASYNC110 - the relay publishes no event
            await asyncio.sleep(0.02)


async def claim(engine: NatsEngine, wait: timedelta = LONG) -> Job:
    """Claim one job of any lane."""
    [job] = await engine.queue.claim(lanes=tuple(Lane), limit=1, lease=MINUTE, wait=wait)
    return job


async def test_jobs_of_a_purged_stream_are_published_again(engine: NatsEngine) -> None:
    """After a purge, only the devices without a result are published again."""
    devices = [new_id() for _ in range(6)]
    notification_id = await engine.put(devices, job_size=2)
    await engine.wait_until_relayed()
    job = await claim(engine)
    await engine.broker.js.purge_stream(jobs_stream(job.lane))
    await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    reclaimed = [await claim(engine), await claim(engine)]
    assert {id_ for job in reclaimed for id_ in job.device_ids} == set(devices) - set(job.device_ids)
    for job in reclaimed:
        await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    assert (await engine.list_outcomes(notification_id)).keys() == set(devices)
    assert (await engine.progress(notification_id))[0] is Status.DONE


async def test_deleted_streams_are_restored(engine: NatsEngine) -> None:
    """The relay creates the streams again, and publishes the jobs that were in them."""
    devices = [new_id() for _ in range(6)]
    notification_id = await engine.put(devices, job_size=2)
    await engine.wait_until_relayed()
    job = await claim(engine)
    for stream in await engine.broker.js.streams_info():
        await engine.broker.js.delete_stream(str(stream.config.name))
    with pytest.raises(BrokerUnavailable):
        await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    await wait_until_prepared(engine)
    await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    reclaimed = [await claim(engine), await claim(engine)]
    assert {id_ for job in reclaimed for id_ in job.device_ids} == set(devices) - set(job.device_ids)
    for job in reclaimed:
        await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    assert (await engine.list_outcomes(notification_id)).keys() == set(devices)
    assert (await engine.progress(notification_id))[0] is Status.DONE


async def test_deleted_statuses_are_published_again(engine: NatsEngine) -> None:
    """The relay publishes the statuses of the notifications whose jobs it has published."""
    notification_id = await engine.put([new_id()])
    await engine.wait_until_relayed()
    await engine.broker.js.delete_stream(STATUSES_STREAM)
    await wait_until_prepared(engine)
    async with asyncio.timeout(10):
        while not await engine.broker.statuses([notification_id]):  # noqa: ASYNC110 - the relay raises no event
            await asyncio.sleep(0.02)
    assert await engine.broker.statuses([notification_id]) == {notification_id: Status.SENDING}


async def test_job_with_purged_results_is_logged_once(engine: NatsEngine) -> None:
    """All devices are claimed again, because the broker lost the results; the log has one row for each."""
    devices = [new_id() for _ in range(4)]
    notification_id = await engine.put(devices)
    job = await claim(engine)
    await engine.queue.settle(job, accepted_batch(*devices[:2]), devices[2:])
    assert len(await engine.list_outcomes(notification_id)) == 2
    await engine.broker.js.purge_stream(RESULTS_STREAM)
    with pytest.raises(LeaseLost):
        await engine.queue.settle(job, accepted_batch(*devices[2:]), [])
    reclaimed = await claim(engine)
    assert reclaimed.device_ids == tuple(devices), "the broker has lost the result of the first two"
    await engine.queue.settle(reclaimed, accepted_batch(*devices), [])
    assert (await engine.list_outcomes(notification_id)).keys() == set(devices)
    status, progress = await engine.progress(notification_id)
    assert (status, progress.accepted, progress.pending) == (Status.DONE, 4, 0)


async def test_slow_plan_does_not_delay_others(engine: NatsEngine) -> None:
    """A plan job that waits for a lock does not block the lane."""
    async with engine.database.begin() as conn:
        slow = await engine.accept(Lane.URGENT)
        await conn.execute(select(notifications.c.id).where(notifications.c.id == slow).with_for_update())
        other_notification_id = await engine.accept(Lane.URGENT)
        async with asyncio.timeout(20):
            while (await PostgresEngine.progress(engine, other_notification_id))[0] is not Status.DONE:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # planning without devices publishes no event
        assert (await PostgresEngine.progress(engine, slow))[0] is Status.SCHEDULED


async def test_unrecordable_result_stays_in_the_stream(engine: NatsEngine, caplog: pytest.LogCaptureFixture) -> None:
    """A result whose partition of the log is missing cannot be recorded, so it must not be acknowledged."""
    await engine.put([new_id()])
    job = await claim(engine)
    async with engine.database.begin() as conn:
        await conn.execute(text(f"DROP TABLE deliveries_{job.day:%Y%m%d}"))
    await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    async with asyncio.timeout(20):
        while "result.unrecordable" not in caplog.text:  # noqa: ASYNC110 - a log line raises no event
            await asyncio.sleep(0.02)
    assert (await engine.broker.js.stream_info(RESULTS_STREAM)).state.messages == 1


async def test_results_are_recorded_once_in_any_order(engine: NatsEngine) -> None:
    """Several relays record results of one job, and unacknowledged results are redelivered."""
    devices = [new_id() for _ in range(4)]
    notification_id = await engine.put(devices)
    job = await claim(engine)
    due = datetime.now(UTC) + MINUTE
    first = wire.Result(job, merge_batches(accepted_batch(devices[0]), retry_batch(due, devices[1])), devices[2:])
    last = wire.Result(job, accepted_batch(*devices[2:]))
    for result in (last, first, last, first):
        await engine.broker.js.publish(f"{RESULTS}.{job.id}", wire.write_result(result))
    await engine.broker.js.purge_stream(jobs_stream(job.lane))  # removes the job, as if the worker had settled it
    _, progress = await engine.progress(notification_id)
    assert (progress.accepted, progress.retries, progress.pending) == (3, 1, 1)
    assert await engine.list_attempts(notification_id) == [(devices[1], 1)]


async def test_oversize_jobs_and_results_are_split(database_url: str) -> None:
    """A job and a result that exceed the broker's maximum payload are split, and every device is logged once."""
    devices = [new_id() for _ in range(400)]
    async with NatsEngine.open(database_url, "max_payload: 4096\n") as engine:
        notification_id = await engine.put(devices)
        await engine.wait_until_relayed()
        jobs = 0
        remaining = set(devices)
        while remaining:
            job = await claim(engine)
            jobs += 1
            half = len(job.device_ids) // 2
            due = datetime.now(UTC) + MINUTE
            first = merge_batches(accepted_batch(*job.device_ids[1:half]), retry_batch(due, job.device_ids[0]))
            await engine.queue.settle(job, first, job.device_ids[half:])
            await engine.queue.settle(job, first, job.device_ids[half:])
            await engine.queue.settle(job, accepted_batch(*job.device_ids[half:]), [])
            remaining -= set(job.device_ids)
        assert jobs == 4, "400 devices need 7,200 octets"
        assert len(await engine.list_outcomes(notification_id)) == 400 - jobs
        _, progress = await engine.progress(notification_id)
        assert (progress.accepted, progress.retries, progress.pending) == (400 - jobs, jobs, jobs)


async def test_relay_publishes_the_current_status(engine: NatsEngine) -> None:
    """NOTIFY events of several changes have no order, so the relay publishes the status from the database."""
    notification_id = await engine.put([new_id()])
    for _ in range(8):
        async with engine.database.begin() as conn:
            for status in (Status.PAUSED, Status.SENDING, Status.CANCELLED):
                await notifier.notify(conn, notifier.STATUS, f"{notification_id} {status}")
        await engine.broker.client.flush()
    subscription = await engine.broker.client.subscribe(f"gateway.statuses.{notification_id}")
    async with engine.database.begin() as conn:
        await notifier.notify(conn, notifier.STATUS, f"{notification_id} {Status.PAUSED}")
    await subscription.next_msg(timeout=10)
    assert await engine.broker.statuses([notification_id]) == {notification_id: Status.SENDING}


async def test_unknown_status_is_ignored(engine: NatsEngine) -> None:
    """A status of a newer version is skipped, and the status after it is processed."""
    first, second = new_id(), new_id()
    events: asyncio.Queue[tuple[str, Status]] = asyncio.Queue()
    with engine.broker.subscribe_status(lambda id_, status: events.put_nowait((id_, status))):
        await asyncio.sleep(0)
        await engine.broker.client.flush()
        for payload in (b"archived", b"\xff\xfe", b""):
            await engine.broker.js.publish(f"{STATUSES}.{first}", payload)
        await engine.broker.publish_status(second, Status.CANCELLED)
        async with asyncio.timeout(10):
            assert await events.get() == (str(second), Status.CANCELLED)
    assert await engine.broker.statuses([first, second]) == {second: Status.CANCELLED}


async def test_job_is_published_without_its_audience(engine: NatsEngine) -> None:
    """The payload of a job has no audience, which can be long and which only planning needs."""
    await engine.put([new_id()])
    payload = (await claim(engine)).payload
    assert payload is not None
    assert payload.notification.audience is None


async def test_worker_leaves_jobs_of_another_version(engine: NatsEngine, caplog: pytest.LogCaptureFixture) -> None:
    """A job of another wire version stays in the stream, for a worker of that version."""
    await engine.broker.js.publish(job_subject(Lane.NORMAL, 1), b"\x01 a job of version 1")
    assert await engine.queue.claim(lanes=tuple(Lane), limit=1, lease=MINUTE, wait=timedelta(seconds=1)) == []
    assert "wire version 1 is not supported" in caplog.text
    assert (await engine.broker.js.stream_info(jobs_stream(Lane.NORMAL))).state.messages == 1


async def test_relay_never_reduces_the_replicas(tmp_path: Path) -> None:
    """The streams of a cluster keep their three copies when a relay starts that knows only one server."""
    async with start_nodes(3, tmp_path) as nodes:
        async with Broker.connect([node.url for node in nodes]) as broker:
            await broker.prepare()
            await Broker(broker.connection, replicas=1).prepare()
            info = await broker.js.stream_info(RESULTS_STREAM)
        assert info.config.num_replicas == 3
