"""What registering a browser costs: POST /v1/devices one by one, and NDJSON to /v1/devices/import.

The server is a process of its own (`gateway serve`) on an embedded Postgres that holds devices already. This process
is the load: requests are octets written to plain sockets, so that it takes little of the cores it shares. First as many
as go through with some connections always busy, then a fixed rate whose latencies count from the moment that each
request was due, whether or not a connection was free. Half of the requests are browsers that are known. Beside it, in
the same way, aiohttp alone, which answers every request with an empty 201.
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
from hashlib import md5
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

from stage import MASTER_KEY, family_cpu, memory, parent_of, process_cpu

from gateway.domain import ids
from gateway.embedded import EmbeddedPostgres
from gateway.push.encryption import encode_base64url
from gateway.records.postgres import migrate
from gateway.records.postgres.engine import open_engine
from gateway.service.access import applications
from gateway.service.access.secrets import Keyring
from gateway.sim.keys import Keys

ORIGIN = "https://app.example.org"
SEED = 20261127
KEY_PAIRS = 50
PATIENCE_S = 60
LOOK_S = 0.05
PIECE = 1 << 18

console = Console(highlight=False)

# As wide as real ones, with the endpoints that `endpoint` gives.
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
          FROM generate_series(1, :devices) AS n) AS made
""")


