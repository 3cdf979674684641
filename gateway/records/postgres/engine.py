"""The connection to Postgres: the engine with its pool, COPY, and the errors of the database.

Statements are SQLAlchemy Core. asyncpg is used directly only where Core has no equivalent: COPY inside a transaction,
and LISTEN on a separate connection.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from sqlalchemy import Row, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from gateway.domain.errors import ShareExhausted, StatementTimeout

# Names of SQLAlchemy for other packages. Only gateway.records, gateway.queue and migrations import sqlalchemy, so that
# SQL cannot appear anywhere else.
Connection = AsyncConnection
Engine = AsyncEngine
DatabaseError = DBAPIError

__all__ = [
    "DATABASE_ERRORS",
    "Connection",
    "DatabaseError",
    "Engine",
    "IntegrityError",
    "PoolTimeout",
    "Row",
    "commit_asynchronously",
    "copy_rows",
    "count_connections",
    "driver_url",
    "get_driver_connection",
    "get_server_version",
    "is_refusal",
    "open_engine",
    "plain_url",
]

# The errors of an unavailable or overloaded database. SQLAlchemy does not wrap the errors that asyncpg raises while a
# connection is opened ("starting up", "too many clients"), so the list includes asyncpg's classes.
DATABASE_ERRORS = (
    *(DBAPIError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError),
    *(ShareExhausted, StatementTimeout),
)

# Idle time after which a connection is checked before it is used: firewalls drop idle connections silently.
MAX_UNCHECKED_IDLE_S = 1.0
_ASYNCHRONOUS_COMMIT = text("SET LOCAL synchronous_commit = off")


def is_refusal(error: Exception) -> bool:
    """Return whether the database rejected the statement itself.

    False if the database was unavailable (SQLSTATE classes 08, 53 and 57): the same statement may succeed later.
    """
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return False
        error = error.orig if isinstance(error.orig, Exception) else error
    state = getattr(error, "sqlstate", None) or ""
    return bool(state) and state[:2] not in ("08", "53", "57")


def driver_url(url: str) -> str:
    """Convert a `postgresql://` or `postgres://` URL to SQLAlchemy's form, with the driver.

    Raises:
        ValueError: the URL has another scheme.
    """
    parts = urlsplit(url)
    if parts.scheme.split("+")[0] not in {"postgresql", "postgres"}:
        raise ValueError(f"the database URL must begin with postgresql://, not {parts.scheme or 'nothing'}://")
    return urlunsplit(parts._replace(scheme="postgresql+asyncpg"))


def plain_url(url: str) -> str:
    """Convert a database URL to the form that asyncpg and libpq accept."""
    return urlunsplit(urlsplit(url)._replace(scheme="postgresql"))


def open_engine(
    url: str, *, pool_size: int = 10, application_name: str = "gateway", statement_timeout_s: float | None = None
) -> AsyncEngine:
    """Create an engine; `statement_timeout_s` limits each statement.

    Raises:
        ValueError: the URL has another scheme.
    """
    settings = {"application_name": application_name}
    if statement_timeout_s is not None:
        settings["statement_timeout"] = str(int(statement_timeout_s * 1000))
    engine = create_async_engine(
        driver_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        hide_parameters=True,  # errors are logged, and must not contain endpoints and keys
        connect_args={"server_settings": settings, "timeout": 10},
    )
    _check_connections(engine)
    return engine


def count_connections(engine: AsyncEngine) -> dict[str, int]:
    """Return the number of pooled connections by state, `in_use` or `idle`."""
    pool = cast(AsyncAdaptedQueuePool, engine.pool)
    return {"in_use": pool.checkedout(), "idle": pool.checkedin()}


def _check_connections(engine: AsyncEngine) -> None:
    """Replace lost connections before they are used.

    SQLAlchemy's `pool_pre_ping` pings before each transaction and takes three round trips, as many as a typical
    transaction. Here only connections that were idle for MAX_UNCHECKED_IDLE_S are pinged. For other connections,
    asyncpg's `is_closed` suffices.
    """
    pool, dialect = engine.sync_engine.pool, engine.sync_engine.dialect

    @event.listens_for(pool, "checkin")
    def record_idle(_: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(pool, "checkout")
    def check(connection: Any, record: Any, _: Any) -> None:
        if connection.driver_connection.is_closed():
            raise InvalidatePoolError
        if time.monotonic() - record.info.get("idle_since", time.monotonic()) > MAX_UNCHECKED_IDLE_S:
            try:
                dialect.do_ping(connection)
            except dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError from error


async def get_server_version(conn: AsyncConnection) -> tuple[int, str]:
    """Return Postgres's major version, and its full version as text."""
    number = (await conn.execute(text("SHOW server_version_num"))).scalar_one()
    return int(number) // 10_000, (await conn.execute(text("SHOW server_version"))).scalar_one()


async def commit_asynchronously(conn: AsyncConnection) -> None:
    """Commit the transaction without waiting for the disk (synchronous_commit = off).

    A crash of Postgres may undo the transaction, together with all later ones. Use it for work that can be repeated,
    such as claiming a job. Do not use it for inserts: after a crash Postgres would assign the same ids again, while
    other processes still refer to the lost rows by them.
    """
    await conn.execute(_ASYNCHRONOUS_COMMIT)


async def get_driver_connection(conn: AsyncConnection) -> "asyncpg.Connection[asyncpg.Record]":
    """Return the underlying asyncpg connection.

    SQLAlchemy begins the transaction with the first statement, so run one before the connection is used directly.
    """
    return cast("asyncpg.Connection[asyncpg.Record]", (await conn.get_raw_connection()).driver_connection)


async def copy_rows(conn: AsyncConnection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert rows by COPY in the running transaction.

    Raises:
        DBAPIError: as for any other statement.
    """
    try:
        await (await get_driver_connection(conn)).copy_records_to_table(table, columns=list(columns), records=rows)
    except asyncpg.IntegrityConstraintViolationError as error:
        raise IntegrityError(f"COPY {table}", None, error) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DBAPIError(f"COPY {table}", None, error) from error
