"""What it costs to be asked for news, against bringing it: clients that poll their inbox, and the same ones pushed to.

Every poll is a connection of its own with an If-None-Match, since nobody keeps one open for five minutes; the octets
are those of HTTP, without TCP and TLS, which would cost a poll another two round trips and about 3 kB. A push is one
POST to a push service on loopback, which counts its octets. Processor time is that of the server or the worker, and of
Postgres. The polls of an hour are measured once for each kind of answer and multiplied.
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from send import CONTENT, MASTER_KEY, family_cpu, parent_of, prepare, process_cpu  # noqa: E402

from gateway.domain.notification import Kind  # noqa: E402
from gateway.embedded import EmbeddedPostgres  # noqa: E402
from gateway.push.endpoints import EndpointPolicy  # noqa: E402
from gateway.records import database, migrate  # noqa: E402
from gateway.service.context import Context  # noqa: E402
from gateway.service.submission import Draft, submit  # noqa: E402
from gateway.service.vault import Vault  # noqa: E402
from gateway.sim.keys import Keys  # noqa: E402

AT_ONCE = 50
EVERY_S = 300
PATIENCE_S = 120
LOOK_S = 0.1
CREATED = b"HTTP/1.1 201 Created\r\nLocation: /m/1\r\nTTL: 60\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Cost:
    """Of one round over all clients."""

    requests: int
    octets: int
    gateway_s: float
    postgres_s: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="ops/bench/push_vs_pull", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--changes", type=int, nargs="*", default=[0, 1, 4, 12], help="an hour, each for everyone")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
        Path(directory).chmod(0o711)
        with EmbeddedPostgres(Path(directory) / "postgres") as postgres:
            migrate.upgrade(postgres.url)
            asyncio.run(measured(postgres.url, chosen.clients, chosen.changes))


async def measured(url: str, clients: int, changes: list[int]) -> None:
    counted = {"octets": 0}
    sink = await asyncio.start_server(lambda reader, writer: _take(reader, writer, counted), "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{sink.sockets[0].getsockname()[1]}"
    engine = database.open_engine(url)
    context = Context(engine, Vault(MASTER_KEY.encode()), EndpointPolicy([origin]), "https://push.example.org")
    application_id = await prepare(context, origin, [Keys.generate() for _ in range(50)], clients)
    async with engine.connect() as conn:
        devices = (await conn.execute(text("SELECT id FROM devices ORDER BY id"))).scalars().all()
        postmaster = parent_of((await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"DATABASE_URL": url, "MASTER_KEY": MASTER_KEY, "PUSH_HOSTS": origin, "PORT": str(port)}
    settings |= {"PUBLIC_URL": "https://push.example.org", "LOG_FORMAT": "json", "INBOX_PER_MINUTE": "100000"}
    with _running("work", settings, "worker.started") as worker, _running("serve", settings, "web.listening") as server:

        async def push() -> Cost:
            before = counted["octets"], process_cpu(worker.pid), family_cpu(postmaster)
            async with engine.begin() as conn:
                sent = await submit(
                    conn, context, application_id, Draft(Kind.CAMPAIGN, dict(CONTENT), {"everyone": True})
                )
            done = text("SELECT finished_at IS NOT NULL FROM notifications WHERE id = :id")
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    async with engine.connect() as conn:
                        if (await conn.execute(done, {"id": sent.id})).scalar_one():
                            break
                    await asyncio.sleep(LOOK_S)
            octets, used, beside = before
            return Cost(
                clients, counted["octets"] - octets, process_cpu(worker.pid) - used, family_cpu(postmaster) - beside
            )

        etags: dict[Any, str] = {}

        async def poll() -> Cost:
            used, beside = process_cpu(server.pid), family_cpu(postmaster)
            places = asyncio.Semaphore(AT_ONCE)

            async def one(device: Any) -> int:
                async with places:
                    token = context.vault.device_token(device)
                    octets, etags[device] = await _poll(port, f"dev_{device.hex}", token, etags.get(device, ""))
                    return octets

            octets = sum(await asyncio.gather(*map(one, devices)))
            return Cost(clients, octets, process_cpu(server.pid) - used, family_cpu(postmaster) - beside)

        for _ in range(10):  # something is in every inbox
            await push()
        await poll()
        same, pushed, new = await poll(), await push(), await poll()
    sink.close()
    await engine.dispose()
    _report(clients, changes, same, new, pushed)


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: dict[str, int]) -> None:
    """A push service that takes everything and counts what it took and gave."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(CREATED)
            counted["octets"] += len(head) + len(body) + len(CREATED)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _poll(port: int, device: str, token: str, etag: str) -> tuple[int, str]:
    """(octets there and back, the ETag)"""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = (
        f"GET /v1/devices/{device}/inbox?limit=10 HTTP/1.1\r\nHost: push.example.org\r\n"
        f"Authorization: Bearer {token}\r\nAccept: application/json\r\n"
        f"If-None-Match: {etag}\r\nConnection: close\r\n\r\n"
    ).encode()
    writer.write(asked)
    answer = await reader.read(-1)
    writer.close()
    head = answer.partition(b"\r\n\r\n")[0].decode()
    assert head.split()[1] in ("200", "304"), head
    found = next(line for line in head.split("\r\n") if line.lower().startswith("etag:"))
    return len(asked) + len(answer), found.partition(":")[2].strip()


