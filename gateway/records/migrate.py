"""Run the migrations: from the checkout, or from the wheel that carries them."""

from pathlib import Path

from alembic import command
from alembic.config import Config

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
