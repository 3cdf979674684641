"""Forget what was read of an inbox once the log no longer has it."""

from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records import inbox
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=6)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    return await inbox.prune(conn, datetime.now(UTC) - limits.log)
