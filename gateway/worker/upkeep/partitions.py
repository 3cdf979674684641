"""Make the log's partitions for the days to come, and drop those past retention."""

from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.partitions import drop_before, ensure
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=1)
AHEAD = 7


async def run(conn: AsyncConnection, limits: Limits) -> int:
    today = datetime.now(UTC).date()
    made = await ensure(conn, today, AHEAD)
    dropped = await drop_before(conn, today - limits.log)
    return len(made) + len(dropped)
