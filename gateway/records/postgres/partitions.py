"""Daily partitions of the delivery log: created in advance, dropped when their retention ends.

Neither operation blocks readers or writers. A new partition is created as a table and then attached. An old partition
is detached concurrently and then dropped: new statements no longer see it, and Postgres waits for running statements
without a lock. The maintenance task that calls these functions may end after any step, because the process is killed
or a reader holds a partition for too long. Its next run continues with the following step. There is no default
partition, because Postgres does not detach concurrently from a table that has one.
"""

from datetime import date, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.schema import PARTITIONED

# SQLSTATE of a lock timeout.
LOCK_NOT_AVAILABLE = "55P03"

log = structlog.get_logger(__name__)


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


async def create_partitions(conn: AsyncConnection, first: date, days: int) -> list[str]:
    """Create the missing partitions for `days` days from `first` on; return the names of the new partitions."""
    created = []
    for table in PARTITIONED:
        existing = await list_days(conn, table.name)
        for offset in range(days):
            day = first + timedelta(days=offset)
            if day in existing:
                continue
            # ATTACH PARTITION conflicts only with other DDL, so workers go on writing. CREATE ... PARTITION OF would
            # lock them out.
            name = _name(table.name, day)
            await conn.execute(text(f"CREATE TABLE IF NOT EXISTS {name} (LIKE {table.name} INCLUDING ALL)"))
            await conn.execute(
                text(
                    f"ALTER TABLE {table.name} ATTACH PARTITION {name} "
                    f"FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
                )
            )
            created.append(name)
    return created


async def has_partitions(conn: AsyncConnection, day: date) -> bool:
    """Return whether every partitioned table has a partition for a day."""
    return all([day in await list_days(conn, table.name) for table in PARTITIONED])


async def drop_before(conn: AsyncConnection, limit: date, *, wait: timedelta) -> list[str]:
    """Drop the partitions of days before `limit`; return the names of the dropped partitions.

    If a reader holds a partition for longer than `wait`, the partition is left for the next run. `conn` must be in
    autocommit mode, since a partition cannot be detached concurrently in a transaction.
    """
    dropped = []
    await conn.execute(text("SELECT set_config('lock_timeout', :wait, false)"), {"wait": f"{_milliseconds(wait)}ms"})
    for table in PARTITIONED:
        dropped += await _drop_partitions(conn, table.name, limit)
    await conn.execute(text("RESET lock_timeout"))
    return dropped


async def _drop_partitions(conn: AsyncConnection, table: str, limit: date) -> list[str]:
    """Detach and drop partitions of one table; return the names of the dropped partitions."""
    dropped = []
    try:
        if (half_detached := await _find_half_detached(conn, table)) is not None:
            await conn.execute(text(f"ALTER TABLE {table} DETACH PARTITION {half_detached} FINALIZE"))
        for day in sorted(await list_days(conn, table)):
            if day < limit:
                await conn.execute(text(f"ALTER TABLE {table} DETACH PARTITION {_name(table, day)} CONCURRENTLY"))
                dropped += await _drop_detached(conn, table, limit)
        dropped += await _drop_detached(conn, table, limit)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        log.warning("retention.lock_timeout", table=table)
    return dropped


async def _find_half_detached(conn: AsyncConnection, table: str) -> str | None:
    """Return the partition whose detaching was interrupted; a table has at most one."""
    query = text(
        "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
        "WHERE inhparent = CAST(CAST(:parent AS text) AS regclass) AND inhdetachpending"
    )
    name: str | None = (await conn.execute(query, {"parent": table})).scalar()
    return name


async def _drop_detached(conn: AsyncConnection, table: str, limit: date) -> list[str]:
    """Drop the detached partitions of days before `limit`; return their names."""
    query = text(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND NOT relispartition AND relname ~ CAST(:pattern AS text) "
        "AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = CAST(CAST(:parent AS text) AS regclass)) "
        "ORDER BY relname"
    )
    dropped = []
    for name in (await conn.execute(query, {"pattern": rf"^{table}_\d{{8}}$", "parent": table})).scalars().all():
        if _parse_day(table, name) < limit:
            await conn.execute(text(f"DROP TABLE {name}"))
            dropped.append(name)
    return dropped


async def list_days(conn: AsyncConnection, table: str) -> set[date]:
    """Return the days for which a table has partitions."""
    rows = await conn.execute(
        text(
            "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
            "WHERE inhparent = CAST(CAST(:parent AS text) AS regclass)"
        ),
        {"parent": table},
    )
    return {_parse_day(table, name) for (name,) in rows}


def _parse_day(table: str, name: str) -> date:
    return date.fromisoformat(name.removeprefix(f"{table}_"))


def _milliseconds(wait: timedelta) -> int:
    return int(wait.total_seconds() * 1000)
