"""One spelling for each stored endpoint. Of several devices with one endpoint the latest stays, the others are gone."""

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote

from alembic import op
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

revision = "0022"
down_revision: str | None = "0021"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# SQLSTATE of a statement that gave up waiting for a lock.
LOCK_NOT_AVAILABLE = "55P03"
BATCH = 1000

# The latest first, so that it takes the canonical endpoint.
OTHER_SPELLINGS = """
    SELECT id, endpoint FROM devices
    WHERE status <> 'gone' AND (
        host IN ('fcm.googleapis.com', 'updates.push.services.mozilla.com') AND endpoint ~ '[?%]'
        OR host LIKE '%.push.apple.com' AND endpoint ~ '[?%]'
        OR host LIKE '%.notify.windows.com' AND endpoint !~ '/w/\\?token=([A-Za-z0-9._~-]|%2b|%2f|%3d)+$'
    )
    ORDER BY last_seen_at DESC, id
"""
RESPELL = """
    UPDATE devices SET endpoint = new.endpoint, endpoint_digest = new.digest
    FROM unnest(CAST(:ids AS uuid[]), CAST(:endpoints AS text[]), CAST(:digests AS bytea[]))
        AS new (id, endpoint, digest)
    WHERE devices.id = new.id AND NOT EXISTS (
        SELECT FROM devices AS other
        WHERE other.application_id = devices.application_id AND other.endpoint_digest = new.digest
    )
"""
REMOVE_REPEATED = """
    UPDATE devices SET status = 'gone', updated_at = now()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:digests AS bytea[])) AS new (id, digest)
    WHERE devices.id = new.id AND devices.endpoint_digest <> new.digest
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        rows = connection.execute(text(OTHER_SPELLINGS)).all()
        respelled = [(id_, new) for id_, old in rows if (new := respell(old)) not in (None, old)]
        for batch in divide(respelled):
            digests = [hashlib.sha256(endpoint.encode()).digest() for _, endpoint in batch]
            values = {"ids": [id_ for id_, _ in batch], "endpoints": [new for _, new in batch], "digests": digests}
            execute_with_lock_retry(connection, RESPELL, values)
            execute_with_lock_retry(connection, REMOVE_REPEATED, values)


def downgrade() -> None:
    """Leave the endpoints: every spelling that is left is valid."""


def divide(respelled: list[tuple[Any, Any]]) -> Iterator[list[tuple[Any, Any]]]:
    """Yield batches in which no endpoint occurs twice, since one statement does not see its own changes."""
    batch: dict[str, Any] = {}
    for id_, endpoint in respelled:
        if endpoint in batch or len(batch) == BATCH:
            yield [(known_id, known) for known, known_id in batch.items()]
            batch = {}
        batch[endpoint] = id_
    if batch:
        yield [(known_id, known) for known, known_id in batch.items()]


def respell(endpoint: str) -> str | None:
    """Return the canonical endpoint; None when the vendor has no such endpoints.

    This is the migration's own copy: a released migration imports nothing of the gateway that may change.
    """
    start = endpoint.index("/", len("https://"))
    origin, path = endpoint[:start], endpoint[start:]
    base, _, query = path.partition("?")
    if origin.endswith(".notify.windows.com"):
        match = re.fullmatch(r"(?:.*&)?token=(?P<token>[^&]+)(?:&.*)?", query)
        if base != "/w/" or match is None:
            return None
        token = quote(unquote(match["token"]), safe="")
        return f"{origin}/w/?token=" + re.sub("%..", lambda escape: escape[0].lower(), token)
    return origin + unquote(base)


def execute_with_lock_retry(connection: Connection, statement: str, values: dict[str, Any]) -> None:
    """Run a statement that locks rows briefly, outside a transaction and beside running gateways.

    Waits at most one second for the lock and then tries again, so that no query queues behind a waiting statement.
    """
    connection.execute(text("SET lock_timeout = '1s'"))
    try:
        while True:
            try:
                connection.execute(text(statement), values)
                return
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                    raise
                time.sleep(1)
    finally:
        connection.execute(text("RESET lock_timeout"))
