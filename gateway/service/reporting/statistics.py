"""Summarize recent deliveries over time and by push service, and the jobs in the queue."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gateway.domain import clock
from gateway.domain.delivery import OutcomeName
from gateway.domain.notification import Lane
from gateway.push.endpoints import vendor_name
from gateway.records.delivery_log import reader, statistics
from gateway.records.postgres.engine import Connection, Row
from gateway.service import views
from gateway.service.reporting.breakers import ApplicationLimit, BreakerDirectory

# Outcomes that are responses of a push service.
RESPONSE_OUTCOMES = (OutcomeName.ACCEPTED, OutcomeName.GONE, OutcomeName.REJECTED)
# Numbers of deliveries by push service and outcome.
OutcomesByService = dict[str, Counter[str]]


async def summarize(
    conn: Connection,
    application_id: UUID,
    since: datetime,
    until: datetime,
    step: timedelta,
    breakers: BreakerDirectory,
) -> views.Statistics:
    """Return the statistics of a period in intervals of `step`.

    `breakers` reports the state of the push services.
    """
    open_breakers = breakers.open_breakers(application_id)
    limits = {limit.push_service: limit for limit in breakers.limits(application_id)}
    rows = await statistics.sample_steps(conn, application_id, since, until, step)
    totals = [row for row in rows if row.is_total]
    settled = await _count_settled(conn, application_id, totals, step)
    by_service: OutcomesByService = {}
    by_step: dict[datetime, Counter[str]] = {row.at: Counter() for row in totals}
    sampled: dict[datetime, dict[tuple[str, str], int]] = {row.at: {} for row in totals}
    latest_steps = {row.at for row in totals[-2:]}
    responding = set()
    for row in rows:
        if row.is_total or row.host is None:
            continue
        if row.at in latest_steps and row.outcome in RESPONSE_OUTCOMES:
            responding.add(vendor_name(row.host))
        sampled[row.at][row.host, row.outcome] = row.deliveries
    for at, counts in sampled.items():
        for (host, outcome), estimated in _scale(counts, settled[at]).items():
            by_step[at][outcome] += estimated
            by_service.setdefault(vendor_name(host), Counter())[outcome] += estimated
    for name in limits:
        by_service.setdefault(name, Counter())
    return {
        "since": since,
        "until": until,
        "estimated": any(settled[row.at] > row.deliveries for row in totals),
        "steps": [
            {
                "at": row.at,
                "settled": settled[row.at],
                "outcomes": _outcomes(by_step[row.at]),
                "answer_ms": _percentiles(row.answer_ms),
                "accept_ms": _percentiles(row.accept_ms),
            }
            for row in totals
        ],
        "push_services": [
            {
                "push_service": name,
                "breaker": _breaker(name, open_breakers, responding),
                "limit": _limit(limits.get(name)),
                "outcomes": _outcomes(counts),
            }
            for name, counts in sorted(by_service.items(), key=lambda item: -item[1].total())
        ],
        "queue": await _queue(conn, application_id),
    }


async def _count_settled(
    conn: Connection, application_id: UUID, totals: Sequence[Row[Any]], step: timedelta
) -> Mapping[datetime, int]:
    """Return the number of deliveries settled in each interval.

    A sample below SAMPLE_SIZE contains all deliveries of its interval. For a full sample, the number is the difference
    of the positions at both ends of the interval.
    """
    counts = {row.at: row.deliveries for row in totals}
    full_steps = [at for at, count in counts.items() if count == statistics.SAMPLE_SIZE]
    if full_steps:
        end_of_log = await reader.last_position(conn, application_id) + 1
        first_positions = await statistics.find_first_positions(
            conn, application_id, sorted({*full_steps, *(at + step for at in full_steps)})
        )
        for at in full_steps:
            begin, end = (first_positions[bound] or end_of_log for bound in (at, at + step))
            counts[at] = max(counts[at], end - begin)
    return counts


async def _queue(conn: Connection, application_id: UUID) -> list[views.LaneDepth]:
    """Return the numbers of queued jobs of an application in each lane."""
    now = clock.now()
    rows = {row.lane: row for row in await statistics.count_jobs(conn, application_id, now)}
    lanes: list[views.LaneDepth] = []
    for lane in Lane:
        row = rows.get(lane)
        waited = 0.0 if row is None or row.oldest is None else max(0.0, (now - row.oldest).total_seconds())
        due, later, paused = (0, 0, 0) if row is None else (row.due, row.later, row.paused)
        lanes.append({"lane": lane.label, "due": due, "later": later, "paused": paused, "oldest_s": round(waited, 1)})
    return lanes


def _scale(sample: Mapping[tuple[str, str], int], total: int) -> dict[tuple[str, str], int]:
    """Scale the counts of a sample so that their sum is `total`. The largest count absorbs the rounding error."""
    sample_size = sum(sample.values())
    scaled = {key: count * total // sample_size for key, count in sample.items()}
    if scaled:
        scaled[max(sample, key=lambda key: sample[key])] += total - sum(scaled.values())
    return scaled


def _outcomes(counts: Mapping[str, int]) -> views.Outcomes:
    return {
        "accepted": counts.get("accepted", 0),
        "gone": counts.get("gone", 0),
        "rejected": counts.get("rejected", 0),
        "expired": counts.get("expired", 0),
        "cancelled": counts.get("cancelled", 0),
        "skipped": counts.get("skipped", 0),
    }


def _percentiles(values: Sequence[float] | None) -> views.Percentiles | None:
    return None if values is None or values[0] is None else {"p50": round(values[0]), "p95": round(values[1])}


def _breaker(service: str, open_breakers: Collection[str], responding: Collection[str]) -> str:
    """Return the state of a push service's circuit breaker.

    `open` is known only for breakers of this process. `closed` means that the push service has responded recently, to
    any worker. Otherwise the state is `unknown`.
    """
    if service in open_breakers:
        return "open"
    return "closed" if service in responding else "unknown"


def _limit(limit: ApplicationLimit | None) -> views.PushServiceLimit | None:
    if limit is None:
        return None
    held_until = clock.now() + timedelta(seconds=limit.held_s) if limit.held_s else None
    return {"per_second": limit.per_second, "held_until": held_until}
