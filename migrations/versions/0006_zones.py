"""Add the zones of devices: codes of the named areas that a device is in."""

from collections.abc import Sequence

from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # All statements can be repeated, since a killed migration starts again.
    op.execute("ALTER TABLE devices ADD COLUMN IF NOT EXISTS zones TEXT[] DEFAULT '{}' NOT NULL")
    # The index is built concurrently, because running gateways may be registering devices.
    with op.get_context().autocommit_block():
        # A killed migration leaves an invalid index.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS devices_zones_idx")
        op.execute("CREATE INDEX CONCURRENTLY devices_zones_idx ON devices USING gin (zones)")


def downgrade() -> None:
    op.execute("ALTER TABLE devices DROP COLUMN zones")
