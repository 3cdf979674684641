"""Whether a device's push service ever accepted a message, and since when it refuses the VAPID key."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision: str | None = "0019"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("accepted_at", sa.TIMESTAMP(timezone=True)))
    op.add_column("devices", sa.Column("refused_since", sa.TIMESTAMP(timezone=True)))


def downgrade() -> None:
    op.drop_column("devices", "refused_since")
    op.drop_column("devices", "accepted_at")
