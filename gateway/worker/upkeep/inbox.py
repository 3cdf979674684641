"""Forget what was read of an inbox once the log no longer has it, and what open pages took."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import clock
from gateway.domain.notification import LONGEST_TTL
from gateway.records import live_handoffs
from gateway.records.delivery_log import inbox
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=6)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    now = clock.now()
    return await inbox.prune(conn, now - limits.log) + await live_handoffs.prune(conn, now - LONGEST_TTL)
