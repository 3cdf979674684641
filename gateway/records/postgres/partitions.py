"""Daily partitions of the log: made ahead of time, dropped when retention ends.

Neither holds up whoever reads or writes. Making one builds it apart and attaches it. Dropping one detaches it
concurrently: new statements no longer see it, those that run already are waited for without being in anybody's way,
and then it is a table that nobody knows, which is dropped. Each of these steps can be the last for now, by a kill or
because a reader takes long: the next time begins with what was left. There is no default partition, with which Postgres
would not detach concurrently.
"""

from datetime import date, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.schema import PARTITIONED

LOCK_NOT_AVAILABLE = "55P03"

log = structlog.get_logger(__name__)


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


async def create_partitions(conn: AsyncConnection, first: date, days: int) -> list[str]:
    """Make the partitions for `days` days from `first`; answers with the names of those that were missing."""
    made = []
    for table in PARTITIONED:
        existing = await list_days(conn, table.name)
        for offset in range(days):
            day = first + timedelta(days=offset)
            if day in existing:
                continue
            # Built apart and then attached: ATTACH locks the parent only against other DDL, so sending goes on.
            name = _name(table.name, day)
            await conn.execute(text(f"CREATE TABLE IF NOT EXISTS {name} (LIKE {table.name} INCLUDING ALL)"))
            await conn.execute(
                text(
                    f"ALTER TABLE {table.name} ATTACH PARTITION {name} "
                    f"FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
                )
            )
            made.append(name)
    return made


async def has_partitions(conn: AsyncConnection, day: date) -> bool:
    """Whether everything that is kept by the day has a place for this one."""
    return all([day in await list_days(conn, table.name) for table in PARTITIONED])


async def drop_before(conn: AsyncConnection, limit: date, *, wait: timedelta) -> list[str]:
    """Drop every partition of a day before `limit`; answers with the names of those that are gone.

    What is held up for longer than `wait`, by whoever still reads it, is left for the next time. `conn` commits by
    itself: nothing is detached concurrently within a transaction.
    """
    dropped = []
    await conn.execute(text("SELECT set_config('lock_timeout', :wait, false)"), {"wait": f"{_ms(wait)}ms"})
    for table in PARTITIONED:
        dropped += await _drop_of(conn, table.name, limit)
    await conn.execute(text("RESET lock_timeout"))
    return dropped


async def _drop_of(conn: AsyncConnection, table: str, limit: date) -> list[str]:
    dropped = []
    try:
        if (pending := await _pending(conn, table)) is not None:
            await conn.execute(text(f"ALTER TABLE {table} DETACH PARTITION {pending} FINALIZE"))
        for day in sorted(await list_days(conn, table)):
            if day < limit:
                await conn.execute(text(f"ALTER TABLE {table} DETACH PARTITION {_name(table, day)} CONCURRENTLY"))
                dropped += await _drop_detached(conn, table, limit)
        dropped += await _drop_detached(conn, table, limit)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        log.warning("retention.waits", table=table)
    return dropped


async def _pending(conn: AsyncConnection, table: str) -> str | None:
    """The partition that is half detached; there can be only one of a table."""
    query = text(
        "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
        "WHERE inhparent = CAST(CAST(:parent AS text) AS regclass) AND inhdetachpending"
    )
    name: str | None = (await conn.execute(query, {"parent": table})).scalar()
    return name


async def _drop_detached(conn: AsyncConnection, table: str, limit: date) -> list[str]:
    """Drop what was a partition of a day before `limit` and is a table of its own by now."""
    query = text(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND NOT relispartition AND relname ~ CAST(:form AS text) "
        "AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = CAST(CAST(:parent AS text) AS regclass)) "
        "ORDER BY relname"
    )
    dropped = []
    for name in (await conn.execute(query, {"form": rf"^{table}_\d{{8}}$", "parent": table})).scalars().all():
        if _day(table, name) < limit:
            await conn.execute(text(f"DROP TABLE {name}"))
            dropped.append(name)
    return dropped


async def list_days(conn: AsyncConnection, table: str) -> set[date]:
    rows = await conn.execute(
        text(
            "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
            "WHERE inhparent = CAST(CAST(:parent AS text) AS regclass)"
        ),
        {"parent": table},
    )
    return {_day(table, name) for (name,) in rows}


def _day(table: str, name: str) -> date:
    return date.fromisoformat(name.removeprefix(f"{table}_"))


def _ms(wait: timedelta) -> int:
    return int(wait.total_seconds() * 1000)
