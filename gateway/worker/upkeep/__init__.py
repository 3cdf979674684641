"""Upkeep: small duties that keep the house in order. Each is a module with `EVERY` and `run`.

Every worker runs the same rounds; an advisory lock sees to it that only one does a duty at a time.
"""

import asyncio
import zlib
from datetime import timedelta
from types import ModuleType

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.records.database import DATABASE_ERRORS
from gateway.worker.upkeep import (
    contacts,
    devices,
    events,
    gauges,
    happenings,
    idempotency,
    inbox,
    partitions,
    retention,
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
    async with engine.begin() as conn:
        await conn.execute(text(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}"))
        lock = text("SELECT pg_try_advisory_xact_lock(:key)")
        if not (await conn.execute(lock, {"key": zlib.crc32(duty.__name__.encode())})).scalar_one():
            return 0
        changed: int = await duty.run(conn, limits)
    if changed:
        log.info("upkeep.done", duty=duty.__name__, changed=changed)
    return changed
