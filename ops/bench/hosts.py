"""One slow push service among four, and one large tenant beside a small one.

The same campaign goes over four push services, message by message: first all four are quick, then one of them answers
after seconds, never, or always 503. The figure is how fast the other three get theirs, to the last row of the log.
Then a small application sends to its few devices, alone and while another's campaign is being sent.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import sink

from gateway.domain import ids
from gateway.domain.errors import Conflict
from gateway.domain.notification import Kind
from gateway.embedded import EmbeddedPostgres
from gateway.push.endpoints import EndpointPolicy
from gateway.records.postgres import migrate
from gateway.records.postgres.engine import copy, open_engine
from gateway.service.access import applications
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.submission import Draft, submit
from gateway.sim.keys import Keys
from tests.support.tls import make_ca

MASTER_KEY = "a master key for one benchmark only, and no other"
CONTENT = {"title": "Severe thunderstorms", "body": "Go indoors and stay away from windows. " * 4, "url": "/storm"}
LOOK_S = 0.05
GIVE_UP_S = 90
SMALL = 200
QUICK = "quick"  # a part of endpoints too
TROUBLES = {"slow": (5.0, "201 Created"), "silent": (1e6, "201 Created"), "503": (0.0, "503 Service Unavailable")}

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Stage:
    context: Context
    good: list[str]
    """The three origins that are quick in every run."""
    tenants: dict[str, UUID]


def main() -> None:
    parser = argparse.ArgumentParser(prog="ops/bench/hosts", description=__doc__)
    parser.add_argument("--devices", type=int, default=20_000, help="of each campaign (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--only", choices=list(TROUBLES), action="append", help="this trouble (all of them)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    asked = parser.parse_args()
    troubles = {name: TROUBLES[name] for name in asked.only or TROUBLES}
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    folder.chmod(0o711)  # root's Postgres runs as somebody else
    try:
        make_ca(folder)
        with ExitStack() as stack:
            quick = [stack.enter_context(sink.running(room(folder, str(number))))[1] for number in range(4)]
            bad = {name: stack.enter_context(sink.misbehaving(folder, *how)) for name, how in troubles.items()}
            postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
            found = asyncio.run(measure(asked, folder, quick, bad, postgres.url))
        report(asked, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def room(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    shutil.copy(folder / "server.pem", made)
    return made


async def measure(
    asked: argparse.Namespace, folder: Path, quick: list[str], bad: dict[str, str], url: str
) -> dict[str, dict[str, list[float]]]:
    await asyncio.to_thread(migrate.upgrade, url)
    engine = open_engine(url)
    origins = [*quick, *bad.values()]
    context = Context(engine, Keyring(MASTER_KEY.encode()), EndpointPolicy(origins), "https://push.example.org")
    campaigns = {QUICK: quick} | {name: [*quick[:3], origin] for name, origin in bad.items()}
    tenants = {name: await tenant(context, name, used, asked.devices) for name, used in campaigns.items()}
    tenants["small"] = await tenant(context, "small", quick[:3], SMALL)
    stage = Stage(context, [origin.partition("://")[2] for origin in quick[:3]], tenants)
    rates: dict[str, list[float]] = {name: [] for name in campaigns}
    waits: dict[str, list[float]] = {"alone": [], "beside a campaign": []}
    for _ in range(asked.rounds):
        for name, found in rates.items():
            with worker(folder, url, origins):
                found.append(await campaign(stage, name, asked.devices * 3 // 4))
            console.print(f"[dim]{name}: {found[-1]:,.0f}/s[/]")
        with worker(folder, url, origins):
            waits["alone"].append(await small(stage))
            large = await send(stage, QUICK)
            await logged(stage, large, asked.devices // 10)
            waits["beside a campaign"].append(await small(stage))
            await stop(stage, large)
    await engine.dispose()
    return {"rates": rates, "waits": waits}


async def tenant(context: Context, name: str, origins: list[str], count: int) -> UUID:
    async with context.engine.begin() as conn:
        made = await applications.create(
            conn, context.keyring, name, "mailto:ops@example.org", ["https://app.example.org"]
        )
        application_id = ids.parse(ids.APPLICATION, made["id"])
        assert application_id is not None
        asked = {"id": application_id}
        query = text("SELECT id FROM vapid_keys WHERE application_id = :id")
        [key_id] = (await conn.execute(query, asked)).scalars()
        pairs = [Keys.generate() for _ in range(100)]
        rows = (
            (
                ids.new_id(),
                application_id,
                f"{origin}/p/{name}/{n}",
                application_id.bytes + n.to_bytes(16, "big"),
                origin.partition("://")[2],
                pair.p256dh,
                pair.auth,
                key_id,
            )
            for n, pair, origin in zip(range(count), itertools.cycle(pairs), itertools.cycle(origins), strict=False)
        )
        columns = ["id", "application_id", "endpoint", "endpoint_digest", "host", "p256dh", "auth", "vapid_key_id"]
        await copy(conn, "devices", columns, rows)
    return application_id


@contextmanager
def worker(folder: Path, url: str, origins: list[str]) -> Iterator[None]:
    """A new one for each run, so that none knows of the run before."""
    settings = {
        "GATEWAY_DATABASE_URL": url,
        "GATEWAY_MASTER_KEY": MASTER_KEY,
        "GATEWAY_PUSH_HOSTS": ",".join(origins),
        "GATEWAY_PUSH_CA": str(folder / "ca.pem"),
        "GATEWAY_PUBLIC_URL": "https://push.example.org",
        "GATEWAY_DRAIN": "1",
        "GATEWAY_LOG_FORMAT": "json",
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "worker.log").open("a+") as log:
        began = log.tell()
        process = subprocess.Popen([sys.executable, "-m", "gateway", "work"], env=os.environ | settings, stderr=log)
        try:
            while "worker.started" not in (folder / "worker.log").read_text()[began:]:
                if process.poll() is not None:
                    raise SystemExit((folder / "worker.log").read_text()[began:])
                time.sleep(LOOK_S)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


async def campaign(stage: Stage, name: str, count: int) -> float:
    """Messages a second of the three good services."""
    began = time.perf_counter()
    sent = await send(stage, name)
    await logged(stage, sent, count)
    seconds = time.perf_counter() - began
    await stop(stage, sent)
    return count / seconds


async def small(stage: Stage) -> float:
    """Seconds until a small application's few messages are in the log."""
    began = time.perf_counter()
    await logged(stage, await send(stage, "small"), SMALL)
    return time.perf_counter() - began


