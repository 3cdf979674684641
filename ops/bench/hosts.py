"""Measure how a slow push service affects three fast ones, and how a large application affects a small one.

The same campaign goes to four push services in turn, device by device. First all four are fast; then one of them
responds after 5 seconds, never, or always with 503. The figure is the rate of the other three, measured until all their
messages are in the log. Then a small application sends to its few devices, first on an idle gateway and then during the
campaign of another application. At last one push service limits one application to 1,000 messages a minute, as Chrome's
site limit does: the alert of another application to the same service, and one of the limited application itself.
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
from datetime import UTC, datetime
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
from gateway.records.postgres.engine import copy_rows, open_engine
from gateway.service.access import applications
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.submission import Draft, submit
from gateway.sim.keys import DeviceKeys
from tests.support.tls import make_ca

MASTER_KEY = "a master key for one benchmark only, and no other"
CONTENT = {"title": "Severe thunderstorms", "body": "Go indoors and stay away from windows. " * 4, "url": "/storm"}
POLL_INTERVAL_S = 0.05
TIMEOUT_S = 90
SMALL_COUNT = 200
# The name of the campaign to four fast services; also part of the endpoints.
FAST = "fast"
# The application that a push service limits: devices of its alert, and how long its campaign has run before.
LIMITED = "limited"
ALERT_COUNT, LIMITED_S = 500, 120
# Devices of the application beside it.
BESIDE_COUNT = 3000
# The fault of the fourth service, by name: (seconds until it responds, status line).
FAULTS = {"slow": (5.0, "201 Created"), "silent": (1e6, "201 Created"), "503": (0.0, "503 Service Unavailable")}

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Setup:
    """The applications of the benchmark. `fast_hosts` are the three hosts that are fast in every run."""

    context: Context
    fast_hosts: list[str]
    tenants: dict[str, UUID]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="ops/bench/hosts", description=__doc__)
    parser.add_argument("--devices", type=int, default=20_000, help="devices of each campaign (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds (%(default)s)")
    parser.add_argument("--only", choices=list(FAULTS), action="append", help="measure this fault only (default: all)")
    parser.add_argument("--limited-only", action="store_true", help="measure the limited application only")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    faults = {name: FAULTS[name] for name in options.only or FAULTS}
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    folder.chmod(0o711)  # as root, the embedded Postgres runs as another user
    try:
        make_ca(folder)
        with ExitStack() as stack:
            fast = [stack.enter_context(sink.run_sink(make_folder(folder, str(number))))[1] for number in range(4)]
            faulty = {name: stack.enter_context(sink.run_faulty(folder, *fault)) for name, fault in faults.items()}
            limited = stack.enter_context(sink.run_limited(folder, 1000, 60))
            postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
            figures: dict[str, Any] = {}
            if not options.limited_only:
                figures = asyncio.run(measure(options, folder, fast, faulty, postgres.url))
                report(options, figures)
            if not options.only:
                figures["limited"] = asyncio.run(measure_limited(options, folder, limited, postgres.url))
                report_limited(figures["limited"])
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: Path, name: str) -> Path:
    """Create a folder with the certificate of the push service."""
    subfolder = folder / name
    subfolder.mkdir()
    shutil.copy(folder / "server.pem", subfolder)
    return subfolder


async def measure(
    options: argparse.Namespace, folder: Path, fast: list[str], faulty: dict[str, str], url: str
) -> dict[str, dict[str, list[float]]]:
    """Measure the campaign with each fault, and the small application; return the rates and the waits."""
    await asyncio.to_thread(migrate.upgrade, url)
    engine = open_engine(url)
    origins = [*fast, *faulty.values()]
    context = Context(engine, Keyring(MASTER_KEY.encode()), EndpointPolicy(origins), "https://push.example.org")
    campaigns = {FAST: fast} | {name: [*fast[:3], origin] for name, origin in faulty.items()}
    tenants = {
        name: await create_tenant(context, name, tenant_origins, options.devices)
        for name, tenant_origins in campaigns.items()
    }
    tenants["small"] = await create_tenant(context, "small", fast[:3], SMALL_COUNT)
    setup = Setup(context, [origin.partition("://")[2] for origin in fast[:3]], tenants)
    rates: dict[str, list[float]] = {name: [] for name in campaigns}
    waits: dict[str, list[float]] = {"idle": [], "during a campaign": []}
    for _ in range(options.rounds):
        for name, samples in rates.items():
            with run_worker(folder, url, origins):
                samples.append(await measure_campaign(setup, name, options.devices * 3 // 4))
            console.print(f"[dim]{name}: {samples[-1]:,.0f}/s[/]")
        with run_worker(folder, url, origins):
            waits["idle"].append(await measure_small(setup))
            large_id = await submit_campaign(setup, FAST)
            await wait_until_logged(setup, large_id, options.devices // 10)
            waits["during a campaign"].append(await measure_small(setup))
            await cancel_rest(setup, large_id)
    await engine.dispose()
    return {"rates": rates, "waits": waits}


async def measure_limited(options: argparse.Namespace, folder: Path, origin: str, url: str) -> dict[str, float]:
    """Measure two applications at a push service that limits one of them; return seconds, rates and shares."""
    await asyncio.to_thread(migrate.upgrade, url)
    engine = open_engine(url)
    context = Context(engine, Keyring(MASTER_KEY.encode()), EndpointPolicy([origin]), "https://push.example.org")
    tenants = {
        LIMITED: await create_tenant(context, LIMITED, [origin], options.devices),
        "beside": await create_tenant(context, "beside", [origin], BESIDE_COUNT),
    }
    setup = Setup(context, [origin.partition("://")[2]], tenants)
    with run_worker(folder, url, [origin]):
        await measure_alert(setup, "beside", {"everyone": True}, BESIDE_COUNT)  # a new worker knows no host
        alone_s = [await measure_alert(setup, "beside", {"everyone": True}, BESIDE_COUNT) for _ in range(3)]
        began = time.time()
        campaign = await submit_campaign(setup, LIMITED, {"not": {"topic": "weather"}})
        await wait_until_logged(setup, campaign, 1000)
        beside_s = [await measure_alert(setup, "beside", {"everyone": True}, BESIDE_COUNT) for _ in range(3)]
        await asyncio.sleep(max(0.0, began + LIMITED_S - time.time()))  # until the pace is learnt
        own_s = await measure_alert(setup, LIMITED, {"topic": "weather"}, ALERT_COUNT)
        accepted, refused = await count_posts(setup, tenants[LIMITED], began, 60)
        first_accepted, first_refused = await count_posts(setup, tenants[LIMITED], began, 0)
        await cancel_rest(setup, campaign)
    await engine.dispose()
    return {
        "alone_s": statistics.median(alone_s),
        "beside_s": statistics.median(beside_s),
        "own_alert_s": own_s,
        "refused_after_a_minute": refused / max(1, accepted + refused),
        "accepted": first_accepted,
        "refused": first_refused,
    }


async def measure_alert(setup: Setup, name: str, audience: dict[str, Any], count: int) -> float:
    """Return the seconds until an alert has reached all of its devices."""
    began = time.perf_counter()
    async with setup.context.engine.begin() as conn:
        draft = Draft(Kind.ALERT, dict(CONTENT), audience)
        alert = await submit(conn, setup.context, setup.tenants[name], draft)
    await wait_until_logged(setup, alert.id, count)
    return time.perf_counter() - began


async def count_posts(setup: Setup, application_id: UUID, began: float, after_s: float) -> tuple[int, int]:
    """Return the accepted and the refused posts of an application from `after_s` after `began` on."""
    since = datetime.fromtimestamp(began + after_s, UTC)
    accepted = text(
        "SELECT count(*) FROM deliveries JOIN notifications ON notifications.id = notification_id "
        "WHERE notifications.application_id = :id AND outcome = 'accepted' AND deliveries.attempted_at >= :since"
    )
    refused = text(
        "SELECT count(*) FROM attempts JOIN notifications ON notifications.id = notification_id "
        "WHERE notifications.application_id = :id AND attempts.status = 429 AND attempts.at >= :since"
    )
    values = {"id": application_id, "since": since}
    async with setup.context.engine.connect() as conn:
        counts = [(await conn.execute(query, values)).scalar_one() for query in (accepted, refused)]
    return counts[0], counts[1]


async def create_tenant(context: Context, name: str, origins: list[str], count: int) -> UUID:
    """Create an application with devices at these origins."""
    async with context.engine.begin() as conn:
        created = await applications.create(
            conn, context.keyring, name, "mailto:ops@example.org", ["https://app.example.org"]
        )
        application_id = ids.parse(ids.APPLICATION, created["id"])
        assert application_id is not None
        parameters = {"id": application_id}
        query = text("SELECT id FROM vapid_keys WHERE application_id = :id")
        [key_id] = (await conn.execute(query, parameters)).scalars()
        pairs = [DeviceKeys.generate() for _ in range(100)]
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
                ["weather"] if n < ALERT_COUNT else [],
            )
            for n, pair, origin in zip(range(count), itertools.cycle(pairs), itertools.cycle(origins), strict=False)
        )
        columns = [
            "id",
            "application_id",
            "endpoint",
            "endpoint_digest",
            "host",
            "p256dh",
            "auth",
            "vapid_key_id",
            "topics",
        ]
        await copy_rows(conn, "devices", columns, rows)
    return application_id


@contextmanager
def run_worker(folder: Path, url: str, origins: list[str]) -> Iterator[None]:
    """Run a new worker, whose limits for each push service have not yet adapted."""
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
        log_offset = log.tell()
        process = subprocess.Popen([sys.executable, "-m", "gateway", "work"], env=os.environ | settings, stderr=log)
        try:
            while "worker.started" not in (folder / "worker.log").read_text()[log_offset:]:
                if process.poll() is not None:
                    raise SystemExit((folder / "worker.log").read_text()[log_offset:])
                time.sleep(POLL_INTERVAL_S)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


async def measure_campaign(setup: Setup, name: str, count: int) -> float:
    """Return the messages per second of the three fast services."""
    began = time.perf_counter()
    notification_id = await submit_campaign(setup, name)
    await wait_until_logged(setup, notification_id, count)
    seconds = time.perf_counter() - began
    await cancel_rest(setup, notification_id)
    return count / seconds


async def measure_small(setup: Setup) -> float:
    """Return the seconds until the small application's messages are in the log."""
    began = time.perf_counter()
    await wait_until_logged(setup, await submit_campaign(setup, "small"), SMALL_COUNT)
    return time.perf_counter() - began


