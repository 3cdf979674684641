"""Measure reads of a large log: pages by every filter, one delivery, lists, inboxes, and the live stream.

`log_rows` creates the rows in an embedded Postgres with the settings of `gateway up`; `--data-dir` keeps them for the
next run. All requests go over HTTP to one `gateway serve`. Each request is sent once right after the start of Postgres,
with cold caches, and then repeatedly; the figures are the first time, and the median and the 99th percentile of the
later ones. With `--plans` Postgres logs the plans of slow statements, including the partitions that each one touched.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import aiohttp
import asyncpg
from rich import box
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import log_rows

from gateway.domain import ids
from gateway.domain.delivery import Accepted, DeliveryResult, ResultBatch
from gateway.domain.job import Job, JobKind
from gateway.domain.notification import Lane
from gateway.embedded import EmbeddedPostgres
from gateway.records.delivery_log import writer
from gateway.records.postgres import migrate
from gateway.records.postgres.engine import open_engine

SLOW_MS = 100
BATCH = 500
READY_S = 60
SETTINGS = {"max_wal_size": "8GB"}

console = Console(highlight=False, width=100)


@dataclass(slots=True)
class Request:
    """A request and its response times."""

    name: str
    path: str
    items: int = 0
    cold_ms: float = 0.0
    ms: list[float] = field(default_factory=list)

    @property
    def p99(self) -> float:
        """Return the 99th percentile in milliseconds."""
        return sorted(self.ms)[min(len(self.ms) - 1, int(len(self.ms) * 0.99))]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="ops/bench/log", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="deliveries in the log (%(default)s)")
    parser.add_argument("--days", type=int, default=30, help="days of the log, one partition each (%(default)s)")
    parser.add_argument("--repeat", type=int, default=40, help="measurements per warm request (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="keep the database here, and reuse an existing one")
    parser.add_argument("--only", default="", help="measure only requests whose name contains this text")
    parser.add_argument(
        "--plans", type=int, metavar="MS", help="log the plans of slower statements; this slows everything down"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    data_dir = options.data_dir or Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o711)  # as root, the embedded Postgres runs as another user
    try:
        filled_log = prepare_log(data_dir, options.rows, options.days)
        with EmbeddedPostgres(data_dir / "postgres", SETTINGS | plan_settings(options.plans)) as postgres:
            result = asyncio.run(measure(options, postgres.url, filled_log, data_dir))
        report(options, *result)
    finally:
        if options.data_dir is None:
            shutil.rmtree(data_dir, ignore_errors=True)


def prepare_log(data_dir: Path, rows: int, days: int) -> log_rows.FilledLog:
    """Create the log unless it exists. Postgres is stopped afterwards, so that the first round is cold."""
    description_file = data_dir / "log.json"
    with EmbeddedPostgres(data_dir / "postgres", SETTINGS) as postgres:
        migrate.upgrade(postgres.url)
        if not description_file.exists():
            start = time.perf_counter()
            filled_log = asyncio.run(log_rows.fill(postgres.url, rows, days))
            description = {
                "application_id": filled_log.application_id.hex,
                "secret": filled_log.secret,
                "days": list(map(str, filled_log.days)),
            }
            description_file.write_text(json.dumps(description))
            console.print(f"[dim]{rows:,} rows created in {time.perf_counter() - start:.0f} s[/]")
    description = json.loads(description_file.read_text())
    return log_rows.FilledLog(
        UUID(hex=description["application_id"]),
        description["secret"],
        [date.fromisoformat(day) for day in description["days"]],
    )


def plan_settings(slower_than_ms: int | None) -> dict[str, str]:
    """Return the settings that make Postgres log slow plans."""
    if slower_than_ms is None:
        return {}
    return {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": f"{slower_than_ms}ms",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_timing": "off",
    }


async def measure(
    options: argparse.Namespace, url: str, filled_log: log_rows.FilledLog, data_dir: Path
) -> tuple[list[Request], dict[str, float]]:
    """Measure all requests, cold and warm, and the stream."""
    conn = await asyncpg.connect(url)
    with run_server(url, data_dir) as origin:
        headers = {"Authorization": f"Bearer {filled_log.secret}"}
        async with aiohttp.ClientSession(origin, headers=headers) as http:
            requests = [
                request for request in await build_requests(conn, http, filled_log) if options.only in request.name
            ]
            for request in requests:
                request.cold_ms, request.items, _ = await send_request(http, request.path)
            for request in requests:
                # Three measurements suffice for a very slow request.
                for _ in range(options.repeat if request.cold_ms < 20 * SLOW_MS else 3):
                    request.ms.append((await send_request(http, request.path))[0])
            live = {} if options.only else await measure_stream(conn, url, http, filled_log)
    await conn.close()
    return requests, live


async def send_request(http: aiohttp.ClientSession, path: str) -> tuple[float, int, str | None]:
    """Send a GET request; return the milliseconds, the number of items, and the cursor of the next page."""
    start = time.perf_counter()
    async with http.get(path) as response:
        body = await response.json()
        ms = (time.perf_counter() - start) * 1000
        assert response.status == 200, (path, body)
    return ms, len(body["items"]) if "items" in body else 1, body.get("next_cursor")


async def build_requests(
    conn: "asyncpg.Connection[asyncpg.Record]", http: aiohttp.ClientSession, filled_log: log_rows.FilledLog
) -> list[Request]:
    """Return the requests: every filter with common, rare and missing values."""
    app, days = filled_log.application_id, filled_log.days
    middle, last = days[len(days) // 2], days[-1]
    by_size = (
        "SELECT id FROM notifications JOIN progress ON notification_id = id"
        " WHERE application_id = $1 AND day = $2 ORDER BY targets, id"
    )
    middle_ids, last_ids = [[row["id"] for row in await conn.fetch(by_size, app, day)] for day in (middle, last)]
    small_old, big_old, big_new = (
        ids.format_id(ids.NOTIFICATION, id_) for id_ in (middle_ids[0], middle_ids[-1], last_ids[-1])
    )
    count_query = (
        "SELECT {0} AS value, count(*) FROM deliveries WHERE application_id = $1 AND day = $2 AND {0} IS NOT NULL"
    )
    users = await conn.fetch(count_query.format("user_id") + " GROUP BY 1 ORDER BY 2 DESC, 1", app, middle)
    device_rows = await conn.fetch(count_query.format("device_id") + " GROUP BY 1 ORDER BY 2 DESC, 1", app, middle)
    user, rare_user = users[0]["value"], users[-1]["value"]
    retried = (
        "SELECT notification_id, device_id FROM deliveries"
        " WHERE day = $1 AND application_id = $2 AND attempts = 2 LIMIT 1"
    )
    delivery = await conn.fetchrow(retried, middle, app)
    noon = datetime(middle.year, middle.month, middle.day, 12, tzinfo=UTC)
    newest_time = await conn.fetchval(
        "SELECT max(settled_at) FROM deliveries WHERE application_id = $1 AND day = $2", app, last
    )
    hosts = ("fcm.googleapis.com", "wns2-par02p.notify.windows.com", log_rows.RARE_HOST, "nobody.example.org")
    busy_device, quiet_device = (ids.format_id(ids.DEVICE, device_rows[at]["value"]) for at in (0, -1))
    requests: list[Request] = []

    def add(name: str, path: str = "/v1/deliveries", **query: Any) -> None:
        parameters = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in query.items()}
        requests.append(Request(name, f"{path}?{urlencode(parameters)}" if query else path))

    add("newest 100")
    add("newest 1000", limit=1000)
    _, _, middle_cursor = await send_request(http, f"/v1/deliveries?{urlencode({'until': noon.isoformat()})}")
    add("from the middle of the log, by cursor", cursor=middle_cursor)
    add("from the middle by cursor, 1000", cursor=middle_cursor, limit=1000)
    for outcome in ("accepted", "gone", "skipped", "cancelled"):
        add(f"outcome {outcome}", outcome=outcome)
    add("outcome gone, 1000", outcome="gone", limit=1000)
    add("outcome cancelled by cursor", outcome="cancelled", cursor=middle_cursor)
    for host in hosts:
        add(f"host {host}", host=host)
    add("rare host, 1000", host=log_rows.RARE_HOST, limit=1000)
    add("host and outcome, common", host=hosts[0], outcome="gone")
    add("host and outcome, rare", host=hosts[1], outcome="rejected")
    add("host and outcome, none", host=hosts[2], outcome="cancelled")
    add("since the newest second", since=newest_time)
    add("since an hour before the newest, 1000", since=newest_time - timedelta(hours=1), limit=1000)
    add("since tomorrow", since=newest_time + timedelta(days=1))
    add("until noon of the middle day", until=noon)
    add("until before everything", until=noon - timedelta(days=200))
    add("a minute at noon", since=noon, until=noon + timedelta(minutes=1))
    add("an hour at noon, 1000", since=noon, until=noon + timedelta(hours=1), limit=1000)
    add("an hour at noon, outcome", since=noon, until=noon + timedelta(hours=1), outcome="gone")
    add("an hour at noon, rare outcome", since=noon, until=noon + timedelta(hours=1), outcome="cancelled")
    add("an hour at noon, rare host", since=noon, until=noon + timedelta(hours=1), host=log_rows.RARE_HOST)
    add("largest notification of the middle day", notification_id=big_old)
    add("largest notification of the middle day, 1000", notification_id=big_old, limit=1000)
    add("largest notification of the last day", notification_id=big_new)
    add("smallest notification of the middle day", notification_id=small_old)
    add("notification and outcome", notification_id=big_old, outcome="gone")
    add("notification and outcome, none", notification_id=big_old, outcome="cancelled")
    add("notification and rare host", notification_id=big_old, host=log_rows.RARE_HOST)
    add("notification and device, none", notification_id=big_old, device_id=busy_device)
    add("notification and user", notification_id=big_old, user_id=user)
    add("notification since noon", notification_id=big_old, since=noon)
    add("user with most rows", user_id=user)
    add("user with most rows, 1000", user_id=user, limit=1000)
    add("user with few rows", user_id=rare_user)
    add("unknown user", user_id="nobody")
    add("user and outcome", user_id=user, outcome="gone")
    add("user and host, none", user_id=user, host=hosts[3])
    add("user in an hour", user_id=user, since=noon, until=noon + timedelta(hours=1))
    add("device with most rows", device_id=busy_device)
    add("device with few rows", device_id=quiet_device)
    add("unknown device", device_id=ids.format_id(ids.DEVICE, UUID(int=7)))
    add("device and outcome", device_id=busy_device, outcome="rejected")
    add("device since noon", device_id=busy_device, since=noon)
    add("one delivery with its attempts", f"/v1/deliveries/{ids.format_id(ids.DELIVERY, *delivery)}")
    add("notifications", "/v1/notifications")
    add("notifications, 1000", "/v1/notifications", limit=1000)
    add("notifications of a kind and a status", "/v1/notifications", kind="alert", status="done")
    add("notifications of an unused status", "/v1/notifications", status="sending")
    add("one notification", f"/v1/notifications/{big_old}")
    add("funnel of a notification", f"/v1/notifications/{big_old}/funnel")
    add("inbox of the device with most rows", f"/v1/devices/{busy_device}/inbox", limit=20)
    add("inbox of a device", f"/v1/devices/{quiet_device}/inbox")
    return requests


async def measure_stream(
    conn: "asyncpg.Connection[asyncpg.Record]", url: str, http: aiohttp.ClientSession, filled_log: log_rows.FilledLog
) -> dict[str, float]:
    """Measure the stream: commit to event, resuming, and a client whose filter matches few rows."""
    engine = open_engine(url)
    today = datetime.now(UTC).date()
    notification_id, device_ids = ids.new_id(), [ids.new_id() for _ in range(BATCH)]
    now = datetime.now(UTC)
    await conn.execute(
        "INSERT INTO notifications (id, application_id, kind, status, day, content, audience, lane, urgency, ttl_s,"
        " expires_at, start_at) VALUES ($1, $2, 'direct', 'sending', $3, '{}', '{}', 1, 'normal', 60, $4, $4)",
        notification_id,
        filled_log.application_id,
        today,
        now,
    )
    await conn.execute("INSERT INTO progress (notification_id, targets) VALUES ($1, 100000000)", notification_id)
    job = Job(
        id=0,
        kind=JobKind.SEND,
        application_id=filled_log.application_id,
        notification_id=notification_id,
        lane=Lane.NORMAL,
        lease_generation=1,
        attempts=0,
        day=today,
        device_ids=tuple(device_ids),
    )
    figures: dict[str, float] = {}

    async def settle(host: str, batch: list[UUID]) -> tuple[float, float]:
        """Record a batch; return the duration in seconds and the time of the commit."""
        at = datetime.now(UTC)
        results = [DeliveryResult(id_, None, host, Accepted(), 1, 201, at, 30, at) for id_ in batch]
        start = time.perf_counter()
        async with engine.begin() as transaction:
            await writer.record(transaction, job, ResultBatch(settled=results))
        return time.perf_counter() - start, time.perf_counter()

    async def measure_wait(name: str, query: str, host: str, count: int = 60) -> None:
        times = []
        async with open_stream(http, query) as events:
            for _ in range(count):
                _, committed = await settle(host, [ids.new_id()])
                await anext(events)
                times.append((time.perf_counter() - committed) * 1000)
        figures[f"{name}, median"] = statistics.median(times)
        figures[f"{name}, p99"] = sorted(times)[int(len(times) * 0.99)]

    durations = [
        (await settle("fcm.googleapis.com", [ids.new_id() for _ in range(BATCH)]))[0] * 1000 for _ in range(60)
    ]
    figures["recording a batch of 500, median"] = statistics.median(durations)
    await measure_wait("commit to event", "", "fcm.googleapis.com")
    await measure_wait("commit to event, filter by a rare host", "?host=few.example.org", "few.example.org")
    position = await conn.fetchval("SELECT log_position FROM applications WHERE id = $1", filled_log.application_id)
    for rows_back in (10_000, 100_000):
        for name, query in (("", ""), (", filter by a rare host", "&host=few.example.org")):
            times = []
            for _ in range(20):
                start = time.perf_counter()
                async with open_stream(http, f"?last_event_id={position - rows_back}{query}") as events:
                    await anext(events)
                    times.append((time.perf_counter() - start) * 1000)
            figures[f"resumed {rows_back:,} rows back{name}, first event, slowest of 20"] = max(times)
    start = time.perf_counter()
    async with open_stream(http, f"?last_event_id={position - 10_000}") as events:
        for _ in range(10_000):
            await anext(events)
    figures["resumed 10,000 rows back, all events"] = (time.perf_counter() - start) * 1000
    await conn.execute("DELETE FROM notifications WHERE id = $1", notification_id)
    await engine.dispose()
    return figures


@asynccontextmanager
async def open_stream(http: aiohttp.ClientSession, query: str) -> AsyncIterator[AsyncIterator[int]]:
    """Open a stream; yield an iterator over the positions of its events."""
    async with http.get(f"/v1/deliveries/stream{query}") as response:
        assert response.status == 200
        await response.content.readline()

        async def events() -> AsyncIterator[int]:
            async for line in response.content:
                if line.startswith(b"id: "):
                    yield int(line[4:])

        yield events()


@contextmanager
def run_server(url: str, data_dir: Path) -> Iterator[str]:
    """Run `gateway serve`; yield its origin."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "GATEWAY_DATABASE_URL": url,
        "GATEWAY_MASTER_KEY": log_rows.MASTER_KEY,
        "GATEWAY_LOG_FORMAT": "json",
        "GATEWAY_INBOX_PER_MINUTE": "100000",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "gateway", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (data_dir / "serve.log").open("wb") as output:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + READY_S
            while time.monotonic() < deadline and server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            else:
                raise SystemExit(f"the server did not start: {(data_dir / 'serve.log').read_text()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def report(options: argparse.Namespace, requests: list[Request], live: dict[str, float]) -> None:
    """Print the figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("request", "items", "first ms", "median ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "request" else "right", no_wrap=True)
    for request in requests:
        figures = (f"{request.cold_ms:.1f}", f"{statistics.median(request.ms):.1f}", f"{request.p99:.1f}")
        table.add_row(request.name, str(request.items), *figures, style="bold" if request.p99 > SLOW_MS else "")
    console.print(table)
    for name, ms in live.items():
        console.print(f"{name}: {ms:.1f} ms")
    if options.json:
        figures_by_name = {
            request.name: {
                "cold_ms": request.cold_ms,
                "median_ms": statistics.median(request.ms),
                "p99_ms": request.p99,
            }
            for request in requests
        }
        options.json.write_text(
            json.dumps({"rows": options.rows, "requests": figures_by_name, "live_ms": live}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
