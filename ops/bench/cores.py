"""Two workers on two cores against one: everything on one core, then everything on two with a second worker.

Workers, Postgres and the push service share the cores they are given, since there are no others to give them; so both
runs have as much of everything for each core, and the ratio says what the second worker costs in waiting for locks and
for the database. In turns, round by round.
"""

import asyncio
import os
import statistics
import time
from contextlib import ExitStack
from uuid import UUID

import stage
from stage import Context, Stage, console


def main() -> None:
    parser = stage.parser("cores", __doc__)
    parser.add_argument("--devices", type=int, default=30_000, help="for each worker (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("there is only one core here")
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(asked.rounds):
        for count, found in rates.items():
            os.sched_setaffinity(0, cores[:count])  # for all that is started from here
            with stage.stage() as on:
                found.append(asyncio.run(measure(on, count, asked.devices * count)))
            console.print(f"[dim]round {number + 1} of {asked.rounds}, {count}: {found[-1]:,.0f}/s[/]")
    report(rates)
    stage.keep(asked.json, {"sink": on.sink, "devices": asked.devices, "rates": rates})


async def measure(on: Stage, workers: int, devices: int) -> float:
    """Deliveries a second."""
    async with stage.orders(on) as context:
        application_id = await stage.application(context)
        await stage.devices(context, application_id, on.origin, devices)
        with ExitStack() as stack:
            for _ in range(workers):
                stack.enter_context(stage.running(on, "work", until="worker.started"))
            await campaign(context, application_id, devices)  # connections are made, statements prepared
            return devices / await campaign(context, application_id, devices)


async def campaign(context: Context, application_id: UUID, devices: int) -> float:
    began = time.perf_counter()
    sent = await stage.send(context, application_id)
    await stage.ended(context, sent)
    seconds = time.perf_counter() - began
    await stage.check_log(context, sent, devices)
    return seconds


def report(rates: dict[int, list[float]]) -> None:
    table = stage.table("workers and cores", "deliveries/s", "of one")
    one = statistics.median(rates[1])
    for count, found in rates.items():
        table.add_row(str(count), f"{statistics.median(found):,.0f}", f"x {statistics.median(found) / one:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
