"""The wake-ups without the scheduler: idle senders, and claim loops that wait for the backlog."""

import asyncio

from gateway.domain.notification import Lane
from gateway.worker.scheduling.wakeups import WAKE_INTERVAL, Backlog, IdleSenders

ALL_LANES = tuple(Lane)


async def run_ready_tasks() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def start_senders(senders: IdleSenders, count: int, *, urgent_only: bool = False) -> "list[asyncio.Task[None]]":
    tasks = [asyncio.create_task(senders.wait(urgent_only=urgent_only)) for _ in range(count)]
    await run_ready_tasks()
    return tasks


async def test_last_idle_sender_is_woken_first() -> None:
    """`wake(n)` wakes the n senders that became idle last, or all if there are fewer, and returns their number."""
    senders = IdleSenders()
    first, second, third = await start_senders(senders, 3)
    assert senders.wake(2) == 2
    await run_ready_tasks()
    assert [task.done() for task in (first, second, third)] == [False, True, True]
    assert senders.wake(5) == 1
    await first


async def test_urgent_only_senders_are_woken_separately() -> None:
    """`wake` does not wake the senders that are reserved for urgent messages; `wake_urgent_only` does."""
    senders = IdleSenders()
    [reserved] = await start_senders(senders, 1, urgent_only=True)
    assert senders.wake(1) == 0
    assert senders.wake_urgent_only(1) == 1
    await reserved


async def test_cancelled_sender_takes_no_wakeup() -> None:
    """`wake` skips a cancelled sender and wakes the next idle one."""
    senders = IdleSenders()
    waiting, cancelled = await start_senders(senders, 2)
    cancelled.cancel()
    await run_ready_tasks()
    assert senders.wake(1) == 1
    await waiting


async def test_claim_loop_waits_for_the_backlog() -> None:
    """A claim loop proceeds when the backlog of its lanes has fallen to the number that it passed."""
    backlog = Backlog()
    backlog.add(Lane.BULK, 2 * WAKE_INTERVAL)
    claim = asyncio.create_task(backlog.wait_until_below(ALL_LANES, WAKE_INTERVAL))
    await backlog.wait_until_below((Lane.URGENT,), 0)
    await run_ready_tasks()
    assert not claim.done()
    for _ in range(WAKE_INTERVAL):
        backlog.remove(Lane.BULK, 1)
    await asyncio.wait_for(claim, 1)


async def test_slow_hosts_are_excluded_from_the_backlog() -> None:
    """Messages of a slow host do not block claims; they count again when the host recovers."""
    backlog = Backlog()
    backlog.add(Lane.BULK, 10)
    claim = asyncio.create_task(backlog.wait_until_below(ALL_LANES, 0))
    await run_ready_tasks()
    backlog.exclude({Lane.BULK: 10})
    await asyncio.wait_for(claim, 1)
    backlog.include({Lane.BULK: 10})
    assert backlog.ready[Lane.BULK] == 10


async def test_pause_blocks_claims_of_non_urgent_lanes() -> None:
    """During a pause only the urgent lane is claimed; urgent messages or the timeout end the pause."""
    backlog = Backlog()
    pause = asyncio.create_task(backlog.pause_non_urgent(10))
    await run_ready_tasks()
    claim = asyncio.create_task(backlog.wait_until_below(ALL_LANES, 0))
    await backlog.wait_until_below((Lane.URGENT,), 0)
    await run_ready_tasks()
    assert not claim.done()
    backlog.announce_urgent()
    assert await pause
    await asyncio.wait_for(claim, 1)
    assert not await backlog.pause_non_urgent(0.01)
