"""Create a delivery log of any size in SQL from a fixed seed, with the distribution of a busy gateway.

Three applications of unequal size have about two hundred notifications a day: the largest has a fifth of the day's
rows, most are small. Rows settle in batches of 500; 1 % of the rows settle hours later. Some outcomes, push services,
users and devices have many rows and some have few, and the outcome `cancelled` occurs on a single old day. The rows are
loaded into tables without indexes; attaching a table as a partition creates its indexes.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg

from gateway.domain import ids
from gateway.records.postgres import partitions
from gateway.records.postgres.engine import open_engine, plain_url
from gateway.service.access import applications
from gateway.service.access.secrets import Keyring

MASTER_KEY = "a master key for one benchmark only, and no other"
# Share of the rows, by application.
SHARES = (0.8, 0.18, 0.02)
# Notifications per day, by application.
NOTIFICATIONS = (150, 50, 5)
ROWS_PER_DEVICE = 27
RARE_HOST = "push.example.org"

DEVICES = """
INSERT INTO bench_devices (app, number, id, user_id, host)
SELECT $1::int, n,
       (lpad(to_hex(1700000000000 + n::bigint * 60000 + $1::int), 12, '0') || '7'
           || substr(md5($1::int || '-' || n), 1, 3) || '8' || substr(md5($1::int || '-' || n), 4, 15))::uuid,
       CASE WHEN random() < 0.6 THEN 'u-' || floor($2::int / 2.0 * power(random(), 1.3)) END,
       CASE WHEN n % 2000 = 7 THEN 'push.example.org' WHEN h < 0.7 THEN 'fcm.googleapis.com'
            WHEN h < 0.9 THEN 'updates.push.services.mozilla.com' WHEN h < 0.98 THEN 'web.push.apple.com'
            ELSE 'wns2-par02p.notify.windows.com' END
FROM (SELECT n, random() AS h FROM generate_series(0, $2::int - 1) AS n) AS made
"""

REAL_DEVICES = """
INSERT INTO devices (id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id, locale)
SELECT d.id, $2, 'https://' || d.host || '/fcm/send/' || repeat(md5(d.id::text), 5), sha256(d.id::text::bytea), d.host,
       substr(sha256(d.id::text::bytea) || sha256(md5(d.id::text)::bytea) || sha256('x'), 1, 65),
       substr(sha256(md5(d.id::text)::bytea), 1, 16), (SELECT id FROM vapid_keys WHERE application_id = $2), d.user_id,
       'de-AT'
FROM bench_devices AS d WHERE app = $1
"""

# Sizes decrease with the rank. The smallest notifications go to a few devices, which receive many of them.
PLANS = """
INSERT INTO bench_plans (app, application_id, day, rank, id, size, first, starts_at, devices)
SELECT app, application_id, day, rank,
       (lpad(to_hex((extract(epoch FROM starts_at) * 1000)::bigint), 12, '0') || '7' || substr(md5(key), 1, 3) || '8'
           || substr(md5(key), 4, 15))::uuid,
       size, floor(devices * CASE WHEN size < 100 THEN power(luck, 4) ELSE luck END), starts_at, devices
FROM (
    SELECT $1::int AS app, $2::uuid AS application_id, day::date AS day, k AS rank,
           $1::int || '/' || day || '/' || k AS key,
           least($4::int, greatest(1, round($3::float8 * power(k, -1.3)
               / (SELECT sum(power(j, -1.3)) FROM generate_series(1, $5::int) AS j))))::int AS size,
           random() AS luck, $4::int AS devices,
           (day + random() * interval '22 hours') AT TIME ZONE 'UTC' AS starts_at
    FROM generate_series($6::date, $7::date, interval '1 day') AS day, generate_series(1, $5::int) AS k
) AS planned
"""

DELIVERIES = """
INSERT INTO bench_deliveries
SELECT day, notification_id, device_id, application_id,
       row_number() OVER (PARTITION BY application_id ORDER BY settled_at, notification_id),
       user_id, host, outcome,
       CASE outcome WHEN 'accepted' THEN 201 WHEN 'gone' THEN 410 WHEN 'rejected' THEN 413 END,
       CASE outcome WHEN 'accepted' THEN '' WHEN 'gone' THEN 'the push service answered 410: the subscription is gone'
                    ELSE 'the push service answered 413, or the notification expired first' END,
       CASE WHEN late THEN 2 ELSE 1 END, settled_at - interval '40 ms', 40, settled_at,
       CASE WHEN outcome = 'accepted' THEN 'https://' || host || '/message/' || left(md5(device_id::text), 22) END,
       CASE WHEN outcome = 'accepted' THEN 3600 END, NULL
