"""The named areas a device is in."""

from collections.abc import Sequence

from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # What was killed before its end is begun anew.
    op.execute("ALTER TABLE devices ADD COLUMN IF NOT EXISTS zones TEXT[] DEFAULT '{}' NOT NULL")
    # Beside running code, which may be registering devices all the while.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS devices_zones_idx")  # one that is not valid
        op.execute("CREATE INDEX CONCURRENTLY devices_zones_idx ON devices USING gin (zones)")


def downgrade() -> None:
    op.execute("ALTER TABLE devices DROP COLUMN zones")
