"""A Postgres for the session and a fresh, migrated database for each test.

The migrations run once, on a template database, and each test gets a copy of the template.
`GATEWAY_TEST_DATABASE_URL` names a server to use instead of the embedded one, for tests on another version of
Postgres. All log lines of a test are searched for secrets.
"""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.embedded import EmbeddedPostgres
from gateway.records.postgres import migrate, partitions
from gateway.records.postgres.engine import open_engine, plain_url
from tests.support import log_guard

# The time of an example depends on what else the machine does.
hypothesis.settings.register_profile("gateway", deadline=None)
hypothesis.settings.load_profile("gateway")

# Postgres without durability: the rows of a test need not survive a power failure.
NON_DURABLE_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
}
# The template has one partition per day, from this many days before today to this many after.
PARTITION_DAYS_BEFORE, PARTITION_DAYS_AFTER = 2, 8


@pytest.fixture(scope="session", autouse=True)
def learn_secrets() -> Iterator[None]:
    """Learn the secrets that the tests create."""
    with log_guard.learn_secrets():
        yield


@pytest.fixture(autouse=True)
def check_logs_for_secrets(learn_secrets: None) -> Iterator[None]:
    """Fail a test whose log lines, or those of a process that it started, contain a secret."""
    log_guard.install_handler()
    yield
    log_guard.guard.check()


@pytest.fixture(scope="session")
def reachable_tmp() -> Iterator[Path]:
    """A directory that the unprivileged user of Postgres can enter; pytest's own is closed to other users."""
    path = Path(tempfile.mkdtemp(prefix="gateway-tests-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def postgres_url(reachable_tmp: Path) -> Iterator[str]:
    """The URL of the Postgres server of this session."""
    if url := os.environ.get("GATEWAY_TEST_DATABASE_URL"):
        yield plain_url(url)
        return
    with EmbeddedPostgres(reachable_tmp / "postgres", NON_DURABLE_SETTINGS) as postgres:
        yield postgres.url


@pytest.fixture(scope="session")
async def template(postgres_url: str) -> AsyncIterator[str]:
    """The name of a migrated database with the partitions around today."""
    name = f"gateway_template_{secrets.token_hex(4)}"
    await run_sql(postgres_url, f'CREATE DATABASE "{name}"')
    url = url_of_database(postgres_url, name)
    await asyncio.to_thread(migrate.upgrade, url)
    engine = open_engine(url)
    async with engine.begin() as conn:
        first_day = datetime.now(UTC).date() - timedelta(days=PARTITION_DAYS_BEFORE)
        await partitions.create_partitions(conn, first_day, PARTITION_DAYS_BEFORE + PARTITION_DAYS_AFTER)
    await engine.dispose()
    yield name
    await run_sql(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def database_url(postgres_url: str, template: str) -> AsyncIterator[str]:
    """The URL of a migrated database for one test."""
    name = f"gateway_test_{secrets.token_hex(4)}"
    await run_sql(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield url_of_database(postgres_url, name)
    await run_sql(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def empty_database_url(postgres_url: str) -> AsyncIterator[str]:
    """The URL of a database without tables, for one test."""
    name = f"gateway_test_{secrets.token_hex(4)}"
    await run_sql(postgres_url, f'CREATE DATABASE "{name}"')
    yield url_of_database(postgres_url, name)
    await run_sql(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the test's database."""
    engine = open_engine(database_url)
    yield engine
    await engine.dispose()


async def run_sql(url: str, statement: str) -> None:
    """Run one statement on a connection of its own."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


def url_of_database(server: str, name: str) -> str:
    """Return the URL of a database on this server."""
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
