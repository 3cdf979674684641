"""Work that many ask for at once, done together.

What is asked for while one round is under way waits for the next, and is answered when that round is over. Nobody
waits for others to come: alone one is a round of its own, and the more there are, the less each costs. A statement, a
transaction and a commit are then shared by all that came meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


class RequestBatcher(Generic[A, R]):
    """`do` answers everyone in a round, in their order: each with a result, or an exception for them alone."""

    def __init__(self, do: Callable[[Sequence[A]], Awaitable[Sequence[R | Exception]]], most: int) -> None:
        self._do = do
        self._most = most
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._running: asyncio.Task[None] | None = None

    async def submit(self, asked: A) -> R:
        """Raises what the round came to for this one. Who is cancelled before their round begins is left out of it."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._running is None:
            # A context of its own: what is bound to the request that happens to be first is not everybody's.
            self._running = asyncio.create_task(self._run(), name="rounds", context=Context())
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                waiting = [one for one in self._waiting if not one[1].done()]
                now, self._waiting = waiting[: self._most], waiting[self._most :]
                if now:
                    await self._round(now)
        finally:
            self._running = None

    async def _round(self, now: Sequence[tuple[A, "asyncio.Future[R]"]]) -> None:
        results: Sequence[R | Exception]
        try:
            results = await self._do([asked for asked, _ in now])
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and decides
            results = [error] * len(now)
        except asyncio.CancelledError:
            for _, answer in now:
                answer.cancel()
            raise
        for (_, answer), result in zip(now, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
