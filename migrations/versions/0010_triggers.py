"""Add events, and the triggers that they run."""

from collections.abc import Sequence

from alembic import op

revision = "0010"
down_revision: str | None = "0009"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE triggers (
            id UUID NOT NULL,
            application_id UUID NOT NULL,
            name TEXT NOT NULL,
            event TEXT NOT NULL,
            status TEXT DEFAULT 'active' NOT NULL,
            condition JSONB,
            draft JSONB NOT NULL,
            delay_s INTEGER NOT NULL,
            dedupe_s INTEGER,
            cap_most INTEGER,
            cap_window_s INTEGER,
            cancel_on TEXT[] DEFAULT '{}' NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT triggers_pkey PRIMARY KEY (id),
            CONSTRAINT triggers_application_id_name_key UNIQUE (application_id, name),
            CONSTRAINT triggers_status_check CHECK (status IN ('active', 'paused')),
            CONSTRAINT triggers_application_id_fkey FOREIGN KEY(application_id)
                REFERENCES applications (id) ON DELETE CASCADE
        )""")
    op.execute("CREATE INDEX triggers_application_id_event_idx ON triggers (application_id, event)")
    op.execute("""
        CREATE TABLE events (
            id UUID NOT NULL,
            application_id UUID NOT NULL,
            key TEXT,
            name TEXT NOT NULL,
            user_id TEXT,
            data JSONB NOT NULL,
            occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT events_pkey PRIMARY KEY (id),
            CONSTRAINT events_application_id_fkey FOREIGN KEY(application_id)
                REFERENCES applications (id) ON DELETE CASCADE
        )""")
    op.execute("CREATE INDEX events_application_id_id_idx ON events (application_id, id)")
    op.execute("CREATE UNIQUE INDEX events_key_key ON events (application_id, key) WHERE key IS NOT NULL")
    op.execute("CREATE INDEX events_created_at_idx ON events (created_at)")
    op.execute("""
        CREATE TABLE trigger_runs (
            event_id UUID NOT NULL,
            trigger_id UUID NOT NULL,
            user_id TEXT,
            outcome TEXT NOT NULL,
            cause TEXT,
            notification_id UUID,
            at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT trigger_runs_pkey PRIMARY KEY (event_id, trigger_id),
            CONSTRAINT trigger_runs_event_id_fkey FOREIGN KEY(event_id) REFERENCES events (id) ON DELETE CASCADE,
            CONSTRAINT trigger_runs_trigger_id_fkey FOREIGN KEY(trigger_id)
                REFERENCES triggers (id) ON DELETE CASCADE
        )""")
    op.execute("CREATE INDEX trigger_runs_trigger_id_user_id_at_idx ON trigger_runs (trigger_id, user_id, at)")
    op.execute("CREATE INDEX trigger_runs_trigger_id_event_id_idx ON trigger_runs (trigger_id, event_id)")


def downgrade() -> None:
    op.execute("DROP TABLE trigger_runs")
    op.execute("DROP TABLE events")
    op.execute("DROP TABLE triggers")
