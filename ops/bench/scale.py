"""Ten thousand devices, a hundred thousand, a million: what a campaign to all of them takes.

Planning is from the submission to the last job in the queue, and is done before the worker starts: what the worker
then costs is sending alone. Each size has a worker of its own, so that its peak memory is that of this size.
"""

import asyncio
import time
from typing import Any
from uuid import UUID

import stage
from sqlalchemy import text
from stage import Context, Stage, console

from gateway.domain.notification import Lane
from gateway.queue.postgres import PostgresQueue
from gateway.records.postgres.notifier import Notifier
from gateway.service.pipeline import planning
from gateway.worker.worker import WorkerConfig


def main() -> None:
    parser = stage.parser("scale", __doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="(%(default)s)")
    asked = parser.parse_args()
    with stage.stage() as on:
        found = asyncio.run(measure(on, asked.devices))
    report(found)
    stage.keep(asked.json, {"sink": on.sink, "sizes": found})


async def measure(on: Stage, sizes: list[int]) -> list[dict[str, Any]]:
    found = []
    async with stage.orders(on) as context:
        for size in sizes:
            console.print(f"[dim]{size:,} devices[/]")
            application_id = await stage.application(context, f"of {size}")
            await stage.devices(context, application_id, on.origin, size)
            found.append({"devices": size} | await one_size(on, context, application_id, size))
    return found


async def one_size(on: Stage, context: Context, application_id: UUID, size: int) -> dict[str, Any]:
    sent = await stage.send(context, application_id)
    postmaster = await stage.postmaster(context)
    began = time.perf_counter()
    await plan(on, context)
    planned = time.perf_counter()
    async with context.engine.connect() as conn:
        jobs = (await conn.execute(text("SELECT count(*) FROM jobs"))).scalar_one()
    with stage.running(on, "work", until="worker.started") as worker:
        used, beside, started = stage.process_cpu(worker.pid), stage.family_cpu(postmaster), time.perf_counter()
        await stage.ended(context, sent)
        seconds = time.perf_counter() - started
        worker_us = (stage.process_cpu(worker.pid) - used) / size * 1e6
        postgres_us = (stage.family_cpu(postmaster) - beside) / size * 1e6
        peak = stage.memory(worker.pid)
    await stage.check_log(context, sent, size)
    async with context.engine.connect() as conn:
        left = (await conn.execute(text("SELECT count(*) FROM jobs"))).scalar_one()
        rows = text(
            "SELECT (SELECT count(*) FROM deliveries WHERE notification_id = :id),"
            " (SELECT count(*) FROM attempts WHERE notification_id = :id)"
        )
        deliveries, attempts = (await conn.execute(rows, {"id": sent})).one()
    return {
        "planning_s": planned - began,
        "jobs": jobs,
        "per_second": size / seconds,
        "worker_us": worker_us,
        "postgres_us": postgres_us,
        "peak_mb": peak,
        "deliveries_per_device": deliveries / size,
        "attempts": attempts,
        "jobs_left": left,
    }


async def plan(on: Stage, context: Context) -> None:
    """What a worker does with a plan job."""
    async with Notifier(on.postgres.url).running() as bell:
        queue, crew = PostgresQueue(context.engine, bell), WorkerConfig()
        [job] = await queue.claim(lanes=tuple(Lane), limit=1, lease=crew.lease, wait=crew.lease)
        await planning.plan(context, job)


def report(found: list[dict[str, Any]]) -> None:
    table = stage.table("devices", "planning s", "jobs", "sent/s", "worker us", "Postgres us", "peak MB", "rows each")
    for one in found:
        table.add_row(
            f"{one['devices']:,}",
            f"{one['planning_s']:.2f}",
            f"{one['jobs']:,}",
            f"{one['per_second']:,.0f}",
            f"{one['worker_us']:.0f}",
            f"{one['postgres_us']:.0f}",
            f"{one['peak_mb']:.0f}",
            f"{one['deliveries_per_device']:.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
