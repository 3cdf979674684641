"""Follow an application's log live.

Positions become visible in order, so a follower that resumes after N has missed nothing. Signals say when to look.
"""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from gateway.records.delivery_log import reader
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import Engine

BATCH = 500
HEARTBEAT_S = 15.0


async def follow(
    engine: Engine,
    bell: notifier.Notifier,
    application_id: UUID,
    filters: reader.LogFilters,
    position: int | None,
) -> AsyncIterator[list[reader.LogEntry]]:
    """Batches of what comes after `position` (None: from now on); an empty one when nothing came for a while."""
    with bell.subscribe(notifier.LOG) as waiter:
        while True:
            async with engine.connect() as conn:
                newest = await reader.last_position(conn, application_id)
                position = newest if position is None else position
                entries = await reader.read_between(
                    conn, application_id, filters, after=position, upto=newest, limit=BATCH
                )
            # A full batch ends at its last entry; a short one has shown all there is up to `newest`.
            position = entries[-1].row.position if len(entries) == BATCH else max(position, newest)
            if entries:
                yield entries
                continue
            if not await _has_grown(waiter, application_id):
                yield []


async def _has_grown(waiter: notifier.Subscription, application_id: UUID) -> bool:
    """True as soon as this application's log may have grown; False after a quiet while."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + HEARTBEAT_S
    while (left := deadline - clock()) > 0:
        if await waiter.wait(left) & {str(application_id), ""}:
            return True
    return False
