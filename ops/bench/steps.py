"""What each step of a delivery asks of Postgres, of the disk and of the network: the figures a capacity model needs.

One worker sends a campaign in jobs of 500 while Postgres writes every statement with its duration to its log (with
`--nats` it has a relay beside it, whose transactions are then the ones told). From that are read, for each kind of
transaction, its round trips, the time Postgres took, the time it was open, and for settling how long the application's
row and the commit were held. A proxy in the way to the push service counts octets. Then log rows of realistic size
are appended in batches of 500, and signals are sent to many listeners.
"""

import asyncio
import re
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import log_rows
import scale
import stage
from sqlalchemy import text
from stage import Stage, console

from gateway.domain.job import Job, JobKind
from gateway.domain.notification import Lane
from gateway.queue import wire
from gateway.records.postgres.engine import plain_url
from gateway.records.postgres.notifier import JOBS
from gateway.service.context import Context
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import job_loading
from tests.support.nats_server import start_nodes

LINE = re.compile(r"^(?P<at>\d+\.\d+) (?P<pid>\d+) LOG:  duration: (?P<ms>[\d.]+) ms  (?P<said>.*)$")
BATCH = 500
LISTENERS = 64
KINDS = {"claim": "SKIP LOCKED", "load": "devices.live_until", "settle": 'COPY "deliveries"'}
TOLD = {
    "claim": "claim a job",
    "load": "load a job",
    "settle": "settle a job",
}


@dataclass(slots=True)
class Transaction:
    """Milliseconds; `steps` are (end, duration, statement)."""

    steps: list[tuple[float, float, str]] = field(default_factory=list)

    @property
    def server(self) -> float:
        return sum(ms for _, ms, _ in self.steps)

    @property
    def open(self) -> float:
        first, ms, _ = self.steps[0]
        return self.steps[-1][0] - first + ms

    @property
    def trips(self) -> int:
        """Statements, of which a prepared one may be three lines: parsed and bound with its execution."""
        return sum(not said.startswith(("parse", "bind")) for _, _, said in self.steps)

    @property
    def commit(self) -> float:
        return self.steps[-1][1]

    @property
    def held(self) -> float:
        """From when the application's row was locked to the end of the commit."""
        [since] = [at for at, _, said in self.steps if "log_position=" in said and said.startswith("execute")]
        return self.steps[-1][0] - since


def main() -> None:
    parser = stage.parser("steps", __doc__)
    parser.add_argument("--devices", type=int, default=30_000, help="deliveries of the campaign (%(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the log (%(default)s)")
    parser.add_argument("--nats", action="store_true", help="the queue in one NATS server")
    asked = parser.parse_args()
    with stage.stage() as on:
        found = asyncio.run(measure(on, asked.devices, asked.rows, nats=asked.nats))
    report(found)
    stage.keep(asked.json, {"sink": on.sink, "devices": asked.devices, "rows": asked.rows, **found})


async def measure(on: Stage, devices: int, rows: int, *, nats: bool) -> dict[str, Any]:
    async with stage.orders(on) as context:
        console.print("[dim]rows of the log[/]")
        found: dict[str, Any] = {"log": await log_octets(on, context, rows)}
        console.print("[dim]a campaign[/]")
        found |= await campaign(on, context, devices, nats=nats)
        console.print("[dim]signals[/]")
        found["notify_us"] = await notify_us(on, context)
    return found


async def log_octets(on: Stage, context: Context, rows: int) -> dict[str, float]:
    """Octets on disk of one row with its indexes, and of WAL, appended as settling appends."""
    filled = await log_rows.fill(on.postgres.url, rows, 1)
    conn = await asyncpg.connect(plain_url(on.postgres.url))
    try:
        octets: dict[str, float] = {}
        for name in ("deliveries", "attempts", "receipts"):
            partition = f"{name}_{filled.days[0]:%Y%m%d}"
            order = "settled_at" if name == "deliveries" else "at"
            numbered = f"SELECT row_number() OVER (ORDER BY {order}) AS n, * FROM {partition}"  # noqa: S608 - our names
            await conn.execute(f"CREATE UNLOGGED TABLE kept AS {numbered}")
            await conn.execute(f"ALTER TABLE kept ADD PRIMARY KEY (n); TRUNCATE {partition}; CHECKPOINT")
            columns = await conn.fetchval(
                "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute "
                "WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
                partition,
            )
            count = await conn.fetchval("SELECT count(*) FROM kept")
            began = await conn.fetchval("SELECT pg_current_wal_insert_lsn()")
            append = f"INSERT INTO {partition} SELECT {columns} FROM kept WHERE n >= $1 AND n < $2"  # noqa: S608
            for first in range(1, count + 1, BATCH):
                await conn.execute(append, first, first + BATCH)
            wal = await conn.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", began)
            size = await conn.fetchval("SELECT pg_total_relation_size($1::regclass)", partition)
            octets |= {name: size / count, f"{name}_wal": float(wal) / count}
            await conn.execute("DROP TABLE kept")
        return octets
    finally:
        await conn.close()


