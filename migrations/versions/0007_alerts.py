"""Add alerts with their updates and cancellations, and the alert rules of an application."""

from collections.abc import Sequence

from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE applications ADD COLUMN alert_rules JSONB DEFAULT '[]' NOT NULL")
    op.execute("ALTER TABLE applications ADD COLUMN alert_audience JSONB")
    op.execute("""
        CREATE TABLE alerts (
            id UUID NOT NULL,
            application_id UUID NOT NULL,
            chain UUID NOT NULL,
            tag TEXT NOT NULL,
            identifier TEXT NOT NULL,
            message_type TEXT NOT NULL,
            sent TIMESTAMP WITH TIME ZONE,
            refers_to TEXT[] NOT NULL,
            tracks TEXT[] NOT NULL,
            parts JSONB NOT NULL,
            expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT alerts_pkey PRIMARY KEY (id),
            CONSTRAINT alerts_application_id_fkey FOREIGN KEY(application_id)
                REFERENCES applications (id) ON DELETE CASCADE,
            CONSTRAINT alerts_message_type_check CHECK (message_type IN ('Alert', 'Update', 'Cancel'))
        )""")
    op.execute("CREATE INDEX alerts_application_id_identifier_idx ON alerts (application_id, identifier)")
    op.execute("CREATE INDEX alerts_chain_idx ON alerts (chain)")
    op.execute("CREATE INDEX alerts_refers_to_idx ON alerts USING gin (refers_to)")
    op.execute("CREATE INDEX alerts_tracks_idx ON alerts USING gin (tracks)")


def downgrade() -> None:
    op.execute("DROP TABLE alerts")
    op.execute("ALTER TABLE applications DROP COLUMN alert_audience")
    op.execute("ALTER TABLE applications DROP COLUMN alert_rules")
