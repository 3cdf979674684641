"""The tests' own databases: migrated, with partitions, and apart from each other."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.records.postgres import migrate, partitions


async def test_a_database_is_migrated_and_has_partitions_for_today_and_tomorrow(
    engine: AsyncEngine, database_url: str
) -> None:
    today = datetime.now(UTC).date()
    async with engine.begin() as conn:
        assert await migrate.is_current(conn, database_url)
        assert await partitions.ensure(conn, today - timedelta(days=1), 3) == []


async def test_a_database_begins_empty_whatever_a_test_left_in_another(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        assert (await conn.execute(text("SELECT count(*) FROM applications"))).scalar_one() == 0
        assert (await conn.execute(text("SELECT to_regclass('scribble')"))).scalar_one() is None
        await conn.execute(text("CREATE TABLE scribble ()"))


test_and_again_in_the_next = test_a_database_begins_empty_whatever_a_test_left_in_another
