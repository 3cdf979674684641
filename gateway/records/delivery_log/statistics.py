"""What the log and the queue come to lately, for people who watch: bounded however much there is.

Each step of time is looked into through the index that the log is paged by, and no further than SAMPLE deliveries from
its end. Positions are handed out without a gap, so a step that holds more is counted by the difference of two of them
and its mix taken from the sample: sixty steps cost the same with ten thousand rows and with ten million.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.notification import MAX_TTL
from gateway.records.delivery_log.reader import MAX_CLOCK_SKEW
from gateway.records.postgres.schema import jobs

SAMPLE_SIZE = 200

# As text, since a lateral look from a series into partitions is plainer so than in Core. A time to accept runs from
# when the notification was to start: what a throttle or quiet hours held back is in it.
_SAMPLED = text("""
SELECT steps.at, told.host, told.outcome, grouping(told.host) = 1 AS whole, count(told.host) AS deliveries,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY told.answer_ms)
           FILTER (WHERE told.outcome = 'accepted') AS answer_ms,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY told.accept_ms)
           FILTER (WHERE told.outcome = 'accepted') AS accept_ms
FROM generate_series(CAST(:since AS timestamptz), CAST(:last AS timestamptz), CAST(:step AS interval)) AS steps(at)
LEFT JOIN LATERAL (
    SELECT d.host, d.outcome, d.duration_ms AS answer_ms,
           greatest(0, extract(epoch FROM d.attempted_at - n.start_at) * 1000 + d.duration_ms) AS accept_ms
    FROM (
        SELECT d.notification_id, d.host, d.outcome, d.duration_ms, d.attempted_at FROM deliveries AS d
        WHERE d.application_id = :application_id AND d.day BETWEEN :first_day AND :last_day
          AND d.settled_at >= steps.at AND d.settled_at < steps.at + CAST(:step AS interval)
        ORDER BY d.settled_at DESC LIMIT :sample
    ) AS d LEFT JOIN notifications AS n ON n.id = d.notification_id
) AS told ON true
GROUP BY GROUPING SETS ((steps.at), (steps.at, told.host, told.outcome))
ORDER BY steps.at
""")
_FIRSTS = text("""
SELECT bounds.at, (
    SELECT d.position FROM deliveries AS d
    WHERE d.application_id = :application_id AND d.day BETWEEN :first_day AND :last_day AND d.settled_at >= bounds.at
    ORDER BY d.settled_at LIMIT 1
) AS position
FROM unnest(CAST(:bounds AS timestamptz[])) AS bounds(at)
""")


async def sample_steps(
    conn: AsyncConnection, application_id: UUID, since: datetime, until: datetime, step: timedelta
) -> Sequence[Row[Any]]:
    """For each step one row that is the `whole` of it, and one for each host and outcome; for none of them one more."""
    asked = {"since": since, "last": until - step, "step": step, "sample": SAMPLE_SIZE}
    return (await conn.execute(_SAMPLED, asked | _partitions(application_id, since, until))).all()


async def find_first_positions(
    conn: AsyncConnection, application_id: UUID, bounds: Sequence[datetime]
) -> dict[datetime, int | None]:
    """The position of what settled first from each time on; None when nothing has."""
    asked = {"bounds": list(bounds)} | _partitions(application_id, min(bounds), min(bounds)) | {"last_day": date.max}
    return {row.at: row.position for row in await conn.execute(_FIRSTS, asked)}


async def count_jobs(conn: AsyncConnection, application_id: UUID, now: datetime) -> Sequence[Row[Any]]:
    """Jobs by lane: those that are due, those that wait for their time, those that are paused."""
    j = jobs.c
    due = (j.run_at <= now) & ~j.parked
    query = select(
        j.lane,
        func.count().filter(due).label("due"),
        func.count().filter((j.run_at > now) & ~j.parked).label("later"),
        func.count().filter(j.parked).label("paused"),
        func.min(j.run_at).filter(due).label("oldest"),
    )
    return (await conn.execute(query.where(j.application_id == application_id).group_by(j.lane))).all()


def _partitions(application_id: UUID, since: datetime, until: datetime) -> dict[str, Any]:
    """A delivery settles on its notification's day or up to its longest life later: other days need no look."""
    return {
        "application_id": application_id,
        "first_day": (since - MAX_TTL).astimezone(UTC).date(),
        "last_day": (until + MAX_CLOCK_SKEW).astimezone(UTC).date(),
    }
