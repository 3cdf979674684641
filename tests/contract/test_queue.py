"""What every queue promises, over each engine of `tests.support.queues`."""

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
LONG = timedelta(seconds=10)
NO_WAIT = timedelta(0)
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


async def test_jobs_are_claimed_by_lane_and_within_it_by_due_time(engine: Engine, queue: Queue) -> None:
    now = datetime.now(UTC)
    wanted = []
    for lane in Lane:
        for age in (3, 2, 1):
            wanted.append((lane, await engine.put([new_id()], lane=lane, due_at=now - age * SECOND)))
    # Put in another order than they are wanted in.
    late = await engine.put([new_id()], lane=Lane.URGENT, due_at=now)
    wanted.insert(3, (Lane.URGENT, late))

    claimed = [job for _ in wanted for job in await claim(queue)]

    assert [(job.lane, job.notification_id) for job in claimed] == wanted
    assert await claim(queue) == []


async def test_one_claim_of_many_takes_the_first_due_of_the_first_lanes(engine: Engine, queue: Queue) -> None:
    now = datetime.now(UTC)
    bulk = await engine.put([new_id()], lane=Lane.BULK, due_at=now - MINUTE)
    early = await engine.put([new_id()], lane=Lane.NORMAL, due_at=now - 2 * SECOND)
    await engine.put([new_id()], lane=Lane.NORMAL, due_at=now - SECOND)
    urgent = await engine.put([new_id()], lane=Lane.URGENT, due_at=now)

    claimed = await claim(queue, limit=2)

    assert [job.notification_id for job in claimed] == [urgent, early]
    assert bulk not in {job.notification_id for job in claimed}


async def test_only_the_lanes_asked_for_are_claimed(engine: Engine, queue: Queue) -> None:
    await engine.put([new_id()], lane=Lane.BULK)
    assert await claim(queue, lanes=(Lane.URGENT, Lane.NORMAL), limit=5) == []
    assert len(await claim(queue, lanes=(Lane.BULK,), limit=5)) == 1


async def test_a_claimed_job_says_what_is_to_be_done(engine: Engine, queue: Queue) -> None:
    devices = [new_id() for _ in range(3)]
    notification_id = await engine.put(devices, lane=Lane.URGENT)
    [job] = await claim(queue)
    assert (job.notification_id, job.lane, job.lease_generation, job.attempts) == (notification_id, Lane.URGENT, 1, 0)
    assert job.device_ids == tuple(devices)
    assert job.day == datetime.now(UTC).date()


async def test_a_held_job_is_not_claimed_again(engine: Engine, queue: Queue) -> None:
    await engine.put([new_id()])
    assert len(await claim(queue)) == 1
    assert await claim(queue, limit=5, wait=BRIEF) == []


async def test_a_job_whose_lease_ran_out_is_claimed_again(engine: Engine, queue: Queue) -> None:
    """A worker that dies mid-delivery loses its job to the next one."""
    await engine.put([new_id()])
    [job] = await claim(queue, lease=BRIEF)
    [again] = await claim(queue, wait=LONG)
    assert (again.id, again.lease_generation) == (job.id, job.lease_generation + 1)
    assert again.device_ids == job.device_ids


async def test_a_renewed_lease_is_kept(engine: Engine, queue: Queue) -> None:
    await engine.put([new_id()])
    [job] = await claim(queue, lease=SECOND)
    assert await queue.renew([job], MINUTE) == {job.id}
    assert await claim(queue, wait=1.5 * SECOND) == []


async def test_renewing_tells_which_leases_are_still_held(engine: Engine, queue: Queue) -> None:
    await engine.put([new_id(), new_id()], job_size=1)
    [lost] = await claim(queue, lease=BRIEF)
    [kept] = await claim(queue)
    await claim(queue, wait=LONG)
    assert await queue.renew([lost, kept], MINUTE) == {kept.id}
    assert await queue.renew([], MINUTE) == set()


