"""For long at a share of what it bears: does anything grow?

One server and one worker as processes. A campaign flat out tells what the worker bears; then campaigns follow each
other, throttled to a share of that, with an alert now and then, browsers that register, and somebody who reads the log.
Memory, file descriptors and threads of both, and the jobs in the queue, are read every few seconds. The means of the
second sixth of the time and of the last are compared: the first is for warming up.
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
import stage
from sqlalchemy import text
from stage import Context, Stage, console

from gateway.domain.notification import Kind
from gateway.domain.send_policy import SendPolicy, Throttle
from gateway.push.encryption import encode_base64url
from gateway.service.access import applications
from gateway.service.access.authentication import READ, REGISTER
from gateway.service.notifications.submission import Draft, submit
from gateway.sim.keys import Keys
from tests.support.command import free_ports

SEED = 20
ALERTED = 500
AREA = {"topic": "weather"}
ALERT_S, PAGE_S, REGISTER_S = 10.0, 1.0, 0.02
FIGURES = {"rss_mb": "memory, MB", "files": "file descriptors", "threads": "threads"}


def main() -> None:
    parser = stage.parser("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=30, help="(%(default)s)")
    parser.add_argument("--share", type=float, default=0.7, help="of what was measured flat out (%(default)s)")
    parser.add_argument("--devices", type=int, default=20_000, help="(%(default)s)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between readings (%(default)s)")
    asked = parser.parse_args()
    with stage.stage() as on:
        found = asyncio.run(measure(on, asked))
    report(found)
    stage.keep(asked.json, {"sink": on.sink, "minutes": asked.minutes, "share": asked.share} | found)


async def measure(on: Stage, asked: argparse.Namespace) -> dict[str, Any]:
    async with stage.orders(on) as context:
        application_id = await stage.application(context)
        await stage.devices(context, application_id, on.origin, asked.devices, topic=("weather", ALERTED))
        async with context.engine.begin() as conn:
            key = (await applications.add_key(conn, application_id, "soak", (REGISTER, READ)))["key"]
        port = free_ports(1)
        with (
            stage.running(on, "work", until="worker.started") as worker,
            stage.running(on, "serve", until="web.listening", port=str(port)) as server,
        ):
            began = time.perf_counter()
            await stage.ended(context, await stage.send(context, application_id))
            flat_out = asked.devices / (time.perf_counter() - began)
            rate = asked.share * flat_out
            console.print(f"[dim]{flat_out:,.0f} messages/s flat out; now {rate:,.0f} for {asked.minutes:g} minutes[/]")
            processes = {"worker": worker.pid, "server": server.pid}
            readings, done = await soak(
                context, application_id, asked, rate, (f"http://127.0.0.1:{port}", on.origin), key, processes
            )
    return {"flat_out_per_second": flat_out, "per_second": rate, "done": done, "readings": readings}


async def soak(
    context: Context,
    application_id: UUID,
    asked: argparse.Namespace,
    rate: float,
    origins: tuple[str, str],
    key: str,
    processes: dict[str, int],
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """`origins`: of our server, and of the push service."""
    readings: list[dict[str, Any]] = []
    done = {"campaigns": 0, "alerts": 0, "registrations": 0, "pages": 0}
    began = time.perf_counter()
    headers = {"Authorization": f"Bearer {key}"}
    origin, push_service = origins
    body = registrations(push_service)

    async def campaign() -> None:
        draft = Draft(Kind.CAMPAIGN, {"title": "Soak"}, stage.EVERYONE, steering=SendPolicy(throttle=Throttle(rate)))
        async with context.engine.begin() as conn:
            sent = await submit(conn, context, application_id, draft)
        await stage.ended(context, sent.id)

    async def alert() -> None:
        await stage.ended(context, await stage.send(context, application_id, Kind.ALERT, AREA))
        await asyncio.sleep(ALERT_S)

    async def register() -> None:
        async with http.post("/v1/devices", json=body(), headers=headers) as answer:
            answer.raise_for_status()
        await asyncio.sleep(REGISTER_S)

    async def page() -> None:
        async with http.get("/v1/deliveries?limit=100", headers=headers) as answer:
            answer.raise_for_status()
            await answer.read()
        await asyncio.sleep(PAGE_S)

    async def again(name: str, do: Callable[[], Awaitable[None]]) -> None:
        while time.perf_counter() - began < asked.minutes * 60:
            await do()
            done[name] += 1

    async def read() -> None:
        while time.perf_counter() - began < asked.minutes * 60:
            async with context.engine.connect() as conn:
                jobs = (await conn.execute(text("SELECT count(*) FROM jobs"))).scalar_one()
            taken = {name: reading(pid) for name, pid in processes.items()}
            readings.append({"at_s": round(time.perf_counter() - began, 1), "jobs": jobs, **taken})
            await asyncio.sleep(asked.every)

    async with aiohttp.ClientSession(origin) as http, asyncio.TaskGroup() as group:
        for name, do in (("campaigns", campaign), ("alerts", alert), ("registrations", register), ("pages", page)):
            group.create_task(again(name, do))
        group.create_task(read())
    return readings, done


def registrations(push_service: str) -> Callable[[], dict[str, Any]]:
    """Half of them from browsers that have been here before. The next campaign goes to the new ones too."""
    draw = random.Random(SEED)  # noqa: S311 - not for secrets
    keys = Keys.generate()
    said = {"p256dh": encode_base64url(keys.p256dh), "auth": encode_base64url(keys.auth)}
    count = 0

    def one() -> dict[str, Any]:
        nonlocal count
        count += 1
        number = count if draw.random() < 0.5 else draw.randrange(count)
        endpoint = f"{push_service}/p/registered-{number}"
        return {"subscription": {"endpoint": endpoint, "keys": said}, "attributes": {"visits": number}}

    return one


def reading(pid: int) -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    rss_mb = round(int(status["VmRSS"].split()[0]) / 1024, 1)
    return {"rss_mb": rss_mb, "files": files, "threads": int(status["Threads"])}


def report(found: dict[str, Any]) -> None:
    readings = found["readings"]
    sixth = max(1, len(readings) // 6)
    early, late = readings[sixth : 2 * sixth] or readings, readings[-sixth:]
    table = stage.table("", "second sixth", "last sixth", "most", "grown")
    rows: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        (f"{process}, {words}", lambda one, process=process, name=name: one[process][name])
        for process in ("worker", "server")
        for name, words in FIGURES.items()
    ]
    for words, figure in [*rows, ("jobs in the queue", lambda one: one["jobs"])]:
        before, after = (statistics.mean(map(figure, some)) for some in (early, late))
        most = max(map(figure, readings))
        table.add_row(words, f"{before:,.1f}", f"{after:,.1f}", f"{most:,.1f}", f"{after - before:+,.1f}")
    console.print(table)
    console.print(", ".join(f"{count:,} {name}" for name, count in found["done"].items()))


if __name__ == "__main__":
    main()
