"""Pages of the delivery log are ordered by the time of settling, not by the order of insertion."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from gateway.domain.delivery import OutcomeName
from gateway.domain.ids import new_id
from gateway.domain.notification import Kind
from gateway.records.delivery_log import reader
from gateway.records.delivery_log.reader import LogFilters
from gateway.records.postgres import schema
from gateway.records.postgres.schema import deliveries
from tests.support.gateway_parts import Parts

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
OUTCOMES = tuple(OutcomeName)
HOSTS = (schema.COMMON_HOST, "web.push.apple.com", "push.example.org")


@pytest.fixture
async def rows(parts: Parts) -> list[dict[str, object]]:
    """Insert deliveries of two notifications on two days; the insertion order differs from the settling order."""
    first, second = [(await parts.submit(Kind.DIRECT)).id for _ in range(2)]
    inserted = [
        row(parts, number, *((first, NOON.date()) if number % 2 else (second, NOON.date() - timedelta(days=1))))
        for number in range(60)
    ]
    async with parts.engine.begin() as conn:
        for id_, day in ((first, NOON.date()), (second, NOON.date() - timedelta(days=1))):
            n = schema.notifications
            await conn.execute(update(n).where(n.c.id == id_).values(day=day, created_at=NOON - timedelta(days=2)))
        await conn.execute(insert(deliveries), inserted)
    return inserted


def row(parts: Parts, number: int, notification_id: UUID, day: date) -> dict[str, object]:
    """Return the log row of delivery `number`, whose fields vary with the number."""
    return {
        "day": day,
        "notification_id": notification_id,
        "device_id": new_id(),
        "application_id": parts.application_id,
        "position": number + 1,
        "user_id": f"u-{number % 3}",
        "host": HOSTS[number % len(HOSTS)],
        "outcome": OUTCOMES[number % 7 % len(OUTCOMES)],
        "cause": "",
        "attempts": 1,
        "duration_ms": 1,
        "settled_at": NOON + timedelta(minutes=(number // 4) * 7 % 15),
    }


async def read_positions(parts: Parts, filters: LogFilters, limit: int) -> list[int]:
    """Read all pages, and return the positions of their entries."""
    positions: list[int] = []
    before = None
    async with parts.engine.connect() as conn:
        while page := await reader.list_page(conn, parts.application_id, filters, before=before, limit=limit):
            positions += [entry.row.position for entry in page]
            before = positions[-1]
    return positions


async def test_pages_follow_settling_order_without_gaps(parts: Parts, rows: list[dict[str, object]]) -> None:
    """Pages follow the order of settling, without gaps or repetition."""
    expected = [row["position"] for row in sorted(rows, key=settling_order, reverse=True)]
    assert expected != sorted(expected, reverse=True)
    for limit in (1, 7, 60, 100):
        assert await read_positions(parts, LogFilters(), limit) == expected


async def test_filters_and_pairs_of_filters_match(parts: Parts, rows: list[dict[str, object]]) -> None:
    """Each filter and each pair of filters returns the matching rows."""
    sample = rows[17]
    since, until = NOON + timedelta(minutes=3), NOON + timedelta(minutes=9)
    combinations: list[dict[str, object]] = [
        *({"outcome": outcome} for outcome in OUTCOMES),
        *({"host": host} for host in HOSTS),
        *({"host": host, "outcome": outcome} for host in HOSTS for outcome in OUTCOMES),
        {"notification_id": sample["notification_id"]},
        {"notification_id": sample["notification_id"], "outcome": OutcomeName.GONE},
        {"notification_id": sample["notification_id"], "device_id": sample["device_id"]},
        {"notification_id": new_id()},
        {"user_id": "u-1"},
        {"user_id": "u-1", "outcome": OutcomeName.ACCEPTED},
        {"device_id": sample["device_id"]},
    ]
    for fields in combinations:
        matching = [row for row in rows if all(row[name] == value for name, value in fields.items())]
        for bounds in ({}, {"since": since}, {"until": until}, {"since": since, "until": until}):
            within = [
                row
                for row in matching
                if ("since" not in bounds or row["settled_at"] >= since)  # type: ignore[operator]
                and ("until" not in bounds or row["settled_at"] < until)  # type: ignore[operator]
            ]
            expected = [row["position"] for row in sorted(within, key=settling_order, reverse=True)]
            assert await read_positions(parts, LogFilters(**fields, **bounds), 4) == expected, (fields, bounds)  # type: ignore[arg-type]


async def test_page_past_the_retention_is_empty(parts: Parts, rows: list[dict[str, object]]) -> None:
    """A page after a cursor whose entry the retention has deleted is empty."""
    async with parts.engine.connect() as conn:
        assert await reader.list_page(conn, parts.application_id, LogFilters(), before=10_000, limit=10) == []
    assert rows


def settling_order(row: dict[str, object]) -> tuple[object, object]:
    """Return the key by which pages of the log are sorted."""
    return row["settled_at"], row["position"]
