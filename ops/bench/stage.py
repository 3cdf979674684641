"""What the benches share: a gateway of processes on a Postgres and a push service of their own, and what each costs.

Everything is made anew in a folder that goes when the bench ends. Time is wall time; cost is CPU time by process,
as the kernel counts it.
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
from gateway.records.postgres.engine import copy, open_engine
from gateway.service.access import applications
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.notifications.submission import Draft, submit
from gateway.sim.keys import Keys
from tests.support.tls import make_ca

MASTER_KEY = "a master key for one benchmark only, and no other"
KEY_PAIRS = 500
CONTENT = {"title": "Severe thunderstorms", "body": "Go indoors and stay away from windows. " * 4, "url": "/storm"}
EVERYONE = {"everyone": True}
LOOK_S = 0.1
PATIENCE_S = 1800
TICK = os.sysconf("SC_CLK_TCK")
COLUMNS = ("id", "application_id", "endpoint", "endpoint_digest", "host", "p256dh", "auth", "vapid_key_id")

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """`sink` says in words what the push service at `origin` is."""

    folder: Path
    postgres: EmbeddedPostgres
    origin: str
    sink: str

    @property
    def environment(self) -> dict[str, str]:
        """For the gateway's own processes."""
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
def stage() -> Iterator[Stage]:
    """A migrated Postgres, and a push service that takes everything."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    folder.chmod(0o711)  # root's Postgres runs as somebody else
    try:
        make_ca(folder)
        with sink.running(folder) as (words, origin), EmbeddedPostgres(folder / "postgres") as postgres:
            migrate.upgrade(postgres.url)
            yield Stage(folder, postgres, origin, words)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def orders(on: Stage) -> AsyncIterator[Context]:
    """What giving orders takes, as the web side has it."""
    async with AsyncExitStack() as stack:
        engine = open_engine(on.postgres.url)
        stack.push_async_callback(engine.dispose)
        yield Context(engine, Keyring(MASTER_KEY.encode()), EndpointPolicy([on.origin]), "https://push.example.org")


async def application(context: Context, name: str = "bench") -> UUID:
    async with context.engine.begin() as conn:
        made = await applications.create(
            conn, context.keyring, name, "mailto:ops@example.org", ["https://app.example.org"]
        )
    id_ = ids.parse(ids.APPLICATION, made["id"])
    assert id_ is not None
    return id_


async def devices(
    context: Context, application_id: UUID, origin: str, count: int, *, topic: tuple[str, int] = ("", 0)
) -> list[Keys]:
    """`count` devices by COPY; answers with the key pairs that they share. `topic`: (its name, how many have it)."""
    pairs = [Keys.generate() for _ in range(KEY_PAIRS)]
    host = origin.partition("://")[2]
    async with context.engine.begin() as conn:
        wanted = text("SELECT id FROM vapid_keys WHERE application_id = :id")
        [key_id] = (await conn.execute(wanted, {"id": application_id})).scalars()
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
        await copy(conn, "devices", (*COLUMNS, "topics"), rows)
    await analyze(context)
    return pairs


async def analyze(context: Context) -> None:
    async with context.engine.connect() as conn:
        await (await conn.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))


@contextmanager
def running(on: Stage, *command: str, until: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the gateway, such as `work`, from the event `until` in its log to the end of the block.

    `settings` are the gateway's, without their prefix.
    """
    environment = os.environ | on.environment | {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    told, lines = [], process.stderr or ()
    for line in lines:
        told.append(line)
        if until in line:
            break
    else:
        raise SystemExit(f"gateway {' '.join(command)} did not start: {''.join(told)}")
    rest = threading.Thread(target=lambda: [*lines])  # a full pipe would stop it
    rest.start()
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        rest.join()


async def send(
    context: Context, application_id: UUID, kind: Kind = Kind.CAMPAIGN, audience: Mapping[str, Any] = EVERYONE
) -> UUID:
    """Submit it, as the HTTP API would."""
    draft = Draft(kind, dict(CONTENT), dict(audience))
    async with context.engine.begin() as conn:
        return (await submit(conn, context, application_id, draft)).id


async def ended(context: Context, notification_id: UUID, *, look_s: float = LOOK_S) -> None:
    """When everything of it is accounted for."""
    done = text("SELECT finished_at IS NOT NULL FROM notifications WHERE id = :id")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with context.engine.connect() as conn:
                if (await conn.execute(done, {"id": notification_id})).scalar_one():
                    return
            await asyncio.sleep(look_s)  # seldom enough to cost nothing


async def check_log(context: Context, notification_id: UUID, count: int) -> None:
    """Every device is in the log exactly once, as accepted."""
    logged = text(
        "SELECT count(*), count(DISTINCT device_id) FROM deliveries "
        "WHERE notification_id = :id AND outcome = 'accepted'"
    )
    async with context.engine.connect() as conn:
        rows, found = (await conn.execute(logged, {"id": notification_id})).one()
    if (rows, found) != (count, count):
        raise SystemExit(f"{rows} rows for {found} devices are in the log, not {count}")


async def postmaster(context: Context) -> int:
    """The process whose children Postgres's are."""
    async with context.engine.connect() as conn:
        return parent_of((await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one())


def process_cpu(pid: int) -> float:
    """Seconds of user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def family_cpu(parent: int) -> float:
    """Seconds of a process, its children that live, and those it has buried."""
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


def memory(pid: int) -> float:
    """MB at the peak so far."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def table(*columns: str) -> Table:
    """The first column is words, the others figures."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def parser(name: str, words: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"ops/bench/{name}", description=words)
    made.add_argument("--json", type=Path, help="write the figures to this file as well")
    return made


def at_least_one(said: str) -> int:
    if (number := int(said)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def keep(path: Path | None, figures: Mapping[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")
