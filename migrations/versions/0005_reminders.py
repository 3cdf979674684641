"""Add reminders: notifications that are sent on a recurring schedule."""

from collections.abc import Sequence

from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# All statements can be repeated, since a killed migration starts again.
UP = (
    """
    CREATE TABLE IF NOT EXISTS reminders (
        id UUID NOT NULL,
        application_id UUID NOT NULL,
        name TEXT NOT NULL,
        status TEXT NOT NULL,
        cause TEXT,
        cron TEXT NOT NULL,
        timezone TEXT NOT NULL,
        ends_at TIMESTAMP WITH TIME ZONE,
        missed TEXT NOT NULL,
        draft JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT reminders_pkey PRIMARY KEY (id),
        CONSTRAINT reminders_application_id_name_key UNIQUE (application_id, name),
        CONSTRAINT reminders_status_check CHECK (status IN ('active', 'paused', 'ended')),
        CONSTRAINT reminders_missed_check CHECK (missed IN ('send', 'skip')),
        CONSTRAINT reminders_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE
    )
    """,
    "ALTER TABLE notifications ADD COLUMN IF NOT EXISTS reminder_id UUID",
    "ALTER TABLE notifications ADD COLUMN IF NOT EXISTS occurrence TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE notifications DROP CONSTRAINT IF EXISTS notifications_reminder_id_fkey",
    "ALTER TABLE notifications ADD CONSTRAINT notifications_reminder_id_fkey "
    "FOREIGN KEY(reminder_id) REFERENCES reminders (id) ON DELETE SET NULL NOT VALID",
)

DOWN = (
    "ALTER TABLE notifications DROP COLUMN occurrence",
    "ALTER TABLE notifications DROP COLUMN reminder_id",
    "DROP TABLE reminders",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)
    # None of these statements blocks writes of running gateways.
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE notifications VALIDATE CONSTRAINT notifications_reminder_id_fkey")
        # A killed migration leaves an invalid index.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS notifications_occurrence_key")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY notifications_occurrence_key ON notifications (reminder_id, occurrence)"
        )


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
