"""Run the database migrations. They are read from the checkout, or from the installed wheel."""

import asyncio
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.engine import driver_url

# How long a statement of a migration waits for a lock, and the pause before it is tried again.
LOCK_WAIT_S = 1
RETRY_PAUSE_S = 1
# SQLSTATE of a lock timeout.
LOCK_NOT_AVAILABLE = "55P03"

# Directory of the package `gateway`.
_PACKAGE = Path(__file__).resolve().parents[2]


def migrations_dir() -> Path:
    """Return the directory of the migrations."""
    packaged = _PACKAGE / "_migrations"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "migrations"


def config(url: str) -> Config:
    """Return the Alembic configuration for a database."""
    cfg = Config()
    cfg.set_main_option("script_location", str(migrations_dir()))
    cfg.attributes["url"] = driver_url(url)
    return cfg


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate the database up to `revision`. A lock serialises concurrent calls."""
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Migrate the database down to `revision`."""
    command.downgrade(config(url), revision)


@cache
def _scripts(location: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """Return the head revisions and all revisions of this version of the gateway, from the scripts at `location`."""
    scripts = Config()
    scripts.set_main_option("script_location", str(location))
    script = ScriptDirectory.from_config(scripts)
    return frozenset(script.get_heads()), frozenset(item.revision for item in script.walk_revisions())


async def is_current(conn: AsyncConnection, url: str) -> bool:
    """Return whether the database has every migration of this version of the gateway. It may have later migrations."""
    heads, revisions = await asyncio.to_thread(_scripts, config(url).get_main_option("script_location"))
    current = set(await conn.run_sync(lambda sync: MigrationContext.configure(sync).get_current_heads()))
    # An unknown revision is newer than this code: an upgrade migrates the schema before it replaces the processes.
    return heads <= current or bool(current - revisions)


def is_lock_timeout(error: DBAPIError) -> bool:
    """Return whether a statement failed because of `lock_timeout`."""
    return getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE
