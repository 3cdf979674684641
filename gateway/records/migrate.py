"""Run the migrations: from the checkout, or from the wheel that carries them."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.database import driver_url

_PACKAGE = Path(__file__).resolve().parents[1]


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


async def is_current(conn: AsyncConnection, url: str) -> bool:
    """Whether the database has every migration this code comes with; it may have more."""
    heads = ScriptDirectory.from_config(config(url)).get_heads()
    found = await conn.run_sync(lambda sync: MigrationContext.configure(sync).get_current_heads())
    return set(heads) <= set(found)
