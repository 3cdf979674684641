"""The relay when the broker forgets, answers late or tells things in another order."""

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
from gateway.queue.nats import RESULTS, RESULTS_STREAM, STATUSES, STATUSES_STREAM, Broker, jobs_stream
from gateway.queue.protocol import LeaseLost
from gateway.records.postgres import notifier
from gateway.records.postgres.schema import notifications
from tests.support.nats_server import start_nodes
from tests.support.queues import NatsEngine, PostgresEngine, accepted_batch, merge_batches, retry_batch

MINUTE = timedelta(minutes=1)
LONG = timedelta(seconds=20)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[NatsEngine]:
    async with NatsEngine.opened(database_url) as engine:
        yield engine


async def prepared(engine: NatsEngine) -> None:
    async with asyncio.timeout(10):
        while not await engine.broker.is_prepared():  # noqa: ASYNC110 - the relay signals it to nobody
            await asyncio.sleep(0.02)


async def claim(engine: NatsEngine, wait: timedelta = LONG) -> Job:
    [job] = await engine.queue.claim(lanes=tuple(Lane), limit=1, lease=MINUTE, wait=wait)
    return job


async def test_what_was_in_a_lane_that_was_wiped_is_sent_again(engine: NatsEngine) -> None:
    devices = [new_id() for _ in range(6)]
    notification_id = await engine.put(devices, job_size=2)
    await engine.wait_until_relayed()
    held = await claim(engine)
    await engine.broker.js.purge_stream(jobs_stream(held.lane))
    await engine.queue.settle(held, accepted_batch(*held.device_ids), [])
    again = [await claim(engine), await claim(engine)]
    assert {id_ for job in again for id_ in job.device_ids} == set(devices) - set(held.device_ids)
    for job in again:
        await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    assert (await engine.list_outcomes(notification_id)).keys() == set(devices)
    assert (await engine.progress(notification_id))[0] is Status.DONE


async def test_streams_that_were_deleted_are_made_anew_and_their_jobs_sent_again(engine: NatsEngine) -> None:
    devices = [new_id() for _ in range(6)]
    notification_id = await engine.put(devices, job_size=2)
    await engine.wait_until_relayed()
    held = await claim(engine)
    for stream in await engine.broker.js.streams_info():
        await engine.broker.js.delete_stream(str(stream.config.name))
    with pytest.raises(BrokerUnavailable):
        await engine.queue.settle(held, accepted_batch(*held.device_ids), [])
    await prepared(engine)
    await engine.queue.settle(held, accepted_batch(*held.device_ids), [])
    again = [await claim(engine), await claim(engine)]
    assert {id_ for job in again for id_ in job.device_ids} == set(devices) - set(held.device_ids)
    for job in again:
        await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    assert (await engine.list_outcomes(notification_id)).keys() == set(devices)
    assert (await engine.progress(notification_id))[0] is Status.DONE


async def test_what_was_said_of_a_notification_is_said_again_when_it_was_deleted(engine: NatsEngine) -> None:
    notification_id = await engine.put([new_id()])
    await engine.wait_until_relayed()
    await engine.broker.js.delete_stream(STATUSES_STREAM)
    await prepared(engine)
    async with asyncio.timeout(10):
        while not await engine.broker.statuses([notification_id]):  # noqa: ASYNC110 - it is said right after
            await asyncio.sleep(0.02)
    assert await engine.broker.statuses([notification_id]) == {notification_id: Status.SENDING}


async def test_a_job_whose_results_were_wiped_is_done_again_and_logged_once(engine: NatsEngine) -> None:
    devices = [new_id() for _ in range(4)]
    notification_id = await engine.put(devices)
    job = await claim(engine)
    await engine.queue.settle(job, accepted_batch(*devices[:2]), devices[2:])
    assert len(await engine.list_outcomes(notification_id)) == 2
    await engine.broker.js.purge_stream(RESULTS_STREAM)
    with pytest.raises(LeaseLost):
        await engine.queue.settle(job, accepted_batch(*devices[2:]), [])
    again = await claim(engine)
    assert again.device_ids == tuple(devices), "the broker does not know any more what was done"
    await engine.queue.settle(again, accepted_batch(*devices), [])
    assert (await engine.list_outcomes(notification_id)).keys() == set(devices)
    status, progress = await engine.progress(notification_id)
    assert (status, progress.accepted, progress.pending) == (Status.DONE, 4, 0)


async def test_a_plan_that_takes_long_keeps_no_other_waiting(engine: NatsEngine) -> None:
    async with engine.database.begin() as conn:
        slow = await engine.accept(Lane.URGENT)
        await conn.execute(select(notifications.c.id).where(notifications.c.id == slow).with_for_update())
        other = await engine.accept(Lane.URGENT)
        async with asyncio.timeout(20):
            while (await PostgresEngine.progress(engine, other))[0] is not Status.DONE:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # a plan to nobody signals nothing
        assert (await PostgresEngine.progress(engine, slow))[0] is Status.SCHEDULED


async def test_a_result_that_the_log_refuses_is_kept_for_later(
    engine: NatsEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Here for want of its day's partition; nobody may take it for recorded."""
    await engine.put([new_id()])
    job = await claim(engine)
    async with engine.database.begin() as conn:
        await conn.execute(text(f"DROP TABLE deliveries_{job.day:%Y%m%d}"))
    await engine.queue.settle(job, accepted_batch(*job.device_ids), [])
    async with asyncio.timeout(20):
        while "result.unrecordable" not in caplog.text:  # noqa: ASYNC110 - it is told to the log alone
            await asyncio.sleep(0.02)
    assert (await engine.broker.js.stream_info(RESULTS_STREAM)).state.messages == 1


async def test_results_are_recorded_in_any_order_and_once(engine: NatsEngine) -> None:
    """Several relays have results of one job in hand, and what was not acknowledged comes again."""
    devices = [new_id() for _ in range(4)]
    notification_id = await engine.put(devices)
    job = await claim(engine)
    due = datetime.now(UTC) + MINUTE
    first = wire.Result(job, merge_batches(accepted_batch(devices[0]), retry_batch(due, devices[1])), devices[2:])
    last = wire.Result(job, accepted_batch(*devices[2:]))
    for result in (last, first, last, first):
        await engine.broker.js.publish(f"{RESULTS}.{job.id}", wire.write_result(result))
    await engine.broker.js.purge_stream(jobs_stream(job.lane))  # the worker has nothing more to do
    _, progress = await engine.progress(notification_id)
    assert (progress.accepted, progress.retries, progress.pending) == (3, 1, 1)
    assert await engine.list_attempts(notification_id) == [(devices[1], 1)]


async def test_what_is_too_large_for_the_broker_goes_in_parts_and_is_logged_once(database_url: str) -> None:
    devices = [new_id() for _ in range(400)]
    async with NatsEngine.opened(database_url, "max_payload: 4096\n") as engine:
        notification_id = await engine.put(devices)
        await engine.wait_until_relayed()
        jobs = 0
        left = set(devices)
        while left:
            job = await claim(engine)
            jobs += 1
            half = len(job.device_ids) // 2
            due = datetime.now(UTC) + MINUTE
            first = merge_batches(accepted_batch(*job.device_ids[1:half]), retry_batch(due, job.device_ids[0]))
            await engine.queue.settle(job, first, job.device_ids[half:])
            await engine.queue.settle(job, first, job.device_ids[half:])
            await engine.queue.settle(job, accepted_batch(*job.device_ids[half:]), [])
            left -= set(job.device_ids)
        assert jobs == 4, "400 devices need 7,200 octets"
        assert len(await engine.list_outcomes(notification_id)) == 400 - jobs
        _, progress = await engine.progress(notification_id)
        assert (progress.accepted, progress.retries, progress.pending) == (400 - jobs, jobs, jobs)


async def test_workers_are_told_how_it_is_and_not_what_was_said_on_the_way(engine: NatsEngine) -> None:
    """A pause and a resume that are heard at once have no order."""
    notification_id = await engine.put([new_id()])
    for _ in range(8):
        async with engine.database.begin() as conn:
            for status in (Status.PAUSED, Status.SENDING, Status.CANCELLED):
                await notifier.send(conn, notifier.CONTROL, f"{notification_id} {status}")
        await engine.broker.client.flush()
    told = await engine.broker.client.subscribe(f"gateway.statuses.{notification_id}")
    async with engine.database.begin() as conn:
        await notifier.send(conn, notifier.CONTROL, f"{notification_id} {Status.PAUSED}")
    await told.next_msg(timeout=10)
    assert await engine.broker.statuses([notification_id]) == {notification_id: Status.SENDING}


async def test_a_word_of_a_newer_version_is_passed_over_and_the_next_one_heard(engine: NatsEngine) -> None:
    one, other = new_id(), new_id()
    heard: asyncio.Queue[tuple[str, Status]] = asyncio.Queue()
    with engine.broker.subscribe_status(lambda id_, status: heard.put_nowait((id_, status))):
        await asyncio.sleep(0)
        await engine.broker.client.flush()
        for word in (b"archived", b"\xff\xfe", b""):
            await engine.broker.js.publish(f"{STATUSES}.{one}", word)
        await engine.broker.publish_status(other, Status.CANCELLED)
        async with asyncio.timeout(10):
            assert await heard.get() == (str(other), Status.CANCELLED)
    assert await engine.broker.statuses([one, other]) == {other: Status.CANCELLED}


async def test_a_job_travels_without_its_audience(engine: NatsEngine) -> None:
    await engine.put([new_id()])
    cargo = (await claim(engine)).payload
    assert cargo is not None
    assert cargo.notification.audience is None


async def test_a_relay_that_does_not_see_the_whole_cluster_takes_no_copies_away(tmp_path: Path) -> None:
    async with start_nodes(3, tmp_path) as several:
        async with Broker.connected([node.url for node in several]) as broker:
            await broker.prepare()
            await Broker(broker.connection, replicas=1).prepare()
            info = await broker.js.stream_info(RESULTS_STREAM)
        assert info.config.num_replicas == 3