async def send(stage: Stage, name: str) -> UUID:
    async with stage.context.engine.begin() as conn:
        draft = Draft(Kind.CAMPAIGN, dict(CONTENT), {"everyone": True})
        return (await submit(conn, stage.context, stage.tenants[name], draft)).id


async def logged(stage: Stage, id_: UUID, count: int) -> None:
    """Until so many are accepted by the three good services; what is in the log is in it once."""
    query = text(
        "SELECT count(*), count(DISTINCT device_id) FROM deliveries "
        "WHERE notification_id = :id AND outcome = 'accepted' AND host = ANY(:good)"
    )
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            async with stage.context.engine.connect() as conn:
                rows, devices = (await conn.execute(query, {"id": id_, "good": stage.good})).one()
            assert rows == devices
            if rows >= count:
                return
            await asyncio.sleep(LOOK_S)  # seldom enough to cost little


async def stop(stage: Stage, id_: UUID) -> None:
    """End what is left of it, so that it is not in the way of the next."""
    async with stage.context.engine.begin() as conn:
        owner = text("SELECT application_id FROM notifications WHERE id = :id")
        application_id = (await conn.execute(owner, {"id": id_})).scalar_one()
        with suppress(Conflict):  # it is over
            await lifecycle.cancel(conn, application_id, id_)
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            async with stage.context.engine.connect() as conn:
                held = text("SELECT count(*) FROM jobs WHERE notification_id = :id AND run_at <= now()")
                if (await conn.execute(held, {"id": id_})).scalar_one() == 0:
                    return
            await asyncio.sleep(LOOK_S)


def report(asked: argparse.Namespace, found: dict[str, dict[str, list[float]]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("the fourth service", "the other three/s", "of their rate"):
        table.add_column(column, justify="left" if column == "the fourth service" else "right")
    usual = statistics.median(found["rates"][QUICK])
    kept: dict[str, Any] = dict(found)
    kept["share"] = {name: statistics.median(rates) / usual for name, rates in found["rates"].items()}
    for name, rates in found["rates"].items():
        table.add_row(name, f"{statistics.median(rates):,.0f}", f"{kept['share'][name]:.0%}")
    console.print(f"\n{asked.devices:,} messages over four services, {asked.rounds} rounds, medians")
    console.print(table)
    for name, seconds in found["waits"].items():
        console.print(f"{SMALL} messages of another application, {name}: {statistics.median(seconds):.2f} s")
    if asked.json:
        asked.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
