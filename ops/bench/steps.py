"""Measure the Postgres, disk and network cost of each step of a delivery, for the capacity model.

One worker sends a campaign in jobs of 500 while Postgres logs every statement with its duration. (With `--nats` a relay
runs too, and the transactions are the relay's.) From that log the benchmark reads, for each kind of transaction, the
number of round trips, the time in Postgres, the time from begin to commit and the time of the commit; for settling also
how long the application's row was locked. A proxy in front of the push service counts octets. The benchmark also
appends log rows of realistic size in batches of 500, and sends NOTIFY to many listeners.
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
import testbed
from sqlalchemy import text
from testbed import Testbed, console

from gateway.domain.job import Job, JobKind
from gateway.domain.notification import Lane
from gateway.queue import wire
from gateway.records.postgres.engine import plain_url
from gateway.records.postgres.notifier import JOBS
from gateway.service.context import Context
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import job_loading
from tests.support.nats_server import start_nodes

LINE = re.compile(r"^(?P<at>\d+\.\d+) (?P<pid>\d+) LOG:  duration: (?P<ms>[\d.]+) ms  (?P<statement>.*)$")
BATCH = 500
LISTENERS = 64
# The kinds of transaction, each with a text that occurs only in its statements.
KINDS = {"claim": "SKIP LOCKED", "load": "devices.live_until", "settle": 'COPY "deliveries"'}
LABELS = {
    "claim": "claim a job",
    "load": "load a job",
    "settle": "settle a job",
}


@dataclass(slots=True)
class Transaction:
    """A transaction in Postgres's log. `steps` are (end, duration, statement) with times in milliseconds."""

    steps: list[tuple[float, float, str]] = field(default_factory=list)

    @property
    def server_ms(self) -> float:
        """Return the milliseconds in Postgres."""
        return sum(ms for _, ms, _ in self.steps)

    @property
    def open_ms(self) -> float:
        """Return the milliseconds from the first statement to the end of the commit."""
        first, ms, _ = self.steps[0]
        return self.steps[-1][0] - first + ms

    @property
    def round_trips(self) -> int:
        """Return the number of statements. A prepared statement may have three lines: parse, bind and execute."""
        return sum(not statement.startswith(("parse", "bind")) for _, _, statement in self.steps)

    @property
    def commit_ms(self) -> float:
        """Return the milliseconds of the commit."""
        return self.steps[-1][1]

    @property
    def lock_ms(self) -> float:
        """Return the milliseconds from the lock of the application's row to the end of the commit."""
        [locked_at] = [
            at for at, _, statement in self.steps if "log_position=" in statement and statement.startswith("execute")
        ]
        return self.steps[-1][0] - locked_at


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("steps", __doc__)
    parser.add_argument("--devices", type=int, default=30_000, help="deliveries of the campaign (%(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="log rows to append (%(default)s)")
    parser.add_argument("--nats", action="store_true", help="use a queue in one NATS server")
    options = parser.parse_args()
    with testbed.create_testbed() as bed:
        figures = asyncio.run(measure(bed, options.devices, options.rows, nats=options.nats))
    report(figures)
    testbed.write_json(options.json, {"sink": bed.sink, "devices": options.devices, "rows": options.rows, **figures})


async def measure(bed: Testbed, devices: int, rows: int, *, nats: bool) -> dict[str, Any]:
    """Run all three measurements."""
    async with testbed.open_context(bed) as context:
        console.print("[dim]log rows[/]")
        figures: dict[str, Any] = {"log": await log_octets(bed, context, rows)}
        console.print("[dim]campaign[/]")
        figures |= await measure_campaign(bed, context, devices, nats=nats)
        console.print("[dim]NOTIFY[/]")
        figures["notify_us"] = await notify_us(bed, context)
    return figures


async def log_octets(bed: Testbed, context: Context, rows: int) -> dict[str, float]:
    """Return the octets of a log row on disk with its indexes, and in the WAL, if appended in batches of BATCH rows."""
    filled_log = await log_rows.fill(bed.postgres.url, rows, 1)
    conn = await asyncpg.connect(plain_url(bed.postgres.url))
    try:
        octets: dict[str, float] = {}
        for name in ("deliveries", "attempts", "receipts"):
            partition = f"{name}_{filled_log.days[0]:%Y%m%d}"
            order = "settled_at" if name == "deliveries" else "at"
            numbered = f"SELECT row_number() OVER (ORDER BY {order}) AS n, * FROM {partition}"  # noqa: S608 - constant names
            await conn.execute(f"CREATE UNLOGGED TABLE copied AS {numbered}")
            await conn.execute(f"ALTER TABLE copied ADD PRIMARY KEY (n); TRUNCATE {partition}; CHECKPOINT")
            columns = await conn.fetchval(
                "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute "
                "WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
                partition,
            )
            count = await conn.fetchval("SELECT count(*) FROM copied")
            start = await conn.fetchval("SELECT pg_current_wal_insert_lsn()")
            append = f"INSERT INTO {partition} SELECT {columns} FROM copied WHERE n >= $1 AND n < $2"  # noqa: S608
            for first in range(1, count + 1, BATCH):
                await conn.execute(append, first, first + BATCH)
            wal = await conn.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", start)
            size = await conn.fetchval("SELECT pg_total_relation_size($1::regclass)", partition)
            octets |= {name: size / count, f"{name}_wal": float(wal) / count}
            await conn.execute("DROP TABLE copied")
        return octets
    finally:
        await conn.close()


async def measure_campaign(bed: Testbed, context: Context, devices: int, *, nats: bool) -> dict[str, Any]:
    """Send a campaign and return its costs."""
    postgres_log = bed.postgres.directory / "postgres.log"
    async with AsyncExitStack() as stack:
        octets, origin = await stack.enter_async_context(count_octets(bed.origin))
        application_id = await testbed.create_application(context)
        await testbed.create_devices(context, application_id, origin, devices)
        postmaster = await testbed.postmaster_pid(context)
        settings: dict[str, str] = {"push_hosts": origin}
        if nats:
            (bed.folder / "nats").mkdir()
            [node] = await stack.enter_async_context(start_nodes(1, bed.folder / "nats"))
            stack.enter_context(testbed.run_process(bed, "relay", until="relay.started", queue=node.url))
            settings |= {"queue": node.url, "database_url": ""}
        with testbed.run_process(bed, "work", until="worker.started", **settings) as worker:
            await testbed.wait_until_finished(
                context, await testbed.submit_notification(context, application_id)
            )  # warm up: open connections, prepare statements
            peak_mb = testbed.peak_memory_mb(worker.pid)
        notification_id = await testbed.submit_notification(context, application_id)
        job_octets, wire_octets, jobs = 0.0, 0, devices / BATCH
        if not nats:  # a relay would claim the job first
            await scale.plan(bed, context)
            job_octets, jobs = await job_size(context)
            wire_octets = await message_size(context)
        await alter_system(context, "ALTER SYSTEM SET log_min_duration_statement = 0")
        await alter_system(context, "ALTER SYSTEM SET log_line_prefix = '%n %p '")
        log_offset = postgres_log.stat().st_size
        octets_before, wal_before = dict(octets), await wal_position(context)
        with testbed.run_process(bed, "work", until="worker.started", **settings) as worker:
            cpu_before, postgres_before, start = (
                testbed.process_cpu_s(worker.pid),
                testbed.tree_cpu_s(postmaster),
                time.perf_counter(),
            )
            sink_before = sink_cpu_s(bed)
            await testbed.wait_until_finished(context, notification_id)
            seconds = time.perf_counter() - start
            worker_s = testbed.process_cpu_s(worker.pid) - cpu_before
            postgres_s = testbed.tree_cpu_s(postmaster) - postgres_before
            sink_s = sink_cpu_s(bed) - sink_before
        wal_octets = await wal_position(context) - wal_before
        await alter_system(context, "ALTER SYSTEM RESET ALL")
        await testbed.check_log(context, notification_id, devices)
    with postgres_log.open() as log:
        log.seek(log_offset)
        transactions = read_transactions(log.read())
    return {
        "rate": devices / seconds,
        "worker_us": worker_s / devices * 1e6,
        "postgres_us": postgres_s / devices * 1e6,
        "sink_us": sink_s / devices * 1e6,
        "wal_octets": wal_octets / devices,
        "job_octets": job_octets,
        "wire_octets": wire_octets,
        "sent_octets": (octets["sent"] - octets_before["sent"]) / devices,
        "answered_octets": (octets["answered"] - octets_before["answered"]) / devices,
        "memory_mb": peak_mb,
        "transactions": {kind: summarize(transactions[kind], jobs) for kind in KINDS},
    }


def sink_cpu_s(bed: Testbed) -> float:
    """Return the CPU seconds of the push service, if it is nginx."""
    return sum(testbed.tree_cpu_s(int(pid_file.read_text())) for pid_file in bed.folder.glob("nginx-*.pid"))


async def alter_system(context: Context, statement: str) -> None:
    """Change a setting of Postgres."""
    async with context.engine.connect() as conn:
        autocommit = await conn.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(statement))
        await autocommit.execute(text("SELECT pg_reload_conf()"))


