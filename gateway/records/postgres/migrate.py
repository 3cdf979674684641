"""Run the migrations: from the checkout, or from the wheel that carries them."""

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

LOCK_WAIT_S = 1
RETRY_PAUSE_S = 1
LOCK_NOT_AVAILABLE = "55P03"

_PACKAGE = Path(__file__).resolve().parents[2]


def migrations_dir() -> Path:
    carried = _PACKAGE / "_migrations"
    return carried if carried.is_dir() else _PACKAGE.parent / "migrations"


def config(url: str) -> Config:
    cfg = Config()
    cfg.set_main_option("script_location", str(migrations_dir()))
    cfg.attributes["url"] = driver_url(url)
    return cfg


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database up to `revision`; starts from several processes at once are serialised by a lock."""
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str) -> None:
    command.downgrade(config(url), revision)


@cache
def _scripts(location: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """Our newest revisions, and all. Read once: they do not change under a process."""
    scripts = Config()
    scripts.set_main_option("script_location", str(location))
    script = ScriptDirectory.from_config(scripts)
    return frozenset(script.get_heads()), frozenset(one.revision for one in script.walk_revisions())


async def is_current(conn: AsyncConnection, url: str) -> bool:
    """Whether the database has every migration this code comes with; it may have more, of a later version."""
    heads, ours = await asyncio.to_thread(_scripts, config(url).get_main_option("script_location"))
    found = set(await conn.run_sync(lambda sync: MigrationContext.configure(sync).get_current_heads()))
    # A revision that we do not know comes after ours: an upgrade migrates before it exchanges what runs.
    return heads <= found or bool(found - ours)


def is_lock_timeout(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE
