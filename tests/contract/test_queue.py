"""The contract of `Queue`, tested with each engine of `tests.support.queues`."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from gateway.domain.delivery import Gone
from gateway.domain.ids import new_id
from gateway.domain.job import Job
from gateway.domain.notification import Lane, Status
from gateway.queue.protocol import LeaseLost, Queue
from tests.support.queues import ENGINES, Engine, accepted_batch, delivery_result, merge_batches, retry_batch

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
# A wait that outlasts every brief lease.
LONG = timedelta(seconds=10)
NO_WAIT = timedelta(0)
# A lease that expires within a test.
BRIEF = timedelta(milliseconds=50)


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Engine]:
    async with ENGINES[request.param](database_url) as engine:
        yield engine


@pytest.fixture
def queue(engine: Engine) -> Queue:
    return engine.queue


async def claim(
    queue: Queue,
    *,
    lanes: tuple[Lane, ...] = tuple(Lane),
    limit: int = 1,
    lease: timedelta = MINUTE,
    wait: timedelta = NO_WAIT,
) -> list[Job]:
    return await queue.claim(lanes=lanes, limit=limit, lease=lease, wait=wait)


async def test_jobs_are_claimed_by_lane_then_due_time(engine: Engine, queue: Queue) -> None:
    """Jobs are inserted in another order than they are claimed: an urgent job is inserted last."""
    now = datetime.now(UTC)
    expected = []
    for lane in Lane:
        for age in (3, 2, 1):
            expected.append((lane, await engine.put([new_id()], lane=lane, due_at=now - age * SECOND)))
    # This urgent job is inserted last and expected before the jobs of other lanes.
    last_urgent = await engine.put([new_id()], lane=Lane.URGENT, due_at=now)
    expected.insert(3, (Lane.URGENT, last_urgent))

    claimed = [job for _ in expected for job in await claim(queue)]

    assert [(job.lane, job.notification_id) for job in claimed] == expected
    assert await claim(queue) == []


async def test_claim_of_two_jobs_prefers_urgent_lanes(engine: Engine, queue: Queue) -> None:
    """Of four jobs, a claim of two gets the urgent job and the normal job that was due first."""
    now = datetime.now(UTC)
    bulk = await engine.put([new_id()], lane=Lane.BULK, due_at=now - MINUTE)
    due_first = await engine.put([new_id()], lane=Lane.NORMAL, due_at=now - 2 * SECOND)
    await engine.put([new_id()], lane=Lane.NORMAL, due_at=now - SECOND)
    urgent = await engine.put([new_id()], lane=Lane.URGENT, due_at=now)

    claimed = await claim(queue, limit=2)

    assert [job.notification_id for job in claimed] == [urgent, due_first]
    assert bulk not in {job.notification_id for job in claimed}


async def test_claim_is_limited_to_its_lanes(engine: Engine, queue: Queue) -> None:
    """A bulk job stays in the queue when urgent and normal jobs are claimed."""
    await engine.put([new_id()], lane=Lane.BULK)
    assert await claim(queue, lanes=(Lane.URGENT, Lane.NORMAL), limit=5) == []
    assert len(await claim(queue, lanes=(Lane.BULK,), limit=5)) == 1


async def test_claimed_job_has_all_fields(engine: Engine, queue: Queue) -> None:
    """The claimed job has the notification, lane, devices and day with which it was put."""
    devices = [new_id() for _ in range(3)]
    notification_id = await engine.put(devices, lane=Lane.URGENT)
    [job] = await claim(queue)
    assert (job.notification_id, job.lane, job.lease_generation, job.attempts) == (notification_id, Lane.URGENT, 1, 0)
    assert job.device_ids == tuple(devices)
    assert job.day == datetime.now(UTC).date()


async def test_leased_job_is_not_claimed_again(engine: Engine, queue: Queue) -> None:
    """A second claim finds no job while the lease lasts."""
    await engine.put([new_id()])
    assert len(await claim(queue)) == 1
    assert await claim(queue, limit=5, wait=BRIEF) == []


async def test_expired_lease_is_claimed_again(engine: Engine, queue: Queue) -> None:
    """A job whose worker stops without settling it can be claimed by another worker after the lease."""
    await engine.put([new_id()])
    [job] = await claim(queue, lease=BRIEF)
    [reclaimed] = await claim(queue, wait=LONG)
    assert (reclaimed.id, reclaimed.lease_generation) == (job.id, job.lease_generation + 1)
    assert reclaimed.device_ids == job.device_ids


async def test_renewed_lease_is_not_claimed(engine: Engine, queue: Queue) -> None:
    """A renewed job is not claimed after the end of its first lease."""
    await engine.put([new_id()])
    [job] = await claim(queue, lease=SECOND)
    assert await queue.renew([job], MINUTE) == {job.id}
    assert await claim(queue, wait=1.5 * SECOND) == []


async def test_renew_returns_the_jobs_whose_lease_is_renewed(engine: Engine, queue: Queue) -> None:
    """The lease of a job that another worker has claimed since then is not renewed."""
    await engine.put([new_id(), new_id()], job_size=1)
    [lost_job] = await claim(queue, lease=BRIEF)
    [leased_job] = await claim(queue)
    await claim(queue, wait=LONG)
    assert await queue.renew([lost_job, leased_job], MINUTE) == {leased_job.id}
    assert await queue.renew([], MINUTE) == set()


async def test_settle_without_lease_records_nothing(engine: Engine, queue: Queue) -> None:
    """A worker whose lease expired cannot settle; the worker with the current lease can."""
    device = new_id()
    notification_id = await engine.put([device])
    [expired] = await claim(queue, lease=BRIEF)
    [current] = await claim(queue, wait=LONG)

    with pytest.raises(LeaseLost):
        await queue.settle(expired, merge_batches(accepted_batch(), retry_batch(datetime.now(UTC), device)), [])
    with pytest.raises(LeaseLost):
        await queue.settle(expired, accepted_batch(device), [])

    assert await engine.list_outcomes(notification_id) == {}
    assert await engine.list_attempts(notification_id) == []
    assert (await engine.progress(notification_id))[1].pending == 1
    await queue.settle(current, accepted_batch(device), [])
    assert await engine.list_outcomes(notification_id) == {device: "accepted"}


async def test_partial_settle_without_lease_records_nothing(engine: Engine, queue: Queue) -> None:
    """A batch that leaves devices in the job is refused in the same way as a batch that ends the job."""
    devices = [new_id(), new_id()]
    notification_id = await engine.put(devices)
    [expired] = await claim(queue, lease=BRIEF)
    [current] = await claim(queue, wait=LONG)

    with pytest.raises(LeaseLost):
        await queue.settle(expired, accepted_batch(devices[0]), devices[1:])

    assert await engine.list_outcomes(notification_id) == {}
    await queue.settle(current, accepted_batch(*devices), [])
    assert len(await engine.list_outcomes(notification_id)) == 2


async def test_release_without_lease_changes_nothing(engine: Engine, queue: Queue) -> None:
    """A worker whose lease expired cannot release the job; it stays with the worker that has the current lease."""
    await engine.put([new_id()])
    [expired] = await claim(queue, lease=BRIEF)
    [current] = await claim(queue, wait=LONG)
    await queue.release(expired)
    assert await claim(queue) == []
    assert await queue.renew([current], MINUTE) == {current.id}


async def test_settled_job_has_ended(engine: Engine, queue: Queue) -> None:
    """A settled job is not claimed, renewed or settled again."""
    device = new_id()
    await engine.put([device])
    [job] = await claim(queue, lease=BRIEF)
    await queue.settle(job, accepted_batch(device), [])
    assert await claim(queue, wait=2 * BRIEF) == []
    assert await queue.renew([job], MINUTE) == set()
    with pytest.raises(LeaseLost):
        await queue.settle(job, accepted_batch(device), [])


async def test_concurrent_claims_never_share_a_job(engine: Engine, queue: Queue) -> None:
    """Sixteen concurrent claimers together get each job once."""
    await engine.put([new_id() for _ in range(100)], lane=Lane.BULK, job_size=1)
    await engine.put([new_id() for _ in range(20)], lane=Lane.URGENT, job_size=1)

    async def claimer(limit: int) -> list[Job]:
        jobs: list[Job] = []
        while claimed := await claim(queue, limit=limit):
            jobs += claimed
        return jobs

    claimed = [job for jobs in await asyncio.gather(*(claimer(1 + number % 4) for number in range(16))) for job in jobs]

    assert len(claimed) == 120
    assert set(Counter(job.id for job in claimed).values()) == {1}
    assert {job.lease_generation for job in claimed} == {1}


async def test_job_shrinks_to_its_remaining_devices(engine: Engine, queue: Queue) -> None:
    """After partial settlements, the next claim of the job gets only the devices without a result."""
    devices = [new_id() for _ in range(10)]
    notification_id = await engine.put(devices)
    [job] = await claim(queue, lease=BRIEF)
    await queue.settle(job, accepted_batch(*devices[:4]), devices[4:])
    await queue.settle(job, accepted_batch(*devices[4:6]), devices[6:])

    [reclaimed] = await claim(queue, wait=LONG)
    assert (reclaimed.id, reclaimed.device_ids) == (job.id, tuple(devices[6:]))
    status, progress = await engine.progress(notification_id)
    assert (status, progress.accepted, progress.pending) == (Status.SENDING, 6, 4)

    await queue.settle(reclaimed, accepted_batch(*devices[6:]), [])
    status, progress = await engine.progress(notification_id)
    assert (status, progress.accepted, progress.pending) == (Status.DONE, 10, 0)


async def test_settle_is_atomic(engine: Engine, queue: Queue) -> None:
    """If the last write of a batch fails, because a delivery already has a result, none of its writes is stored."""
    devices = [new_id() for _ in range(4)]
    notification_id = await engine.put(devices)
    [job] = await claim(queue)
    await queue.settle(job, accepted_batch(devices[0]), devices[1:])
    due = datetime.now(UTC)

    conflicting_batch = merge_batches(retry_batch(due, devices[1]), accepted_batch(devices[0]))
    with pytest.raises(engine.faults):
        await queue.settle(job, conflicting_batch, devices[2:3])

    assert await engine.list_outcomes(notification_id) == {devices[0]: "accepted"}
    assert await engine.list_attempts(notification_id) == []
    assert (await engine.progress(notification_id))[1].retries == 0
    assert await claim(queue, limit=5) == [], "the refused batch left a retry job behind"
    await queue.release(job)
    [reclaimed] = await claim(queue)
    assert reclaimed.device_ids == tuple(devices[1:])


async def test_result_of_a_logged_device_is_dropped(engine: Engine, queue: Queue) -> None:
    """A device that is already in the delivery log keeps its logged result, and the other devices are settled.

    Such a job exists after the restore of an old backup of the jobs.
    """
    devices = [new_id() for _ in range(4)]
    notification_id = await engine.put(devices)
    await engine.insert_delivery_row(notification_id, devices[0])
    [job] = await claim(queue, lease=BRIEF)
    await queue.settle(
        job,
        merge_batches(accepted_batch(*devices[:2]), retry_batch(datetime.now(UTC) + MINUTE, devices[2])),
        devices[3:],
    )
    await queue.settle(job, accepted_batch(devices[3]), [])

    assert await claim(queue, wait=2 * BRIEF) == []
    outcomes = {devices[0]: "gone", devices[1]: "accepted", devices[3]: "accepted"}
    assert await engine.list_outcomes(notification_id) == outcomes
    assert await engine.list_attempts(notification_id) == [(devices[2], 1)]


async def test_repeated_settle_is_recorded_once(engine: Engine, queue: Queue) -> None:
    """A worker repeats `settle` when the response to the commit is lost; the batch must not count twice."""
    devices = [new_id() for _ in range(3)]
    notification_id = await engine.put(devices)
    [job] = await claim(queue)
    batches = [
        (retry_batch(datetime.now(UTC) - SECOND, devices[0]), devices[1:]),
        (accepted_batch(devices[1]), devices[2:]),
    ]
    for batch, remaining in batches:
        await queue.settle(job, batch, remaining)
        await queue.settle(job, batch, remaining)

    _, progress = await engine.progress(notification_id)
    assert (progress.retries, progress.accepted, progress.pending) == (1, 1, 2)
    assert await engine.list_attempts(notification_id) == [(devices[0], 1)]
    assert [retry.device_ids for retry in await claim(queue, limit=5)] == [(devices[0],)]


async def test_retries_are_claimed_when_due(engine: Engine, queue: Queue) -> None:
    """The retries of a batch are new jobs, one for each due time."""
    devices = [new_id() for _ in range(4)]
    notification_id = await engine.put(devices, lane=Lane.URGENT)
    [job] = await claim(queue)
    soon, later = datetime.now(UTC) + 0.6 * SECOND, datetime.now(UTC) + MINUTE

    await queue.settle(
        job, merge_batches(retry_batch(soon, *devices[:2]), retry_batch(later, devices[2], tries=3)), devices[3:]
    )
    await queue.settle(job, accepted_batch(devices[3]), [])

    assert await claim(queue, limit=5) == []
    [retry] = await claim(queue, limit=5, wait=LONG)
    assert datetime.now(UTC) >= soon
    assert set(retry.device_ids) == set(devices[:2])
    assert (retry.attempts, retry.lane, retry.notification_id, retry.day) == (1, Lane.URGENT, notification_id, job.day)
    assert await engine.list_attempts(notification_id) == [(devices[0], 1), (devices[1], 1), (devices[2], 3)]
    status, progress = await engine.progress(notification_id)
    assert (status, progress.retries, progress.pending) == (Status.SENDING, 3, 3)


async def test_waiting_claim_wakes_for_a_new_job(engine: Engine, queue: Queue) -> None:
    """A claim with a wait of 60 s returns within 5 s of the insertion."""
    clock = asyncio.get_running_loop().time
    waiting = asyncio.create_task(claim(queue, wait=timedelta(seconds=60)))
    assert await claim(queue, wait=0.3 * SECOND) == []
    started_at = clock()
    notification_id = await engine.put([new_id()])
    [job] = await waiting
    assert job.notification_id == notification_id
    assert clock() - started_at < 5


async def test_waiting_claim_wakes_for_a_released_job(engine: Engine, queue: Queue) -> None:
    """A claim with a wait of 60 s returns within 5 s of the release."""
    clock = asyncio.get_running_loop().time
    await engine.put([new_id()])
    [job] = await claim(queue, lease=timedelta(hours=1))
    waiting = asyncio.create_task(claim(queue, wait=timedelta(seconds=60)))
    assert await claim(queue, wait=0.2 * SECOND) == []
    started_at = clock()
    await queue.release(job)
    [reclaimed] = await waiting
    assert (reclaimed.id, reclaimed.lease_generation) == (job.id, job.lease_generation + 1)
    assert clock() - started_at < 5


async def test_claim_without_jobs_ends_after_its_wait(queue: Queue) -> None:
    """A claim on an empty queue returns an empty list at the end of its wait."""
    clock = asyncio.get_running_loop().time
    started_at = clock()
    assert await claim(queue, wait=0.3 * SECOND) == []
    assert 0.3 <= clock() - started_at < 5


async def test_released_job_is_due_at_once(engine: Engine, queue: Queue) -> None:
    """A released job is claimed again with its remaining devices and the next lease generation."""
    devices = [new_id(), new_id()]
    await engine.put(devices)
    [job] = await claim(queue, lease=timedelta(hours=1))
    await queue.settle(job, accepted_batch(devices[0]), devices[1:])
    await queue.release(job)
    [reclaimed] = await claim(queue)
    assert (reclaimed.id, reclaimed.lease_generation, reclaimed.device_ids) == (job.id, 2, (devices[1],))


async def test_cancelled_claim_releases_its_jobs(engine: Engine, queue: Queue) -> None:
    """A worker that stops during a claim must not leave a job leased that it will not send.

    The cancellations are spread over 10 ms, so that some fall between the claim in the queue and its return.
    """
    await engine.put([new_id()])
    returned_jobs = released_jobs = 0
    for number in range(40):
        claiming = asyncio.create_task(claim(queue, lease=timedelta(hours=1), wait=LONG))
        await asyncio.wait({claiming}, timeout=number * 0.000_25)
        claiming.cancel()
        [outcome] = await asyncio.gather(claiming, return_exceptions=True)
        if isinstance(outcome, list):
            returned_jobs += 1
            await queue.release(outcome[0])
        else:
            assert isinstance(outcome, asyncio.CancelledError)
        [job] = await claim(queue, lease=timedelta(hours=1))
        released_jobs = job.lease_generation - 1 - number - returned_jobs
        await queue.release(job)
    assert released_jobs > 0, "no cancellation came between the claim and its return"


async def test_outcomes_are_counted_by_name(engine: Engine, queue: Queue) -> None:
    """The progress has a counter for each final outcome."""
    devices = [new_id() for _ in range(3)]
    notification_id = await engine.put(devices)
    [job] = await claim(queue)
    gone = delivery_result(devices[2], Gone("the push service says the subscription no longer exists (410)"))
    batch = accepted_batch(*devices[:2])
    batch.settled.append(gone)
    await queue.settle(job, batch, [])
    assert sorted((await engine.list_outcomes(notification_id)).values()) == ["accepted", "accepted", "gone"]
    _, progress = await engine.progress(notification_id)
    assert (progress.targets, progress.accepted, progress.gone) == (3, 2, 1)
