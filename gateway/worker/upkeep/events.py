"""Forget events and what their triggers came to, as the log is forgotten."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import clock
from gateway.records import events
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(minutes=10)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    return await events.prune(conn, clock.now() - limits.log)
