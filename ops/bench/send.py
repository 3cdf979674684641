"""What a delivery costs: the whole gateway (queue, encryption, POST, log) beside the bare send loops of the libraries.

In each round every contestant sends to the same TLS sink, one after the other, so that a noisy machine is noisy to all.
The gateway's worker is a process of its own on a Postgres of its own; the figure is the CPU time of that process
and of Postgres, over deliveries that are in the log. Ratios are messages per CPU second.
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import sink  # noqa: E402

from gateway.domain import ids  # noqa: E402
from gateway.domain.device import Subscription  # noqa: E402
from gateway.domain.notification import Kind  # noqa: E402
from gateway.embedded import EmbeddedPostgres  # noqa: E402
from gateway.push.encryption import encode_base64url, encrypt  # noqa: E402
from gateway.push.endpoints import EndpointPolicy  # noqa: E402
from gateway.push.vapid import VapidKey  # noqa: E402
from gateway.records import database, migrate  # noqa: E402
from gateway.service import applications  # noqa: E402
from gateway.service.context import Context  # noqa: E402
from gateway.service.submission import Draft, submit  # noqa: E402
from gateway.service.vault import Vault  # noqa: E402
from gateway.sim.keys import Keys  # noqa: E402
from tests.support.tls import make_ca  # noqa: E402

MASTER_KEY = "a master key for one benchmark only, and no other"
KEY_PAIRS = 500
AT_ONCE = 64
CONTENT = {"title": "Severe thunderstorms", "body": "Go indoors and stay away from windows. " * 4, "url": "/storm"}
LOOK_S = 0.1
PATIENCE_S = 600
TICK = os.sysconf("SC_CLK_TCK")

console = Console(highlight=False)


@dataclass(slots=True)
class Contestant:
    """Microseconds of CPU for each message and messages per second, by round."""

    name: str
    cpu_us: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    beside_us: list[float] = field(default_factory=list)
    """What Postgres took, for the gateway."""

    @property
    def all_us(self) -> float:
        return statistics.median(self.cpu_us) + (statistics.median(self.beside_us) if self.beside_us else 0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="ops/bench/send", description=__doc__)
    parser.add_argument(
        "--devices", type=int, default=20_000, help="deliveries of the gateway in a round (%(default)s)"
    )
    parser.add_argument(
        "--messages", type=int, default=4000, help="messages of each bare loop in a round (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    folder.chmod(0o711)  # root's Postgres runs as somebody else
    try:
        make_ca(folder)
        with sink.running(folder) as (words, origin), EmbeddedPostgres(folder / "postgres") as postgres:
            found = asyncio.run(compare(asked, folder, origin, postgres))
        report(asked, words, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def compare(asked: argparse.Namespace, folder: Path, origin: str, postgres: EmbeddedPostgres) -> dict[str, Any]:
    url = postgres.url
    await asyncio.to_thread(migrate.upgrade, url)
    pairs = [Keys.generate() for _ in range(KEY_PAIRS)]
    contestants = {"gateway": Contestant("gateway: queue, retries and log")}
    loops = loops_here(folder)
    async with AsyncExitStack() as stack:
        engine = database.open_engine(url)
        stack.push_async_callback(engine.dispose)
        context = Context(engine, Vault(MASTER_KEY.encode()), EndpointPolicy([origin]), "https://push.example.org")
        application_id = await prepare(context, origin, pairs, asked.devices)
        worker = stack.enter_context(running_worker(folder, url, origin))
        for number in range(asked.rounds):
            console.print(f"[dim]round {number + 1} of {asked.rounds}: gateway[/]")
            await gateway_round(context, application_id, contestants["gateway"], worker, asked.devices)
            payload = json.dumps({"web_push": 8030, "notification": CONTENT | {"data": {"receipt": "x" * 150}}})
            for name, run in loops.items():
                console.print(f"[dim]round {number + 1} of {asked.rounds}: {name}[/]")
                contestant = contestants.setdefault(name, Contestant(name))
                spent = await asyncio.to_thread(run, loop_input(folder, origin, pairs, asked.messages, payload))
                contestant.cpu_us.append(spent["cpu_s"] / asked.messages * 1e6)
                contestant.rate.append(asked.messages / spent["seconds"])
        peak = peak_memory(worker.pid)
    return {"contestants": contestants, "peak_mb": peak, "encryption_us": encryption_us(pairs)}


async def prepare(context: Context, origin: str, pairs: list[Keys], count: int) -> Any:
    async with context.engine.begin() as conn:
        made = await applications.create(
            conn, context.vault, "bench", "mailto:ops@example.org", ["https://app.example.org"]
        )
        application_id = ids.parse(ids.APPLICATION, made["id"])
        [key_id] = (await conn.execute(text("SELECT id FROM vapid_keys"))).scalars()
        host = origin.partition("://")[2]
        rows = (
            (
                ids.new_id(),
                application_id,
                f"{origin}/p/{n}",
                n.to_bytes(32, "big"),
                host,
                pair.p256dh,
                pair.auth,
                key_id,
            )
            for n, pair in zip(range(count), itertools.cycle(pairs), strict=False)
        )
        columns = ["id", "application_id", "endpoint", "endpoint_digest", "host", "p256dh", "auth", "vapid_key_id"]
        await database.copy(conn, "devices", columns, rows)
    async with context.engine.connect() as conn:
        await (await conn.execution_options(isolation_level="AUTOCOMMIT")).execute(text("ANALYZE"))
    return application_id


@contextmanager
def running_worker(folder: Path, url: str, origin: str) -> Iterator[subprocess.Popen[str]]:
    settings = {
        "GATEWAY_DATABASE_URL": url,
        "GATEWAY_MASTER_KEY": MASTER_KEY,
        "GATEWAY_PUSH_HOSTS": origin,
        "GATEWAY_PUSH_CA": str(folder / "ca.pem"),
        "GATEWAY_PUBLIC_URL": "https://push.example.org",
        "GATEWAY_SENDERS": str(AT_ONCE),
        "GATEWAY_LOG_FORMAT": "json",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "gateway", "work"]
    worker = subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.PIPE, text=True)
    assert worker.stderr is not None
    try:
        for line in worker.stderr:
            if "worker.started" in line:
                break
        else:
            raise SystemExit("the worker did not start")
        yield worker
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate()


async def gateway_round(
    context: Context, application_id: Any, contestant: Contestant, worker: subprocess.Popen[str], count: int
) -> None:
    """One campaign to everyone, from the submission to the last row of the log."""
    async with context.engine.connect() as conn:
        backend = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    postmaster = parent_of(backend)
    used, beside, began = process_cpu(worker.pid), family_cpu(postmaster), time.perf_counter()
    async with context.engine.begin() as conn:
        sent = await submit(conn, context, application_id, Draft(Kind.CAMPAIGN, dict(CONTENT), {"everyone": True}))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with context.engine.connect() as conn:
                done = text("SELECT finished_at IS NOT NULL FROM notifications WHERE id = :id")
                if (await conn.execute(done, {"id": sent.id})).scalar_one():
                    break
            await asyncio.sleep(LOOK_S)  # seldom enough to cost nothing
    seconds = time.perf_counter() - began
    contestant.cpu_us.append((process_cpu(worker.pid) - used) / count * 1e6)
    contestant.beside_us.append((family_cpu(postmaster) - beside) / count * 1e6)
    contestant.rate.append(count / seconds)
    async with context.engine.connect() as conn:
        logged = text(
            "SELECT count(*), count(DISTINCT device_id) FROM deliveries "
            "WHERE notification_id = :id AND outcome = 'accepted'"
        )
        rows, devices = (await conn.execute(logged, {"id": sent.id})).one()
    assert (rows, devices) == (count, count), f"{rows} rows for {devices} devices are in the log, not {count}"


def loops_here(folder: Path) -> dict[str, Callable[[dict[str, Any]], dict[str, float]]]:
    """The bare loops that can be run on this machine."""
    python = [sys.executable, str(HERE / "loop_pywebpush.py")]
    loops: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
        "pywebpush, its async call": lambda given: run_loop(python, given | {"cached": False}),
        "pywebpush, signing once": lambda given: run_loop(python, given | {"cached": True}),
    }
    if (node := shutil.which("node")) and (npm := shutil.which("npm")):
        installed = subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-fund", "web-push@3"],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        if installed.returncode == 0:
            environment = {"NODE_PATH": str(folder / "node_modules"), "NODE_EXTRA_CA_CERTS": str(folder / "ca.pem")}
            script = [node, str(HERE / "loop_web_push.js")]
            loops["npm web-push"] = lambda given: run_loop(script, given, environment)
        else:
            console.print("npm web-push is left out: npm could not install it")
    else:
        console.print("npm web-push is left out: there is no node and npm here")
    return loops


def run_loop(command: list[str], given: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, float]:
    ended = subprocess.run(
        command,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
        check=False,
    )
    if ended.returncode != 0:
        raise SystemExit(f"{command[-1]}: {ended.stderr}")
    spent: dict[str, float] = json.loads(ended.stdout)
    return spent


def loop_input(folder: Path, origin: str, pairs: list[Keys], count: int, payload: str) -> dict[str, Any]:
    key = VapidKey.generate()
    return {
        "origin": origin,
        "ca_file": str(folder / "ca.pem"),
        "private_key": encode_base64url(key.private_bytes()),
        "public_key": key.public_text,
        "count": count,
        "at_once": AT_ONCE,
        "payload": payload,
        "subscriptions": [
            {
                "endpoint": f"{origin}/p/{number}",
                "keys": {"p256dh": encode_base64url(pair.p256dh), "auth": encode_base64url(pair.auth)},
            }
            for number, pair in enumerate(pairs)
        ],
    }


def encryption_us(pairs: list[Keys]) -> float:
    """CPU of RFC 8291 alone, for one message of 450 octets."""
    subscriptions = [Subscription("", pair.p256dh, pair.auth) for pair in pairs]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for subscription in subscriptions * 4:
        encrypt(b"x" * 450, subscription)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_utime - used) / (4 * len(subscriptions)) * 1e6


def process_cpu(pid: int) -> float:
    """Seconds of user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def family_cpu(parent: int) -> float:
    """Seconds of a process, its children that live, and those it has buried."""
    fields = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()
    total = sum(map(int, fields[11:15])) / TICK
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            child = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(child[1]) == parent:
            total += (int(child[11]) + int(child[12])) / TICK
    return total


