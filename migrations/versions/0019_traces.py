"""Add the trace to which a notification belongs, for installations with tracing."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision: str | None = "0018"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("notifications", sa.Column("trace", sa.Text))


def downgrade() -> None:
    op.drop_column("notifications", "trace")
