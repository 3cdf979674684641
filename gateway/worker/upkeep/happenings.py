"""Forget what happened once no webhook can still be sent it: longer than one is tried for, and than replays go back."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import clock
from gateway.records import outbox
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=1)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    return await outbox.prune(conn, clock.now() - limits.happenings)
