"""Measure a campaign to ten thousand, a hundred thousand and a million devices.

Planning is measured from the submission to the last job in the queue. The worker starts after planning, so its cost is
that of sending alone. Each size has a worker of its own, so the peak memory is that of this size.
"""

import asyncio
import time
from typing import Any
from uuid import UUID

import testbed
from sqlalchemy import text
from testbed import Context, Testbed, console

from gateway.domain.notification import Lane
from gateway.queue.postgres import PostgresQueue
from gateway.records.postgres.notifier import Notifier
from gateway.service.pipeline import planning
from gateway.worker.worker import WorkerConfig


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("scale", __doc__)
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of devices (%(default)s)"
    )
    options = parser.parse_args()
    with testbed.create_testbed() as bed:
        sizes = asyncio.run(measure(bed, options.devices))
    report(sizes)
    testbed.write_json(options.json, {"sink": bed.sink, "sizes": sizes})


async def measure(bed: Testbed, sizes: list[int]) -> list[dict[str, Any]]:
    """Measure every size."""
    results = []
    async with testbed.open_context(bed) as context:
        for size in sizes:
            console.print(f"[dim]{size:,} devices[/]")
            application_id = await testbed.create_application(context, f"of {size}")
            await testbed.create_devices(context, application_id, bed.origin, size)
            results.append({"devices": size} | await measure_size(bed, context, application_id, size))
    return results


async def measure_size(bed: Testbed, context: Context, application_id: UUID, size: int) -> dict[str, Any]:
    """Plan and send one campaign and return its figures."""
    notification_id = await testbed.submit_notification(context, application_id)
    postmaster = await testbed.postmaster_pid(context)
    planning_start = time.perf_counter()
    await plan(bed, context)
    planning_end = time.perf_counter()
    async with context.engine.connect() as conn:
        jobs = (await conn.execute(text("SELECT count(*) FROM jobs"))).scalar_one()
    with testbed.run_process(bed, "work", until="worker.started") as worker:
        cpu_before, postgres_before, sending_start = (
            testbed.process_cpu_s(worker.pid),
            testbed.tree_cpu_s(postmaster),
            time.perf_counter(),
        )
        await testbed.wait_until_finished(context, notification_id)
        seconds = time.perf_counter() - sending_start
        worker_us = (testbed.process_cpu_s(worker.pid) - cpu_before) / size * 1e6
        postgres_us = (testbed.tree_cpu_s(postmaster) - postgres_before) / size * 1e6
        peak = testbed.peak_memory_mb(worker.pid)
    await testbed.check_log(context, notification_id, size)
    async with context.engine.connect() as conn:
        jobs_left = (await conn.execute(text("SELECT count(*) FROM jobs"))).scalar_one()
        rows = text(
            "SELECT (SELECT count(*) FROM deliveries WHERE notification_id = :id),"
            " (SELECT count(*) FROM attempts WHERE notification_id = :id)"
        )
        deliveries, attempts = (await conn.execute(rows, {"id": notification_id})).one()
    return {
        "planning_s": planning_end - planning_start,
        "jobs": jobs,
        "per_second": size / seconds,
        "worker_us": worker_us,
        "postgres_us": postgres_us,
        "peak_mb": peak,
        "deliveries_per_device": deliveries / size,
        "attempts": attempts,
        "jobs_left": jobs_left,
    }


async def plan(bed: Testbed, context: Context) -> None:
    """Claim and plan a job, as a worker does."""
    async with Notifier(bed.postgres.url).running() as notifier:
        queue, config = PostgresQueue(context.engine, notifier), WorkerConfig()
        [job] = await queue.claim(lanes=tuple(Lane), limit=1, lease=config.lease, wait=config.lease)
        await planning.plan(context, job)


def report(sizes: list[dict[str, Any]]) -> None:
    """Print the figures."""
    table = testbed.make_table(
        "devices", "planning s", "jobs", "sent/s", "worker us", "Postgres us", "peak MB", "rows per device"
    )
    for size in sizes:
        table.add_row(
            f"{size['devices']:,}",
            f"{size['planning_s']:.2f}",
            f"{size['jobs']:,}",
            f"{size['per_second']:,.0f}",
            f"{size['worker_us']:.0f}",
            f"{size['postgres_us']:.0f}",
            f"{size['peak_mb']:.0f}",
            f"{size['deliveries_per_device']:.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
