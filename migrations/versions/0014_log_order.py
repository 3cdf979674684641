"""Add indexes of the delivery log: by the time at which deliveries settled, and of rare outcomes and hosts.

Gateways keep running during the migration. So the index of the partitioned table is first created without those of its
partitions; then the index of each partition is built concurrently and attached. A killed migration continues with the
first partition that lacks its index.
"""

import time
from collections.abc import Sequence

from alembic import op
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

revision = "0014"
down_revision: str | None = "0013"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# The SQLSTATE when a statement has reached `lock_timeout`.
LOCK_NOT_AVAILABLE = "55P03"

INDEXES = {
    "deliveries_application_id_settled_at_idx": "(application_id, settled_at)",
    "deliveries_outcome_idx": "(application_id, outcome, settled_at) WHERE outcome <> 'accepted'",
    "deliveries_outcome_host_idx": "(application_id, outcome, host, settled_at) WHERE outcome <> 'accepted'",
    "deliveries_host_idx": "(application_id, host, settled_at) WHERE host <> 'fcm.googleapis.com'",
}

PARTITIONS = """
    SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = 'deliveries'::regclass AND NOT inhdetachpending AND NOT EXISTS (
        SELECT FROM pg_index JOIN pg_inherits AS attached ON attached.inhrelid = indexrelid
        WHERE indrelid = child.oid AND attached.inhparent = CAST(:name AS regclass)
    )
    ORDER BY child.relname DESC
"""
IS_INVALID = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for name, definition in INDEXES.items():
            _execute_with_lock_retry(connection, f"CREATE INDEX IF NOT EXISTS {name} ON ONLY deliveries {definition}")
            # Partitions that are created from now on have the index, so this list is complete.
            for partition in connection.execute(text(PARTITIONS), {"name": name}).scalars().all():
                _index_partition(connection, name, definition, partition)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            _execute_with_lock_retry(op.get_bind(), f"DROP INDEX IF EXISTS {name}")


def _index_partition(connection: Connection, name: str, definition: str, partition: str) -> None:
    partition_index = f"{partition}{name.removeprefix('deliveries')}"
    if connection.execute(text(IS_INVALID), {"name": partition_index}).scalar():
        connection.execute(text(f"DROP INDEX CONCURRENTLY {partition_index}"))
    connection.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {partition_index} ON {partition} {definition}"))
    _execute_with_lock_retry(connection, f"ALTER INDEX {name} ATTACH PARTITION {partition_index}")


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
