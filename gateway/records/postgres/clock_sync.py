"""Take the time from the database, now and then."""

import asyncio
import time

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import metrics
from gateway.domain import clock
from gateway.records.postgres.engine import DATABASE_ERRORS

SYNC_INTERVAL_S = 60.0
# An answer that took longer says too little.
MAX_QUERY_S = 1.0
WARN_OFFSET_S = 2.0

log = structlog.get_logger(__name__)


async def sync_clock(engine: AsyncEngine) -> float | None:
    """Set the process's clock by the database's.

    Answers with the seconds that the machine's own clock is ahead of it; None when that could not be told.
    """
    async with engine.connect() as conn:
        await conn.execute(select(1))  # making a connection takes its time
        asked = time.monotonic()
        told = await conn.execute(select(func.extract("epoch", func.clock_timestamp())))
        answered = time.monotonic()
    if answered - asked > MAX_QUERY_S:
        return None
    ahead = clock.set_from_database(float(told.scalar_one()), asked, answered)
    metrics.CLOCK.set(ahead)
    if abs(ahead) > WARN_OFFSET_S:
        log.warning("clock.wrong", ahead_s=round(ahead, 1), advice="the database's is taken; is NTP running here?")
    return ahead


async def sync_forever(engine: AsyncEngine) -> None:
    """For ever."""
    while True:
        await asyncio.sleep(SYNC_INTERVAL_S)
        try:
            await sync_clock(engine)
        except DATABASE_ERRORS as error:
            log.warning("clock.database_unavailable", error=type(error).__name__)
