"""Measure how fast one worker sends to one push service with a realistic response time.

The service speaks HTTP/2 and allows 128 concurrent requests per connection, nginx's default. Each response time is
measured with a new worker, so the figure includes the time that the worker's concurrency limits take to grow.
"""

import argparse
import asyncio
import time
from dataclasses import replace
from typing import Any

import sink
import testbed
from testbed import Testbed, console


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("distance", __doc__)
    parser.add_argument("--devices", type=int, default=30_000, help="number of devices (%(default)s)")
    parser.add_argument("--ms", type=int, nargs="+", default=[1, 50, 100, 200], help="response times (%(default)s)")
    options = parser.parse_args()
    with testbed.create_testbed() as bed:
        distances = [measure_distance(bed, options, ms) for ms in options.ms]
    table = testbed.make_table("response ms", "messages/s", "worker us", "MB")
    for distance in distances:
        table.add_row(
            str(distance["ms"]),
            f"{distance['per_second']:,.0f}",
            f"{distance['worker_us']:.0f}",
            f"{distance['peak_mb']:.0f}",
        )
    console.print(table)
    testbed.write_json(options.json, {"devices": options.devices, "distances": distances})


def measure_distance(bed: Testbed, options: argparse.Namespace, ms: int) -> dict[str, Any]:
    """Measure one response time."""
    with sink.run_delayed(bed.folder, ms / 1000) as origin:
        return {"ms": ms} | asyncio.run(measure(replace(bed, origin=origin), f"{ms} ms", options.devices))


async def measure(bed: Testbed, name: str, devices: int) -> dict[str, Any]:
    """Send a campaign with a new worker and return its rate and cost."""
    async with testbed.open_context(bed) as context:
        application_id = await testbed.create_application(context, name)
        await testbed.create_devices(context, application_id, bed.origin, devices)
        with testbed.run_process(bed, "work", until="worker.started") as worker:
            cpu_before, start = testbed.process_cpu_s(worker.pid), time.perf_counter()
            notification_id = await testbed.submit_notification(context, application_id)
            await testbed.wait_until_finished(context, notification_id)
            seconds, cpu = time.perf_counter() - start, testbed.process_cpu_s(worker.pid) - cpu_before
            peak = testbed.peak_memory_mb(worker.pid)
        await testbed.check_log(context, notification_id, devices)
    return {"per_second": devices / seconds, "worker_us": cpu / devices * 1e6, "peak_mb": peak}


if __name__ == "__main__":
    main()
