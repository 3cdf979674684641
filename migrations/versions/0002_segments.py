"""Add segments: audiences that are stored under a name."""

from collections.abc import Sequence

from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE segments (
            id UUID NOT NULL,
            application_id UUID NOT NULL,
            name TEXT NOT NULL,
            audience JSONB NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT segments_pkey PRIMARY KEY (id),
            CONSTRAINT segments_application_id_name_key UNIQUE (application_id, name),
            CONSTRAINT segments_application_id_fkey
                FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE segments")
