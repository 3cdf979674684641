"""Make the log's partitions for the days to come."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import clock
from gateway.records.postgres.partitions import ensure
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=1)
AHEAD = 7


async def run(conn: AsyncConnection, limits: Limits) -> int:
    del limits
    return len(await ensure(conn, clock.now().date(), AHEAD))