async def campaign(on: Stage, context: Context, devices: int, *, nats: bool) -> dict[str, Any]:
    postgres_log = on.postgres.home / "postgres.log"
    async with AsyncExitStack() as stack:
        octets, origin = await stack.enter_async_context(counting(on.origin))
        application_id = await stage.application(context)
        await stage.devices(context, application_id, origin, devices)
        postmaster = await stage.postmaster(context)
        where: dict[str, str] = {"push_hosts": origin}
        if nats:
            (on.folder / "nats").mkdir()
            [node] = await stack.enter_async_context(start_nodes(1, on.folder / "nats"))
            stack.enter_context(stage.running(on, "relay", until="relay.started", queue=node.url))
            where |= {"queue": node.url, "database_url": ""}
        with stage.running(on, "work", until="worker.started", **where) as worker:
            await stage.ended(context, await stage.send(context, application_id))  # connections, prepared statements
            peak_mb = stage.memory(worker.pid)
        sent = await stage.send(context, application_id)
        job_octets, wire_octets, jobs = 0.0, 0, devices / BATCH
        if not nats:  # a relay would be faster than we
            await scale.plan(on, context)
            job_octets, jobs = await size_of_jobs(context)
            wire_octets = await size_on_wire(context)
        await settings(context, "ALTER SYSTEM SET log_min_duration_statement = 0")
        await settings(context, "ALTER SYSTEM SET log_line_prefix = '%n %p '")
        begun = postgres_log.stat().st_size
        before, wal = dict(octets), await lsn(context)
        with stage.running(on, "work", until="worker.started", **where) as worker:
            used, beside, since = stage.process_cpu(worker.pid), stage.family_cpu(postmaster), time.perf_counter()
            taker = sink_cpu(on)
            await stage.ended(context, sent)
            seconds = time.perf_counter() - since
            worker_s = stage.process_cpu(worker.pid) - used
            postgres_s = stage.family_cpu(postmaster) - beside
            sink_s = sink_cpu(on) - taker
        written = await lsn(context) - wal
        await settings(context, "ALTER SYSTEM RESET ALL")
        await stage.check_log(context, sent, devices)
    with postgres_log.open() as log:
        log.seek(begun)
        found = transactions(log.read())
    return {
        "rate": devices / seconds,
        "worker_us": worker_s / devices * 1e6,
        "postgres_us": postgres_s / devices * 1e6,
        "sink_us": sink_s / devices * 1e6,
        "wal_octets": written / devices,
        "job_octets": job_octets,
        "wire_octets": wire_octets,
        "sent_octets": (octets["sent"] - before["sent"]) / devices,
        "answered_octets": (octets["answered"] - before["answered"]) / devices,
        "memory_mb": peak_mb,
        "transactions": {kind: summary(found[kind], jobs) for kind in KINDS},
    }


def sink_cpu(on: Stage) -> float:
    """Seconds, where the push service is nginx."""
    told = on.folder / "nginx.pid"
    return stage.family_cpu(int(told.read_text())) if told.exists() else 0.0


async def settings(context: Context, statement: str) -> None:
    async with context.engine.connect() as conn:
        alone = await conn.execution_options(isolation_level="AUTOCOMMIT")
        await alone.execute(text(statement))
        await alone.execute(text("SELECT pg_reload_conf()"))


