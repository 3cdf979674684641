"""Drop the log's partitions past retention.

Apart from making new ones: dropping waits for whoever reads the log, and must not keep tomorrow's partition from
being made. While it waits it keeps others from changing the partitions, so it does not wait for long and comes again.
"""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import clock
from gateway.records.postgres.partitions import drop_before
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(minutes=10)
IN_TRANSACTION = False
WAIT = timedelta(seconds=2)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    return len(await drop_before(conn, clock.now().date() - limits.log, wait=WAIT))
