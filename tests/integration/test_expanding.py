"""Every revision is compatible with the previous code: its queries keep working, no lock lasts, no table is rewritten.

A shallow clone does not contain the previous code, so these tests run the queries that it could send: reads and writes
of all columns that the previous revision left. `tests/e2e/test_rolling_upgrade.py` runs the real code of the last
revision.
"""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event

from gateway.records.postgres import migrate

REASONS = {
    "0003": {"notifications_status_check": "allows what it allowed before, and one status more"},
    "0005": {
        "notifications_reminder_id_fkey": "is about a new column, which the code of before leaves null",
        "notifications_occurrence_key": "is about new columns, and any number of rows may have null in them",
    },
}
"""What a revision may change of the rules that the code of before meets, and why."""

NON_BLOCKING = re.compile(r"CONCURRENTLY|^\s*ALTER TABLE \w+ VALIDATE CONSTRAINT")
"""May run without limits, since they keep nobody from reading and writing, also while they wait."""

COLUMNS = """
    SELECT relname::text AS table, attname::text AS name, format_type(atttypid, atttypmod) AS type, attnotnull,
        pg_get_expr(adbin, adrelid) AS default, attidentity <> '' AS identity
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
        AND attnum > 0 AND NOT attisdropped AND relname <> 'alembic_version'
"""
RULES = """
    SELECT conrelid::regclass::text AS table, conname::text AS name, false AS index, pg_get_constraintdef(oid) AS rule
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL SELECT indrelid::regclass::text, relname::text, true, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indisunique AND relnamespace = 'public'::regnamespace
"""
FILES = "SELECT relname::text, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"


class Schema(NamedTuple):
    columns: dict[tuple[str, str], asyncpg.Record]
    # By table, name and whether the rule is an index: a primary key is a constraint and an index of the same name.
    rules: dict[tuple[str, str, bool], str]
    files: dict[str, int]

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in self.columns}


async def read_schema(conn: asyncpg.Connection) -> Schema:
    return Schema(
        {(row["table"], row["name"]): row for row in await conn.fetch(COLUMNS)},
        {(row["table"], row["name"], row["index"]): row["rule"] for row in await conn.fetch(RULES)},
        {row["relname"]: row["relfilenode"] for row in await conn.fetch(FILES)},
    )