async def wal_position(context: Context) -> int:
    """Return the current WAL position in octets."""
    async with context.engine.connect() as conn:
        query = text("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
        position: int = (await conn.execute(query)).scalar_one()
        return position


async def job_size(context: Context) -> tuple[float, float]:
    """Return the octets of a job of 500 on disk with its indexes, and the number of jobs."""
    async with context.engine.connect() as conn:
        query = text("SELECT pg_total_relation_size('jobs'), count(*) FROM jobs")
        size, count = (await conn.execute(query)).one()
    return size / count, count


async def message_size(context: Context) -> int:
    """Return the octets of a job as a relay publishes it."""
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
    payload = await job_loading.load(context.engine, RendererCache(context.keyring, context.public_url), job)
    assert payload is not None
    return len(wire.write_job(job, payload))


@asynccontextmanager
async def count_octets(origin: str) -> AsyncIterator[tuple[dict[str, int], str]]:
    """Run a proxy to `origin`; yield the octets in each direction, as TCP carries them, and the proxy's origin."""
    target = urlsplit(origin)
    octets = {"sent": 0, "answered": 0}

    async def pipe(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                octets[name] += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", target.port)
        await asyncio.gather(pipe("sent", reader, target_writer), pipe("answered", target_reader, writer))

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    async with server:
        yield octets, f"https://localhost:{server.sockets[0].getsockname()[1]}"


def read_transactions(log: str) -> dict[str, list[Transaction]]:
    """Return the transactions of each kind in KINDS; ignore other ones."""
    running: dict[str, Transaction] = {}
    transactions = defaultdict(list)
    for line in log.replace("\n\t", " ").splitlines():  # join the lines of a statement
        if not (match := LINE.match(line)):
            continue
        pid, statement = match["pid"], match["statement"]
        if statement.startswith("statement: BEGIN"):
            running[pid] = Transaction()
        if (transaction := running.get(pid)) is None:
            continue
        transaction.steps.append((float(match["at"]) * 1000, float(match["ms"]), statement))
        if statement.startswith("statement: COMMIT"):
            del running[pid]
            statements = "\n".join(statement for _, _, statement in transaction.steps)
            # A claim that found no job has also queried when the next one comes due; it is not counted.
            for kind, marker in KINDS.items():
                if marker in statements and (kind != "claim" or "min(jobs.run_at)" not in statements):
                    transactions[kind].append(transaction)
    return transactions


def summarize(transactions: list[Transaction], jobs: float) -> dict[str, float]:
    """Return the medians of a kind of transaction."""

    def median(figure: Callable[[Transaction], float]) -> float:
        return statistics.median(map(figure, transactions))

    figures = {
        "per_job": len(transactions) / jobs,
        "trips": median(lambda transaction: transaction.round_trips),
        "server_ms": median(lambda transaction: transaction.server_ms),
        "open_ms": median(lambda transaction: transaction.open_ms),
        "commit_ms": median(lambda transaction: transaction.commit_ms),
    }
    if any("log_position=" in statement for _, _, statement in transactions[0].steps):
        figures["lock_ms"] = median(lambda transaction: transaction.lock_ms)
        figures["lock_server_ms"] = median(lock_server_ms)
    return figures


def lock_server_ms(transaction: Transaction) -> float:
    """Return the part of the lock time that Postgres itself takes; a faster client does not reduce it."""
    [lock_index] = [
        n
        for n, (_, _, statement) in enumerate(transaction.steps)
        if "log_position=" in statement and statement.startswith("execute")
    ]
    return sum(ms for _, ms, _ in transaction.steps[lock_index + 1 :])


async def notify_us(bed: Testbed, context: Context) -> dict[str, float]:
    """Return the CPU microseconds of Postgres for a NOTIFY, and for each listener."""
    postmaster = await testbed.postmaster_pid(context)
    url = plain_url(bed.postgres.url)
    notifier = await asyncpg.connect(url)
    costs = []
    count = 1000
    async with AsyncExitStack() as stack:
        for listeners in (0, LISTENERS):
            for _ in range(listeners):
                listener = await asyncpg.connect(url)
                stack.push_async_callback(listener.close)
                await listener.add_listener(JOBS, lambda *_: None)
            cpu_before = testbed.tree_cpu_s(postmaster)
            for _ in range(count):
                await notifier.execute("SELECT pg_notify($1, '')", JOBS)
            await asyncio.sleep(0.2)  # wait for the last notifications; there is no event for their arrival
            costs.append((testbed.tree_cpu_s(postmaster) - cpu_before) / count * 1e6)
    await notifier.close()
    return {"signal": costs[0], "listener": (costs[1] - costs[0]) / LISTENERS}


def report(figures: dict[str, Any]) -> None:
    """Print the figures."""
    table = testbed.make_table(
        "transaction", "per job", "round trips", "server ms", "open ms", "commit ms", "row lock ms"
    )
    for kind, medians in figures["transactions"].items():
        lock = f"{medians['lock_ms']:.1f} ({medians['lock_server_ms']:.1f})" if "lock_ms" in medians else ""
        table.add_row(
            LABELS[kind],
            f"{medians['per_job']:.2f}",
            f"{medians['trips']:.0f}",
            *(f"{medians[name]:.2f}" for name in ("server_ms", "open_ms", "commit_ms")),
            lock,
        )
    console.print(table)
    for name, label in {
        "rate": "deliveries per second, with every statement logged",
        "worker_us": "worker, us of CPU per delivery, with every statement logged",
        "postgres_us": "Postgres, us of CPU per delivery, with every statement logged",
        "sink_us": "push service, us of CPU per message",
        "wal_octets": "WAL, octets per delivery",
        "job_octets": "job of 500 on disk, octets",
        "wire_octets": "job of 500 as a NATS message, octets",
        "sent_octets": "to the push service, octets of TCP per message",
        "answered_octets": "from the push service, octets of TCP per message",
        "memory_mb": "worker, peak memory in MB",
    }.items():
        console.print(f"{figures[name]:12,.0f}  {label}")
    for name in ("deliveries", "attempts", "receipts"):
        wal = figures["log"][f"{name}_wal"]
        console.print(f"{figures['log'][name]:12,.0f}  row of {name} with its indexes, octets; WAL {wal:,.0f}")
    notify = figures["notify_us"]
    console.print(
        f"{notify['signal']:12,.0f}  NOTIFY, us of CPU of Postgres; per listener {notify['listener']:.1f} more"
    )


if __name__ == "__main__":
    main()
