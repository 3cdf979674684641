"""What was sent lately, to watch: how much, how fast, what came of it at which push service, and what still waits."""

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

ANSWERS = (OutcomeName.ACCEPTED, OutcomeName.GONE, OutcomeName.REJECTED)
Mix = dict[str, Counter[str]]
"""Deliveries by outcome, by push service."""


async def summarize(
    conn: Connection,
    application_id: UUID,
    since: datetime,
    until: datetime,
    step: timedelta,
    open_breakers: Collection[str],
) -> dict[str, Any]:
    rows = await statistics.sample_steps(conn, application_id, since, until, step)
    totals = [row for row in rows if row.whole]
    settled = await _settled(conn, application_id, totals, step)
    mix: Mix = {}
    by_step: dict[datetime, Counter[str]] = {row.at: Counter() for row in totals}
    found: dict[datetime, dict[tuple[str, str], int]] = {row.at: {} for row in totals}
    newest = {row.at for row in totals[-2:]}
    answering = set()
    for row in rows:
        if row.whole or row.host is None:
            continue
        if row.at in newest and row.outcome in ANSWERS:
            answering.add(vendor_name(row.host))
        found[row.at][row.host, row.outcome] = row.deliveries
    for at, counts in found.items():
        for (host, outcome), estimated in _scaled(counts, settled[at]).items():
            by_step[at][outcome] += estimated
            mix.setdefault(vendor_name(host), Counter())[outcome] += estimated
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
            {"push_service": name, "breaker": _breaker(name, open_breakers, answering), "outcomes": _outcomes(counts)}
            for name, counts in sorted(mix.items(), key=lambda one: -one[1].total())
        ],
        "queue": await _queue(conn, application_id),
    }


async def _settled(
    conn: Connection, application_id: UUID, totals: Sequence[Row[Any]], step: timedelta
) -> Mapping[datetime, int]:
    """How many settled in each step: what the sample holds, and of a full one what its positions span."""
    counted = {row.at: row.deliveries for row in totals}
    full = [at for at, count in counted.items() if count == statistics.SAMPLE_SIZE]
    if full:
        last = await reader.last_position(conn, application_id) + 1
        firsts = await statistics.find_first_positions(
            conn, application_id, sorted({*full, *(at + step for at in full)})
        )
        for at in full:
            begin, end = (firsts[bound] or last for bound in (at, at + step))
            counted[at] = max(counted[at], end - begin)
    return counted


async def _queue(conn: Connection, application_id: UUID) -> list[dict[str, Any]]:
    now = clock.now()
    found = {row.lane: row for row in await statistics.count_jobs(conn, application_id, now)}
    lanes = []
    for lane in Lane:
        row = found.get(lane)
        waited = 0.0 if row is None or row.oldest is None else max(0.0, (now - row.oldest).total_seconds())
        counts = {name: 0 if row is None else getattr(row, name) for name in ("due", "later", "paused")}
        lanes.append({"lane": lane.label, **counts, "oldest_s": round(waited, 1)})
    return lanes


def _scaled(sample: Mapping[tuple[str, str], int], whole: int) -> dict[tuple[str, str], int]:
    """The sample's shares of the whole, which they add up to; what rounding leaves over is the largest's."""
    total = sum(sample.values())
    scaled = {name: count * whole // total for name, count in sample.items()}
    if scaled:
        scaled[max(sample, key=lambda name: sample[name])] += whole - sum(scaled.values())
    return scaled


def _outcomes(counts: Mapping[str, int]) -> dict[str, int]:
    return {name.value: counts.get(name.value, 0) for name in OutcomeName}


def _percentiles(found: Sequence[float] | None) -> dict[str, int] | None:
    return None if found is None or found[0] is None else {"p50": round(found[0]), "p95": round(found[1])}


def _breaker(service: str, open_breakers: Collection[str], answering: Collection[str]) -> str:
    """Return `open` for a breaker of this process, `closed` when any worker had an answer lately, else `unknown`."""
    if service in open_breakers:
        return "open"
    return "closed" if service in answering else "unknown"
