"""Add feeds: URLs from which alerts are fetched."""

from collections.abc import Sequence

from alembic import op

revision = "0009"
down_revision: str | None = "0008"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE feeds (
            id UUID NOT NULL,
            application_id UUID NOT NULL,
            name TEXT NOT NULL,
            url TEXT NOT NULL,
            interval_s INTEGER NOT NULL,
            audience JSONB,
            category TEXT,
            status TEXT DEFAULT 'active' NOT NULL,
            run_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            claim INTEGER DEFAULT 0 NOT NULL,
            etag TEXT,
            last_modified TEXT,
            digest BYTEA,
            failures INTEGER DEFAULT 0 NOT NULL,
            last_error TEXT,
            last_ok_at TIMESTAMP WITH TIME ZONE,
            counts JSONB DEFAULT '{}' NOT NULL,
            refusals JSONB DEFAULT '[]' NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT feeds_pkey PRIMARY KEY (id),
            CONSTRAINT feeds_application_id_name_key UNIQUE (application_id, name),
            CONSTRAINT feeds_status_check CHECK (status IN ('active', 'paused')),
            CONSTRAINT feeds_application_id_fkey FOREIGN KEY(application_id)
                REFERENCES applications (id) ON DELETE CASCADE
        )""")
    op.execute("CREATE INDEX feeds_due_idx ON feeds (run_at)")
    op.execute("""
        CREATE TABLE feed_entries (
            feed_id UUID NOT NULL,
            digest BYTEA NOT NULL,
            CONSTRAINT feed_entries_pkey PRIMARY KEY (feed_id, digest),
            CONSTRAINT feed_entries_feed_id_fkey FOREIGN KEY(feed_id) REFERENCES feeds (id) ON DELETE CASCADE
        )""")


def downgrade() -> None:
    op.execute("DROP TABLE feed_entries")
    op.execute("DROP TABLE feeds")
