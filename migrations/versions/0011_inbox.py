"""Add the marks of inbox items that were read."""

from collections.abc import Sequence

from alembic import op

revision = "0011"
down_revision: str | None = "0010"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE inbox_reads (
            device_id UUID NOT NULL,
            notification_id UUID NOT NULL,
            day DATE NOT NULL,
            read_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT inbox_reads_pkey PRIMARY KEY (device_id, notification_id),
            CONSTRAINT inbox_reads_device_id_fkey FOREIGN KEY(device_id) REFERENCES devices (id) ON DELETE CASCADE
        )""")
    op.execute("CREATE INDEX inbox_reads_day_idx ON inbox_reads (day)")


def downgrade() -> None:
    op.execute("DROP TABLE inbox_reads")
