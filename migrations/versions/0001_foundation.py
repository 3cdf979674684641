"""Create the first tables: applications, keys, devices, notifications, the queue and the partitioned log."""

from collections.abc import Sequence

from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = (
    "applications",
    "api_keys",
    "vapid_keys",
    "devices",
    "notifications",
    "progress",
    "jobs",
    "deliveries",
    "attempts",
    "receipts",
    "idempotency_keys",
)

STATEMENTS = (
    """
    CREATE TABLE applications (
        id UUID NOT NULL,
        name TEXT NOT NULL,
        subject TEXT NOT NULL,
        allowed_origins TEXT[] DEFAULT '{}' NOT NULL,
        identity_secret BYTEA,
        log_position BIGINT DEFAULT 0 NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT applications_pkey PRIMARY KEY (id)
    )
    """,
    """
    CREATE TABLE api_keys (
        id UUID NOT NULL,
        application_id UUID NOT NULL,
        name TEXT NOT NULL,
        scopes TEXT[] NOT NULL,
        digest BYTEA NOT NULL,
        hint TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT api_keys_pkey PRIMARY KEY (id),
        CONSTRAINT api_keys_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE,
        CONSTRAINT api_keys_digest_key UNIQUE (digest)
    )
    """,
    "CREATE INDEX api_keys_application_id_idx ON api_keys (application_id)",
    """
    CREATE TABLE vapid_keys (
        id UUID NOT NULL,
        application_id UUID NOT NULL,
        public_key BYTEA NOT NULL,
        private_key BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT vapid_keys_pkey PRIMARY KEY (id),
        CONSTRAINT vapid_keys_application_id_public_key_key UNIQUE (application_id, public_key),
        CONSTRAINT vapid_keys_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE devices (
        id UUID NOT NULL,
        application_id UUID NOT NULL,
        endpoint TEXT NOT NULL,
        endpoint_digest BYTEA NOT NULL,
        host TEXT NOT NULL,
        p256dh BYTEA NOT NULL,
        auth BYTEA NOT NULL,
        vapid_key_id UUID NOT NULL,
        status TEXT DEFAULT 'active' NOT NULL,
        user_id TEXT,
        platform TEXT,
        browser TEXT,
        locale TEXT,
        timezone TEXT,
        app_version TEXT,
        attributes JSONB DEFAULT '{}' NOT NULL,
        topics TEXT[] DEFAULT '{}' NOT NULL,
        location point,
        accuracy_m FLOAT,
        located_at TIMESTAMP WITH TIME ZONE,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        last_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT devices_pkey PRIMARY KEY (id),
        CONSTRAINT devices_application_id_endpoint_digest_key UNIQUE (application_id, endpoint_digest),
        CONSTRAINT devices_status_check CHECK (status IN ('active', 'gone', 'quarantined')),
        CONSTRAINT devices_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE,
        CONSTRAINT devices_vapid_key_id_fkey FOREIGN KEY(vapid_key_id) REFERENCES vapid_keys (id)
    )
    """,
    "CREATE INDEX devices_application_id_id_idx ON devices (application_id, id)",
    "CREATE INDEX devices_attributes_idx ON devices USING gin (attributes jsonb_path_ops)",
    "CREATE INDEX devices_location_idx ON devices USING gist (location)",
    "CREATE INDEX devices_topics_idx ON devices USING gin (topics)",
    "CREATE INDEX devices_user_id_idx ON devices (application_id, user_id) WHERE user_id IS NOT NULL",
    """
    CREATE TABLE notifications (
        id UUID NOT NULL,
        application_id UUID NOT NULL,
        kind TEXT NOT NULL,
        name TEXT,
        status TEXT NOT NULL,
        day DATE,
        content JSONB NOT NULL,
        audience JSONB NOT NULL,
        details JSONB DEFAULT '{}' NOT NULL,
        lane SMALLINT NOT NULL,
        urgency TEXT NOT NULL,
        ttl_s INTEGER NOT NULL,
        collapse_key TEXT,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        start_at TIMESTAMP WITH TIME ZONE NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT notifications_pkey PRIMARY KEY (id),
        CONSTRAINT notifications_status_check CHECK (status IN ('scheduled', 'sending', 'done', 'cancelled')),
        CONSTRAINT notifications_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX notifications_application_id_id_idx ON notifications (application_id, id)",
    """
    CREATE TABLE progress (
        notification_id UUID NOT NULL,
        targets INTEGER DEFAULT 0 NOT NULL,
        accepted INTEGER DEFAULT 0 NOT NULL,
        gone INTEGER DEFAULT 0 NOT NULL,
        rejected INTEGER DEFAULT 0 NOT NULL,
        expired INTEGER DEFAULT 0 NOT NULL,
        cancelled INTEGER DEFAULT 0 NOT NULL,
        retries INTEGER DEFAULT 0 NOT NULL,
        displayed INTEGER DEFAULT 0 NOT NULL,
        clicked INTEGER DEFAULT 0 NOT NULL,
        dismissed INTEGER DEFAULT 0 NOT NULL,
        CONSTRAINT progress_pkey PRIMARY KEY (notification_id),
        CONSTRAINT progress_notification_id_fkey
            FOREIGN KEY(notification_id) REFERENCES notifications (id) ON DELETE CASCADE
    )
     WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE jobs (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        task TEXT DEFAULT 'send' NOT NULL,
        application_id UUID NOT NULL,
        notification_id UUID NOT NULL,
        lane SMALLINT NOT NULL,
        run_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        attempt INTEGER DEFAULT 0 NOT NULL,
        tries SMALLINT DEFAULT 0 NOT NULL,
        day DATE,
        device_ids UUID[] DEFAULT '{}' NOT NULL,
        CONSTRAINT jobs_pkey PRIMARY KEY (id),
        CONSTRAINT jobs_task_check CHECK (task IN ('plan', 'send')),
        CONSTRAINT jobs_notification_id_fkey
            FOREIGN KEY(notification_id) REFERENCES notifications (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX jobs_due_idx ON jobs (lane, run_at, id)",
    "CREATE INDEX jobs_notification_id_idx ON jobs (notification_id)",
    """
    CREATE TABLE deliveries (
        day DATE NOT NULL,
        notification_id UUID NOT NULL,
        device_id UUID NOT NULL,
        application_id UUID NOT NULL,
        position BIGINT NOT NULL,
        user_id TEXT,
        host TEXT NOT NULL,
        outcome TEXT NOT NULL,
        status SMALLINT,
        cause TEXT NOT NULL,
        attempts SMALLINT NOT NULL,
        attempted_at TIMESTAMP WITH TIME ZONE,
        duration_ms INTEGER NOT NULL,
        settled_at TIMESTAMP WITH TIME ZONE NOT NULL,
        message TEXT,
        granted_ttl INTEGER,
        CONSTRAINT deliveries_pkey PRIMARY KEY (day, notification_id, device_id)
    )
     PARTITION BY RANGE (day)
    """,
    "CREATE INDEX deliveries_application_id_position_idx ON deliveries (application_id, position)",
    "CREATE INDEX deliveries_device_id_idx ON deliveries (device_id)",
    "CREATE INDEX deliveries_user_id_idx ON deliveries (application_id, user_id) WHERE user_id IS NOT NULL",
    """
    CREATE TABLE attempts (
        day DATE NOT NULL,
        notification_id UUID NOT NULL,
        device_id UUID NOT NULL,
        number SMALLINT NOT NULL,
        at TIMESTAMP WITH TIME ZONE NOT NULL,
        duration_ms INTEGER NOT NULL,
        status SMALLINT,
        cause TEXT NOT NULL,
        retry_at TIMESTAMP WITH TIME ZONE NOT NULL
    )
     PARTITION BY RANGE (day)
    """,
    "CREATE INDEX attempts_notification_id_device_id_idx ON attempts (notification_id, device_id)",
    """
    CREATE TABLE receipts (
        day DATE NOT NULL,
        notification_id UUID NOT NULL,
        device_id UUID NOT NULL,
        event TEXT NOT NULL,
        action TEXT,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT receipts_pkey PRIMARY KEY (day, notification_id, device_id, event)
    )
    PARTITION BY RANGE (day)
    """,
    """
    CREATE TABLE idempotency_keys (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        request_digest BYTEA NOT NULL,
        status SMALLINT,
        answer BYTEA,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT idempotency_keys_pkey PRIMARY KEY (owner, key)
    )
    """,
    "CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
