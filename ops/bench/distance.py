"""How fast one worker sends to one push service whose answers take their time, as those of the real ones do.

The service speaks HTTP/2 and takes at most 128 requests at once over a connection, as nginx does by default. Each
distance has a worker that knows nothing of it, so how long the limits take to grow is in the figure.
"""

import argparse
import asyncio
import time
from dataclasses import replace
from typing import Any

import sink
import stage
from stage import Stage, console


def main() -> None:
    parser = stage.parser("distance", __doc__)
    parser.add_argument("--devices", type=int, default=30_000, help="(%(default)s)")
    parser.add_argument("--ms", type=int, nargs="+", default=[1, 50, 100, 200], help="answer times (%(default)s)")
    asked = parser.parse_args()
    with stage.stage() as on:
        found = [one_distance(on, asked, ms) for ms in asked.ms]
    table = stage.table("answers take ms", "messages/s", "worker us", "MB")
    for one in found:
        table.add_row(str(one["ms"]), f"{one['per_second']:,.0f}", f"{one['worker_us']:.0f}", f"{one['peak_mb']:.0f}")
    console.print(table)
    stage.keep(asked.json, {"devices": asked.devices, "distances": found})


def one_distance(on: Stage, asked: argparse.Namespace, ms: int) -> dict[str, Any]:
    with sink.far(on.folder, ms / 1000) as origin:
        return {"ms": ms} | asyncio.run(measure(replace(on, origin=origin), f"{ms} ms", asked.devices))


async def measure(on: Stage, name: str, devices: int) -> dict[str, Any]:
    async with stage.orders(on) as context:
        application_id = await stage.application(context, name)
        await stage.devices(context, application_id, on.origin, devices)
        with stage.running(on, "work", until="worker.started") as worker:
            used, began = stage.process_cpu(worker.pid), time.perf_counter()
            sent = await stage.send(context, application_id)
            await stage.ended(context, sent)
            seconds, cpu = time.perf_counter() - began, stage.process_cpu(worker.pid) - used
            peak = stage.memory(worker.pid)
        await stage.check_log(context, sent, devices)
    return {"per_second": devices / seconds, "worker_us": cpu / devices * 1e6, "peak_mb": peak}


if __name__ == "__main__":
    main()
