"""Add templates, and notifications whose texts are templates."""

from collections.abc import Sequence

from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

UP = (
    "ALTER TABLE notifications ADD COLUMN templating JSONB",
    """
    CREATE TABLE templates (
        id UUID NOT NULL,
        application_id UUID NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT templates_pkey PRIMARY KEY (id),
        CONSTRAINT templates_application_id_name_key UNIQUE (application_id, name),
        CONSTRAINT templates_application_id_fkey
            FOREIGN KEY(application_id) REFERENCES applications (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE template_versions (
        template_id UUID NOT NULL,
        version INTEGER NOT NULL,
        content JSONB NOT NULL,
        strict BOOLEAN NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT template_versions_pkey PRIMARY KEY (template_id, version),
        CONSTRAINT template_versions_template_id_fkey
            FOREIGN KEY(template_id) REFERENCES templates (id) ON DELETE CASCADE
    )
    """,
)

DOWN = (
    "DROP TABLE template_versions",
    "DROP TABLE templates",
    "ALTER TABLE notifications DROP COLUMN templating",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
