"""Advisory locks: let one process at a time perform a task, without a row to lock.

The key of a lock is a number that all processes must agree on. It is derived from a name, so a name must never change.
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
    """Open a transaction that holds the lock; yield None if another process holds the lock.

    Statements of the transaction wait at most `lock_timeout` for other locks: a statement that waits for a lock also
    blocks the writers queued behind it.
    """
    async with engine.begin() as conn:
        await conn.execute(text(f"SET LOCAL lock_timeout = {int(lock_timeout.total_seconds() * 1000)}"))
        lock = text("SELECT pg_try_advisory_xact_lock(:key)")
        yield conn if (await conn.execute(lock, {"key": lock_id(name)})).scalar_one() else None


@asynccontextmanager
async def try_session_lock(engine: AsyncEngine, name: str) -> AsyncIterator[AsyncConnection | None]:
    """Open a connection in autocommit mode that holds the lock; yield None if another process holds the lock."""
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
            # Closing the connection releases the lock and discards settings of the session.
            await connection.invalidate()
            raise


async def lock_transaction(conn: AsyncConnection, name: str) -> None:
    """Wait for the lock of a name and hold it until the transaction ends."""
    await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_id(name)})
