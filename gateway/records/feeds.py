"""State of the polling of alert feeds: leases, results, and the entries that were read already.

Feeds are claimed like jobs: claiming moves `run_at`, the time of the next fetch, to the end of the lease and increments
`claim`. So one process at a time fetches a feed, and a process that lost its lease cannot write results.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.schema import feed_entries, feeds

# Maximum number of refused alerts to store per feed. The latest ones are stored.
MAX_REFUSALS = 20

# Column values that make a feed due at once and have its document read even if the document is unchanged. The new claim
# discards the result of a fetch that is under way.
FETCH_NOW: Mapping[str, Any] = {
    "run_at": func.now(),
    "claim": feeds.c.claim + 1,
    "etag": None,
    "last_modified": None,
    "digest": None,
    "failures": 0,
}


@dataclass(frozen=True, slots=True)
class LeasedFeed:
    """A feed that this process has leased.

    Attributes:
        claim: the fencing token.
        etag: the ETag of the document that was read last.
        last_modified: the time in the Last-Modified header of the document that was read last.
        digest: the SHA-256 of the document that was read last.
        failures: the number of fetches that have failed in a row.
    """

    id: UUID
    claim: int
    application_id: UUID
    url: str
    interval: timedelta
    audience: Any
    category: str | None
    etag: str | None
    last_modified: str | None
    digest: bytes | None
    failures: int


async def claim(conn: AsyncConnection, lease: timedelta) -> LeasedFeed | None:
    """Lease the feed that has been due for longest, or return None if no feed is due."""
    f = feeds.c
    due = select(f.id).where(f.status == "active", f.run_at <= func.now()).order_by(f.run_at).limit(1)
    locked = due.with_for_update(skip_locked=True).cte("due").prefix_with("MATERIALIZED", dialect="postgresql")
    statement = update(feeds).where(f.id == locked.c.id).values(run_at=func.now() + lease, claim=f.claim + 1)
    row = (await conn.execute(statement.returning(feeds))).first()
    if row is None:
        return None
    return LeasedFeed(
        row.id,
        row.claim,
        row.application_id,
        row.url,
        timedelta(seconds=row.interval_s),
        row.audience,
        row.category,
        row.etag,
        row.last_modified,
        row.digest,
        row.failures,
    )


async def next_due(conn: AsyncConnection) -> float | None:
    """Return the seconds until a feed is due; None if there is no active feed."""
    wait = func.extract("epoch", func.min(feeds.c.run_at) - func.now())
    seconds = (await conn.execute(select(wait).where(feeds.c.status == "active"))).scalar()
    return None if seconds is None else max(0.0, float(seconds))


async def settle(conn: AsyncConnection, feed: LeasedFeed, wait: timedelta, **values: Any) -> bool:
    """Update columns of a leased feed, and make it due again after `wait`.

    Returns:
        Whether the feed was updated; False if the lease was lost, or the feed was changed or removed meanwhile.
    """
    conditions = (feeds.c.id == feed.id, feeds.c.claim == feed.claim)
    statement = update(feeds).where(*conditions).values(run_at=func.now() + wait, **values)
    return (await conn.execute(statement)).rowcount == 1


async def add_counts(
    conn: AsyncConnection, feed_id: UUID, outcomes: Mapping[str, int], refused: Sequence[Mapping[str, str | None]]
) -> None:
    """Add to a feed's counts of alerts by outcome, and to its list of refused alerts.

    Args:
        conn: the connection, in a transaction.
        feed_id: the id of the feed.
        outcomes: the numbers of alerts to add, by outcome.
        refused: the refused alerts to add. The list keeps the latest MAX_REFUSALS.
    """
    query = select(feeds.c.counts, feeds.c.refusals).where(feeds.c.id == feed_id)
    row = (await conn.execute(query.with_for_update(key_share=True))).first()
    if row is None:
        return
    counts = {name: row.counts.get(name, 0) + outcomes.get(name, 0) for name in {*row.counts, *outcomes}}
    refusals = [*refused, *(refusal for refusal in row.refusals if refusal not in refused)][:MAX_REFUSALS]
    await conn.execute(update(feeds).where(feeds.c.id == feed_id).values(counts=counts, refusals=refusals))


async def filter_unread(conn: AsyncConnection, feed_id: UUID, keys: Collection[str]) -> set[str]:
    """Return those of the entry keys whose entries were not read yet.

    `keys` has the keys of all entries that the feed lists. The read marks of other entries are deleted.
    """
    by_digest = {_digest(key): key for key in keys}
    removal = delete(feed_entries).where(feed_entries.c.feed_id == feed_id, feed_entries.c.digest.not_in(by_digest))
    await conn.execute(removal)
    read_marks = select(feed_entries.c.digest).where(feed_entries.c.feed_id == feed_id)
    digests = (await conn.execute(read_marks)).scalars()
    return {*keys} - {by_digest[digest] for digest in digests if digest in by_digest}


async def mark_read(conn: AsyncConnection, feed_id: UUID, key: str) -> None:
    """Mark an entry of a feed as read."""
    statement = insert(feed_entries).values(feed_id=feed_id, digest=_digest(key)).on_conflict_do_nothing()
    await conn.execute(statement)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
