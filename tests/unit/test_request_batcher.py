"""The request batcher: concurrent calls are handled in batches, and each call gets its own result."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.service.request_batcher import RequestBatcher


class Doubler:
    """Doubles the numbers of a batch once the test releases `go`; a negative number gives a ValueError.

    While `fails` is set, a batch raises OSError.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Semaphore(0)
        self.fails = False

    async def double_all(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        await self.go.acquire()
        if self.fails:
            raise OSError("gone")
        return [ValueError(str(number)) if number < 0 else 2 * number for number in numbers]


async def submit(batcher: RequestBatcher[int, int], *numbers: int) -> list["asyncio.Task[int]"]:
    """Submit the numbers, and run the event loop until the batcher has started a batch."""
    tasks = [asyncio.create_task(batcher.submit(number)) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_requests_during_a_batch_form_the_next_batch() -> None:
    """Requests that arrive while a batch is in progress wait for the next batch."""
    doubler = Doubler()
    batcher: RequestBatcher[int, int] = RequestBatcher(doubler.double_all, max_batch=10)
    first = await submit(batcher, 1)
    later = await submit(batcher, 2, 3)
    assert doubler.batches == [[1]]
    doubler.go.release()
    doubler.go.release()
    assert await asyncio.gather(*first, *later) == [2, 4, 6]
    assert doubler.batches == [[1], [2, 3]]


async def test_batch_size_is_bounded() -> None:
    """Five requests with a maximum of two per batch take three batches."""
    doubler = Doubler()
    batcher: RequestBatcher[int, int] = RequestBatcher(doubler.double_all, max_batch=2)
    tasks = await submit(batcher, 1, 2, 3, 4, 5)
    for _ in range(3):
        doubler.go.release()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert doubler.batches == [[1, 2], [3, 4], [5]]


async def test_error_of_one_request_reaches_only_its_caller() -> None:
    """The first and third request of a batch get their results though the second fails."""
    doubler = Doubler()
    batcher: RequestBatcher[int, int] = RequestBatcher(doubler.double_all, max_batch=10)
    first, second, third = await submit(batcher, 1, -1, 2)
    doubler.go.release()
    assert (await first, await third) == (2, 4)
    with pytest.raises(ValueError, match="-1"):
        await second


async def test_failed_batch_fails_all_its_requests() -> None:
    """All requests of the batch get its error; the next batch is processed normally."""
    doubler = Doubler()
    batcher: RequestBatcher[int, int] = RequestBatcher(doubler.double_all, max_batch=10)
    doubler.fails = True
    tasks = await submit(batcher, 1, 2)
    doubler.go.release()
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [OSError] * 2
    doubler.fails = False
    doubler.go.release()
    assert await batcher.submit(3) == 6


async def test_cancelled_request_does_not_affect_the_others() -> None:
    """A request that is cancelled before its batch starts is not in the batch; the others get their results."""
    doubler = Doubler()
    batcher: RequestBatcher[int, int] = RequestBatcher(doubler.double_all, max_batch=10)
    first, second = await submit(batcher, 1, 2)
    third, fourth = await submit(batcher, 3, 4)
    first.cancel()
    third.cancel()
    doubler.go.release()
    doubler.go.release()
    assert (await second, await fourth) == (4, 8)
    assert doubler.batches == [[1, 2], [4]]


async def test_no_task_runs_without_requests() -> None:
    """The task that runs the batches ends when no request waits."""
    doubler = Doubler()
    batcher: RequestBatcher[int, int] = RequestBatcher(doubler.double_all, max_batch=10)
    doubler.go.release()
    assert await batcher.submit(1) == 2
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "request-batcher"]
