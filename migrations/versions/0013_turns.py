"""Add the index by which applications take turns in each lane of the queue."""

from collections.abc import Sequence

from alembic import op

revision = "0013"
down_revision: str | None = "0012"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # A killed migration leaves an invalid index.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_turn_idx")
        op.execute("CREATE INDEX CONCURRENTLY jobs_turn_idx ON jobs (lane, application_id, run_at, id)")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_turn_idx")
