"""Add webhooks, and the outbox of events that are not in the delivery log."""

from collections.abc import Sequence

from alembic import op

revision = "0008"
down_revision: str | None = "0007"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

UP = (
    """
    CREATE TABLE webhooks (
        id UUID NOT NULL,
        application_id UUID NOT NULL,
        name TEXT NOT NULL,
        url TEXT NOT NULL,
        events TEXT[] NOT NULL,
        secrets BYTEA NOT NULL,
        status TEXT DEFAULT 'active' NOT NULL,
        cause TEXT,
        log_position BIGINT NOT NULL,
        outbox_txid BIGINT NOT NULL,
        outbox_id BIGINT NOT NULL,
        pending JSONB,
        run_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        claim BIGINT DEFAULT 0 NOT NULL,
        failures INTEGER DEFAULT 0 NOT NULL,
        failing_since TIMESTAMP WITH TIME ZONE,
        last_ok_at TIMESTAMP WITH TIME ZONE,
        last_error TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT webhooks_pkey PRIMARY KEY (id),
        CONSTRAINT webhooks_application_id_name_key UNIQUE (application_id, name),
        CONSTRAINT webhooks_status_check CHECK (status IN ('active', 'disabled')),
        CONSTRAINT webhooks_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE happenings (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        txid BIGINT NOT NULL,
        application_id UUID NOT NULL,
        type TEXT NOT NULL,
        data JSONB NOT NULL,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT happenings_pkey PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX happenings_application_id_txid_id_idx ON happenings (application_id, txid, id)",
    "CREATE INDEX happenings_at_idx ON happenings (at)",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE happenings")
    op.execute("DROP TABLE webhooks")
