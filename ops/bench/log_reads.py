"""How fast the log answers when it is large: pages by every filter, one delivery, lists, inboxes, the live stream.

The rows are made once (`log_rows`) in a Postgres of the bench's own with the settings of `gateway up`; `--home` keeps
them for the next run. Everything is asked over HTTP of one `gateway serve`. A first round comes right after Postgres
was started, then each request is made often enough to be warm; figures are the median and the slowest but one percent.
With `--plans` Postgres writes the plans of what takes longer, the partitions that each touched among them, to its log.
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
class Asked:
    """One request and how long its answers took."""

    name: str
    path: str
    items: int = 0
    cold_ms: float = 0.0
    ms: list[float] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return sorted(self.ms)[min(len(self.ms) - 1, int(len(self.ms) * 0.99))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="ops/bench/log", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="deliveries in the log (%(default)s)")
    parser.add_argument("--days", type=int, default=30, help="partitions they are in (%(default)s)")
    parser.add_argument("--repeat", type=int, default=40, help="times that each request is made warm (%(default)s)")
    parser.add_argument("--home", type=Path, help="keep the database here, and use the one that is there")
    parser.add_argument("--only", default="", help="only requests with this in their name")
    parser.add_argument("--plans", type=int, metavar="MS", help="log plans that take longer; everything is slower then")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    chosen = parser.parse_args()
    home = chosen.home or Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)  # root's Postgres runs as somebody else
    try:
        made = ready(home, chosen.rows, chosen.days)
        with EmbeddedPostgres(home / "postgres", SETTINGS | plans(chosen.plans)) as postgres:
            found = asyncio.run(measured(chosen, postgres.url, made, home))
        report(chosen, *found)
    finally:
        if chosen.home is None:
            shutil.rmtree(home, ignore_errors=True)


def ready(home: Path, rows: int, days: int) -> log_rows.Filled:
    """The log, made if it is not there yet. Postgres is stopped afterwards: the first round begins with its start."""
    kept = home / "filled.json"
    with EmbeddedPostgres(home / "postgres", SETTINGS) as postgres:
        migrate.upgrade(postgres.url)
        if not kept.exists():
            began = time.perf_counter()
            made = asyncio.run(log_rows.fill(postgres.url, rows, days))
            said = {"application_id": made.application_id.hex, "secret": made.secret, "days": list(map(str, made.days))}
            kept.write_text(json.dumps(said))
            console.print(f"[dim]{rows:,} rows made in {time.perf_counter() - began:.0f} s[/]")
    said = json.loads(kept.read_text())
    return log_rows.Filled(
        UUID(hex=said["application_id"]), said["secret"], [date.fromisoformat(day) for day in said["days"]]
    )


def plans(slower_than_ms: int | None) -> dict[str, str]:
    if slower_than_ms is None:
        return {}
    return {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": f"{slower_than_ms}ms",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_timing": "off",
    }


async def measured(
    chosen: argparse.Namespace, url: str, made: log_rows.Filled, home: Path
) -> tuple[list[Asked], dict[str, float]]:
    conn = await asyncpg.connect(url)
    with serving(url, home) as origin:
        headers = {"Authorization": f"Bearer {made.secret}"}
        async with aiohttp.ClientSession(origin, headers=headers) as http:
            requests = [one for one in await all_requests(conn, http, made) if chosen.only in one.name]
            for one in requests:
                one.cold_ms, one.items, _ = await ask(http, one.path)
            for one in requests:
                # What is far too slow is known after a few.
                for _ in range(chosen.repeat if one.cold_ms < 20 * SLOW_MS else 3):
                    one.ms.append((await ask(http, one.path))[0])
            live = {} if chosen.only else await streamed(conn, url, http, made)
    await conn.close()
    return requests, live


async def ask(http: aiohttp.ClientSession, path: str) -> tuple[float, int, str | None]:
    """(milliseconds, how many items, where the next page begins)"""
    began = time.perf_counter()
    async with http.get(path) as answer:
        body = await answer.json()
        ms = (time.perf_counter() - began) * 1000
        assert answer.status == 200, (path, body)
    return ms, len(body["items"]) if "items" in body else 1, body.get("next_cursor")


async def all_requests(
    conn: "asyncpg.Connection[asyncpg.Record]", http: aiohttp.ClientSession, made: log_rows.Filled
) -> list[Asked]:
    app, days = made.application_id, made.days
    middle, last = days[len(days) // 2], days[-1]
    by_size = (
        "SELECT id FROM notifications JOIN progress ON notification_id = id"
        " WHERE application_id = $1 AND day = $2 ORDER BY targets, id"
    )
    of_middle, of_last = [[row["id"] for row in await conn.fetch(by_size, app, day)] for day in (middle, last)]
    small_old, big_old, big_new = (
        ids.format_id(ids.NOTIFICATION, one) for one in (of_middle[0], of_middle[-1], of_last[-1])
    )
    by = "SELECT {0} AS found, count(*) FROM deliveries WHERE application_id = $1 AND day = $2 AND {0} IS NOT NULL"
    users = await conn.fetch(by.format("user_id") + " GROUP BY 1 ORDER BY 2 DESC, 1", app, middle)
    device_rows = await conn.fetch(by.format("device_id") + " GROUP BY 1 ORDER BY 2 DESC, 1", app, middle)
    user, rare_user = users[0]["found"], users[-1]["found"]
    busy, device = device_rows[0]["found"], device_rows[-1]["found"]
    outcome_of = "SELECT notification_id, device_id FROM deliveries WHERE day = $1 AND application_id = $2"
    delivery = await conn.fetchrow(f"{outcome_of} AND attempts = 2 LIMIT 1", middle, app)
    noon = datetime(middle.year, middle.month, middle.day, 12, tzinfo=UTC)
    newest = await conn.fetchval(
        "SELECT max(settled_at) FROM deliveries WHERE application_id = $1 AND day = $2", app, last
    )
    hosts = ("fcm.googleapis.com", "wns2-par02p.notify.windows.com", log_rows.RARE_HOST, "nobody.example.org")
    dev = ids.format_id(ids.DEVICE, device)
    busy_dev = ids.format_id(ids.DEVICE, busy)
    requests: list[Asked] = []

    def add(name: str, path: str = "/v1/deliveries", **query: Any) -> None:
        shown = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in query.items()}
        requests.append(Asked(name, f"{path}?{urlencode(shown)}" if query else path))

    add("newest 100")
    add("newest 1000", limit=1000)
    _, _, deep = await ask(http, f"/v1/deliveries?{urlencode({'until': noon.isoformat()})}")
    add("from the middle of the log, by cursor", cursor=deep)
    add("from the middle by cursor, 1000", cursor=deep, limit=1000)
    for outcome in ("accepted", "gone", "skipped", "cancelled"):
        add(f"outcome {outcome}", outcome=outcome)
    add("outcome gone, 1000", outcome="gone", limit=1000)
    add("outcome cancelled by cursor", outcome="cancelled", cursor=deep)
    for host in hosts:
        add(f"host {host}", host=host)
    add("host that is rare, 1000", host=log_rows.RARE_HOST, limit=1000)
    add("host and outcome, common", host=hosts[0], outcome="gone")
    add("host and outcome, rare", host=hosts[1], outcome="rejected")
    add("host and outcome, none", host=hosts[2], outcome="cancelled")
    add("since the newest second", since=newest)
    add("since an hour before the newest, 1000", since=newest - timedelta(hours=1), limit=1000)
    add("since tomorrow", since=newest + timedelta(days=1))
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
    add("notification and device, none", notification_id=big_old, device_id=busy_dev)
    add("notification and user", notification_id=big_old, user_id=user)
    add("notification since noon", notification_id=big_old, since=noon)
    add("user with most", user_id=user)
    add("user with most, 1000", user_id=user, limit=1000)
    add("user with few", user_id=rare_user)
    add("user that is not", user_id="nobody")
    add("user and outcome", user_id=user, outcome="gone")
    add("user and host, none", user_id=user, host=hosts[3])
    add("user in an hour", user_id=user, since=noon, until=noon + timedelta(hours=1))
    add("device with most", device_id=busy_dev)
    add("device with few", device_id=dev)
    add("device that is not", device_id=ids.format_id(ids.DEVICE, UUID(int=7)))
    add("device and outcome", device_id=busy_dev, outcome="rejected")
    add("device since noon", device_id=busy_dev, since=noon)
    add("one delivery with its attempts", f"/v1/deliveries/{ids.format_id(ids.DELIVERY, *delivery)}")
    add("notifications", "/v1/notifications")
    add("notifications, 1000", "/v1/notifications", limit=1000)
    add("notifications of a kind and a status", "/v1/notifications", kind="alert", status="done")
    add("notifications of a status that none has", "/v1/notifications", status="sending")
    add("one notification", f"/v1/notifications/{big_old}")
    add("its funnel", f"/v1/notifications/{big_old}/funnel")
    add("inbox of the device with most", f"/v1/devices/{busy_dev}/inbox", limit=20)
    add("inbox of a device", f"/v1/devices/{dev}/inbox")
    return requests


async def streamed(
    conn: "asyncpg.Connection[asyncpg.Record]", url: str, http: aiohttp.ClientSession, made: log_rows.Filled
) -> dict[str, float]:
    """The stream: from a batch's commit to its event, resuming, and a follower that is shown little of it."""
    engine = open_engine(url)
    today = datetime.now(UTC).date()
    notification_id, device_ids = ids.new_id(), [ids.new_id() for _ in range(BATCH)]
    now = datetime.now(UTC)
    await conn.execute(
        "INSERT INTO notifications (id, application_id, kind, status, day, content, audience, lane, urgency, ttl_s,"
        " expires_at, start_at) VALUES ($1, $2, 'direct', 'sending', $3, '{}', '{}', 1, 'normal', 60, $4, $4)",
        notification_id,
        made.application_id,
        today,
        now,
    )
    await conn.execute("INSERT INTO progress (notification_id, targets) VALUES ($1, 100000000)", notification_id)
    job = Job(
        id=0,
        kind=JobKind.SEND,
        application_id=made.application_id,
        notification_id=notification_id,
        lane=Lane.NORMAL,
        lease_generation=1,
        attempts=0,
        day=today,
        device_ids=tuple(device_ids),
    )
    found: dict[str, float] = {}

    async def settle(host: str, batch: list[UUID]) -> tuple[float, float]:
        """(seconds it took, when it was committed)"""
        at = datetime.now(UTC)
        settled = [DeliveryResult(id_, None, host, Accepted(), 1, 201, at, 30, at) for id_ in batch]
        began = time.perf_counter()
        async with engine.begin() as settling:
            await writer.record(settling, job, ResultBatch(settled=settled))
        return time.perf_counter() - began, time.perf_counter()

    async def waits(name: str, query: str, host: str, rounds: int = 60) -> None:
        times = []
        async with following(http, query) as events:
            for _ in range(rounds):
                _, committed = await settle(host, [ids.new_id()])
                await anext(events)
                times.append((time.perf_counter() - committed) * 1000)
        found[f"{name}, median"] = statistics.median(times)
        found[f"{name}, p99"] = sorted(times)[int(len(times) * 0.99)]

    took = [(await settle("fcm.googleapis.com", [ids.new_id() for _ in range(BATCH)]))[0] * 1000 for _ in range(60)]
    found["a batch of 500 is recorded, median"] = statistics.median(took)
    await waits("from the commit to the event", "", "fcm.googleapis.com")
    await waits("to a follower of a rare host", "?host=few.example.org", "few.example.org")
    position = await conn.fetchval("SELECT log_position FROM applications WHERE id = $1", made.application_id)
    for back in (10_000, 100_000):
        for name, query in (("", ""), (" by a rare host", "&host=few.example.org")):
            times = []
            for _ in range(20):
                began = time.perf_counter()
                async with following(http, f"?last_event_id={position - back}{query}") as events:
                    await anext(events)
                    times.append((time.perf_counter() - began) * 1000)
            found[f"resumed {back:,} back{name}, first event, slowest of 20"] = max(times)
    began = time.perf_counter()
    async with following(http, f"?last_event_id={position - 10_000}") as events:
        for _ in range(10_000):
            await anext(events)
    found["resumed 10,000 back, all of them"] = (time.perf_counter() - began) * 1000
    await conn.execute("DELETE FROM notifications WHERE id = $1", notification_id)
    await engine.dispose()
    return found


