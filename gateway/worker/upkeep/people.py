"""Let go of the ids by which the log knows those who were forgotten while something was on its way to them."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records import personal_data
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=1)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    del limits
    return await personal_data.prune(conn)
