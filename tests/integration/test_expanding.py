"""Every revision is compatible with the previous code.

During and after a revision, the queries of the previous code work. A revision locks no table for long and rewrites
none. A shallow clone does not contain the previous code, so these tests run the queries that the code could send:
reads and writes of all columns of the previous schema. tests/e2e/test_rolling_upgrade.py runs the real code of the
previous revision.
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

# The constraints that a revision may change, each with the reason why the previous code is not affected.
REASONS = {
    "0003": {"notifications_status_check": "it allows all earlier statuses and a new one"},
    "0005": {
        "notifications_reminder_id_fkey": "it is on a new column, which is null in rows of the previous code",
        "notifications_occurrence_key": "it is on new columns, and many rows may have null in them",
    },
}

# Statements that need no lock_timeout, because they block neither reads nor writes, not even while they wait.
NON_BLOCKING = re.compile(r"CONCURRENTLY|^\s*ALTER TABLE \w+ VALIDATE CONSTRAINT")

# Every column with its type, default and nullability.
COLUMNS = """
    SELECT relname::text AS table, attname::text AS name, format_type(atttypid, atttypmod) AS type, attnotnull,
        pg_get_expr(adbin, adrelid) AS default, attidentity <> '' AS identity
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
        AND attnum > 0 AND NOT attisdropped AND relname <> 'alembic_version'