def peak_memory(pid: int) -> float:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def report(asked: argparse.Namespace, words: str, found: dict[str, Any]) -> None:
    contestants: dict[str, Contestant] = found["contestants"]
    ours = contestants["gateway"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("sender", "messages/s", "CPU us", "Postgres us", "per CPU s", "gateway is"):
        table.add_column(column, justify="left" if column == "sender" else "right")
    for one in contestants.values():
        table.add_row(
            one.name,
            f"{statistics.median(one.rate):,.0f}",
            f"{statistics.median(one.cpu_us):,.0f}",
            f"{statistics.median(one.beside_us):,.0f}" if one.beside_us else "",
            f"{1e6 / one.all_us:,.0f}",
            "" if one is ours else f"x {one.all_us / ours.all_us:.2f}",
        )
    console.print(f"\n{asked.devices:,} deliveries in {asked.rounds} rounds, medians; the sink is {words}")
    console.print(table)
    console.print(
        f"the gateway's worker took {found['peak_mb']:.0f} MB at its peak; "
        f"encryption alone is {found['encryption_us']:.0f} us a message"
    )
    if asked.json:
        figures = {
            name: {"cpu_us": one.cpu_us, "postgres_us": one.beside_us, "rate": one.rate, "all_us": one.all_us}
            for name, one in contestants.items()
        }
        kept = {"sink": words, "devices": asked.devices, "messages": asked.messages, "contestants": figures}
        kept |= {"peak_mb": found["peak_mb"], "encryption_us": found["encryption_us"]}
        asked.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
