"""Migrations result in the schema of the code, and can be run up, down and concurrently."""

import asyncio
import os
import shutil
import sys
from inspect import getsource
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.dialects.postgresql.base import ischema_names

from gateway.records.postgres import migrate
from gateway.records.postgres.engine import open_engine
from gateway.records.postgres.schema import PARTITIONED, Point, metadata
from tests.support.worker_process import CHECKOUT

SCHEMA_TABLES = {table.name for table in metadata.tables.values()}
# One line for each column, index, constraint and table with its definition.
CATALOGUE = """
    SELECT format('%s.%s %s %s %s', table_name, column_name, udt_name, is_nullable, column_default) AS line
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE 'alembic_version%'
    UNION ALL SELECT format('%s %s %s', relname, reloptions, pg_get_partkeydef(oid)) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'
    ORDER BY line
"""

# A revision that records the timeouts in force, inside and outside of its transaction.
RECORDING_REVISION = """
from alembic import op

revision, down_revision, branch_labels, depends_on = "9999", "HEAD", None, None
RECORD = "INSERT INTO timeouts VALUES (current_setting('lock_timeout'), current_setting('statement_timeout'))"


def upgrade():
    op.execute("CREATE TABLE timeouts (lock text, statement text)")
    op.execute(RECORD)
    with op.get_context().autocommit_block():
        op.execute(RECORD)
"""


async def read_catalogue(url: str) -> list[str]:
    """Return every column, default, index, constraint and partition key of the database, one line each."""
    conn = await asyncpg.connect(url)
    try:
        return [row["line"] for row in await conn.fetch(CATALOGUE)]
    finally:
        await conn.close()


async def upgrade(url: str) -> None:
    await asyncio.to_thread(migrate.upgrade, url)


async def test_alembic_finds_no_difference_to_the_schema(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alembic finds no difference between the migrations and the schema."""
    monkeypatch.setitem(ischema_names, "point", Point)  # SQLAlchemy does not know this type of Postgres
    await upgrade(empty_database_url)

    def differences(sync: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(sync, opts=options), metadata)

    engine = open_engine(empty_database_url)
    async with engine.connect() as conn:
        differences_found = await conn.run_sync(differences)
    await engine.dispose()
    assert differences_found == []


async def test_migrated_database_equals_the_schema(empty_database_url: str, database_of_the_schema: str) -> None:
    """Index methods, conditions, checks, partition keys and fill factors are equal, which Alembic does not compare."""
    await upgrade(empty_database_url)
    migrated, created = await read_catalogue(empty_database_url), await read_catalogue(database_of_the_schema)
    assert sorted(set(migrated) ^ set(created)) == []
    assert len(migrated) > 100


@pytest.fixture
async def database_of_the_schema(postgres_url: str) -> Any:
    """A database whose tables `metadata.create_all` created, without migrations."""
    name = "gateway_of_the_schema"
    server = await asyncpg.connect(postgres_url)
    await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await server.execute(f"CREATE DATABASE {name}")
    url = postgres_url.rpartition("/")[0] + f"/{name}"
    engine = open_engine(url)
    async with engine.begin() as conn:
        await conn.run_sync(metadata.create_all)
    await engine.dispose()
    yield url
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


async def run_migrate(url: str) -> None:
    """Run `gateway migrate` as a separate process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "migrate",
        cwd=CHECKOUT,
        env={**os.environ, "GATEWAY_DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_downgrade_and_upgrade_restore_the_schema(empty_database_url: str) -> None:
    """A downgrade to nothing and an upgrade give the same schema."""
    await upgrade(empty_database_url)
    before = await read_catalogue(empty_database_url)
    await asyncio.to_thread(migrate.downgrade, empty_database_url, "base")
    assert await read_catalogue(empty_database_url) == []
    await upgrade(empty_database_url)
    assert await read_catalogue(empty_database_url) == before


async def test_killed_multi_transaction_migration_resumes(
    empty_database_url: str,
) -> None:
    """A revision with several transactions can run again after a kill.

    The kill is simulated for each such revision: its changes are committed, but its number is not recorded.
    """
    scripts = ScriptDirectory.from_config(migrate.config(empty_database_url))
    for script in reversed(list(scripts.walk_revisions())):
        await asyncio.to_thread(migrate.upgrade, empty_database_url, script.revision)
        if "autocommit_block" in getsource(script.module):
            conn = await asyncpg.connect(empty_database_url)
            await conn.execute("UPDATE alembic_version SET version_num = $1", script.down_revision)
            await conn.close()
            before = await read_catalogue(empty_database_url)
            await asyncio.to_thread(migrate.upgrade, empty_database_url, script.revision)
            assert await read_catalogue(empty_database_url) == before


async def test_downgrade_drops_partitions(database_url: str) -> None:
    """A downgrade of a database with partitions of the delivery log drops the partitions."""
    await asyncio.to_thread(migrate.downgrade, database_url, "base")
    assert await read_catalogue(database_url) == []


async def test_concurrent_migrations_run_one_after_another(empty_database_url: str) -> None:
    """Several processes that migrate at once run one after another."""
    await asyncio.gather(*(run_migrate(empty_database_url) for _ in range(4)))
    engine = open_engine(empty_database_url)
    async with engine.connect() as conn:
        assert await migrate.is_current(conn, empty_database_url)
        tables = set(await conn.run_sync(lambda sync: inspect(sync).get_table_names()))
        versions = (await conn.execute(text("SELECT count(*) FROM alembic_version"))).scalar_one()
    await engine.dispose()
    assert tables == SCHEMA_TABLES | {"alembic_version"}
    assert versions == 1


async def test_unmigrated_database_is_not_current(empty_database_url: str) -> None:
    """A database without migrations is not current."""
    engine = open_engine(empty_database_url)
    async with engine.connect() as conn:
        assert not await migrate.is_current(conn, empty_database_url)
    await engine.dispose()


async def test_log_indexes_are_built_without_blocking(database_url: str) -> None:
    """Writes continue during the build; each partition has valid indexes, also after a killed earlier build."""
    await asyncio.to_thread(migrate.downgrade, database_url, "0013")
    conn = await asyncpg.connect(database_url)
    write = (
        "INSERT INTO deliveries SELECT day, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 'u', 'h',"
        " 'gone', 410, '', 1, NULL, 1, now() FROM (SELECT CAST(now() AS date) AS day) AS today"
    )
    await conn.execute(write)
    names = await conn.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'deliveries'::regclass"
    )
    # An invalid index, as a kill during CREATE INDEX CONCURRENTLY leaves it.
    await conn.execute(f"CREATE INDEX {names[0]['name']}_host_idx ON {names[0]['name']} (host)")
    await conn.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", f"{names[0]['name']}_host_idx"
    )
    reader = await asyncpg.connect(database_url)
    await reader.execute("BEGIN; SELECT count(*) FROM deliveries")
    migration = asyncio.create_task(asyncio.to_thread(migrate.upgrade, database_url))
    await conn.execute("SET lock_timeout = '3s'")  # longer than the migration's own lock_timeout
    for _ in range(50):
        await conn.execute(write)
        await asyncio.sleep(0.02)
    await reader.execute("COMMIT")
    await asyncio.wait_for(migration, 30)
    select_invalid = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
    assert await conn.fetch(select_invalid) == []
    for name in ("application_id_settled_at_idx", "outcome_idx", "outcome_host_idx", "host_idx"):
        count = await conn.fetchval(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = $1::text::regclass", f"deliveries_{name}"
        )
        assert count == len(names)
    await conn.close()
    await reader.close()