@contextmanager
def record_statements() -> Iterator[list[tuple[str, str]]]:
    """Each statement that changes something, and the lock_timeout that it runs with."""
    statements: list[tuple[str, str]] = []

    def on_statement(_conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if re.match(r"\s*(ALTER|CREATE|DROP|INSERT|UPDATE|DELETE)\b", statement) and "alembic_version" not in statement:
            cursor.execute("SHOW lock_timeout")
            statements.append((" ".join(statement.split()), cursor.fetchone()[0]))

    event.listen(Engine, "before_cursor_execute", on_statement)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", on_statement)


@asynccontextmanager
async def run_previous_queries(url: str, schema: Schema) -> AsyncIterator[list[str]]:
    """The code of before: reads and writes of every column it knows, until the revision is there and once more."""
    queries = ["SELECT 1"]
    for table in sorted(schema.tables):
        columns = [row for (of, _), row in schema.columns.items() if of == table]
        columns_sql = ", ".join(f'"{row["name"]}"' for row in columns)
        writable = ", ".join(f'"{row["name"]}"' for row in columns if not row["identity"])
        first = writable.partition(",")[0]
        queries += [
            f"SELECT {columns_sql} FROM {table}",  # noqa: S608 - names of our own schema
            f"INSERT INTO {table} ({writable}) SELECT {writable} FROM {table} LIMIT 0",  # noqa: S608
            f"UPDATE {table} SET {first} = {first}",  # noqa: S608
            f"DELETE FROM {table} WHERE false",  # noqa: S608
        ]
    refused: list[str] = []
    last = asyncio.Event()
    conn = await asyncpg.connect(url, server_settings={"lock_timeout": "3s"})

    async def run_queries() -> None:
        while True:
            is_last = last.is_set()
            for query in queries:
                try:
                    await conn.execute(query)
                except asyncpg.PostgresError as error:
                    refused.append(f"{query[:60]}: {error}")
            if is_last:
                return

    task = asyncio.create_task(run_queries())
    try:
        yield refused
    finally:
        last.set()
        await task
        await conn.close()


async def find_problems(url: str, revision: str, excepted: Collection[str] = ()) -> list[str]:
    """What of a revision the code of before would notice."""
    conn = await asyncpg.connect(url)
    before = await read_schema(conn)
    with record_statements() as statements:
        async with run_previous_queries(url, before) as refused:
            await asyncio.to_thread(migrate.upgrade, url, revision)
    after = await read_schema(conn)
    await conn.close()
    return [
        *refused,
        *find_schema_changes(before, after, excepted),
        *find_blocking_statements(statements, before.tables),
    ]


def find_schema_changes(before: Schema, after: Schema, excepted: Collection[str]) -> Iterator[str]:
    for (table, name), old in before.columns.items():
        new = after.columns.get((table, name))
        if new is None or (new["type"], new["default"]) != (old["type"], old["default"]):
            yield f"{table}.{name} is gone, or of another type or default"
        elif new["attnotnull"] > old["attnotnull"]:
            yield f"{table}.{name} must not be null any more"
    for (table, name), column in after.columns.items():
        is_known = table not in before.tables or (table, name) in before.columns
        if not is_known and column["attnotnull"] and column["default"] is None:
            yield f"{table}.{name} is new and must be given"
    for (table, name, index), rule in {**before.rules, **after.rules}.items():
        same = before.rules.get((table, name, index)) == after.rules.get((table, name, index))
        if table in before.tables and not same and name not in excepted:
            yield f"{table} has another rule: {name} {rule}"
    for table, file in before.files.items():
        if after.files.get(table) != file:
            yield f"{table} is gone or was written anew"


def find_blocking_statements(statements: list[tuple[str, str]], tables: Collection[str]) -> Iterator[str]:
    """Statements that others may wait for longer than a moment."""
    for statement, lock_timeout in statements:
        if lock_timeout != f"{migrate.LOCK_WAIT_S}s" and not NON_BLOCKING.search(statement):
            yield f"waits for its lock for ever: {statement}"
        index = re.match(r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(?:IF NOT EXISTS )?\w+ ON (ONLY )?(\w+)", statement)
        if index and index[3] in tables and not (index[1] or index[2]):
            yield f"nobody writes while it is built: {statement}"
        constraint = re.match(r"ALTER TABLE (\w+) ADD CONSTRAINT", statement)
        if constraint and constraint[1] in tables and "NOT VALID" not in statement:
            yield f"nobody writes while it is checked: {statement}"


async def test_every_revision_keeps_the_previous_code_working(empty_database_url: str) -> None:
    """The queries of the previous code keep working while a revision runs and afterwards."""
    scripts = ScriptDirectory.from_config(migrate.config(empty_database_url))
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert set(revisions) >= set(REASONS)
    for revision in revisions:
        assert await find_problems(empty_database_url, revision, REASONS.get(revision, {})) == [], revision


HARMFUL = (
    "ALTER TABLE devices DROP COLUMN platform",
    "ALTER TABLE devices RENAME COLUMN browser TO user_agent",
    "ALTER TABLE devices ALTER COLUMN locale SET NOT NULL",
    "ALTER TABLE devices ALTER COLUMN accuracy_m TYPE numeric",
    "ALTER TABLE devices ALTER COLUMN topics DROP DEFAULT",
    "ALTER TABLE devices ADD COLUMN must_be_given text NOT NULL",
    "ALTER TABLE devices ADD COLUMN other_for_each uuid DEFAULT gen_random_uuid()",
    "ALTER TABLE devices ADD CONSTRAINT devices_timezone_check CHECK (timezone <> '')",
    "ALTER TABLE devices DROP CONSTRAINT devices_application_id_endpoint_digest_key",
    "CREATE INDEX devices_app_version_idx ON devices (app_version)",
    "DROP TABLE sessions",
)
REVISION = """
from contextlib import nullcontext

from alembic import op

revision, down_revision, branch_labels, depends_on = "{number}", "{last}", None, None


def upgrade():
    with {where}:
        op.execute({statement!r})
"""
WITHIN_LIMITS, WITHOUT = "nullcontext()", "op.get_context().autocommit_block()"


async def test_breaking_or_blocking_revision_is_detected(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A revision that removes something or blocks others is detected."""
    copied = shutil.copytree(migrate.migrations_dir(), tmp_path / "migrations")
    monkeypatch.setattr(migrate, "migrations_dir", lambda: copied)
    last = ScriptDirectory(str(copied)).get_current_head()
    cases = [(statement, WITHIN_LIMITS, True) for statement in HARMFUL]
    cases += [("ALTER TABLE devices ADD COLUMN sound text", WITHIN_LIMITS, False)]
    cases += [("ALTER TABLE devices ADD COLUMN impatient text", WITHOUT, True)]
    for number, (statement, where, detected) in enumerate(cases, 9001):
        revision = REVISION.format(number=number, last=last, statement=statement, where=where)
        (copied / "versions" / f"{number}.py").write_text(revision)
        last = str(number)
        assert bool(await find_problems(database_url, last)) == detected, statement
