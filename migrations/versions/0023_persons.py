"""For whom a delivery is meant, whether a device's user is proven, and whose attributes a signed-out device has."""

import time
from collections.abc import Sequence

from alembic import op
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

revision = "0023"
down_revision: str | None = "0022"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# SQLSTATE of a statement that gave up waiting for a lock.
LOCK_NOT_AVAILABLE = "55P03"

COLUMNS = (
    ("applications", "identity_enforced", "boolean DEFAULT false NOT NULL"),
    ("devices", "user_proven", "boolean DEFAULT false NOT NULL"),
    ("devices", "former_user_id", "text"),
    ("notifications", "person_bound", "boolean DEFAULT false NOT NULL"),
    ("live_waiting", "user_id", "text"),
)
INDEX = """
    CREATE INDEX CONCURRENTLY devices_former_user_id_idx ON devices (application_id, former_user_id)
    WHERE former_user_id IS NOT NULL
"""


def upgrade() -> None:
    op.execute("""
        CREATE TABLE IF NOT EXISTS bound_deliveries (
            notification_id UUID NOT NULL,
            device_id UUID NOT NULL,
            user_id TEXT NOT NULL,
            CONSTRAINT bound_deliveries_pkey PRIMARY KEY (notification_id, device_id)
        )""")
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for table, name, definition in COLUMNS:
            _execute_with_lock_retry(connection, f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {definition}")
        # An interrupted build leaves an invalid index.
        connection.execute(text("DROP INDEX CONCURRENTLY IF EXISTS devices_former_user_id_idx"))
        connection.execute(text(INDEX))


def downgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        connection.execute(text("DROP INDEX CONCURRENTLY IF EXISTS devices_former_user_id_idx"))
        for table, name, _ in COLUMNS:
            _execute_with_lock_retry(connection, f"ALTER TABLE {table} DROP COLUMN IF EXISTS {name}")
    op.execute("DROP TABLE IF EXISTS bound_deliveries")


def _execute_with_lock_retry(connection: Connection, statement: str) -> None:
    """Run a statement that locks a table briefly, outside a transaction and beside running gateways.

    Waits at most one second for the lock and then tries again, so that no query queues behind a waiting statement.
    This is the migration's own copy: a released migration imports nothing of the gateway that may change.
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