async def test_invalid_turn_index_is_built_again(database_url: str) -> None:
    """The index by which applications take turns is built again after an interrupted build."""
    await asyncio.to_thread(migrate.downgrade, database_url, "0012")
    conn = await asyncpg.connect(database_url)
    await conn.execute("CREATE INDEX jobs_turn_idx ON jobs (lane)")
    await conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_turn_idx'::regclass")
    await asyncio.to_thread(migrate.upgrade, database_url)
    select_index = "SELECT indisvalid, indnatts FROM pg_index WHERE indexrelid = 'jobs_turn_idx'::regclass"
    assert tuple(await conn.fetchrow(select_index)) == (True, 4)
    await conn.close()


async def test_log_tables_are_partitioned_by_day(database_url: str) -> None:
    """The tables of the delivery log are partitioned by day."""
    lines = await read_catalogue(database_url)
    for table in PARTITIONED:
        assert any(line.startswith(f"{table.name} ") and line.endswith("RANGE (day)") for line in lines)


async def test_migration_waiting_for_a_lock_lets_others_pass(database_url: str) -> None:
    """While the migration waits for a lock, it gives up every second, so that no write waits behind it for 3 s."""
    await asyncio.to_thread(migrate.downgrade, database_url, "0011")
    reader, writer = await asyncio.gather(asyncpg.connect(database_url), asyncpg.connect(database_url))
    await reader.execute("BEGIN; SELECT count(*) FROM devices")
    migration = asyncio.create_task(asyncio.to_thread(migrate.upgrade, database_url))
    await writer.execute("SET lock_timeout = '3s'")
    for _ in range(50):
        await writer.execute("UPDATE devices SET updated_at = now()")
        await asyncio.sleep(0.05)
    assert not migration.done()
    await reader.execute("COMMIT")
    await asyncio.wait_for(migration, 60)
    engine = open_engine(database_url)
    async with engine.connect() as conn:
        assert await migrate.is_current(conn, database_url)
    await engine.dispose()
    await asyncio.gather(reader.close(), writer.close())


async def test_timeouts_apply_except_to_concurrent_indexes(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A revision runs with a lock_timeout and a statement_timeout, and its autocommit block without."""
    migrations = shutil.copytree(migrate.migrations_dir(), tmp_path / "migrations")
    head = ScriptDirectory(str(migrations)).get_current_head()
    (migrations / "versions" / "9999_timeouts.py").write_text(RECORDING_REVISION.replace("HEAD", str(head)))
    monkeypatch.setattr(migrate, "migrations_dir", lambda: migrations)
    await upgrade(database_url)
    conn = await asyncpg.connect(database_url)
    assert [tuple(row) for row in await conn.fetch("SELECT * FROM timeouts")] == [("1s", "1min"), ("0", "0")]
    await conn.close()
