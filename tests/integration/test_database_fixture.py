"""The databases of the tests are migrated, have partitions, and are independent of each other."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.records.postgres import migrate, partitions


async def test_database_is_migrated_with_current_partitions(engine: AsyncEngine, database_url: str) -> None:
    """The test database is migrated and has the partitions around today."""
    today = datetime.now(UTC).date()
    async with engine.begin() as conn:
        assert await migrate.is_current(conn, database_url)
        assert await partitions.create_partitions(conn, today - timedelta(days=1), 3) == []


async def test_database_starts_empty(engine: AsyncEngine) -> None:
    """The test database has no rows or tables of another test."""
    async with engine.begin() as conn:
        assert (await conn.execute(text("SELECT count(*) FROM applications"))).scalar_one() == 0
        assert (await conn.execute(text("SELECT to_regclass('left_behind')"))).scalar_one() is None
        await conn.execute(text("CREATE TABLE left_behind ()"))


# The second run of the test must not find the table of the first run.
test_database_starts_empty_again = test_database_starts_empty
