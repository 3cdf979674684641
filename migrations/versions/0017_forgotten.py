"""Who was forgotten while something was on its way to them, and an index of what was sent to one person alone."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from gateway.records.migrate import patiently

revision = "0017"
down_revision: str | None = "0016"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

INDEX = """
    CREATE INDEX CONCURRENTLY notifications_addressed_idx ON notifications
        (application_id, coalesce(audience ->> 'user_id', audience ->> 'device_id'))
    WHERE audience ?| ARRAY['user_id', 'device_id']
"""


def upgrade() -> None:
    # What was killed after this is begun anew.
    op.execute("""
        CREATE TABLE IF NOT EXISTS forgotten (
            device_id UUID NOT NULL,
            at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT forgotten_pkey PRIMARY KEY (device_id)
        )""")
    op.execute("CREATE INDEX IF NOT EXISTS forgotten_at_idx ON forgotten (at)")
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        patiently(connection, "ALTER TABLE applications ADD COLUMN IF NOT EXISTS forgot_at timestamptz")
        # What was killed in the middle leaves one that is not valid.
        connection.execute(sa.text("DROP INDEX CONCURRENTLY IF EXISTS notifications_addressed_idx"))
        connection.execute(sa.text(INDEX))


def downgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        connection.execute(sa.text("DROP INDEX CONCURRENTLY IF EXISTS notifications_addressed_idx"))
        patiently(connection, "ALTER TABLE applications DROP COLUMN IF EXISTS forgot_at")
    op.execute("DROP TABLE IF EXISTS forgotten")
