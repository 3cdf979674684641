"""Advisory locks: one process at a time does a thing, without a row to lock and without waiting.

A lock's key is a number that all processes of a database share, so callers derive it from a name that never changes.
"""

import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


def lock_id(name: str) -> int:
    """Return the advisory lock id of a name."""
    return zlib.crc32(name.encode())


@asynccontextmanager
async def try_transaction_lock(
    engine: AsyncEngine, name: str, *, lock_timeout: timedelta
) -> AsyncIterator[AsyncConnection | None]:
    """Open a transaction that holds the lock; yield None when another process holds it.

    Statements of the transaction wait at most `lock_timeout` for the locks of others: whoever waits for a lock also
    blocks the writers queued behind it.
    """
    async with engine.begin() as conn:
        await conn.execute(text(f"SET LOCAL lock_timeout = {int(lock_timeout.total_seconds() * 1000)}"))
        lock = text("SELECT pg_try_advisory_xact_lock(:key)")
        yield conn if (await conn.execute(lock, {"key": lock_id(name)})).scalar_one() else None


@asynccontextmanager
async def try_session_lock(engine: AsyncEngine, name: str) -> AsyncIterator[AsyncConnection | None]:
    """Open a connection in autocommit mode that holds the lock; yield None when another process holds it."""
    key = {"key": lock_id(name)}
    async with engine.connect() as connection:
        conn = await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            if (await conn.execute(text("SELECT pg_try_advisory_lock(:key)"), key)).scalar_one():
                yield conn
                await conn.execute(text("SELECT pg_advisory_unlock(:key)"), key)
            else:
                yield None
        except BaseException:
            # Closing the connection releases the lock and resets whatever was set on it.
            await connection.invalidate()
            raise


async def lock_transaction(conn: AsyncConnection, name: str) -> None:
    """Wait for the lock, and hold it until the transaction ends."""
    await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_id(name)})
