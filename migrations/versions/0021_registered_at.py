"""When a device registered last, so that a response to an earlier POST does not mark it gone."""

from collections.abc import Sequence

from alembic import op

revision = "0021"
down_revision: str | None = "0020"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE devices ADD COLUMN registered_at TIMESTAMP WITH TIME ZONE")


def downgrade() -> None:
    op.execute("ALTER TABLE devices DROP COLUMN registered_at")
