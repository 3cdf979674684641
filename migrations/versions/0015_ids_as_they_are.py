"""A job's device ids are kept as they are: Postgres spends longer on compressing them than on planning the rest."""

import time
from collections.abc import Sequence

from alembic import op
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

revision = "0015"
down_revision: str | None = "0014"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# SQLSTATE of a statement that gave up waiting for a lock.
LOCK_NOT_AVAILABLE = "55P03"


def upgrade() -> None:
    _store("EXTERNAL")


def downgrade() -> None:
    _store("EXTENDED")


def _store(how: str) -> None:
    with op.get_context().autocommit_block():
        _execute_with_lock_retry(op.get_bind(), f"ALTER TABLE jobs ALTER COLUMN device_ids SET STORAGE {how}")


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