@asynccontextmanager
async def following(http: aiohttp.ClientSession, query: str) -> AsyncIterator[AsyncIterator[int]]:
    """The positions that a stream tells of, which is open."""
    async with http.get(f"/v1/deliveries/stream{query}") as answer:
        assert answer.status == 200
        await answer.content.readline()

        async def events() -> AsyncIterator[int]:
            async for line in answer.content:
                if line.startswith(b"id: "):
                    yield int(line[4:])

        yield events()


@contextmanager
def serving(url: str, home: Path) -> Iterator[str]:
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
    with (home / "serve.log").open("wb") as said:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=said, stderr=said)
        try:
            until = time.monotonic() + READY_S
            while time.monotonic() < until and server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            else:
                raise SystemExit(f"the server did not start: {(home / 'serve.log').read_text()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def report(chosen: argparse.Namespace, requests: list[Asked], live: dict[str, float]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("request", "items", "first ms", "median ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "request" else "right", no_wrap=True)
    for one in requests:
        figures = (f"{one.cold_ms:.1f}", f"{statistics.median(one.ms):.1f}", f"{one.p99:.1f}")
        table.add_row(one.name, str(one.items), *figures, style="bold" if one.p99 > SLOW_MS else "")
    console.print(table)
    for name, ms in live.items():
        console.print(f"{name}: {ms:.1f} ms")
    if chosen.json:
        kept = {
            one.name: {"cold_ms": one.cold_ms, "median_ms": statistics.median(one.ms), "p99_ms": one.p99}
            for one in requests
        }
        chosen.json.write_text(json.dumps({"rows": chosen.rows, "requests": kept, "live_ms": live}, indent=2) + "\n")


if __name__ == "__main__":
    main()
