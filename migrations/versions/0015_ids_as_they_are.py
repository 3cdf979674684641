"""Store the device ids of jobs without compression, which took longer than the rest of planning."""

import time
from collections.abc import Sequence

from alembic import op
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

revision = "0015"
down_revision: str | None = "0014"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# The SQLSTATE when a statement has reached `lock_timeout`.
LOCK_NOT_AVAILABLE = "55P03"


def upgrade() -> None:
    _set_storage("EXTERNAL")


def downgrade() -> None:
    _set_storage("EXTENDED")


def _set_storage(storage: str) -> None:
    with op.get_context().autocommit_block():
        _execute_with_lock_retry(op.get_bind(), f"ALTER TABLE jobs ALTER COLUMN device_ids SET STORAGE {storage}")


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
