"""What the queue costs: in Postgres, in one NATS server, and in three with three copies of everything.

Each contestant has a database of its own on one Postgres, one worker, and with NATS one relay; NATS writes through to
the disk (`sync_interval: always`). In each round every one of them sends the same campaign to the same TLS sink, one
after the other. While it runs alerts to one device are accepted, and it is measured how long each takes to be sent.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import sink
import stage

from gateway.domain.notification import Kind
from gateway.embedded import EmbeddedPostgres
from gateway.push.endpoints import EndpointPolicy
from gateway.records.postgres import migrate
from gateway.records.postgres.engine import open_engine
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.notifications.submission import Draft, submit
from tests.support.nats_server import start_nodes
from tests.support.tls import make_ca

STORED_AT_ONCE = "jetstream { sync_interval: always }\n"
ALERT_EVERY_S = 0.4
START_S = 60
PARTS = ("worker", "relay", "Postgres", "NATS")

console = Console(highlight=False)


@dataclass(slots=True)
class Contestant:
    """One gateway. `used` has the microseconds of CPU for each delivery, by part and round."""

    name: str
    context: Context
    application_id: UUID
    cpu: dict[str, Callable[[], float]]
    processes: dict[str, list[int]]
    used: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    rate: list[float] = field(default_factory=list)
    alert_ms: list[float] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)

    @property
    def all_us(self) -> float:
        return sum(statistics.median(used) for used in self.used.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="ops/bench/queues", description=__doc__)
    parser.add_argument("--devices", type=int, default=20_000, help="deliveries of each in a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--only", nargs="+", choices=["postgres", "one", "three"], help="leave out the others")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    folder.chmod(0o711)  # root's Postgres runs as somebody else
    try:
        make_ca(folder)
        with sink.running(folder) as (words, origin), EmbeddedPostgres(folder / "postgres") as postgres:
            found = asyncio.run(compare(asked, folder, origin, postgres.url))
        report(asked, words, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def compare(asked: argparse.Namespace, folder: Path, origin: str, url: str) -> list[Contestant]:
    makers = {"postgres": ("Postgres", 0), "one": ("NATS, one server", 1), "three": ("NATS, three servers", 3)}
    chosen = [makers[name] for name in makers if not asked.only or name in asked.only]
    async with AsyncExitStack() as stack:
        several = [
            await stack.enter_async_context(contestant(name, servers, folder / f"q{servers}", origin, url, asked))
            for name, servers in chosen
        ]
        for number in range(asked.rounds):
            for one in several:
                console.print(f"[dim]round {number + 1} of {asked.rounds}: {one.name}[/]")
                await one_round(one, asked.devices)
        for one in several:
            one.peak_mb = {part: sum(map(stage.memory, pids)) for part, pids in one.processes.items()}
    return several


@asynccontextmanager
async def contestant(
    name: str, servers: int, folder: Path, origin: str, url: str, asked: argparse.Namespace
) -> AsyncIterator[Contestant]:
    folder.mkdir()  # noqa: ASYNC240 - nothing else runs yet
    base = open_engine(url)
    async with base.connect() as conn:
        alone = await conn.execution_options(isolation_level="AUTOCOMMIT")
        await alone.execute(text(f'CREATE DATABASE "queue_{servers}"'))
    await base.dispose()
    own = f"{url.rpartition('/')[0]}/queue_{servers}"
    await asyncio.to_thread(migrate.upgrade, own)
    async with AsyncExitStack() as stack:
        engine = open_engine(own)
        stack.push_async_callback(engine.dispose)
        context = Context(
            engine, Keyring(stage.MASTER_KEY.encode()), EndpointPolicy([origin]), "https://push.example.org"
        )
        application_id = await stage.application(context)
        await stage.devices(context, application_id, origin, asked.devices)
        async with engine.begin() as conn:  # whom the alerts are for
            one = text("UPDATE devices SET user_id = 'chief' WHERE id = (SELECT min(id::text)::uuid FROM devices)")
            await conn.execute(one)
            backend = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        postmaster = stage.parent_of(backend)
        settings = {
            "GATEWAY_DATABASE_URL": own,
            "GATEWAY_MASTER_KEY": stage.MASTER_KEY,
            "GATEWAY_PUSH_HOSTS": origin,
            "GATEWAY_PUSH_CA": str(folder.parent / "ca.pem"),
            "GATEWAY_PUBLIC_URL": "https://push.example.org",
            "GATEWAY_WORKER_CONCURRENCY": "64",
            "GATEWAY_LOG_FORMAT": "json",
            "PYTHONPATH": str(stage.ROOT),
        }
        processes: dict[str, list[int]] = {}
        if servers:
            there = await stack.enter_async_context(start_nodes(servers, folder, STORED_AT_ONCE))
            processes["NATS"] = [node.pid for node in there]
            settings["GATEWAY_QUEUE"] = ",".join(node.url for node in there)
            processes["relay"] = [await stack.enter_async_context(running("relay", settings, folder))]
            settings["GATEWAY_DATABASE_URL"] = ""
        processes["worker"] = [await stack.enter_async_context(running("work", settings, folder))]
        cpu: dict[str, Callable[[], float]] = {
            part: lambda pids=pids: sum(map(stage.process_cpu, pids))  # type: ignore[misc]
            for part, pids in processes.items()
        }
        cpu["Postgres"] = lambda: stage.family_cpu(postmaster)
        yield Contestant(name, context, application_id, cpu, processes)


@asynccontextmanager
async def running(command: str, settings: dict[str, str], folder: Path) -> AsyncIterator[int]:
    """The process id of `gateway work` or `gateway relay`, once it has started."""
    log = folder / f"{command}.log"
    with log.open("wb") as written:
        process = subprocess.Popen(  # noqa: ASYNC220 - it only starts one
            [sys.executable, "-m", "gateway", command], env=os.environ | settings, stdout=written, stderr=written
        )
    try:
        async with asyncio.timeout(START_S):
            while b".started" not in log.read_bytes():
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                await asyncio.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def one_round(one: Contestant, count: int) -> None:
    """One campaign to everyone, from the submission to the last row of the log, and the alerts beside it."""
    before = {part: read() for part, read in one.cpu.items()}
    began = time.perf_counter()
    sent = await accept(one, Draft(Kind.CAMPAIGN, dict(stage.CONTENT), {"everyone": True}))
    alerts: dict[UUID, datetime] = {}
    async with asyncio.timeout(stage.PATIENCE_S):
        while not await finished(one, sent):
            await asyncio.sleep(ALERT_EVERY_S)
            alert = await accept(one, Draft(Kind.ALERT, dict(stage.CONTENT), {"user_id": "chief"}))
            alerts[alert] = datetime.now(UTC)
        seconds = time.perf_counter() - began
        used = {part: read() - before[part] for part, read in one.cpu.items()}
        for alert in alerts:
            while not await finished(one, alert):  # noqa: ASYNC110 - seldom enough to cost nothing
                await asyncio.sleep(stage.LOOK_S)
    one.rate.append(count / seconds)
    for part in PARTS:
        one.used[part].append(used.get(part, 0.0) / count * 1e6)
    last, first_sent = await logged(one, sent, count)
    for alert, accepted in alerts.items():
        _, at = await logged(one, alert, 1)
        if first_sent < at < last:
            one.alert_ms.append((at - accepted).total_seconds() * 1000)


async def accept(one: Contestant, draft: Draft) -> UUID:
    async with one.context.engine.begin() as conn:
        accepted = await submit(conn, one.context, one.application_id, draft)
    return accepted.id


async def finished(one: Contestant, id_: UUID) -> bool:
    async with one.context.engine.connect() as conn:
        done = text("SELECT finished_at IS NOT NULL FROM notifications WHERE id = :id")
        ended: bool = (await conn.execute(done, {"id": id_})).scalar_one()
        return ended


async def logged(one: Contestant, id_: UUID, count: int) -> tuple[datetime, datetime]:
    """When its last and its first message were sent; fails unless each device is in the log once."""
    query = text(
        "SELECT count(*), count(DISTINCT device_id), max(attempted_at), min(attempted_at) FROM deliveries "
        "WHERE notification_id = :id AND outcome = 'accepted'"
    )
    async with one.context.engine.connect() as conn:
        rows, devices, last, first = (await conn.execute(query, {"id": id_})).one()
    assert (rows, devices) == (count, count), f"{rows} rows for {devices} devices are in the log, not {count}"
    return last, first


def report(asked: argparse.Namespace, words: str, found: list[Contestant]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("queue", "deliveries/s", *(f"{part} us" for part in PARTS), "all us", "alert ms", "slowest"):
        table.add_column(column, justify="left" if column == "queue" else "right")
    for one in found:
        parts = [statistics.median(one.used[part]) for part in PARTS]
        alerts = one.alert_ms or [0.0]
        table.add_row(
            one.name,
            f"{statistics.median(one.rate):,.0f}",
            *(f"{part:,.1f}" if part else "" for part in parts),
            f"{one.all_us:,.0f}",
            f"{statistics.median(alerts):,.0f}",
            f"{max(alerts):,.0f}",
        )
    console.print(f"\n{asked.devices:,} deliveries in {asked.rounds} rounds, medians; the sink is {words}")
    console.print(table)
    for one in found:
        peaks = ", ".join(f"{part} {mb:.0f}" for part, mb in one.peak_mb.items())
        console.print(f"peak memory, MB, {one.name}: {peaks}; {len(one.alert_ms)} alerts while it ran")
    if asked.json:
        figures = {
            one.name: {"cpu_us": one.used, "rate": one.rate, "alert_ms": one.alert_ms, "peak_mb": one.peak_mb}
            for one in found
        }
        kept = {"sink": words, "devices": asked.devices, "queues": figures}
        asked.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