async def submit_campaign(setup: Setup, name: str, audience: dict[str, Any] | None = None) -> UUID:
    """Submit a campaign, to everyone unless there is an audience, and return its id."""
    async with setup.context.engine.begin() as conn:
        draft = Draft(Kind.CAMPAIGN, dict(CONTENT), audience or {"everyone": True})
        return (await submit(conn, setup.context, setup.tenants[name], draft)).id


async def wait_until_logged(setup: Setup, id_: UUID, count: int) -> None:
    """Wait until the three fast services have accepted `count` messages; check that each is in the log once."""
    query = text(
        "SELECT count(*), count(DISTINCT device_id) FROM deliveries "
        "WHERE notification_id = :id AND outcome = 'accepted' AND host = ANY(:good)"
    )
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            async with setup.context.engine.connect() as conn:
                rows, devices = (await conn.execute(query, {"id": id_, "good": setup.fast_hosts})).one()
            assert rows == devices
            if rows >= count:
                return
            await asyncio.sleep(POLL_INTERVAL_S)  # the poll costs little at this interval


async def cancel_rest(setup: Setup, id_: UUID) -> None:
    """Cancel the rest of a notification, so that it does not disturb the next run."""
    async with setup.context.engine.begin() as conn:
        owner = text("SELECT application_id FROM notifications WHERE id = :id")
        application_id = (await conn.execute(owner, {"id": id_})).scalar_one()
        with suppress(Conflict):  # raised if the notification is finished already
            await lifecycle.cancel(conn, application_id, id_)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            async with setup.context.engine.connect() as conn:
                query = text("SELECT count(*) FROM jobs WHERE notification_id = :id AND run_at <= now()")
                if (await conn.execute(query, {"id": id_})).scalar_one() == 0:
                    return
            await asyncio.sleep(POLL_INTERVAL_S)


