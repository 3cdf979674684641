"""Measure device registration: POST /v1/devices one by one, and NDJSON to /v1/devices/import.

The server is a separate process (`gateway serve`) on an embedded Postgres that already contains devices. The load
generator writes bytes to plain sockets, so that it takes little CPU time from the server. It first keeps some
connections always busy, and then sends at a fixed rate. At a fixed rate the latency of a request is measured from the
time at which it was due, even if no connection was free then. Half of the requests come from registered browsers. For
comparison the same load goes to a bare aiohttp server, which returns an empty 201 to every request.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web
from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from testbed import MASTER_KEY, parent_of, peak_memory_mb, process_cpu_s, tree_cpu_s

from gateway.domain import ids
from gateway.embedded import EmbeddedPostgres
from gateway.push.encryption import encode_base64url
from gateway.records.postgres import migrate
from gateway.records.postgres.engine import open_engine
from gateway.service.access import applications
from gateway.service.access.secrets import Keyring
from gateway.sim.keys import DeviceKeys

ORIGIN = "https://app.example.org"
SEED = 20261127
KEY_PAIRS = 50
START_TIMEOUT_S = 60
POLL_INTERVAL_S = 0.05
CHUNK = 1 << 18

console = Console(highlight=False)

# Creates rows of realistic size, with the endpoints that `build_endpoint` returns.
FILL = text("""
    INSERT INTO devices (id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id,
                         platform, browser, locale, timezone, attributes, topics, location, located_at)
    SELECT gen_random_uuid(), :application_id, endpoint, sha256(endpoint::bytea), 'fcm.googleapis.com',
           substr(sha256(n::text::bytea) || sha256(md5(n::text)::bytea) || sha256('x'), 1, 65),
           substr(sha256(md5(n::text)::bytea), 1, 16), :vapid_key_id, 'user-' || n / 2,
           (ARRAY['android', 'ios', 'windows', 'macos'])[1 + n % 4], 'Chrome ' || 130 + n % 10,
           (ARRAY['en-US', 'de-AT', 'de-DE', 'fr'])[1 + n % 4], 'Europe/Vienna',
           jsonb_build_object('plan', CASE WHEN n % 10 = 0 THEN 'pro' ELSE 'free' END, 'age', n % 90,
                              'first_name', 'Name ' || n % 1000, 'city', 'City ' || n % 500),
           CASE WHEN n % 20 = 0 THEN ARRAY['weather'] ELSE '{}' END
               || ARRAY['topic-' || n % 50, 'topic-' || 50 + n % 70],
           point(10 + random() * 10, 40 + random() * 10), now()
    FROM (SELECT n, 'https://fcm.googleapis.com/fcm/send/' || repeat(md5(n::text), 5) AS endpoint
          FROM generate_series(1, :devices) AS n) AS numbered