FROM (
    SELECT p.day, p.id AS notification_id, d.id AS device_id, p.application_id, d.user_id, d.host, p.late,
           CASE WHEN p.day = $1::date AND p.rank = 30 THEN 'cancelled' WHEN p.r < 0.03 THEN 'gone'
                WHEN p.r < 0.034 THEN 'rejected' WHEN p.r < 0.042 THEN 'expired' WHEN p.r < 0.046 THEN 'skipped'
                ELSE 'accepted' END AS outcome,
           least(now() - interval '5 minutes', p.starts_at + make_interval(secs => i / 500)
               + CASE WHEN p.late THEN random() * interval '20 hours' ELSE interval '0' END) AS settled_at
    FROM (
        SELECT bench_plans.*, i, random() AS r, random() < 0.01 AS late
        FROM bench_plans, generate_series(0, size - 1) AS i
    ) AS p
    JOIN bench_devices AS d ON d.app = p.app AND d.number = (p.first + p.i) % p.devices
) AS made
ORDER BY settled_at, notification_id
"""

ATTEMPTS = """
INSERT INTO attempts
SELECT day, notification_id, device_id, 1, attempted_at - interval '1 minute', 40, 503, 'the push service answered 503',
       attempted_at
FROM deliveries WHERE attempts = 2
"""

RECEIPTS = """
INSERT INTO {name}
SELECT day, notification_id, device_id, event, CASE event WHEN 'clicked' THEN 'open' END,
       settled_at + random() * interval '2 hours'
FROM (SELECT *, random() AS r FROM {source} WHERE outcome = 'accepted') AS d,
     (VALUES ('displayed', 0.3), ('clicked', 0.02)) AS receipts (event, share)
WHERE d.r < receipts.share
"""

NOTIFICATIONS_OF_PLANS = """
INSERT INTO notifications (id, application_id, kind, status, day, content, audience, lane, urgency, ttl_s, expires_at,
                           start_at, created_at, finished_at)
SELECT id, application_id, (ARRAY['campaign', 'direct', 'event', 'alert'])[1 + rank % 4], 'done', day,
       '{"title": "Autumn sale", "body": "Twenty percent off, only today", "url": "/sale"}', '{"everyone": true}',
       2, 'normal', 86400, starts_at + interval '1 day', starts_at, starts_at, ended_at
FROM bench_plans
JOIN (SELECT notification_id, max(settled_at) AS ended_at FROM deliveries GROUP BY notification_id) AS ends
    ON notification_id = id;

INSERT INTO progress (notification_id, targets, accepted, gone, rejected, expired, cancelled, skipped)
SELECT notification_id, count(*),
       count(*) FILTER (WHERE outcome = 'accepted'), count(*) FILTER (WHERE outcome = 'gone'),
       count(*) FILTER (WHERE outcome = 'rejected'), count(*) FILTER (WHERE outcome = 'expired'),
       count(*) FILTER (WHERE outcome = 'cancelled'), count(*) FILTER (WHERE outcome = 'skipped')
FROM deliveries GROUP BY notification_id;

