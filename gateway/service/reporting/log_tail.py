"""Follow the delivery log of an application.

Positions become visible in order, so a follower that resumes after a position misses nothing. Database notifications
announce new entries.
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
    notifier_: notifier.Notifier,
    application_id: UUID,
    filters: reader.LogFilters,
    position: int | None,
) -> AsyncIterator[list[reader.LogEntry]]:
    """Yield batches of entries after `position` (None: from now on), and an empty batch after a quiet HEARTBEAT_S."""
    with notifier_.subscribe(notifier.LOG) as subscription:
        while True:
            async with engine.connect() as conn:
                last_position = await reader.last_position(conn, application_id)
                position = last_position if position is None else position
                entries = await reader.read_between(
                    conn, application_id, filters, after=position, upto=last_position, limit=BATCH
                )
            # A full batch ends at its last entry; a shorter one contains every entry up to `last_position`.
            position = entries[-1].row.position if len(entries) == BATCH else max(position, last_position)
            if entries:
                yield entries
                continue
            if not await _has_grown(subscription, application_id):
                yield []


async def _has_grown(subscription: notifier.ChannelSubscription, application_id: UUID) -> bool:
    """Return True as soon as the log may have new entries, False after HEARTBEAT_S."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + HEARTBEAT_S
    while (remaining := deadline - clock()) > 0:
        if await subscription.wait(remaining) & {str(application_id), ""}:
            return True
    return False
