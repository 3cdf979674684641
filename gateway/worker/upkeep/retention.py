"""Drop the log's partitions past retention.

Apart from making new ones: dropping waits for whoever reads the log, and must not keep tomorrow's partition from
being made.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.partitions import drop_before
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=1)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    return len(await drop_before(conn, datetime.now(UTC).date() - limits.log))
