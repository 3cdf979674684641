"""Run the migrations, as Alembic calls this module. An advisory lock prevents that two processes migrate at once.

Gateways of the previous version keep running during a migration. So a revision only adds things, or removes what that
version does not use. No statement holds a lock for long. A statement that does not get a lock soon is cancelled, so
that queries do not queue behind it, and the revision is repeated.
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

# The advisory lock: any number, the same in every version of the gateway.
LOCK = 7_306_014_113
# Pause between two attempts to get it.
LOCK_PAUSE_S = 0.2
STATEMENT_S = 60
# Settings of Postgres for each transaction of a migration, in seconds.
LIMITS = {"lock_timeout": LOCK_WAIT_S, "statement_timeout": STATEMENT_S}


def _migrate(connection: Connection) -> None:
    # Poll instead of waiting for the lock: a waiting statement has a snapshot, and CREATE INDEX CONCURRENTLY in the
    # other process would wait for the end of that snapshot.
    while not connection.execute(text(f"SELECT pg_try_advisory_lock({LOCK})")).scalar():
        connection.commit()
        time.sleep(LOCK_PAUSE_S)
    connection.commit()
    # SET LOCAL works only in transactions. Statements outside of one, such as CREATE INDEX CONCURRENTLY, have no limit.
    event.listen(connection, "begin", _set_limits)
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


def _set_limits(connection: Connection) -> None:
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
