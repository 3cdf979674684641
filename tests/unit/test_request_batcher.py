"""Rounds: what many ask for at once is done together, and each hears of their own."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.service.request_batcher import RequestBatcher


class Work:
    """Doubles what it is asked; each round waits until it is let go."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.go = asyncio.Semaphore(0)
        self.fails = False

    async def do(self, asked: Sequence[int]) -> list[int | Exception]:
        self.rounds.append(list(asked))
        await self.go.acquire()
        if self.fails:
            raise OSError("gone")
        return [ValueError(str(one)) if one < 0 else 2 * one for one in asked]


async def begun(rounds: RequestBatcher[int, int], *asked: int) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(rounds.submit(one)) for one in asked]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_those_that_come_while_a_round_is_under_way_are_the_next() -> None:
    work = Work()
    rounds: RequestBatcher[int, int] = RequestBatcher(work.do, max_batch=10)
    first = await begun(rounds, 1)
    later = await begun(rounds, 2, 3)
    assert work.rounds == [[1]]
    work.go.release()
    work.go.release()
    assert await asyncio.gather(*first, *later) == [2, 4, 6]
    assert work.rounds == [[1], [2, 3]]


async def test_a_round_has_a_most() -> None:
    work = Work()
    rounds: RequestBatcher[int, int] = RequestBatcher(work.do, max_batch=2)
    tasks = await begun(rounds, 1, 2, 3, 4, 5)
    for _ in range(3):
        work.go.release()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert work.rounds == [[1, 2], [3, 4], [5]]


async def test_what_one_is_refused_only_they_hear() -> None:
    work = Work()
    rounds: RequestBatcher[int, int] = RequestBatcher(work.do, max_batch=10)
    one, bad, other = await begun(rounds, 1, -1, 2)
    work.go.release()
    assert (await one, await other) == (2, 4)
    with pytest.raises(ValueError, match="-1"):
        await bad


async def test_when_a_round_fails_all_in_it_hear_and_the_next_is_done() -> None:
    work = Work()
    rounds: RequestBatcher[int, int] = RequestBatcher(work.do, max_batch=10)
    work.fails = True
    tasks = await begun(rounds, 1, 2)
    work.go.release()
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [OSError] * 2
    work.fails = False
    work.go.release()
    assert await rounds.submit(3) == 6


async def test_who_leaves_before_their_round_is_left_out_and_who_leaves_in_it_disturbs_nobody() -> None:
    work = Work()
    rounds: RequestBatcher[int, int] = RequestBatcher(work.do, max_batch=10)
    one, other = await begun(rounds, 1, 2)
    gone, stays = await begun(rounds, 3, 4)
    one.cancel()
    gone.cancel()
    work.go.release()
    work.go.release()
    assert (await other, await stays) == (4, 8)
    assert work.rounds == [[1, 2], [4]]


async def test_nothing_runs_when_nobody_asks() -> None:
    work = Work()
    rounds: RequestBatcher[int, int] = RequestBatcher(work.do, max_batch=10)
    work.go.release()
    assert await rounds.submit(1) == 2
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "rounds"]