async def test_a_late_settle_records_nothing(engine: Engine, queue: Queue) -> None:
    device = new_id()
    notification_id = await engine.put([device])
    [late] = await claim(queue, lease=BRIEF)
    [now_held] = await claim(queue, wait=LONG)

    with pytest.raises(LeaseLost):
        await queue.settle(late, merge_batches(accepted_batch(), retry_batch(datetime.now(UTC), device)), [])
    with pytest.raises(LeaseLost):
        await queue.settle(late, accepted_batch(device), [])

    assert await engine.list_outcomes(notification_id) == {}
    assert await engine.list_attempts(notification_id) == []
    assert (await engine.progress(notification_id))[1].pending == 1
    await queue.settle(now_held, accepted_batch(device), [])
    assert await engine.list_outcomes(notification_id) == {device: "accepted"}


async def test_a_late_shrinking_settle_records_nothing(engine: Engine, queue: Queue) -> None:
    devices = [new_id(), new_id()]
    notification_id = await engine.put(devices)
    [late] = await claim(queue, lease=BRIEF)
    [now_held] = await claim(queue, wait=LONG)

    with pytest.raises(LeaseLost):
        await queue.settle(late, accepted_batch(devices[0]), devices[1:])

    assert await engine.list_outcomes(notification_id) == {}
    await queue.settle(now_held, accepted_batch(*devices), [])
    assert len(await engine.list_outcomes(notification_id)) == 2


async def test_a_late_release_changes_nothing(engine: Engine, queue: Queue) -> None:
    await engine.put([new_id()])
    [late] = await claim(queue, lease=BRIEF)
    [now_held] = await claim(queue, wait=LONG)
    await queue.release(late)
    assert await claim(queue) == []
    assert await queue.renew([now_held], MINUTE) == {now_held.id}


async def test_a_settled_job_is_gone(engine: Engine, queue: Queue) -> None:
    device = new_id()
    await engine.put([device])
    [job] = await claim(queue, lease=BRIEF)
    await queue.settle(job, accepted_batch(device), [])
    assert await claim(queue, wait=2 * BRIEF) == []
    assert await queue.renew([job], MINUTE) == set()
    with pytest.raises(LeaseLost):
        await queue.settle(job, accepted_batch(device), [])


async def test_many_claimers_never_share_a_job(engine: Engine, queue: Queue) -> None:
    await engine.put([new_id() for _ in range(100)], lane=Lane.BULK, job_size=1)
    await engine.put([new_id() for _ in range(20)], lane=Lane.URGENT, job_size=1)

    async def claimer(limit: int) -> list[Job]:
        held: list[Job] = []
        while claimed := await claim(queue, limit=limit):
            held += claimed
        return held

    held = [job for jobs in await asyncio.gather(*(claimer(1 + number % 4) for number in range(16))) for job in jobs]

    assert len(held) == 120
    assert set(Counter(job.id for job in held).values()) == {1}
    assert {job.lease_generation for job in held} == {1}


async def test_a_job_shrinks_to_what_remains(engine: Engine, queue: Queue) -> None:
    devices = [new_id() for _ in range(10)]
    notification_id = await engine.put(devices)
    [job] = await claim(queue, lease=BRIEF)
    await queue.settle(job, accepted_batch(*devices[:4]), devices[4:])
    await queue.settle(job, accepted_batch(*devices[4:6]), devices[6:])

    [again] = await claim(queue, wait=LONG)
    assert (again.id, again.device_ids) == (job.id, tuple(devices[6:]))
    status, progress = await engine.progress(notification_id)
    assert (status, progress.accepted, progress.pending) == (Status.SENDING, 6, 4)

    await queue.settle(again, accepted_batch(*devices[6:]), [])
    status, progress = await engine.progress(notification_id)
    assert (status, progress.accepted, progress.pending) == (Status.DONE, 10, 0)