async def lsn(context: Context) -> int:
    async with context.engine.connect() as conn:
        written = text("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
        found: int = (await conn.execute(written)).scalar_one()
        return found


async def size_of_jobs(context: Context) -> tuple[float, float]:
    """Octets of a job of 500 on disk, indexes and all, and how many jobs there are."""
    async with context.engine.connect() as conn:
        query = text("SELECT pg_total_relation_size('jobs'), count(*) FROM jobs")
        size, count = (await conn.execute(query)).one()
    return size / count, count


async def size_on_wire(context: Context) -> int:
    """Octets of a whole job as a relay publishes it."""
    async with context.engine.connect() as conn:
        row = (await conn.execute(text("SELECT * FROM jobs WHERE task = 'send' LIMIT 1"))).one()
    job = Job(
        id=row.id,
        kind=JobKind.SEND,
        application_id=row.application_id,
        notification_id=row.notification_id,
        lane=Lane(row.lane),
        lease_generation=1,
        attempts=0,
        day=row.day,
        device_ids=tuple(row.device_ids),
    )
    cargo = await job_loading.load(context.engine, RendererCache(context.keyring, context.public_url), job)
    assert cargo is not None
    return len(wire.write_job(job, cargo))


@asynccontextmanager
async def counting(origin: str) -> AsyncIterator[tuple[dict[str, int], str]]:
    """Pass octets on to `origin`; gives what went each way, as TCP carries it, and the origin to use."""
    there = urlsplit(origin)
    octets = {"sent": 0, "answered": 0}

    async def pipe(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                octets[name] += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        on_reader, on_writer = await asyncio.open_connection("127.0.0.1", there.port)
        await asyncio.gather(pipe("sent", reader, on_writer), pipe("answered", on_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield octets, f"https://localhost:{server.sockets[0].getsockname()[1]}"


def transactions(log: str) -> dict[str, list[Transaction]]:
    """Those of each kind, in the words of KINDS; what is none of them is left out."""
    running: dict[str, Transaction] = {}
    found = defaultdict(list)
    for line in log.replace("\n\t", " ").splitlines():  # a statement of several lines is one
        if not (read := LINE.match(line)):
            continue
        pid, said = read["pid"], read["said"]
        if said.startswith("statement: BEGIN"):
            running[pid] = Transaction()
        if (one := running.get(pid)) is None:
            continue
        one.steps.append((float(read["at"]) * 1000, float(read["ms"]), said))
        if said.startswith("statement: COMMIT"):
            del running[pid]
            whole = "\n".join(words for _, _, words in one.steps)
            for kind, mark in KINDS.items():
                if mark in whole and (kind != "claim" or "min(jobs.run_at)" not in whole):
                    found[kind].append(one)
    return found


def summary(several: list[Transaction], jobs: float) -> dict[str, float]:
    def mid(figure: Callable[[Transaction], float]) -> float:
        return statistics.median(map(figure, several))

    figures = {
        "for_each_job": len(several) / jobs,
        "trips": mid(lambda one: one.trips),
        "server_ms": mid(lambda one: one.server),
        "open_ms": mid(lambda one: one.open),
        "commit_ms": mid(lambda one: one.commit),
    }
    if any("log_position=" in said for _, _, said in several[0].steps):
        figures["held_ms"] = mid(lambda one: one.held)
        figures["held_server_ms"] = mid(held_at_server)
    return figures


def held_at_server(one: Transaction) -> float:
    """What of the time that the row is held Postgres itself takes: no faster client makes it shorter."""
    [since] = [n for n, (_, _, said) in enumerate(one.steps) if "log_position=" in said and said.startswith("execute")]
    return sum(ms for _, ms, _ in one.steps[since + 1 :])


async def notify_us(on: Stage, context: Context) -> dict[str, float]:
    """Postgres's CPU for one signal, and for each listener that it reaches."""
    postmaster = await stage.postmaster(context)
    url = plain_url(on.postgres.url)
    teller = await asyncpg.connect(url)
    costs = []
    count = 1000
    async with AsyncExitStack() as stack:
        for listeners in (0, LISTENERS):
            for _ in range(listeners):
                one = await asyncpg.connect(url)
                stack.push_async_callback(one.close)
                await one.add_listener(JOBS, lambda *_: None)
            before = stage.family_cpu(postmaster)
            for _ in range(count):
                await teller.execute("SELECT pg_notify($1, '')", JOBS)
            await asyncio.sleep(0.2)  # the last are on their way, and nothing tells when they came
            costs.append((stage.family_cpu(postmaster) - before) / count * 1e6)
    await teller.close()
    return {"signal": costs[0], "listener": (costs[1] - costs[0]) / LISTENERS}


def report(found: dict[str, Any]) -> None:
    table = stage.table("transaction", "for a job", "round trips", "server ms", "open ms", "commit ms", "row held ms")
    for kind, figures in found["transactions"].items():
        held = f"{figures['held_ms']:.1f} ({figures['held_server_ms']:.1f})" if "held_ms" in figures else ""
        table.add_row(
            TOLD[kind],
            f"{figures['for_each_job']:.2f}",
            f"{figures['trips']:.0f}",
            *(f"{figures[name]:.2f}" for name in ("server_ms", "open_ms", "commit_ms")),
            held,
        )
    console.print(table)
    for name, words in {
        "rate": "deliveries a second, with every statement logged",
        "worker_us": "worker, us of CPU for a delivery, likewise",
        "postgres_us": "Postgres, us of CPU for a delivery, likewise",
        "sink_us": "the push service, us of CPU for a message",
        "wal_octets": "WAL, octets for a delivery",
        "job_octets": "a job of 500 on disk, octets",
        "wire_octets": "a job of 500 on its way through NATS, octets",
        "sent_octets": "to the push service, octets of TCP for a message",
        "answered_octets": "from the push service, likewise",
        "memory_mb": "worker, MB at the peak",
    }.items():
        console.print(f"{found[name]:12,.0f}  {words}")
    for name in ("deliveries", "attempts", "receipts"):
        wal = found["log"][f"{name}_wal"]
        console.print(f"{found['log'][name]:12,.0f}  a row of {name} with its indexes, octets; WAL {wal:,.0f}")
    told = found["notify_us"]
    console.print(f"{told['signal']:12,.0f}  a signal, us of Postgres; for each listener {told['listener']:.1f} more")


if __name__ == "__main__":
    main()
