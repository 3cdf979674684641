"""Compare the cost of the queue in Postgres, in one NATS server, and in three NATS servers with three replicas.

Each setup has its own database on one Postgres, one worker, and with NATS one relay; NATS syncs every write to disk
(`sync_interval: always`). In each round every setup sends the same campaign to the same TLS sink, one after the other.
During the campaign the benchmark submits alerts to one device and measures how long each takes to be sent.
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
import testbed

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

SYNC_ALWAYS = "jetstream { sync_interval: always }\n"
ALERT_EVERY_S = 0.4
START_S = 60
PARTS = ("worker", "relay", "Postgres", "NATS")

console = Console(highlight=False)


@dataclass(slots=True)
class QueueSetup:
    """A gateway with one kind of queue. `cpu_us` is the CPU microseconds per delivery, by part and round."""

    name: str
    context: Context
    application_id: UUID
    read_cpu: dict[str, Callable[[], float]]
    processes: dict[str, list[int]]
    cpu_us: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    rate: list[float] = field(default_factory=list)
    alert_ms: list[float] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)

    @property
    def all_us(self) -> float:
        """Return the CPU microseconds per delivery of all parts."""
        return sum(statistics.median(cpu_us) for cpu_us in self.cpu_us.values())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="ops/bench/queues", description=__doc__)
    parser.add_argument("--devices", type=int, default=20_000, help="deliveries of each setup per round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=["postgres", "one", "three"], help="measure only these setups")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    folder.chmod(0o711)  # as root, the embedded Postgres runs as another user
    try:
        make_ca(folder)
        with sink.run_sink(folder) as (sink_description, origin), EmbeddedPostgres(folder / "postgres") as postgres:
            setups = asyncio.run(compare(options, folder, origin, postgres.url))
        report(options, sink_description, setups)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def compare(options: argparse.Namespace, folder: Path, origin: str, url: str) -> list[QueueSetup]:
    """Run all rounds and return the setups with their figures."""
    kinds = {"postgres": ("Postgres", 0), "one": ("NATS, one server", 1), "three": ("NATS, three servers", 3)}
    chosen = [kinds[name] for name in kinds if not options.only or name in options.only]
    async with AsyncExitStack() as stack:
        setups = [
            await stack.enter_async_context(open_setup(name, servers, folder / f"q{servers}", origin, url, options))
            for name, servers in chosen
        ]
        for number in range(options.rounds):
            for setup in setups:
                console.print(f"[dim]round {number + 1} of {options.rounds}: {setup.name}[/]")
                await run_round(setup, options.devices)
        for setup in setups:
            setup.peak_mb = {part: sum(map(testbed.peak_memory_mb, pids)) for part, pids in setup.processes.items()}
    return setups


@asynccontextmanager
async def open_setup(
    name: str, servers: int, folder: Path, origin: str, url: str, options: argparse.Namespace
) -> AsyncIterator[QueueSetup]:
    """Start a gateway with a queue in this many NATS servers, or in Postgres for 0."""
    folder.mkdir()  # noqa: ASYNC240 - nothing else runs yet
    base = open_engine(url)
    async with base.connect() as conn:
        autocommit = await conn.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(f'CREATE DATABASE "queue_{servers}"'))
    await base.dispose()
    database_url = f"{url.rpartition('/')[0]}/queue_{servers}"
    await asyncio.to_thread(migrate.upgrade, database_url)
    async with AsyncExitStack() as stack:
        engine = open_engine(database_url)
        stack.push_async_callback(engine.dispose)
        context = Context(
            engine, Keyring(testbed.MASTER_KEY.encode()), EndpointPolicy([origin]), "https://push.example.org"
        )
        application_id = await testbed.create_application(context)
        await testbed.create_devices(context, application_id, origin, options.devices)
        async with engine.begin() as conn:  # the recipient of the alerts
            query = text("UPDATE devices SET user_id = 'chief' WHERE id = (SELECT min(id::text)::uuid FROM devices)")
            await conn.execute(query)
            backend = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        postmaster = testbed.parent_of(backend)
        settings = {
            "GATEWAY_DATABASE_URL": database_url,
            "GATEWAY_MASTER_KEY": testbed.MASTER_KEY,
            "GATEWAY_PUSH_HOSTS": origin,
            "GATEWAY_PUSH_CA": str(folder.parent / "ca.pem"),
            "GATEWAY_PUBLIC_URL": "https://push.example.org",
            "GATEWAY_WORKER_CONCURRENCY": "64",
            "GATEWAY_LOG_FORMAT": "json",
            "PYTHONPATH": str(testbed.ROOT),
        }
        processes: dict[str, list[int]] = {}
        if servers:
            servers_running = await stack.enter_async_context(start_nodes(servers, folder, SYNC_ALWAYS))
            processes["NATS"] = [node.pid for node in servers_running]
            settings["GATEWAY_QUEUE"] = ",".join(node.url for node in servers_running)
            processes["relay"] = [await stack.enter_async_context(run_process("relay", settings, folder))]
            settings["GATEWAY_DATABASE_URL"] = ""
        processes["worker"] = [await stack.enter_async_context(run_process("work", settings, folder))]
        cpu: dict[str, Callable[[], float]] = {
            part: lambda pids=pids: sum(map(testbed.process_cpu_s, pids))  # type: ignore[misc]
            for part, pids in processes.items()
        }
        cpu["Postgres"] = lambda: testbed.tree_cpu_s(postmaster)
        yield QueueSetup(name, context, application_id, cpu, processes)


@asynccontextmanager
async def run_process(command: str, settings: dict[str, str], folder: Path) -> AsyncIterator[int]:
    """Run `gateway work` or `gateway relay`; yield its process id once it has started."""
    log = folder / f"{command}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - starting is quick
            [sys.executable, "-m", "gateway", command], env=os.environ | settings, stdout=output, stderr=output
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


async def run_round(setup: QueueSetup, count: int) -> None:
    """Send one campaign to everyone with alerts during it; measure from the submission to the last log row."""
    cpu_before = {part: read_part() for part, read_part in setup.read_cpu.items()}
    start = time.perf_counter()
    campaign = await submit_draft(setup, Draft(Kind.CAMPAIGN, dict(testbed.CONTENT), {"everyone": True}))
    alerts: dict[UUID, datetime] = {}
    async with asyncio.timeout(testbed.TIMEOUT_S):
        while not await is_finished(setup, campaign):
            await asyncio.sleep(ALERT_EVERY_S)
            alert = await submit_draft(setup, Draft(Kind.ALERT, dict(testbed.CONTENT), {"user_id": "chief"}))
            alerts[alert] = datetime.now(UTC)
        seconds = time.perf_counter() - start
        cpu = {part: read_part() - cpu_before[part] for part, read_part in setup.read_cpu.items()}
        for alert in alerts:
            while not await is_finished(setup, alert):  # noqa: ASYNC110 - another process sends
                await asyncio.sleep(testbed.POLL_INTERVAL_S)
    setup.rate.append(count / seconds)
    for part in PARTS:
        setup.cpu_us[part].append(cpu.get(part, 0.0) / count * 1e6)
    last, first_sent = await read_log(setup, campaign, count)
    for alert, accepted in alerts.items():
        _, at = await read_log(setup, alert, 1)
        if first_sent < at < last:
            setup.alert_ms.append((at - accepted).total_seconds() * 1000)


async def submit_draft(setup: QueueSetup, draft: Draft) -> UUID:
    """Submit a notification and return its id."""
    async with setup.context.engine.begin() as conn:
        notification = await submit(conn, setup.context, setup.application_id, draft)
    return notification.id


async def is_finished(setup: QueueSetup, id_: UUID) -> bool:
    """Return whether every delivery of a notification has an outcome."""
    async with setup.context.engine.connect() as conn:
        query = text("SELECT finished_at IS NOT NULL FROM notifications WHERE id = :id")
        finished: bool = (await conn.execute(query, {"id": id_})).scalar_one()
        return finished


async def read_log(setup: QueueSetup, id_: UUID, count: int) -> tuple[datetime, datetime]:
    """Return the send times of the last and the first message. Fail unless each device is in the log once."""
    query = text(
        "SELECT count(*), count(DISTINCT device_id), max(attempted_at), min(attempted_at) FROM deliveries "
        "WHERE notification_id = :id AND outcome = 'accepted'"
    )
    async with setup.context.engine.connect() as conn:
        rows, devices, last, first = (await conn.execute(query, {"id": id_})).one()
    assert (rows, devices) == (count, count), f"the log has {rows} rows for {devices} devices, not {count}"
    return last, first


def report(options: argparse.Namespace, sink: str, setups: list[QueueSetup]) -> None:
    """Print the figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("queue", "deliveries/s", *(f"{part} us" for part in PARTS), "all us", "alert ms", "slowest alert"):
        table.add_column(column, justify="left" if column == "queue" else "right")
    for setup in setups:
        parts = [statistics.median(setup.cpu_us[part]) for part in PARTS]
        alerts = setup.alert_ms or [0.0]
        table.add_row(
            setup.name,
            f"{statistics.median(setup.rate):,.0f}",
            *(f"{part:,.1f}" if part else "" for part in parts),
            f"{setup.all_us:,.0f}",
            f"{statistics.median(alerts):,.0f}",
            f"{max(alerts):,.0f}",
        )
    console.print(f"\n{options.devices:,} deliveries in {options.rounds} rounds, medians; the sink is {sink}")
    console.print(table)
    for setup in setups:
        peaks = ", ".join(f"{part} {mb:.0f}" for part, mb in setup.peak_mb.items())
        console.print(f"peak memory, MB, {setup.name}: {peaks}; {len(setup.alert_ms)} alerts during the campaigns")
    if options.json:
        figures = {
            setup.name: {
                "cpu_us": setup.cpu_us,
                "rate": setup.rate,
                "alert_ms": setup.alert_ms,
                "peak_mb": setup.peak_mb,
            }
            for setup in setups
        }
        summary = {"sink": sink, "devices": options.devices, "queues": figures}
        options.json.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