def report_limited(figures: dict[str, float]) -> None:
    """Print the figures of the limited application and of the one beside it."""
    alone_s, beside_s = figures["alone_s"], figures["beside_s"]
    share = figures["refused_after_a_minute"]
    console.print("\nOne push service limits one application to 1,000 messages a minute")
    console.print(f"alert to {BESIDE_COUNT:,} devices of another application, alone: {alone_s:.2f} s")
    console.print(f"beside the limited campaign: {beside_s:.2f} s (x {beside_s / alone_s:.2f})")
    console.print(f"alert to {ALERT_COUNT} devices of the limited application: {figures['own_alert_s']:.1f} s")
    console.print(f"its posts: {figures['accepted']:,} accepted, {figures['refused']:,} refused")
    console.print(f"refused after the first minute: {share:.1%}")


def report(options: argparse.Namespace, figures: dict[str, dict[str, list[float]]]) -> None:
    """Print the figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("the fourth service", "the other three/s", "ratio to fast"):
        table.add_column(column, justify="left" if column == "the fourth service" else "right")
    baseline = statistics.median(figures["rates"][FAST])
    result: dict[str, Any] = dict(figures)
    result["share"] = {name: statistics.median(rates) / baseline for name, rates in figures["rates"].items()}
    for name, rates in figures["rates"].items():
        table.add_row(name, f"{statistics.median(rates):,.0f}", f"{result['share'][name]:.0%}")
    console.print(f"\n{options.devices:,} messages over four services, {options.rounds} rounds, medians")
    console.print(table)
    for name, seconds in figures["waits"].items():
        console.print(f"{SMALL_COUNT} messages of another application, {name}: {statistics.median(seconds):.2f} s")
    figures["share"] = result["share"]


if __name__ == "__main__":
    main()
