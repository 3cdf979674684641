"""Daily partitions of the log: made ahead of time, dropped when retention ends."""

from datetime import date, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.schema import PARTITIONED


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


async def ensure(conn: AsyncConnection, first: date, days: int) -> list[str]:
    """Make the partitions for `days` days from `first`; answers with the names of those that were missing."""
    made = []
    for table in PARTITIONED:
        existing = await _existing(conn, table.name)
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


async def drop_before(conn: AsyncConnection, limit: date) -> list[str]:
    """Drop every partition of a day before `limit`; answers with their names."""
    dropped = []
    for table in PARTITIONED:
        for day in sorted(await _existing(conn, table.name)):
            if day < limit:
                await conn.execute(text(f"DROP TABLE {_name(table.name, day)}"))
                dropped.append(_name(table.name, day))
    return dropped


async def _existing(conn: AsyncConnection, table: str) -> set[date]:
    rows = await conn.execute(
        text(
            "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
            "WHERE inhparent = CAST(:parent AS regclass)"
        ),
        {"parent": table},
    )
    return {date.fromisoformat(name.removeprefix(f"{table}_")) for (name,) in rows}
