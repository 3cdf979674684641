"""Alembic's entry: one advisory lock around all revisions, so that two starts never migrate at once."""

import asyncio
import time

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from gateway.records.schema import metadata

LOCK = 7_306_014_113  # any constant, shared by every gateway that migrates this database
LOCK_PAUSE_S = 0.2


def _migrate(connection: Connection) -> None:
    # Asking again and again, since a statement that waits for the lock holds a snapshot, which an index that is built
    # concurrently in the other process would wait for.
    while not connection.execute(text(f"SELECT pg_try_advisory_lock({LOCK})")).scalar():
        connection.commit()
        time.sleep(LOCK_PAUSE_S)
    connection.commit()
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def _run() -> None:
    engine = create_async_engine(context.config.attributes["url"], poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(_run())