UPDATE applications SET log_position = found.last
FROM (SELECT application_id, max(position) AS last FROM deliveries GROUP BY application_id) AS found
WHERE id = application_id;
"""


@dataclass(frozen=True, slots=True)
class FilledLog:
    """The created log: the largest application with its secret key, and the days that have rows."""

    application_id: UUID
    secret: str
    days: list[date]


async def fill(url: str, rows: int, days: int) -> FilledLog:
    """Create the log in a migrated, empty database. Its last day is yesterday."""
    today = datetime.now(UTC).date()
    first = today - timedelta(days=days)
    log_days = [first + timedelta(days=offset) for offset in range(days)]
    engine = open_engine(url)
    async with engine.begin() as conn:
        keyring = Keyring(MASTER_KEY.encode())
        created = [
            await applications.create(conn, keyring, f"Bench {number}", "mailto:bench@example.org", [])
            for number in range(len(SHARES))
        ]
        await partitions.create_partitions(conn, today, 7)
    await engine.dispose()
    application_ids = [UUID(hex=application["id"].removeprefix(f"{ids.APPLICATION}_")) for application in created]
    conn = await asyncpg.connect(plain_url(url))
    try:
        await conn.execute("SELECT setseed(0.42); SET work_mem = '1GB'; SET maintenance_work_mem = '1GB'")
        await conn.execute("SET max_parallel_workers_per_gather = 0; SET synchronous_commit = off")
        await _plan(conn, application_ids, rows, log_days)
        await _load(conn, log_days)
        await conn.execute(NOTIFICATIONS_OF_PLANS)
        await conn.execute("DROP TABLE bench_devices, bench_plans")
        await conn.execute("VACUUM ANALYZE")
        await conn.execute("CHECKPOINT")
    finally:
        await conn.close()
    return FilledLog(application_ids[0], created[0]["secret_key"], log_days)


async def _plan(
    conn: "asyncpg.Connection[asyncpg.Record]", application_ids: list[UUID], rows: int, days: list[date]
) -> None:
    await conn.execute("CREATE UNLOGGED TABLE bench_devices (app int, number int, id uuid, user_id text, host text)")
    await conn.execute(
        "CREATE UNLOGGED TABLE bench_plans (app int, application_id uuid, day date, rank int, id uuid, size int,"
        " first int, starts_at timestamptz, devices int)"
    )
    for app, (application_id, share, count) in enumerate(zip(application_ids, SHARES, NOTIFICATIONS, strict=True)):
        devices = max(1, int(rows * share / ROWS_PER_DEVICE))
        await conn.execute(DEVICES, app, devices)
        await conn.execute(REAL_DEVICES, app, application_id)
        daily = rows * share / len(days)
        await conn.execute(PLANS, app, application_id, daily, devices, count, days[0], days[-1])
    await conn.execute("ANALYZE bench_devices, bench_plans")


async def _load(conn: "asyncpg.Connection[asyncpg.Record]", days: list[date]) -> None:
    await conn.execute("CREATE TABLE bench_deliveries (LIKE deliveries) PARTITION BY RANGE (day)")
    for day in days:
        await conn.execute(
            f"CREATE TABLE {_name('deliveries', day)} PARTITION OF bench_deliveries FOR VALUES {_bounds(day)}"
        )
        for table in ("attempts", "receipts"):
            await conn.execute(f"CREATE TABLE {_name(table, day)} (LIKE {table})")
    await conn.execute(DELIVERIES, days[min(3, len(days) - 1)])
    for day in days:
        deliveries, receipts = _name("deliveries", day), _name("receipts", day)
        await conn.execute(RECEIPTS.format(name=receipts, source=deliveries))
        await conn.execute(f"ALTER TABLE bench_deliveries DETACH PARTITION {deliveries}")
        for table in ("deliveries", "attempts", "receipts"):
            await conn.execute(f"ALTER TABLE {table} ATTACH PARTITION {_name(table, day)} FOR VALUES {_bounds(day)}")
    await conn.execute("DROP TABLE bench_deliveries")
    await conn.execute("ANALYZE deliveries")
    await conn.execute(ATTEMPTS)


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


def _bounds(day: date) -> str:
    return f"FROM ('{day}') TO ('{day + timedelta(days=1)}')"
