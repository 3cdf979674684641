"""Poll a table for due rows, and process each row under a lease: the common loop of feeds and webhooks.

A row is claimed in a short transaction, which moves its due time to the end of the lease. Any number of processes can
run the loop on one table. If a process crashes, the rows that it has claimed come due again. The loop waits for a
message of Postgres (NOTIFY) or for the next due time, whichever comes first. It retries while the database is
unavailable.

Jobs do not use this loop: `Queue.claim` itself waits for jobs, and the relay waits for capacity in the broker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, Engine
from gateway.records.postgres.notifier import ChannelSubscription

# The loop looks for due rows at least this often, since messages of Postgres may be lost.
POLL_INTERVAL_S = 15.0
DATABASE_RETRY_S = 1.0

R = TypeVar("R")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LeasedPoll(Generic[R]):
    """One polling loop.

    Attributes:
        name: the noun for a row, in the singular; the prefix of log events.
        engine: the database with the rows.
        claim: claims one due row and returns it, or None if no row is due.
        next_due: returns the seconds until the next row comes due, or None if there is none.
        process: processes a claimed row. If it raises an exception, the row comes due again after its lease.
        log_context: returns the fields for all log events while a row is processed.
        max_concurrent: the maximum number of rows that are processed at once.
        fill_s: how long to wait after an event before the next claim, so that several events are processed together.
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
        """Process rows until `stop` is set.

        Rows in progress then have `shutdown_timeout_s` to complete. Rows that do not complete in time are cancelled,
        and come due again after their lease.
        """
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(self._poll(group, running, subscription))
            await stop.wait()
            poll.cancel()
            if running:
                _, unfinished = await asyncio.wait(running, timeout=shutdown_timeout_s)
                for task in unfinished:
                    task.cancel()

    async def _poll(
        self,
        group: asyncio.TaskGroup,
        running: set[asyncio.Task[None]],
        subscription: AbstractContextManager[ChannelSubscription],
    ) -> None:
        """Claim due rows and start tasks that process them, without end."""
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
        """Return (row, None) for a claimed row, or (None, seconds until the next row comes due)."""
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
                # The loop must not end because of a defect that concerns one row.
                log.exception(f"{self.name}.failed")
