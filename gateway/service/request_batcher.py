"""Coalesce concurrent requests into batches (group commit).

Requests that arrive while a batch is being executed form the next batch. If no batch is being executed, a request is
executed at once, as a batch of one. So no request waits for others to arrive. The requests of a batch share a
statement, a transaction and a commit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class RequestBatcher(Generic[Request, Result]):
    """Executes requests in batches, one batch at a time."""

    def __init__(
        self, execute: Callable[[Sequence[Request]], Awaitable[Sequence[Result | Exception]]], max_batch: int
    ) -> None:
        """Create a batcher.

        Args:
            execute: executes a batch, and returns a result or an exception for each request, in order.
            max_batch: the maximum number of requests in a batch.
        """
        self._execute = execute
        self._max_batch = max_batch
        self._waiting: list[tuple[Request, asyncio.Future[Result]]] = []
        self._running: asyncio.Task[None] | None = None

    async def submit(self, request: Request) -> Result:
        """Execute a request as part of a batch; return its result, or raise its exception.

        A request whose caller is cancelled before the batch starts is not executed.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._running is None:
            # An empty context, so that the context variables of the first request do not apply to the whole batch.
            self._running = asyncio.create_task(self._run(), name="request-batcher", context=Context())
        return await future

    async def _run(self) -> None:
        """Execute batches until no request is waiting."""
        try:
            while self._waiting:
                waiting = [item for item in self._waiting if not item[1].done()]
                batch, self._waiting = waiting[: self._max_batch], waiting[self._max_batch :]
                if batch:
                    await self._run_batch(batch)
        finally:
            self._running = None

    async def _run_batch(self, batch: Sequence[tuple[Request, "asyncio.Future[Result]"]]) -> None:
        """Execute one batch; pass each result or exception to the caller of its request."""
        results: Sequence[Result | Exception]
        try:
            results = await self._execute([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001 - raised to each caller
            results = [error] * len(batch)
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
