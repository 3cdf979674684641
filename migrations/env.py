"""Alembic's entry: one advisory lock around all revisions, so that two starts never migrate at once.

Gateways of the version before go on meanwhile. So a revision only adds, or takes away what that version does not use;
it waits for a lock no longer than others can wait behind it, and then begins anew; and it holds none for long.
"""

import asyncio
import time

from alembic import context
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from gateway.records.postgres.migrate import LOCK_WAIT_S, RETRY_PAUSE_S, is_lock_timeout
from gateway.records.postgres.schema import metadata

LOCK = 7_306_014_113  # any constant, shared by every gateway that migrates this database
LOCK_PAUSE_S = 0.2
STATEMENT_S = 60
LIMITS = {"lock_timeout": LOCK_WAIT_S, "statement_timeout": STATEMENT_S}


def _migrate(connection: Connection) -> None:
    # Asking again and again, since a statement that waits for the lock holds a snapshot, which an index that is built
    # concurrently in the other process would wait for.
    while not connection.execute(text(f"SELECT pg_try_advisory_lock({LOCK})")).scalar():
        connection.commit()
        time.sleep(LOCK_PAUSE_S)
    connection.commit()
    # In a transaction only: outside of one it says nothing, and an index that is built concurrently takes its time.
    event.listen(connection, "begin", _limit)
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    while True:
        try:
            with context.begin_transaction():
                context.run_migrations()
            return
        except DBAPIError as error:
            if not is_lock_timeout(error):
                raise
            connection.rollback()
            time.sleep(RETRY_PAUSE_S)


def _limit(connection: Connection) -> None:
    for name, seconds in LIMITS.items():
        connection.exec_driver_sql(f"SET LOCAL {name} = '{seconds}s'")


async def _run() -> None:
    engine = create_async_engine(context.config.attributes["url"], poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(_run())
