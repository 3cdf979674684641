"""Follow the delivery log of an application: yield new entries as they are written.

Entries become visible in the order of their positions, so a client that resumes after a position misses no entry.
Messages over Postgres NOTIFY announce new entries.
"""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from gateway.records.delivery_log import reader
from gateway.records.postgres import notifier
from gateway.records.postgres.connection_shares import ConnectionShare

# Maximum number of entries that are read at once.
BATCH = 500
# An empty batch is yielded when no entry was added for this long.
HEARTBEAT_S = 15.0


async def follow(
    share: ConnectionShare,
    notifier_: notifier.Notifier,
    application_id: UUID,
    filters: reader.LogFilters,
    position: int | None,
) -> AsyncIterator[list[reader.LogEntry]]:
    """Yield batches of entries after `position`, without end; None starts at the current end of the log.

    Yields an empty batch when there was no new entry for HEARTBEAT_S.
    """
    with notifier_.subscribe(notifier.LOG) as subscription:
        while True:
            async with share.connect() as conn:
                last_position = await reader.last_position(conn, application_id)
                position = last_position if position is None else position
                entries = await reader.read_between(
                    conn, application_id, filters, after=position, upto=last_position, limit=BATCH
                )
            # A full batch ends at its last entry. A shorter batch contains all entries up to `last_position`.
            position = entries[-1].row.position if len(entries) == BATCH else max(position, last_position)
            if entries:
                yield entries
                continue
            if not await _wait_for_entries(subscription, application_id):
                yield []


async def _wait_for_entries(subscription: notifier.ChannelSubscription, application_id: UUID) -> bool:
    """Wait until the log may have new entries, and return True; return False after HEARTBEAT_S."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + HEARTBEAT_S
    while (remaining := deadline - clock()) > 0:
        if await subscription.wait(remaining) & {str(application_id), ""}:
            return True
    return False