@contextmanager
def _running(command: str, settings: dict[str, str], said: str) -> Iterator[subprocess.Popen[str]]:
    environment = (
        os.environ | {f"GATEWAY_{name}": value for name, value in settings.items()} | {"PYTHONPATH": str(ROOT)}
    )
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed below
    process = subprocess.Popen([sys.executable, "-m", "gateway", command], env=environment, stderr=log, text=True)
    try:
        began = time.monotonic()
        while time.monotonic() < began + PATIENCE_S:
            log.seek(0)
            if said in log.read():
                break
            time.sleep(LOOK_S)
        else:
            raise SystemExit(f"`gateway {command}` did not start")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        log.close()


def _report(clients: int, changes: list[int], same: Cost, new: Cost, pushed: Cost) -> None:
    console = Console(highlight=False)
    once: list[tuple[str, Callable[[Cost], float]]] = [
        ("octets", lambda cost: cost.octets / cost.requests),
        ("gateway us", lambda cost: cost.gateway_s / cost.requests * 1e6),
        ("Postgres us", lambda cost: cost.postgres_s / cost.requests * 1e6),
    ]
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("one", *(name for name, _ in once)):
        shown.add_column(column, justify="left" if column == "one" else "right")
    for name, cost in (("poll with nothing new", same), ("poll with something new", new), ("push", pushed)):
        shown.add_row(name, *(f"{of(cost):,.0f}" for _, of in once))
    console.print(shown)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("changes an hour", "", "requests", "MB", "CPU seconds", "seconds until it is known"):
        shown.add_column(column, justify="left" if not column else "right")
    rounds = 3600 // EVERY_S
    for number in changes:
        told = min(number, rounds)
        pull = [(rounds - told, same), (told, new)]
        for name, parts, late in (("pull", pull, f"{EVERY_S / 2:.0f}"), ("push", [(number, pushed)], "at once")):
            requests = sum(times * cost.requests for times, cost in parts)
            octets = sum(times * cost.octets for times, cost in parts)
            cpu = sum(times * (cost.gateway_s + cost.postgres_s) for times, cost in parts)
            shown.add_row(str(number), name, f"{requests:,}", f"{octets / 1e6:.1f}", f"{cpu:.1f}", late)
    console.print(f"{clients:,} clients for an hour, polling every {EVERY_S} s")
    console.print(shown)


if __name__ == "__main__":
    main()
