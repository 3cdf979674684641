"""Add what the erasure of a user needs.

The table `forgotten` has the devices that were erased while messages to them may have been in flight. The index finds
the notifications whose audience is one user or device.
"""

import time
from collections.abc import Sequence

from alembic import op
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

revision = "0017"
down_revision: str | None = "0016"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# The SQLSTATE when a statement has reached `lock_timeout`.
LOCK_NOT_AVAILABLE = "55P03"

INDEX = """
    CREATE INDEX CONCURRENTLY notifications_addressed_idx ON notifications
        (application_id, coalesce(audience ->> 'user_id', audience ->> 'device_id'))
    WHERE audience ?| ARRAY['user_id', 'device_id']
"""


def upgrade() -> None:
    # All statements can be repeated, since a killed migration starts again.
    op.execute("""
        CREATE TABLE IF NOT EXISTS forgotten (
            device_id UUID NOT NULL,
            at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT forgotten_pkey PRIMARY KEY (device_id)
        )""")
    op.execute("CREATE INDEX IF NOT EXISTS forgotten_at_idx ON forgotten (at)")
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        _execute_with_lock_retry(connection, "ALTER TABLE applications ADD COLUMN IF NOT EXISTS forgot_at timestamptz")
        # A killed migration leaves an invalid index.
        connection.execute(text("DROP INDEX CONCURRENTLY IF EXISTS notifications_addressed_idx"))
        connection.execute(text(INDEX))


def downgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        connection.execute(text("DROP INDEX CONCURRENTLY IF EXISTS notifications_addressed_idx"))
        _execute_with_lock_retry(connection, "ALTER TABLE applications DROP COLUMN IF EXISTS forgot_at")
    op.execute("DROP TABLE IF EXISTS forgotten")


def _execute_with_lock_retry(connection: Connection, statement: str) -> None:
    """Run a statement that locks a table briefly, outside a transaction, while gateways are running.

    It waits at most one second for the lock and then tries again, so that no query queues behind it.
    A migration has its own copy of this function, because it must not import code that may change later.
    """
    connection.execute(text("SET lock_timeout = '1s'"))
    try:
        while True:
            try:
                connection.execute(text(statement))
                return
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                    raise
                time.sleep(1)
    finally:
        connection.execute(text("RESET lock_timeout"))
