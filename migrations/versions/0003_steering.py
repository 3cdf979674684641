"""Add send policies: pause, throttle, quiet hours, categories with caps and opt-outs, variants, sending rates."""

from collections.abc import Sequence

from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

STATUSES = "'scheduled', 'sending', 'done', 'cancelled'"

# New columns have constant defaults or none, so Postgres adds them without rewriting the table. Gateways of the
# previous version neither read nor write them. All statements can be repeated, since a killed migration starts again.
UP = (
    "ALTER TABLE devices ADD COLUMN IF NOT EXISTS muted TEXT[] DEFAULT '{}' NOT NULL",
    "ALTER TABLE notifications ADD COLUMN IF NOT EXISTS steering JSONB DEFAULT '{}' NOT NULL",
    "ALTER TABLE notifications ADD COLUMN IF NOT EXISTS winner SMALLINT",
    "ALTER TABLE notifications ADD COLUMN IF NOT EXISTS auto_paused TEXT",
    "ALTER TABLE notifications DROP CONSTRAINT IF EXISTS notifications_status_check",
    "ALTER TABLE notifications ADD CONSTRAINT notifications_status_check "
    f"CHECK (status IN ({STATUSES}, 'paused')) NOT VALID",
    "ALTER TABLE progress ADD COLUMN IF NOT EXISTS skipped INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE progress ADD COLUMN IF NOT EXISTS per_second FLOAT",
    "ALTER TABLE progress ADD COLUMN IF NOT EXISTS free_at TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE progress ADD COLUMN IF NOT EXISTS rate FLOAT DEFAULT 0 NOT NULL",
    "ALTER TABLE progress ADD COLUMN IF NOT EXISTS rated_at TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE progress ADD COLUMN IF NOT EXISTS began_at TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE jobs ADD COLUMN IF NOT EXISTS parked BOOLEAN DEFAULT false NOT NULL",
    "ALTER TABLE jobs ADD COLUMN IF NOT EXISTS slot TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE deliveries ADD COLUMN IF NOT EXISTS variant SMALLINT",
    """
    CREATE TABLE IF NOT EXISTS categories (
        id UUID NOT NULL,
        application_id UUID NOT NULL,
        name TEXT NOT NULL,
        title TEXT NOT NULL,
        description TEXT,
        cap_most INTEGER,
        cap_window_s INTEGER,
        quiet_hours JSONB,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT categories_pkey PRIMARY KEY (id),
        CONSTRAINT categories_application_id_name_key UNIQUE (application_id, name),
        CONSTRAINT categories_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS contacts (
        application_id UUID NOT NULL,
        category TEXT NOT NULL,
        person TEXT NOT NULL,
        notification_id UUID NOT NULL,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT contacts_pkey PRIMARY KEY (application_id, category, person, notification_id),
        CONSTRAINT contacts_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX IF NOT EXISTS contacts_at_idx ON contacts (at)",
    """
    CREATE TABLE IF NOT EXISTS variants (
        notification_id UUID NOT NULL,
        number SMALLINT NOT NULL,
        accepted INTEGER DEFAULT 0 NOT NULL,
        gone INTEGER DEFAULT 0 NOT NULL,
        rejected INTEGER DEFAULT 0 NOT NULL,
        expired INTEGER DEFAULT 0 NOT NULL,
        displayed INTEGER DEFAULT 0 NOT NULL,
        clicked INTEGER DEFAULT 0 NOT NULL,
        dismissed INTEGER DEFAULT 0 NOT NULL,
        CONSTRAINT variants_pkey PRIMARY KEY (notification_id, number),
        CONSTRAINT variants_notification_id_fkey
            FOREIGN KEY(notification_id) REFERENCES notifications (id) ON DELETE CASCADE
    )
     WITH (fillfactor = 50)
    """,
)

DOWN = (
    "DROP TABLE variants",
    "DROP TABLE contacts",
    "DROP TABLE categories",
    "ALTER TABLE deliveries DROP COLUMN variant",
    "ALTER TABLE jobs DROP COLUMN slot",
    "ALTER TABLE jobs DROP COLUMN parked",
    *(
        f"ALTER TABLE progress DROP COLUMN {column}"
        for column in ("began_at", "rated_at", "rate", "free_at", "per_second", "skipped")
    ),
    # Paused notifications continue.
    "UPDATE notifications SET status = CASE WHEN day IS NULL THEN 'scheduled' ELSE 'sending' END "
    "WHERE status = 'paused'",
    "ALTER TABLE notifications DROP CONSTRAINT notifications_status_check",
    f"ALTER TABLE notifications ADD CONSTRAINT notifications_status_check CHECK (status IN ({STATUSES}))",
    "ALTER TABLE notifications DROP COLUMN auto_paused",
    "ALTER TABLE notifications DROP COLUMN winner",
    "ALTER TABLE notifications DROP COLUMN steering",
    "ALTER TABLE devices DROP COLUMN muted",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)
    # The constraint is validated in a statement of its own, which does not block writes while it checks the rows.
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE notifications VALIDATE CONSTRAINT notifications_status_check")


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
