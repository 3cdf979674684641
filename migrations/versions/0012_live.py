"""Add the live channel: devices whose open page receives notifications instead of the push service."""

from collections.abc import Sequence

from alembic import op

revision = "0012"
down_revision: str | None = "0011"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE devices ADD COLUMN live_until TIMESTAMP WITH TIME ZONE")
    op.execute("""
        CREATE TABLE live_waiting (
            notification_id UUID NOT NULL,
            device_id UUID NOT NULL,
            application_id UUID NOT NULL,
            variant SMALLINT,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            acked_at TIMESTAMP WITH TIME ZONE,
            CONSTRAINT live_waiting_pkey PRIMARY KEY (notification_id, device_id),
            CONSTRAINT live_waiting_device_id_fkey FOREIGN KEY(device_id) REFERENCES devices (id) ON DELETE CASCADE
        )""")
    op.execute("CREATE INDEX live_waiting_device_id_idx ON live_waiting (device_id) WHERE acked_at IS NULL")
    op.execute("CREATE INDEX live_waiting_created_at_idx ON live_waiting (created_at)")


def downgrade() -> None:
    op.execute("DROP TABLE live_waiting")
    op.execute("ALTER TABLE devices DROP COLUMN live_until")
