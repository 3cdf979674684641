"""Periodic synchronisation of the process's clock with the database."""

import asyncio
import time

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import metrics
from gateway.domain import clock
from gateway.records.postgres.engine import DATABASE_ERRORS

# Interval between two synchronisations.
SYNC_INTERVAL_S = 60.0
# Maximum duration of the query for the database's time. The result of a slower query is too inaccurate to use.
MAX_QUERY_S = 1.0
# Offset of the machine's clock above which a warning is logged.
WARN_OFFSET_S = 2.0

log = structlog.get_logger(__name__)


async def sync_clock(engine: AsyncEngine) -> float | None:
    """Set the process's clock from the database.

    Returns:
        The seconds that the machine's clock is ahead of the database's; None if the query was too slow to be used.
    """
    async with engine.connect() as conn:
        await conn.execute(select(1))  # opens the connection, so that it is not part of the measurement
        sent_at = time.monotonic()
        result = await conn.execute(select(func.extract("epoch", func.clock_timestamp())))
        received_at = time.monotonic()
    if received_at - sent_at > MAX_QUERY_S:
        return None
    ahead = clock.set_from_database(float(result.scalar_one()), sent_at, received_at)
    metrics.CLOCK.set(ahead)
    if abs(ahead) > WARN_OFFSET_S:
        log.warning(
            "clock.wrong",
            ahead_s=round(ahead, 1),
            advice="the database's time is used; check that NTP runs on this machine",
        )
    return ahead


async def sync_forever(engine: AsyncEngine) -> None:
    """Synchronise the clock at intervals, forever."""
    while True:
        await asyncio.sleep(SYNC_INTERVAL_S)
        try:
            await sync_clock(engine)
        except DATABASE_ERRORS as error:
            log.warning("clock.database_unavailable", error=type(error).__name__)
