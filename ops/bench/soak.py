"""Run the gateway for a long time at a share of its maximum rate, and check that its use of resources does not grow.

One server and one worker run as processes. A campaign at full speed measures the maximum rate. Then campaigns run one
after the other, throttled to a share of that rate, together with alerts, device registrations and reads of the log.
The benchmark reads the memory, file descriptors and threads of both processes and the number of jobs every few seconds.
The report compares the means of the second and the last sixth of the time; the first sixth is the warm-up.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import testbed
from sqlalchemy import text
from testbed import Context, Testbed, console

from gateway.domain.notification import Kind
from gateway.domain.send_policy import SendPolicy, Throttle
from gateway.push.encryption import encode_base64url
from gateway.service.access import applications
from gateway.service.access.authentication import READ, REGISTER
from gateway.service.notifications.submission import Draft, submit
from gateway.sim.keys import DeviceKeys
from tests.support.command import free_ports

SEED = 20
ALERT_DEVICES = 500
WEATHER_TOPIC = {"topic": "weather"}
# Pauses between two alerts, two reads of the log, and two registrations.
ALERT_S, PAGE_S, REGISTER_S = 10.0, 1.0, 0.02
FIGURES = {"rss_mb": "memory, MB", "files": "file descriptors", "threads": "threads"}


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=30, help="duration (%(default)s)")
    parser.add_argument("--share", type=float, default=0.7, help="share of the maximum rate (%(default)s)")
    parser.add_argument("--devices", type=int, default=20_000, help="number of devices (%(default)s)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between readings (%(default)s)")
    options = parser.parse_args()
    with testbed.create_testbed() as bed:
        result = asyncio.run(measure(bed, options))
    report(result)
    testbed.write_json(options.json, {"sink": bed.sink, "minutes": options.minutes, "share": options.share} | result)


async def measure(bed: Testbed, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the maximum rate, run the load, and return the readings."""
    async with testbed.open_context(bed) as context:
        application_id = await testbed.create_application(context)
        await testbed.create_devices(
            context, application_id, bed.origin, options.devices, topic=("weather", ALERT_DEVICES)
        )
        async with context.engine.begin() as conn:
            key = (await applications.add_key(conn, application_id, "soak", (REGISTER, READ)))["key"]
        port = free_ports(1)
        with (
            testbed.run_process(bed, "work", until="worker.started") as worker,
            testbed.run_process(bed, "serve", until="web.listening", port=str(port)) as server,
        ):
            start = time.perf_counter()
            await testbed.wait_until_finished(context, await testbed.submit_notification(context, application_id))
            max_rate = options.devices / (time.perf_counter() - start)
            rate = options.share * max_rate
            console.print(
                f"[dim]{max_rate:,.0f} messages/s at full speed; now {rate:,.0f} for {options.minutes:g} minutes[/]"
            )
            processes = {"worker": worker.pid, "server": server.pid}
            readings, done = await run_load(
                context, application_id, options, rate, (f"http://127.0.0.1:{port}", bed.origin), key, processes
            )
    return {"max_per_second": max_rate, "per_second": rate, "done": done, "readings": readings}


async def run_load(
    context: Context,
    application_id: UUID,
    options: argparse.Namespace,
    rate: float,
    origins: tuple[str, str],
    key: str,
    processes: dict[str, int],
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Run the load for the requested time. `origins` are those of the gateway and of the push service."""
    readings: list[dict[str, Any]] = []
    done = {"campaigns": 0, "alerts": 0, "registrations": 0, "pages": 0}
    start = time.perf_counter()
    headers = {"Authorization": f"Bearer {key}"}
    origin, push_service = origins
    body = registration_factory(push_service)

    async def campaign() -> None:
        draft = Draft(Kind.CAMPAIGN, {"title": "Soak"}, testbed.EVERYONE, policy=SendPolicy(throttle=Throttle(rate)))
        async with context.engine.begin() as conn:
            notification = await submit(conn, context, application_id, draft)
        await testbed.wait_until_finished(context, notification.id)

    async def alert() -> None:
        await testbed.wait_until_finished(
            context, await testbed.submit_notification(context, application_id, Kind.ALERT, WEATHER_TOPIC)
        )
        await asyncio.sleep(ALERT_S)

    async def register() -> None:
        async with http.post("/v1/devices", json=body(), headers=headers) as response:
            response.raise_for_status()
        await asyncio.sleep(REGISTER_S)

    async def page() -> None:
        async with http.get("/v1/deliveries?limit=100", headers=headers) as response:
            response.raise_for_status()
            await response.read()
        await asyncio.sleep(PAGE_S)

    async def repeat(name: str, action: Callable[[], Awaitable[None]]) -> None:
        while time.perf_counter() - start < options.minutes * 60:
            await action()
            done[name] += 1

    async def read() -> None:
        while time.perf_counter() - start < options.minutes * 60:
            async with context.engine.connect() as conn:
                jobs = (await conn.execute(text("SELECT count(*) FROM jobs"))).scalar_one()
            processes_now = {name: read_process(pid) for name, pid in processes.items()}
            readings.append({"at_s": round(time.perf_counter() - start, 1), "jobs": jobs, **processes_now})
            await asyncio.sleep(options.every)

    async with aiohttp.ClientSession(origin) as http, asyncio.TaskGroup() as group:
        for name, action in (("campaigns", campaign), ("alerts", alert), ("registrations", register), ("pages", page)):
            group.create_task(repeat(name, action))
        group.create_task(read())
    return readings, done


def registration_factory(push_service: str) -> Callable[[], dict[str, Any]]:
    """Return a function that builds registrations, half of them of browsers that have registered before."""
    rng = random.Random(SEED)  # noqa: S311 - not for secrets
    keys = DeviceKeys.generate()
    key_pair = {"p256dh": encode_base64url(keys.p256dh), "auth": encode_base64url(keys.auth)}
    count = 0

    def build() -> dict[str, Any]:
        nonlocal count
        count += 1
        number = count if rng.random() < 0.5 else rng.randrange(count)
        endpoint = f"{push_service}/p/registered-{number}"
        return {"subscription": {"endpoint": endpoint, "keys": key_pair}, "attributes": {"visits": number}}

    return build


def read_process(pid: int) -> dict[str, float]:
    """Return a process's memory, file descriptors and threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    rss_mb = round(int(status["VmRSS"].split()[0]) / 1024, 1)
    return {"rss_mb": rss_mb, "files": files, "threads": int(status["Threads"])}


def report(result: dict[str, Any]) -> None:
    """Print the means and the growth."""
    readings = result["readings"]
    sixth = max(1, len(readings) // 6)
    early, late = readings[sixth : 2 * sixth] or readings, readings[-sixth:]
    table = testbed.make_table("", "second sixth", "last sixth", "maximum", "growth")
    rows: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        (f"{process}, {label}", lambda reading, process=process, name=name: reading[process][name])
        for process in ("worker", "server")
        for name, label in FIGURES.items()
    ]
    for label, figure in [*rows, ("jobs in the queue", lambda reading: reading["jobs"])]:
        early_mean, late_mean = (statistics.mean(map(figure, sample)) for sample in (early, late))
        maximum = max(map(figure, readings))
        table.add_row(
            label, f"{early_mean:,.1f}", f"{late_mean:,.1f}", f"{maximum:,.1f}", f"{late_mean - early_mean:+,.1f}"
        )
    console.print(table)
    console.print(", ".join(f"{count:,} {name}" for name, count in result["done"].items()))


if __name__ == "__main__":
    main()