""")


def main() -> None:
    """Run the benchmark."""
    if sys.argv[1:2] == ["aiohttp-alone"]:
        uvloop.run(serve_aiohttp(int(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(prog="ops/bench/register", description=__doc__)
    parser.add_argument("--devices", type=int, default=1_000_000, help="existing devices (%(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="busy connections (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="duration of each kind of load (%(default)s)")
    parser.add_argument(
        "--rate", type=int, default=750, help="requests per second of the fixed-rate load (%(default)s)"
    )
    parser.add_argument("--lines", type=int, default=200_000, help="lines of the import (%(default)s)")
    parser.add_argument("--known", type=float, default=0.5, help="share of requests from known browsers (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="keep the database here for the next run")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    data_dir = options.data_dir or Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o711)  # as root, the embedded Postgres runs as another user
    try:
        with EmbeddedPostgres(data_dir / "postgres") as postgres:
            migrate.upgrade(postgres.url)
            figures = uvloop.run(measure_all(options, postgres.url))
        report(options, figures)
    finally:
        if options.data_dir is None:
            shutil.rmtree(data_dir, ignore_errors=True)


async def measure_all(options: argparse.Namespace, url: str) -> list[dict[str, Any]]:
    """Run every load and return its figures."""
    engine = open_engine(url)
    application = await create_data(engine, options.devices)
    async with engine.connect() as conn:
        postmaster = parent_of((await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one())
    port, floor_port = free_port(), free_port()
    settings = {"DATABASE_URL": url, "MASTER_KEY": MASTER_KEY, "PORT": str(port), "LOG_FORMAT": "json"}
    # All browsers of the bench have one address.
    settings |= dict.fromkeys(("NEW_DEVICES_PER_ADDRESS", "NEW_DEVICES_PER_MINUTE"), "10000000")
    aiohttp_command = [sys.executable, __file__, "aiohttp-alone", str(floor_port)]
    figures = []
    with run_server([sys.executable, "-m", "gateway", "serve"], settings, "web.listening") as server:
        bodies = BodyGenerator(options.devices, options.known)

        def build_request() -> bytes:
            return build_post("/v1/devices", application["publishable_key"], bodies.build())

        def read_cpu() -> tuple[float, float]:
            return process_cpu_s(server.pid), tree_cpu_s(postmaster)

        await keep_busy(port, build_request, options.connections, 1)
        figures.append(
            await measure_load(
                "registering, always busy",
                read_cpu,
                keep_busy(port, build_request, options.connections, options.seconds),
            )
        )
        await asyncio.sleep(1)  # let the rest of this load finish first
        label = f"registering, {options.rate} per second"
        figures.append(
            await measure_load(label, read_cpu, send_at_rate(port, build_request, options.rate, options.seconds))
        )
        if options.lines:
            with tempfile.TemporaryFile() as file:
                for _ in range(options.lines):
                    file.write(bodies.build() + b"\n")
                load = send_import(port, application["secret_key"], file, options.lines)
                figures.append(await measure_load("importing", read_cpu, load))
        peak = peak_memory_mb(server.pid)
    console.print(f"peak memory of the server: {peak:.0f} MB")
    with run_server(aiohttp_command, {}, "listening") as server:

        def build_request() -> bytes:
            return build_post("/v1/devices", application["publishable_key"], bodies.build())

        def read_floor_cpu() -> tuple[float, float]:
            return process_cpu_s(server.pid), 0.0

        seconds = min(options.seconds, 5)
        figures.append(
            await measure_load(
                "aiohttp alone", read_floor_cpu, keep_busy(floor_port, build_request, options.connections, seconds)
            )
        )
    await engine.dispose()
    return figures


async def create_data(engine: AsyncEngine, devices: int) -> dict[str, Any]:
    """Create an application, and its devices unless an earlier run has left enough of them in the database."""
    start = time.perf_counter()
    async with engine.begin() as conn:
        created = await applications.create(
            conn, Keyring(MASTER_KEY.encode()), "bench", "mailto:ops@example.org", [ORIGIN]
        )
        existing = (await conn.execute(text("SELECT count(*), min(application_id::text) FROM devices"))).one()
        application_id = ids.parse(ids.APPLICATION, created["id"])
        if existing[0] >= devices > 0:
            key_query = text("UPDATE api_keys SET application_id = :existing WHERE application_id = :new")
            await conn.execute(key_query, {"existing": existing[1], "new": application_id})
            origins_query = text("UPDATE applications SET allowed_origins = :origins WHERE id = :existing")
            await conn.execute(origins_query, {"existing": existing[1], "origins": [ORIGIN]})
        else:
            await _fill(conn, application_id, devices)
    async with engine.connect() as conn:
        await (await conn.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE devices"))
    console.print(f"[dim]{devices:,} devices ready after {time.perf_counter() - start:.0f} s[/]")
    return created


async def _fill(conn: AsyncConnection, application_id: Any, devices: int) -> None:
    query = text("SELECT id FROM vapid_keys WHERE application_id = :id")
    key_id = (await conn.execute(query, {"id": application_id})).scalar_one()
    await conn.execute(FILL, {"application_id": application_id, "vapid_key_id": key_id, "devices": devices})


class BodyGenerator:
    """Generates registration bodies of the size and content of real ones."""

    def __init__(self, devices: int, known_share: float) -> None:
        self._random = random.Random(SEED)  # noqa: S311 - not for secrets
        self._points = [encode_base64url(DeviceKeys.generate().p256dh) for _ in range(KEY_PAIRS)]
        self._known_share = known_share if devices else 0.0
        self._devices = devices
        self._next = int(time.time() * 1000) << 20

    def build(self) -> bytes:
        """Return the JSON of the next registration."""
        rng = self._random.random
        if rng() < self._known_share:
            n = 1 + int(rng() * self._devices)
        else:
            self._next += 1
            n = self._next
        keys = {"p256dh": self._points[n % KEY_PAIRS], "auth": build_auth(n)}
        body = {
            "subscription": {"endpoint": build_endpoint(n), "expirationTime": None, "keys": keys},
            "user_id": f"user-{n // 2}",
            "client": {
                "platform": ("android", "ios", "windows", "macos")[n % 4],
                "browser": f"Chrome {130 + n % 10}",
                "locale": ("en-US", "de-AT", "de-DE", "fr")[n % 4],
                "timezone": "Europe/Vienna",
                "app_version": "3.2",
            },
            "attributes": {"plan": "free", "age": n % 90, "first_name": f"Name {n % 1000}", "city": f"City {n % 500}"},
            "topics": [f"topic-{n % 50}", f"topic-{50 + n % 70}"],
            "location": {"lat": round(40 + rng() * 10, 5), "lon": round(10 + rng() * 10, 5), "accuracy_m": 30},
        }
        return json.dumps(body).encode()


def build_endpoint(n: int) -> str:
    """Return the endpoint of a device number, as FILL creates it."""
    return f"https://fcm.googleapis.com/fcm/send/{md5(str(n).encode(), usedforsecurity=False).hexdigest() * 5}"


def build_auth(n: int) -> str:
    """Return the auth secret of a device number, as FILL creates it: a refresh needs the same."""
    return encode_base64url(sha256(md5(str(n).encode(), usedforsecurity=False).hexdigest().encode()).digest()[:16])


def build_post(path: str, key: str, body: bytes) -> bytes:
    """Return the octets of a POST request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: push.example.org\r\nUser-Agent: Mozilla/5.0 Chrome/141.0\r\n"
        f"Accept: */*\r\nOrigin: {ORIGIN}\r\nReferer: {ORIGIN}/\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """A connection with one request at a time; `on_response` is called with each response's status."""

    def __init__(self, on_response: Callable[["Connection", int], None]) -> None:
        self._on_response = on_response
        self._received = b""
        self.due = 0.0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at this time."""
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        at = head.find(b"Content-Length: ")
        length = int(head[at + 16 : at + 24].split(b"\r\n")[0]) if at >= 0 else 0
        if len(body) >= length:
            self._received = b""
            self._on_response(self, int(head[9:12]))


async def keep_busy(port: int, build_request: Callable[[], bytes], connections: int, seconds: float) -> dict[str, Any]:
    """Keep connections busy: each sends its next request when the response to the last one has arrived."""
    loop = asyncio.get_running_loop()
    end_at = time.perf_counter() + seconds
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    open_connections = connections
    finished = asyncio.Event()

    def on_response(connection: Connection, status: int) -> None:
        nonlocal open_connections
        now = time.perf_counter()
        statuses[status] += 1
        latencies.append(now - connection.due)
        if now < end_at:
            connection.send(build_request(), now)
        else:
            connection.transport.close()
            open_connections -= 1
            if not open_connections:
                finished.set()

    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: Connection(on_response), "127.0.0.1", port)
        connection.send(build_request(), time.perf_counter())
    await finished.wait()
    return {"statuses": statuses, "latencies": latencies, "count": len(latencies)}


async def send_at_rate(port: int, build_request: Callable[[], bytes], rate: int, seconds: float) -> dict[str, Any]:
    """Send requests at a fixed rate. A request that is due while no connection is free opens a new one."""
    loop = asyncio.get_running_loop()
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    free: deque[Connection] = deque()
    connections: list[Connection] = []
    count = int(rate * seconds)
    finished = asyncio.Event()

    def on_response(connection: Connection, status: int) -> None:
        statuses[status] += 1
        latencies.append(time.perf_counter() - connection.due)
        free.append(connection)
        if len(latencies) == count:
            finished.set()

    async def send(due: float) -> None:
        if free:
            connection = free.popleft()
        else:
            _, connection = await loop.create_connection(lambda: Connection(on_response), "127.0.0.1", port)
            connections.append(connection)
        connection.send(build_request(), due)

    start = time.perf_counter()
    sending = set()
    for number in range(count):
        due = start + number / rate
        if (delay := due - time.perf_counter()) > 0:
            await asyncio.sleep(delay)
        if free:
            free.popleft().send(build_request(), due)
        else:
            task = asyncio.create_task(send(due))
            sending.add(task)
            task.add_done_callback(sending.discard)
    await finished.wait()
    for connection in connections:
        connection.transport.close()
    return {"statuses": statuses, "latencies": latencies, "count": count, "connections": len(connections)}


async def send_import(port: int, key: str, file: Any, lines: int) -> dict[str, Any]:
    """Send the import file and check its summary."""
    size = file.tell()
    file.seek(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = (
        "POST /v1/devices/import HTTP/1.1\r\nHost: push.example.org\r\nConnection: close\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {size}\r\n\r\n"
    )
    writer.write(head.encode())
    while chunk := file.read(CHUNK):
        writer.write(chunk)
        await writer.drain()
    tail = b""
    while chunk := await reader.read(CHUNK):
        tail = (tail + chunk)[-4096:]
    writer.close()
    [summary] = [json.loads(line) for line in tail.splitlines() if line.startswith(b'{"done"')]
    assert summary["done"], summary
    assert summary["created"] + summary["refreshed"] == lines, summary
    return {"statuses": Counter({200: 1}), "latencies": [], "count": lines, "summary": summary}


async def measure_load(label: str, read_cpu: Callable[[], tuple[float, float]], load: Any) -> dict[str, Any]:
    """Run a load and return its rate, CPU times and latencies."""
    server_before, postgres_before = read_cpu()
    start = time.perf_counter()
    result = await load
    seconds = time.perf_counter() - start
    after = read_cpu()
    count, latencies = result["count"], sorted(result["latencies"])
    figure = {
        "load": label,
        "rate": count / seconds,
        "server_us": (after[0] - server_before) / count * 1e6,
        "postgres_us": (after[1] - postgres_before) / count * 1e6,
        "statuses": {str(status): times for status, times in sorted(result["statuses"].items())},
    }
    if latencies:
        figure["p50_ms"] = statistics.median(latencies) * 1000
        figure["p99_ms"] = latencies[int(len(latencies) * 0.99)] * 1000
        figure["slowest_ms"] = latencies[-1] * 1000
    return figure


async def serve_aiohttp(port: int) -> None:
    """Serve empty 201 responses with bare aiohttp until SIGTERM."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=201)

    app = web.Application()
    app.router.add_post("/v1/devices", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("listening", file=sys.stderr, flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


def free_port() -> int:
    """Return a free TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def run_server(command: list[str], settings: dict[str, str], event: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; enter the block when its log has the event."""
    environment = os.environ | {f"GATEWAY_{name}": value for name, value in settings.items()}
    with tempfile.NamedTemporaryFile("rb") as log, open(log.name, "wb") as output:
        process = subprocess.Popen(command, env=environment | {"PYTHONPATH": str(ROOT)}, stderr=output)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while event.encode() not in Path(log.name).read_bytes():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{command} did not start: {Path(log.name).read_text()[-2000:]}")
                time.sleep(POLL_INTERVAL_S)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def report(options: argparse.Namespace, figures: list[dict[str, Any]]) -> None:
    """Print the figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("load", "per second", "server us", "Postgres us", "p50 ms", "p99 ms", "slowest ms", "responses"):
        table.add_column(column, justify="left" if column in ("load", "responses") else "right")
    for figure in figures:
        table.add_row(
            figure["load"],
            *(f"{figure[name]:,.0f}" for name in ("rate", "server_us", "postgres_us")),
            *(f"{figure[name]:.1f}" if name in figure else "" for name in ("p50_ms", "p99_ms", "slowest_ms")),
            ", ".join(f"{count} x {status}" for status, count in figure["statuses"].items()),
        )
    console.print(f"{options.devices:,} existing devices, {options.known:.0%} of the requests from known browsers")
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps({"devices": options.devices, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
