"""Poll a table for due rows and process each under a lease: the loop of feeds and webhooks.

A row is claimed in a short transaction, which moves its due time past the lease. Any number of processes run the loop
on one table; a row that a dead process had claimed comes due again. The loop waits for a notification or for the next
due time, whichever is first, and retries while the database is unavailable.

Jobs are polled elsewhere: a claim of `Queue` waits for a job itself, and the relay waits for room in the broker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, Engine
from gateway.records.postgres.notifier import ChannelSubscription

# A notification may be lost, so look for due rows at least this often.
POLL_INTERVAL_S = 15.0
DATABASE_RETRY_S = 1.0

R = TypeVar("R")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LeasedPoll(Generic[R]):
    """One polling loop.

    Attributes:
        name: the kind of row, in the singular; the prefix of log events.
        engine: where the rows are.
        claim: claims one due row; None when no row is due.
        next_due: returns the seconds until the next row comes due; None when there is none.
        process: processes a claimed row. It may raise: the row then comes due again after its lease.
        log_context: fields of all log events while a row is processed.
        max_concurrent: rows that are processed at once.
        fill_s: how long to wait for more events before a claim, so that they are processed together.
    """

    name: str
    engine: Engine
    claim: Callable[[Connection], Awaitable[R | None]]
    next_due: Callable[[Connection], Awaitable[float | None]]
    process: Callable[[R], Awaitable[None]]
    log_context: Callable[[R], dict[str, str]]
    max_concurrent: int
    fill_s: float = 0.0

    async def run(
        self,
        stop: asyncio.Event,
        subscription: AbstractContextManager[ChannelSubscription],
        *,
        shutdown_timeout_s: float = 0.0,
    ) -> None:
        """Process rows until `stop`.

        Rows in progress then have `shutdown_timeout_s` to complete. The others are cancelled, and come due again after
        their lease.
        """
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(self._poll(group, running, subscription))
            await stop.wait()
            poll.cancel()
            if running:
                _, late = await asyncio.wait(running, timeout=shutdown_timeout_s)
                for task in late:
                    task.cancel()

    async def _poll(
        self,
        group: asyncio.TaskGroup,
        running: set[asyncio.Task[None]],
        subscription: AbstractContextManager[ChannelSubscription],
    ) -> None:
        slots = asyncio.Semaphore(self.max_concurrent)
        with subscription as events:
            while True:
                await slots.acquire()
                row, due_s = await self._claim()
                if row is not None:
                    task = group.create_task(self._process(row))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    task.add_done_callback(lambda _: slots.release())
                    continue
                slots.release()
                wait_s = POLL_INTERVAL_S if due_s is None else min(POLL_INTERVAL_S, max(due_s, self.fill_s))
                if await events.wait(wait_s) and self.fill_s:
                    await asyncio.sleep(self.fill_s)

    async def _claim(self) -> tuple[R | None, float | None]:
        """Return a claimed row; without one, the seconds until the next comes due."""
        try:
            async with self.engine.begin() as conn:
                row = await self.claim(conn)
                return row, None if row is not None else await self.next_due(conn)
        except DATABASE_ERRORS as error:
            log.warning(f"{self.name}s.database_unavailable", error=type(error).__name__)
            return None, DATABASE_RETRY_S

    async def _process(self, row: R) -> None:
        with structlog.contextvars.bound_contextvars(**self.log_context(row)):
            try:
                await self.process(row)
            except DATABASE_ERRORS as error:
                log.warning(f"{self.name}.database_unavailable", error=type(error).__name__)
            except Exception:
                # A bug that one row triggers must not end the loop.
                log.exception(f"{self.name}.failed")