def main() -> None:
    if sys.argv[1:2] == ["aiohttp-alone"]:
        uvloop.run(aiohttp_alone(int(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(prog="ops/bench/register", description=__doc__)
    parser.add_argument("--devices", type=int, default=1_000_000, help="in the table beforehand (%(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="always busy (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="of each kind of load (%(default)s)")
    parser.add_argument("--rate", type=int, default=750, help="requests a second, of the fixed rate (%(default)s)")
    parser.add_argument("--lines", type=int, default=200_000, help="of the import (%(default)s)")
    parser.add_argument("--known", type=float, default=0.5, help="the share of browsers that are known (%(default)s)")
    parser.add_argument("--home", type=Path, help="keep the devices here for the next run")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    asked = parser.parse_args()
    home = asked.home or Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)  # root's Postgres runs as somebody else
    try:
        with EmbeddedPostgres(home / "postgres") as postgres:
            migrate.upgrade(postgres.url)
            figures = uvloop.run(measured(asked, postgres.url))
        report(asked, figures)
    finally:
        if asked.home is None:
            shutil.rmtree(home, ignore_errors=True)


async def measured(asked: argparse.Namespace, url: str) -> list[dict[str, Any]]:
    engine = open_engine(url)
    made = await prepare(engine, asked.devices)
    async with engine.connect() as conn:
        postmaster = parent_of((await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one())
    port, floor_port = free_port(), free_port()
    settings = {"DATABASE_URL": url, "MASTER_KEY": MASTER_KEY, "PORT": str(port), "LOG_FORMAT": "json"}
    alone = [sys.executable, __file__, "aiohttp-alone", str(floor_port)]
    figures = []
    with running([sys.executable, "-m", "gateway", "serve"], settings, "web.listening") as server:
        said = Bodies(asked.devices, asked.known)

        def request() -> bytes:
            return post("/v1/devices", made["publishable_key"], said.one())

        def cost() -> tuple[float, float]:
            return process_cpu(server.pid), family_cpu(postmaster)

        await busy(port, request, asked.connections, 1)
        figures.append(
            await taken("registering, always busy", cost, busy(port, request, asked.connections, asked.seconds))
        )
        await asyncio.sleep(1)  # what is left of it must not be in the way of the next
        words = f"registering, {asked.rate} a second"
        figures.append(await taken(words, cost, at_a_rate(port, request, asked.rate, asked.seconds)))
        if asked.lines:
            with tempfile.TemporaryFile() as file:
                for _ in range(asked.lines):
                    file.write(said.one() + b"\n")
                sending = imported(port, made["secret_key"], file, asked.lines)
                figures.append(await taken("importing", cost, sending))
        peak = memory(server.pid)
    console.print(f"the server took {peak:.0f} MB at its peak")
    with running(alone, {}, "listening") as server:

        def empty() -> bytes:
            return post("/v1/devices", made["publishable_key"], said.one())

        def floor() -> tuple[float, float]:
            return process_cpu(server.pid), 0.0

        seconds = min(asked.seconds, 5)
        figures.append(await taken("aiohttp alone", floor, busy(floor_port, empty, asked.connections, seconds)))
    await engine.dispose()
    return figures


async def prepare(engine: AsyncEngine, devices: int) -> dict[str, Any]:
    """An application of its own for each run; devices that an earlier run left are made its own."""
    began = time.perf_counter()
    async with engine.begin() as conn:
        made = await applications.create(
            conn, Keyring(MASTER_KEY.encode()), "bench", "mailto:ops@example.org", [ORIGIN]
        )
        held = (await conn.execute(text("SELECT count(*), min(application_id::text) FROM devices"))).one()
        application_id = ids.parse(ids.APPLICATION, made["id"])
        if held[0] >= devices > 0:
            key = text("UPDATE api_keys SET application_id = :kept WHERE application_id = :new")
            await conn.execute(key, {"kept": held[1], "new": application_id})
            subject = text("UPDATE applications SET allowed_origins = :origins WHERE id = :kept")
            await conn.execute(subject, {"kept": held[1], "origins": [ORIGIN]})
        else:
            await _fill(conn, application_id, devices)
    async with engine.connect() as conn:
        await (await conn.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE devices"))
    console.print(f"[dim]{devices:,} devices are there after {time.perf_counter() - began:.0f} s[/]")
    return made


async def _fill(conn: AsyncConnection, application_id: Any, devices: int) -> None:
    found = text("SELECT id FROM vapid_keys WHERE application_id = :id")
    key_id = (await conn.execute(found, {"id": application_id})).scalar_one()
    await conn.execute(FILL, {"application_id": application_id, "vapid_key_id": key_id, "devices": devices})


class Bodies:
    """What pages hand over: as many octets, and as much in them, as real ones."""

    def __init__(self, devices: int, known: float) -> None:
        self._random = random.Random(SEED)  # noqa: S311 - not for secrets
        self._keys = [
            {"p256dh": encode_base64url(pair.p256dh), "auth": encode_base64url(pair.auth)}
            for pair in (Keys.generate() for _ in range(KEY_PAIRS))
        ]
        self._known = known if devices else 0.0
        self._devices = devices
        self._next = int(time.time() * 1000) << 20

    def one(self) -> bytes:
        draw = self._random.random
        if draw() < self._known:
            n = 1 + int(draw() * self._devices)
        else:
            self._next += 1
            n = self._next
        said = {
            "subscription": {"endpoint": endpoint(n), "expirationTime": None, "keys": self._keys[n % KEY_PAIRS]},
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
            "location": {"lat": round(40 + draw() * 10, 5), "lon": round(10 + draw() * 10, 5), "accuracy_m": 30},
        }
        return json.dumps(said).encode()


def endpoint(n: int) -> str:
    """The same as FILL makes."""
    return f"https://fcm.googleapis.com/fcm/send/{md5(str(n).encode(), usedforsecurity=False).hexdigest() * 5}"


def post(path: str, key: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: push.example.org\r\nUser-Agent: Mozilla/5.0 Chrome/141.0\r\n"
        f"Accept: */*\r\nOrigin: {ORIGIN}\r\nReferer: {ORIGIN}/\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One request at a time; `answered` is called with each answer's status."""

    def __init__(self, answered: Callable[["Connection", int], None]) -> None:
        self._answered = answered
        self._got = b""
        self.due = 0.0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, ended, body = self._got.partition(b"\r\n\r\n")
        if not ended:
            return
        at = head.find(b"Content-Length: ")
        length = int(head[at + 16 : at + 24].split(b"\r\n")[0]) if at >= 0 else 0
        if len(body) >= length:
            self._got = b""
            self._answered(self, int(head[9:12]))


async def busy(port: int, request: Callable[[], bytes], connections: int, seconds: float) -> dict[str, Any]:
    """Each connection sends the next request when the last one is answered."""
    loop = asyncio.get_running_loop()
    ends = time.perf_counter() + seconds
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    open_ = connections
    ended = asyncio.Event()

    def answered(connection: Connection, status: int) -> None:
        nonlocal open_
        now = time.perf_counter()
        statuses[status] += 1
        latencies.append(now - connection.due)
        if now < ends:
            connection.send(request(), now)
        else:
            connection.transport.close()
            open_ -= 1
            if not open_:
                ended.set()

    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port)
        connection.send(request(), time.perf_counter())
    await ended.wait()
    return {"statuses": statuses, "latencies": latencies, "count": len(latencies)}


async def at_a_rate(port: int, request: Callable[[], bytes], rate: int, seconds: float) -> dict[str, Any]:
    """Requests fall due evenly. One that finds no free connection gets a new one."""
    loop = asyncio.get_running_loop()
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    free: deque[Connection] = deque()
    everyone: list[Connection] = []
    count = int(rate * seconds)
    ended = asyncio.Event()

    def answered(connection: Connection, status: int) -> None:
        statuses[status] += 1
        latencies.append(time.perf_counter() - connection.due)
        free.append(connection)
        if len(latencies) == count:
            ended.set()

    async def send(due: float) -> None:
        if free:
            connection = free.popleft()
        else:
            _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port)
            everyone.append(connection)
        connection.send(request(), due)

    began = time.perf_counter()
    sending = set()
    for number in range(count):
        due = began + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        if free:
            free.popleft().send(request(), due)
        else:
            task = asyncio.create_task(send(due))
            sending.add(task)
            task.add_done_callback(sending.discard)
    await ended.wait()
    for connection in everyone:
        connection.transport.close()
    return {"statuses": statuses, "latencies": latencies, "count": count, "connections": len(everyone)}


async def imported(port: int, key: str, file: Any, lines: int) -> dict[str, Any]:
    size = file.tell()
    file.seek(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = (
        "POST /v1/devices/import HTTP/1.1\r\nHost: push.example.org\r\nConnection: close\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {size}\r\n\r\n"
    )
    writer.write(head.encode())
    while piece := file.read(PIECE):
        writer.write(piece)
        await writer.drain()
    last = b""
    while piece := await reader.read(PIECE):
        last = (last + piece)[-4096:]
    writer.close()
    [done] = [json.loads(line) for line in last.splitlines() if line.startswith(b'{"done"')]
    assert done["done"], done
    assert done["created"] + done["refreshed"] == lines, done
    return {"statuses": Counter({200: 1}), "latencies": [], "count": lines, "came_to": done}


async def taken(words: str, cost: Callable[[], tuple[float, float]], load: Any) -> dict[str, Any]:
    server, postgres = cost()
    began = time.perf_counter()
    found = await load
    seconds = time.perf_counter() - began
    after = cost()
    count, latencies = found["count"], sorted(found["latencies"])
    figure = {
        "load": words,
        "rate": count / seconds,
        "server_us": (after[0] - server) / count * 1e6,
        "postgres_us": (after[1] - postgres) / count * 1e6,
        "statuses": {str(status): times for status, times in sorted(found["statuses"].items())},
    }
    if latencies:
        figure["p50_ms"] = statistics.median(latencies) * 1000
        figure["p99_ms"] = latencies[int(len(latencies) * 0.99)] * 1000
        figure["slowest_ms"] = latencies[-1] * 1000
    return figure


async def aiohttp_alone(port: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=201)

    app = web.Application()
    app.router.add_post("/v1/devices", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("listening", file=sys.stderr, flush=True)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    await runner.cleanup()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(command: list[str], settings: dict[str, str], said: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {f"GATEWAY_{name}": value for name, value in settings.items()}
    with tempfile.NamedTemporaryFile("rb") as log, open(log.name, "wb") as written:
        process = subprocess.Popen(command, env=environment | {"PYTHONPATH": str(ROOT)}, stderr=written)
        try:
            ends = time.monotonic() + PATIENCE_S
            while said.encode() not in Path(log.name).read_bytes():
                if time.monotonic() > ends or process.poll() is not None:
                    raise SystemExit(f"{command} did not start: {Path(log.name).read_text()[-2000:]}")
                time.sleep(LOOK_S)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def report(asked: argparse.Namespace, figures: list[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("load", "a second", "server us", "Postgres us", "p50 ms", "p99 ms", "slowest ms", "answers"):
        table.add_column(column, justify="left" if column in ("load", "answers") else "right")
    for one in figures:
        table.add_row(
            one["load"],
            *(f"{one[name]:,.0f}" for name in ("rate", "server_us", "postgres_us")),
            *(f"{one[name]:.1f}" if name in one else "" for name in ("p50_ms", "p99_ms", "slowest_ms")),
            ", ".join(f"{times} x {status}" for status, times in one["statuses"].items()),
        )
    console.print(f"{asked.devices:,} devices beforehand, {asked.known:.0%} of the browsers known")
    console.print(table)
    if asked.json:
        asked.json.write_text(json.dumps({"devices": asked.devices, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
