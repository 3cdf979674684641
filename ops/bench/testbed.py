"""The testbed of the benchmarks: gateway processes, an embedded Postgres and a push service, with their CPU times.

Everything is created in a temporary folder, which is removed at the end. Times are wall-clock times; costs are CPU
times of processes as the kernel counts them.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import sink

from gateway.domain import ids
from gateway.domain.notification import Kind
from gateway.embedded import EmbeddedPostgres
from gateway.push.endpoints import EndpointPolicy
from gateway.records.postgres import migrate
from gateway.records.postgres.engine import copy_rows, open_engine
from gateway.service.access import applications
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.notifications.submission import Draft, submit
from gateway.sim.keys import DeviceKeys
from tests.support.tls import make_ca

MASTER_KEY = "a master key for one benchmark only, and no other"
KEY_PAIRS = 500
CONTENT = {"title": "Severe thunderstorms", "body": "Go indoors and stay away from windows. " * 4, "url": "/storm"}
EVERYONE = {"everyone": True}
POLL_INTERVAL_S = 0.1
TIMEOUT_S = 1800
TICK = os.sysconf("SC_CLK_TCK")
COLUMNS = ("id", "application_id", "endpoint", "endpoint_digest", "host", "p256dh", "auth", "vapid_key_id")

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Testbed:
    """The services of a benchmark. `sink` describes the push service at `origin`."""

    folder: Path
    postgres: EmbeddedPostgres
    origin: str
    sink: str

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of the gateway's processes."""
        return {
            "GATEWAY_DATABASE_URL": self.postgres.url,
            "GATEWAY_MASTER_KEY": MASTER_KEY,
            "GATEWAY_PUSH_HOSTS": self.origin,
            "GATEWAY_PUSH_CA": str(self.folder / "ca.pem"),
            "GATEWAY_PUBLIC_URL": "https://push.example.org",
            "GATEWAY_LOG_FORMAT": "json",
            "PYTHONPATH": str(ROOT),
        }


@contextmanager
def create_testbed() -> Iterator[Testbed]:
    """Start a Postgres with the gateway's tables, and a push service that accepts every message."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    folder.chmod(0o711)  # as root, the embedded Postgres runs as another user
    try:
        make_ca(folder)
        with sink.run_sink(folder) as (description, origin), EmbeddedPostgres(folder / "postgres") as postgres:
            migrate.upgrade(postgres.url)
            yield Testbed(folder, postgres, origin, description)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def open_context(bed: Testbed) -> AsyncIterator[Context]:
    """Open a service context like that of the web server."""
    async with AsyncExitStack() as stack:
        engine = open_engine(bed.postgres.url)
        stack.push_async_callback(engine.dispose)
        yield Context(engine, Keyring(MASTER_KEY.encode()), EndpointPolicy([bed.origin]), "https://push.example.org")


async def create_application(context: Context, name: str = "bench") -> UUID:
    """Create an application and return its id."""
    async with context.engine.begin() as conn:
        created = await applications.create(
            conn, context.keyring, name, "mailto:ops@example.org", ["https://app.example.org"]
        )
    id_ = ids.parse(ids.APPLICATION, created["id"])
    assert id_ is not None
    return id_


async def create_devices(
    context: Context, application_id: UUID, origin: str, count: int, *, topic: tuple[str, int] = ("", 0)
) -> list[DeviceKeys]:
    """Create devices by COPY and return the key pairs that they share. `topic` is (name, number of subscribers)."""
    pairs = [DeviceKeys.generate() for _ in range(KEY_PAIRS)]
    host = origin.partition("://")[2]
    async with context.engine.begin() as conn:
        query = text("SELECT id FROM vapid_keys WHERE application_id = :id")
        [key_id] = (await conn.execute(query, {"id": application_id})).scalars()
        rows = (
            (
                ids.new_id(),
                application_id,
                f"{origin}/p/{n}",
                n.to_bytes(8, "big") + application_id.bytes + bytes(8),
                host,
                pair.p256dh,
                pair.auth,
                key_id,
                [topic[0]] if n < topic[1] else [],
            )
            for n, pair in zip(range(count), itertools.cycle(pairs), strict=False)
        )
        await copy_rows(conn, "devices", (*COLUMNS, "topics"), rows)
    await analyze(context)
    return pairs


async def analyze(context: Context) -> None:
    """Vacuum and analyze the database."""
    async with context.engine.connect() as conn:
        await (await conn.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))


@contextmanager
def run_process(bed: Testbed, *command: str, until: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Run a gateway command, such as `work`; enter the block when its log has the event `until`, stop it at the end.

    `settings` are settings of the gateway without the prefix `GATEWAY_`.
    """
    environment = os.environ | bed.environment | {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    output, lines = [], process.stderr or ()
    for line in lines:
        output.append(line)
        if until in line:
            break
    else:
        raise SystemExit(f"gateway {' '.join(command)} did not start: {''.join(output)}")
    drain = threading.Thread(target=lambda: [*lines])  # drain the pipe: a full one would block the process
    drain.start()
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        drain.join()


async def submit_notification(
    context: Context, application_id: UUID, kind: Kind = Kind.CAMPAIGN, audience: Mapping[str, Any] = EVERYONE
) -> UUID:
    """Submit a notification, as the HTTP API does."""
    draft = Draft(kind, dict(CONTENT), dict(audience))
    async with context.engine.begin() as conn:
        return (await submit(conn, context, application_id, draft)).id


async def wait_until_finished(context: Context, notification_id: UUID, *, interval_s: float = POLL_INTERVAL_S) -> None:
    """Wait until every delivery of a notification has an outcome."""
    query = text("SELECT finished_at IS NOT NULL FROM notifications WHERE id = :id")
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            async with context.engine.connect() as conn:
                if (await conn.execute(query, {"id": notification_id})).scalar_one():
                    return
            await asyncio.sleep(interval_s)  # the poll costs nothing at this interval


async def check_log(context: Context, notification_id: UUID, count: int) -> None:
    """Exit unless every device is in the log exactly once, as accepted."""
    query = text(
        "SELECT count(*), count(DISTINCT device_id) FROM deliveries "
        "WHERE notification_id = :id AND outcome = 'accepted'"
    )
    async with context.engine.connect() as conn:
        rows, devices = (await conn.execute(query, {"id": notification_id})).one()
    if (rows, devices) != (count, count):
        raise SystemExit(f"the log has {rows} rows for {devices} devices, not {count}")


async def postmaster_pid(context: Context) -> int:
    """Return the process id of the postmaster, the parent of all Postgres processes."""
    async with context.engine.connect() as conn:
        return parent_of((await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one())


def process_cpu_s(pid: int) -> float:
    """Return a process's user and system time in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def parent_of(pid: int) -> int:
    """Return the process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def tree_cpu_s(parent: int) -> float:
    """Return the CPU seconds of a process, its running children and the children that it has reaped."""
    fields = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()
    total = sum(map(int, fields[11:15])) / TICK
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            child = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(child[1]) == parent:
            total += (int(child[11]) + int(child[12])) / TICK
    return total


def peak_memory_mb(pid: int) -> float:
    """Return a process's peak resident memory in MB."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def make_table(*columns: str) -> Table:
    """Return a table whose first column is left-aligned text, the others right-aligned figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(prog=f"ops/bench/{name}", description=description)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def positive_int(value: str) -> int:
    """Parse an integer of at least 1."""
    if (number := int(value)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def write_json(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures to a file, if one was given."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")
