"""A job's device ids are kept as they are: Postgres spends longer on compressing them than on planning the rest."""

from collections.abc import Sequence

from alembic import op

from gateway.records.migrate import patiently

revision = "0015"
down_revision: str | None = "0014"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    _store("EXTERNAL")


def downgrade() -> None:
    _store("EXTENDED")


def _store(how: str) -> None:
    with op.get_context().autocommit_block():
        patiently(op.get_bind(), f"ALTER TABLE jobs ALTER COLUMN device_ids SET STORAGE {how}")
