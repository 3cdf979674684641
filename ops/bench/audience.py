"""Measure the queries of `POST /v1/audiences/preview` on an embedded Postgres.

The devices have rows of realistic size. They belong to the measured application; a second application has a tenth as
many. Each audience is counted once to warm up and then repeatedly; the figure is the median.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import testbed
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from testbed import console

from gateway.domain.ids import new_id
from gateway.embedded import EmbeddedPostgres
from gateway.push.vapid import VapidKey
from gateway.records import applications
from gateway.records.postgres import migrate
from gateway.records.postgres.engine import open_engine
from gateway.service.notifications import representations

# Locations are spread over a square of 10 by 10 degrees; this polygon contains 1 % of them.
ONE_PERCENT = {"type": "Polygon", "coordinates": [[[12, 45], [13, 45], [13, 46], [12, 46], [12, 45]]]}
AUDIENCES: dict[str, Any] = {
    "a topic, 5 %": {"topic": "weather"},
    "an attribute, 10 %": {"attribute": "plan", "eq": "pro"},
    "a polygon, 1 %": {"within": ONE_PERCENT},
    "near, 1 %": {"near": {"lat": 45.5, "lon": 12.5, "radius_m": 56_000}},
    "a topic in a polygon, not under 18": {
        "all": [{"topic": "weather"}, {"within": ONE_PERCENT}, {"not": {"attribute": "age", "lt": 18}}]
    },
    "a topic or an attribute": {"any": [{"topic": "weather"}, {"attribute": "plan", "eq": "pro"}]},
    "everyone": {"everyone": True},
}

FILL = text("""
    INSERT INTO devices (id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id,
                         platform, browser, locale, timezone, attributes, topics, location, located_at)
    SELECT gen_random_uuid(), :application_id, 'https://fcm.googleapis.com/fcm/send/' || repeat(md5(n::text), 5),
           sha256(n::text::bytea), 'fcm.googleapis.com',
           substr(sha256(n::text::bytea) || sha256(md5(n::text)::bytea) || sha256('x'), 1, 65),
           substr(sha256(md5(n::text)::bytea), 1, 16), :vapid_key_id, 'user-' || n / 2,
           (ARRAY['android', 'ios', 'windows', 'macos'])[1 + n % 4], 'Chrome ' || 130 + n % 10,
           (ARRAY['en-US', 'de-AT', 'de-DE', 'fr'])[1 + n % 4], 'Europe/Vienna',
           jsonb_build_object('plan', CASE WHEN random() < 0.1 THEN 'pro' ELSE 'free' END, 'age', n % 90,
                              'first_name', 'Name ' || n % 1000, 'city', 'City ' || n % 500),
           CASE WHEN random() < 0.05 THEN ARRAY['weather'] ELSE '{}' END
               || ARRAY['topic-' || n % 50, 'topic-' || 50 + n % 70],
           point(10 + random() * 10, 40 + random() * 10), now()
    FROM generate_series(1, :devices) AS n
""")


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("audience", __doc__)
    parser.add_argument("--devices", type=int, default=1_000_000, help="number of devices (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="measurements per audience (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
        Path(directory).chmod(0o711)
        with EmbeddedPostgres(Path(directory) / "postgres") as postgres:
            migrate.upgrade(postgres.url)
            figures = asyncio.run(measure(postgres.url, options.devices, options.repeat))
    testbed.write_json(options.json, {"devices": options.devices, "audiences": figures})


async def measure(url: str, devices: int, repeat: int) -> list[dict[str, Any]]:
    """Return each audience with its counts and the milliseconds of every measurement."""
    figures = []
    engine = open_engine(url)
    application_id = new_id()
    began = time.perf_counter()
    async with engine.begin() as conn:
        await conn.execute(text("SELECT setseed(0.42)"))
        await _fill(conn, new_id(), devices // 10)
        await _fill(conn, application_id, devices)
    async with engine.connect() as conn:
        autocommit = await conn.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("VACUUM ANALYZE devices"))
        size = (await conn.execute(text("SELECT pg_size_pretty(pg_total_relation_size('devices'))"))).scalar()
    console.print(f"{devices} devices created in {time.perf_counter() - began:.0f} s, {size} with their indexes")
    table = testbed.make_table("audience", "devices", "users", "median ms", "slowest ms")
    async with engine.connect() as conn:
        for name, audience in AUDIENCES.items():
            await representations.preview_audience(conn, application_id, audience)
            times = []
            for _ in range(repeat):
                began = time.perf_counter()
                preview = await representations.preview_audience(conn, application_id, audience)
                times.append((time.perf_counter() - began) * 1000)
            figures.append({"name": name, "devices": preview["devices"], "users": preview["users"], "ms": times})
            cells = (f"{statistics.median(times):.0f}", f"{max(times):.0f}")
            table.add_row(name, f"{preview['devices']:,}", f"{preview['users']:,}", *cells)
    console.print(table)
    await engine.dispose()
    return figures


async def _fill(conn: AsyncConnection, application_id: UUID, devices: int) -> None:
    await applications.add(conn, application_id, "Bench", "mailto:bench@example.org", [])
    key_id = new_id()
    await applications.add_vapid_key(conn, key_id, application_id, VapidKey.generate().public_key, b"not used")
    values = {"application_id": application_id, "vapid_key_id": key_id, "devices": devices}
    await conn.execute(FILL, values)


if __name__ == "__main__":
    main()