async def test_settling_is_all_or_nothing(engine: Engine, queue: Queue) -> None:
    """The log refuses the second of two ends of one delivery, after the job was shrunk and its retry written."""
    devices = [new_id() for _ in range(4)]
    notification_id = await engine.put(devices)
    [job] = await claim(queue)
    await queue.settle(job, accepted_batch(devices[0]), devices[1:])
    due = datetime.now(UTC)

    impossible = merge_batches(retry_batch(due, devices[1]), accepted_batch(devices[0]))
    with pytest.raises(engine.faults):
        await queue.settle(job, impossible, devices[2:3])

    assert await engine.list_outcomes(notification_id) == {devices[0]: "accepted"}
    assert await engine.list_attempts(notification_id) == []
    assert (await engine.progress(notification_id))[1].retries == 0
    assert await claim(queue, limit=5) == [], "no retry job was left behind"
    await queue.release(job)
    [again] = await claim(queue)
    assert again.device_ids == tuple(devices[1:])


async def test_what_the_log_has_already_is_not_sent_for_ever(engine: Engine, queue: Queue) -> None:
    """Nothing of ours makes such a job; what the log said first stands, and the others are settled."""
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
    said = {devices[0]: "gone", devices[1]: "accepted", devices[3]: "accepted"}
    assert await engine.list_outcomes(notification_id) == said
    assert await engine.list_attempts(notification_id) == [(devices[2], 1)]


async def test_a_batch_settled_again_is_recorded_once(engine: Engine, queue: Queue) -> None:
    """The answer to a commit may be lost on its way: who settles again must not count or retry anything twice."""
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


async def test_retries_come_back_when_due_and_not_before(engine: Engine, queue: Queue) -> None:
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


async def test_a_waiting_claim_wakes_for_a_new_job(engine: Engine, queue: Queue) -> None:
    clock = asyncio.get_running_loop().time
    waiting = asyncio.create_task(claim(queue, wait=timedelta(seconds=60)))
    assert await claim(queue, wait=0.3 * SECOND) == []
    began = clock()
    notification_id = await engine.put([new_id()])
    [job] = await waiting
    assert job.notification_id == notification_id
    assert clock() - began < 5


async def test_a_waiting_claim_wakes_for_a_released_job(engine: Engine, queue: Queue) -> None:
    clock = asyncio.get_running_loop().time
    await engine.put([new_id()])
    [job] = await claim(queue, lease=timedelta(hours=1))
    waiting = asyncio.create_task(claim(queue, wait=timedelta(seconds=60)))
    assert await claim(queue, wait=0.2 * SECOND) == []
    began = clock()
    await queue.release(job)
    [again] = await waiting
    assert (again.id, again.lease_generation) == (job.id, job.lease_generation + 1)
    assert clock() - began < 5


async def test_a_claim_that_finds_nothing_ends_after_its_wait(queue: Queue) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    assert await claim(queue, wait=0.3 * SECOND) == []
    assert 0.3 <= clock() - began < 5


async def test_a_released_job_is_due_at_once(engine: Engine, queue: Queue) -> None:
    devices = [new_id(), new_id()]
    await engine.put(devices)
    [job] = await claim(queue, lease=timedelta(hours=1))
    await queue.settle(job, accepted_batch(devices[0]), devices[1:])
    await queue.release(job)
    [again] = await claim(queue)
    assert (again.id, again.lease_generation, again.device_ids) == (job.id, 2, (devices[1],))


async def test_a_claim_cancelled_at_any_moment_gives_its_jobs_back(engine: Engine, queue: Queue) -> None:
    """A worker that is told to stop while it claims must not leave the job to the lease."""
    await engine.put([new_id()])
    handed_over = given_back = 0
    for moment in range(40):
        claiming = asyncio.create_task(claim(queue, lease=timedelta(hours=1), wait=LONG))
        await asyncio.wait({claiming}, timeout=moment * 0.000_25)
        claiming.cancel()
        [outcome] = await asyncio.gather(claiming, return_exceptions=True)
        if isinstance(outcome, list):
            handed_over += 1
            await queue.release(outcome[0])
        else:
            assert isinstance(outcome, asyncio.CancelledError)
        [free] = await claim(queue, lease=timedelta(hours=1))
        given_back = free.lease_generation - 1 - moment - handed_over
        await queue.release(free)
    assert given_back > 0, "no cancellation came between claiming and answering"


async def test_outcomes_are_counted_by_name(engine: Engine, queue: Queue) -> None:
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
