"""Audiences use indexes: the query plan of each kind of leaf of an audience, with 30,000 devices."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ClauseElement, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import Executable

from gateway.domain import ids
from gateway.domain.audience import parse
from gateway.records.audiences import match_active, raise_work_mem
from gateway.records.postgres.schema import devices
from tests.support.gateway_parts import Parts

SQUARE = {"type": "Polygon", "coordinates": [[[12, 45], [13, 45], [13, 46], [12, 46], [12, 45]]]}

INSERT_DEVICES = text("""
    INSERT INTO devices (id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id,
                         attributes, topics, zones, location)
    SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, :application_id,
           'https://fcm.googleapis.com/fcm/send/' || repeat(md5(n::text), 5), sha256(n::text::bytea),
           'fcm.googleapis.com', sha256('p'), sha256('a'), id, 'user-' || n / 2,
           jsonb_build_object('plan', 'plan-' || n % 1000, 'age', n % 90), ARRAY['topic-' || n % 100],
           ARRAY['TXC' || n % 500],
           point(10 + (n % 173) * 10.0 / 173, 40 + (n % 179) * 10.0 / 179)
    FROM generate_series(1, 30000) AS n, (SELECT id FROM vapid_keys LIMIT 1) AS key
""")


class Explain(Executable, ClauseElement):
    """An EXPLAIN of a statement, whose result is the plan as JSON."""

    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(Explain)
def _explain(element: Explain, compiler: SQLCompiler, **more: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.statement, **more)}"


@pytest.fixture
async def parts(parts: Parts) -> Parts:
    """A gateway whose application has 30,000 devices."""
    async with parts.engine.begin() as conn:
        await conn.execute(INSERT_DEVICES, {"application_id": parts.application_id})
        await conn.execute(text("ANALYZE devices"))
    return parts


def walk_plan(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a node of a plan and all nodes below it."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from walk_plan(child)


async def indexes_used(conn: AsyncConnection, application_id: UUID, audience: Any) -> set[str]:
    """Return the indexes that a count of the audience uses; fail if it reads the devices without an index."""
    query = select(func.count()).select_from(devices).where(match_active(application_id, parse(audience)))
    [plan] = (await conn.execute(Explain(query))).scalar_one()
    plan_nodes = list(walk_plan(plan["Plan"]))
    scanned = [node.get("Relation Name") for node in plan_nodes if "Seq Scan" in node["Node Type"]]
    assert "devices" not in scanned, plan
    return {node["Index Name"] for node in plan_nodes if "Index Name" in node}


async def test_each_leaf_uses_its_index(parts: Parts) -> None:
    """Postgres uses the index of each audience leaf."""
    device = ids.format_id(ids.DEVICE, UUID("00000000-0000-7000-8000-000000000007"))
    weather, plan = {"topic": "topic-7"}, {"attribute": "plan", "eq": "plan-7"}
    topics, attributes = "devices_topics_idx", "devices_attributes_idx"
    expected: list[tuple[Any, set[str]]] = [
        (weather, {topics}),
        (plan, {attributes}),
        ({"attribute": "plan", "in": ["plan-7", "plan-8"]}, {attributes}),
        ({"user_id": ["user-7", "user-8"]}, {"devices_user_id_idx"}),
        ({"device_id": device}, {"devices_application_id_id_idx"}),
        ({"within": SQUARE}, {"devices_location_idx"}),
        ({"near": {"lat": 45.5, "lon": 12.5, "radius_m": 50_000}}, {"devices_location_idx"}),
        ({"near": {"lat": 45.5, "lon": 180, "radius_m": 50_000}}, {"devices_location_idx"}),
        ({"zone": ["TXC7", "TXC8"]}, {"devices_zones_idx"}),
        ({"any": [weather, plan]}, {topics, attributes}),
    ]
    async with parts.engine.connect() as conn:
        await raise_work_mem(conn)
        for audience, indexes in expected:
            assert await indexes_used(conn, parts.application_id, audience) == indexes, audience
        for conjunction in (
            {"all": [weather, {"not": {"attribute": "age", "lt": 18}}]},
            {"all": [{"not": plan}, weather, {"last_seen": {"after": "2020-01-01T00:00:00Z"}}]},
        ):
            assert topics in await indexes_used(conn, parts.application_id, conjunction)