"""
# Every constraint and unique index with its definition.
RULES = """
    SELECT conrelid::regclass::text AS table, conname::text AS name, false AS index, pg_get_constraintdef(oid) AS rule
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL SELECT indrelid::regclass::text, relname::text, true, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indisunique AND relnamespace = 'public'::regnamespace
"""
# The file of every table, which changes when a table is rewritten.
FILES = "SELECT relname::text, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"


class Schema(NamedTuple):
    """The columns and rules of the tables, and the file of each table."""

    columns: dict[tuple[str, str], asyncpg.Record]
    # By table, name and whether the rule is an index: a primary key and its index have the same name.
    rules: dict[tuple[str, str, bool], str]
    files: dict[str, int]

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in self.columns}


async def read_schema(conn: asyncpg.Connection) -> Schema:
    """Read the schema of a database."""
    return Schema(
        {(row["table"], row["name"]): row for row in await conn.fetch(COLUMNS)},
        {(row["table"], row["name"], row["index"]): row["rule"] for row in await conn.fetch(RULES)},
        {row["relname"]: row["relfilenode"] for row in await conn.fetch(FILES)},
    )


@contextmanager
def record_statements() -> Iterator[list[tuple[str, str]]]:
    """Yield a list to which each statement that writes or changes the schema is added, with its lock_timeout."""
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
    """Read and write every column of the previous schema repeatedly, and once more at the end of the context.

    Yields the list of the queries that fail.
    """
    queries = ["SELECT 1"]
    for table in sorted(schema.tables):
        columns = [row for (column_table, _), row in schema.columns.items() if column_table == table]
        columns_sql = ", ".join(f'"{row["name"]}"' for row in columns)
        writable = ", ".join(f'"{row["name"]}"' for row in columns if not row["identity"])
        first = writable.partition(",")[0]
        queries += [
            f"SELECT {columns_sql} FROM {table}",  # noqa: S608 - names of our own schema
            f"INSERT INTO {table} ({writable}) SELECT {writable} FROM {table} LIMIT 0",  # noqa: S608
            f"UPDATE {table} SET {first} = {first}",  # noqa: S608
            f"DELETE FROM {table} WHERE false",  # noqa: S608
        ]
    failures: list[str] = []
    is_ending = asyncio.Event()
    conn = await asyncpg.connect(url, server_settings={"lock_timeout": "3s"})

    async def run_queries() -> None:
        while True:
            is_last = is_ending.is_set()
            for query in queries:
                try:
                    await conn.execute(query)
                except asyncpg.PostgresError as error:
                    failures.append(f"{query[:60]}: {error}")
            if is_last:
                return

    task = asyncio.create_task(run_queries())
    try:
        yield failures
    finally:
        is_ending.set()
        await task
        await conn.close()


async def find_problems(url: str, revision: str, excepted: Collection[str] = ()) -> list[str]:
    """Migrate to a revision, and return the problems that the previous code would have with it."""
    conn = await asyncpg.connect(url)
    before = await read_schema(conn)
    with record_statements() as statements:
        async with run_previous_queries(url, before) as failures:
            await asyncio.to_thread(migrate.upgrade, url, revision)
    after = await read_schema(conn)
    await conn.close()
    return [
        *failures,
        *find_schema_changes(before, after, excepted),
        *find_blocking_statements(statements, before.tables),
    ]


def find_schema_changes(before: Schema, after: Schema, excepted: Collection[str]) -> Iterator[str]:
    """Yield the incompatible changes between two schemas, except those of the rules in `excepted`."""
    for (table, name), old_column in before.columns.items():
        new_column = after.columns.get((table, name))
        if new_column is None or (new_column["type"], new_column["default"]) != (
            old_column["type"],
            old_column["default"],
        ):
            yield f"{table}.{name} is removed, or has another type or default"
        elif new_column["attnotnull"] > old_column["attnotnull"]:
            yield f"{table}.{name} became NOT NULL"
    for (table, name), column in after.columns.items():
        is_known = table not in before.tables or (table, name) in before.columns
        if not is_known and column["attnotnull"] and column["default"] is None:
            yield f"{table}.{name} is new and NOT NULL without a default"
    for (table, name, index), rule in {**before.rules, **after.rules}.items():
        is_same = before.rules.get((table, name, index)) == after.rules.get((table, name, index))
        if table in before.tables and not is_same and name not in excepted:
            yield f"a rule of {table} changed: {name} {rule}"
    for table, file in before.files.items():
        if after.files.get(table) != file:
            yield f"{table} is removed or rewritten"


def find_blocking_statements(statements: list[tuple[str, str]], tables: Collection[str]) -> Iterator[str]:
    """Yield the statements that may block other transactions for long."""
    for statement, lock_timeout in statements:
        if lock_timeout != f"{migrate.LOCK_WAIT_S}s" and not NON_BLOCKING.search(statement):
            yield f"waits for its lock without a limit: {statement}"
        index = re.match(r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(?:IF NOT EXISTS )?\w+ ON (ONLY )?(\w+)", statement)
        if index and index[3] in tables and not (index[1] or index[2]):
            yield f"blocks writes while the index is built: {statement}"
        constraint = re.match(r"ALTER TABLE (\w+) ADD CONSTRAINT", statement)
        if constraint and constraint[1] in tables and "NOT VALID" not in statement:
            yield f"blocks writes while the rows are checked: {statement}"


async def test_every_revision_keeps_the_previous_code_working(empty_database_url: str) -> None:
    """The queries of the previous code work while a revision runs and after it."""
    scripts = ScriptDirectory.from_config(migrate.config(empty_database_url))
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert set(revisions) >= set(REASONS)
    for revision in revisions:
        assert await find_problems(empty_database_url, revision, REASONS.get(revision, {})) == [], revision


# Statements that break the previous code or block other transactions.
HARMFUL_STATEMENTS = (
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
    with {context}:
        op.execute({statement!r})
"""
# The contexts in which a revision runs a statement, with and without the lock_timeout of migrations.
WITHIN_LIMITS, WITHOUT_LIMITS = "nullcontext()", "op.get_context().autocommit_block()"


async def test_breaking_or_blocking_revision_is_detected(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`find_problems` detects each harmful statement, and accepts a new nullable column."""
    migrations = shutil.copytree(migrate.migrations_dir(), tmp_path / "migrations")
    monkeypatch.setattr(migrate, "migrations_dir", lambda: migrations)
    last = ScriptDirectory(str(migrations)).get_current_head()
    cases = [(statement, WITHIN_LIMITS, True) for statement in HARMFUL_STATEMENTS]
    cases += [("ALTER TABLE devices ADD COLUMN harmless text", WITHIN_LIMITS, False)]
    cases += [("ALTER TABLE devices ADD COLUMN unlimited text", WITHOUT_LIMITS, True)]
    for number, (statement, context, is_harmful) in enumerate(cases, 9001):
        revision = REVISION.format(number=number, last=last, statement=statement, context=context)
        (migrations / "versions" / f"{number}.py").write_text(revision)
        last = str(number)
        assert bool(await find_problems(database_url, last)) == is_harmful, statement
