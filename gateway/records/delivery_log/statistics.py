"""Statistics of recent deliveries and of the queue, at a bounded cost.

Of each time step, only the last SAMPLE_SIZE deliveries are read, through the index that also serves the pages of the
log. If a step has more deliveries, their number is the difference between the log positions at its end and its start,
since positions are consecutive, and the shares of hosts and outcomes are estimated from the sample. So sixty steps cost
the same in a log of ten thousand rows and in one of ten million.
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

# Deliveries to read per step.
SAMPLE_SIZE = 200

# Plain SQL, since a lateral join of a series with partitions is hard to read in Core. `answer_ms` is the duration of
# the request to the push service. `accept_ms` is the time from the scheduled start of the notification to the response
# of the push service, so it includes delays by a throttle or quiet hours.
_SAMPLE_STEPS = text("""
SELECT steps.at, sample.host, sample.outcome, grouping(sample.host) = 1 AS is_total, count(sample.host) AS deliveries,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY sample.answer_ms)
           FILTER (WHERE sample.outcome = 'accepted') AS answer_ms,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY sample.accept_ms)
           FILTER (WHERE sample.outcome = 'accepted') AS accept_ms
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
) AS sample ON true
GROUP BY GROUPING SETS ((steps.at), (steps.at, sample.host, sample.outcome))
ORDER BY steps.at
""")
# For each bound, the position of the first delivery that ended at or after it.
_FIRST_POSITIONS = text("""
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
    """Return for each step one row with the totals of the step (`is_total`), and one row for each host and outcome."""
    values = {"since": since, "last": until - step, "step": step, "sample": SAMPLE_SIZE}
    return (await conn.execute(_SAMPLE_STEPS, values | _partitions(application_id, since, until))).all()


async def find_first_positions(
    conn: AsyncConnection, application_id: UUID, bounds: Sequence[datetime]
) -> dict[datetime, int | None]:
    """Return for each time in `bounds` the position of the first delivery that ended at or after the time, or None."""
    values = {"bounds": list(bounds)} | _partitions(application_id, min(bounds), min(bounds)) | {"last_day": date.max}
    return {row.at: row.position for row in await conn.execute(_FIRST_POSITIONS, values)}


async def count_jobs(conn: AsyncConnection, application_id: UUID, now: datetime) -> Sequence[Row[Any]]:
    """Return (lane, due, later, paused, oldest) for each lane in which an application has jobs.

    `due`, `later` and `paused` are numbers of jobs; `oldest` is when the oldest due job came due.
    """
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
    """Return the parameters that bound the partitions.

    A partition is the day of a notification. Its deliveries end on that day or up to MAX_TTL later.
    """
    return {
        "application_id": application_id,
        "first_day": (since - MAX_TTL).astimezone(UTC).date(),
        "last_day": (until + MAX_CLOCK_SKEW).astimezone(UTC).date(),
    }
