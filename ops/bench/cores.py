"""Compare one worker on one core with two workers on two cores.

Workers, Postgres and the push service share the cores, so a worker has the same resources in both runs. If the second
run is less than twice as fast, the workers have waited for each other's locks or for the database. The two runs
alternate, round by round.
"""

import asyncio
import os
import statistics
import time
from contextlib import ExitStack
from uuid import UUID

import testbed
from testbed import Context, Testbed, console


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("cores", __doc__)
    parser.add_argument("--devices", type=int, default=30_000, help="devices per worker (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (%(default)s)")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("this machine has only one core")
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(options.rounds):
        for count, samples in rates.items():
            os.sched_setaffinity(0, cores[:count])  # inherited by all processes that are started below
            with testbed.create_testbed() as bed:
                samples.append(asyncio.run(measure(bed, count, options.devices * count)))
            console.print(f"[dim]round {number + 1} of {options.rounds}, {count}: {samples[-1]:,.0f}/s[/]")
    report(rates)
    testbed.write_json(options.json, {"sink": bed.sink, "devices": options.devices, "rates": rates})


async def measure(bed: Testbed, workers: int, devices: int) -> float:
    """Return the deliveries per second."""
    async with testbed.open_context(bed) as context:
        application_id = await testbed.create_application(context)
        await testbed.create_devices(context, application_id, bed.origin, devices)
        with ExitStack() as stack:
            for _ in range(workers):
                stack.enter_context(testbed.run_process(bed, "work", until="worker.started"))
            await send_campaign(context, application_id, devices)  # warm up: open connections, prepare statements
            return devices / await send_campaign(context, application_id, devices)


async def send_campaign(context: Context, application_id: UUID, devices: int) -> float:
    """Send a campaign to all devices and return its duration in seconds."""
    start = time.perf_counter()
    notification_id = await testbed.submit_notification(context, application_id)
    await testbed.wait_until_finished(context, notification_id)
    seconds = time.perf_counter() - start
    await testbed.check_log(context, notification_id, devices)
    return seconds


def report(rates: dict[int, list[float]]) -> None:
    """Print the rates."""
    table = testbed.make_table("workers and cores", "deliveries/s", "ratio to one")
    baseline = statistics.median(rates[1])
    for count, samples in rates.items():
        table.add_row(
            str(count), f"{statistics.median(samples):,.0f}", f"x {statistics.median(samples) / baseline:.2f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
