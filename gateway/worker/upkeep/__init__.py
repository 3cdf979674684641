"""Upkeep: small duties that keep the house in order. Each is a module with `EVERY` and `run`.

Every worker runs the same rounds; an advisory lock sees to it that only one does a duty at a time. A duty is one
transaction, unless it says that it is not (`IN_TRANSACTION`); one that only looks need not be alone (`ALONE`).
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from types import ModuleType

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway import metrics
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.worker.upkeep import (
    audit,
    contacts,
    devices,
    events,
    gauges,
    happenings,
    idempotency,
    inbox,
    partitions,
    people,
    retention,
    sessions,
)
from gateway.worker.upkeep.limits import Limits

DUTIES: tuple[ModuleType, ...] = (
    partitions,
    retention,
    devices,
    contacts,
    events,
    inbox,
    happenings,
    idempotency,
    audit,
    people,
    sessions,
    gauges,
)

# Whoever waits for a lock holds up the senders behind it: better to come again.
LOCK_WAIT_MS = 5_000

log = structlog.get_logger(__name__)


async def rounds(engine: AsyncEngine, limits: Limits) -> None:
    """Do every duty when it is due, for ever."""
    async with asyncio.TaskGroup() as group:
        for duty in DUTIES:
            group.create_task(_round(duty, engine, limits), name=duty.__name__)


async def once(engine: AsyncEngine, limits: Limits) -> dict[str, int]:
    """Do every duty now; answers with what each changed."""
    return {duty.__name__.rpartition(".")[2]: await _do(duty, engine, limits) for duty in DUTIES}


async def _round(duty: ModuleType, engine: AsyncEngine, limits: Limits) -> None:
    every: timedelta = duty.EVERY
    while True:
        try:
            await _do(duty, engine, limits)
        except DATABASE_ERRORS as error:
            log.warning("upkeep.postponed", duty=duty.__name__, error=type(error).__name__)
        await asyncio.sleep(every.total_seconds())


async def _do(duty: ModuleType, engine: AsyncEngine, limits: Limits) -> int:
    key = zlib.crc32(duty.__name__.encode())
    async with _opened(duty)(engine, key) as conn:
        if conn is None:
            return 0
        changed: int = await duty.run(conn, limits)
    metrics.UPKEEP.labels(duty.__name__.rpartition(".")[2]).set_to_current_time()
    if changed:
        log.info("upkeep.done", duty=duty.__name__, changed=changed)
    return changed


def _opened(duty: ModuleType) -> Callable[[AsyncEngine, int], AbstractAsyncContextManager[AsyncConnection | None]]:
    if not getattr(duty, "ALONE", True):
        return _beside_others
    return _in_transaction if getattr(duty, "IN_TRANSACTION", True) else _in_session


@asynccontextmanager
async def _in_transaction(engine: AsyncEngine, key: int) -> AsyncIterator[AsyncConnection | None]:
    """A transaction that holds the lock; None when another does."""
    async with engine.begin() as conn:
        await conn.execute(text(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}"))
        lock = text("SELECT pg_try_advisory_xact_lock(:key)")
        yield conn if (await conn.execute(lock, {"key": key})).scalar_one() else None


@asynccontextmanager
async def _beside_others(engine: AsyncEngine, _: int) -> AsyncIterator[AsyncConnection | None]:
    async with engine.begin() as conn:
        yield conn


@asynccontextmanager
async def _in_session(engine: AsyncEngine, key: int) -> AsyncIterator[AsyncConnection | None]:
    """A connection that holds the lock and commits by itself; None when another holds it."""
    async with engine.connect() as connection:
        conn = await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            if (await conn.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key})).scalar_one():
                yield conn
                await conn.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
            else:
                yield None
        except BaseException:
            await connection.invalidate()  # closed, so that the lock and what was set end with it
            raise
