"""What a delivery costs: the whole gateway (queue, encryption, POST, log) beside the bare send loops of the libraries.

In each round every contestant sends to the same TLS sink, one after the other, so that a noisy machine is noisy to all.
The gateway's worker is a process of its own on a Postgres of its own; the figure is the CPU time of that process
and of Postgres, over deliveries that are in the log. Ratios are messages per CPU second.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import stage
from stage import CONTENT, HERE, Context, Keys, Stage, console

from gateway.domain.device import Subscription
from gateway.push.encryption import encode_base64url, encrypt
from gateway.push.vapid import VapidKey

AT_ONCE = 64


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
    parser = stage.parser("send", __doc__)
    parser.add_argument(
        "--devices", type=int, default=20_000, help="deliveries of the gateway in a round (%(default)s)"
    )
    parser.add_argument(
        "--messages", type=int, default=4000, help="messages of each bare loop in a round (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    asked = parser.parse_args()
    with stage.stage() as on:
        found = asyncio.run(compare(asked, on))
    report(asked, on.sink, found)


async def compare(asked: argparse.Namespace, on: Stage) -> dict[str, Any]:
    contestants = {"gateway": Contestant("gateway: queue, retries and log")}
    loops = loops_here(on)
    async with stage.orders(on) as context:
        application_id = await stage.application(context)
        pairs = await stage.devices(context, application_id, on.origin, asked.devices)
        with stage.running(on, "work", until="worker.started", senders=str(AT_ONCE)) as worker:
            for number in range(asked.rounds):
                console.print(f"[dim]round {number + 1} of {asked.rounds}: gateway[/]")
                await gateway_round(context, application_id, contestants["gateway"], worker.pid, asked.devices)
                payload = json.dumps({"web_push": 8030, "notification": CONTENT | {"data": {"receipt": "x" * 150}}})
                for name, run in loops.items():
                    console.print(f"[dim]round {number + 1} of {asked.rounds}: {name}[/]")
                    contestant = contestants.setdefault(name, Contestant(name))
                    spent = await asyncio.to_thread(run, loop_input(on, pairs, asked.messages, payload))
                    contestant.cpu_us.append(spent["cpu_s"] / asked.messages * 1e6)
                    contestant.rate.append(asked.messages / spent["seconds"])
            peak = stage.memory(worker.pid)
    return {"contestants": contestants, "peak_mb": peak, "encryption_us": encryption_us(pairs)}


async def gateway_round(
    context: Context, application_id: UUID, contestant: Contestant, worker: int, count: int
) -> None:
    """One campaign to everyone, from the submission to the last row of the log."""
    postmaster = await stage.postmaster(context)
    used, beside, began = stage.process_cpu(worker), stage.family_cpu(postmaster), time.perf_counter()
    sent = await stage.send(context, application_id)
    await stage.ended(context, sent)
    seconds = time.perf_counter() - began
    contestant.cpu_us.append((stage.process_cpu(worker) - used) / count * 1e6)
    contestant.beside_us.append((stage.family_cpu(postmaster) - beside) / count * 1e6)
    contestant.rate.append(count / seconds)
    await stage.check_log(context, sent, count)


def loops_here(on: Stage) -> dict[str, Callable[[dict[str, Any]], dict[str, float]]]:
    """The bare loops that can be run on this machine."""
    python = [sys.executable, str(HERE / "loop_pywebpush.py")]
    loops: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
        "pywebpush, its async call": lambda given: run_loop(python, given | {"cached": False}),
        "pywebpush, signing once": lambda given: run_loop(python, given | {"cached": True}),
    }
    if (node := shutil.which("node")) and (npm := shutil.which("npm")):
        installed = subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-fund", "web-push@3"],
            cwd=on.folder,
            capture_output=True,
            check=False,
        )
        if installed.returncode == 0:
            environment = {
                "NODE_PATH": str(on.folder / "node_modules"),
                "NODE_EXTRA_CA_CERTS": str(on.folder / "ca.pem"),
            }
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


def loop_input(on: Stage, pairs: list[Keys], count: int, payload: str) -> dict[str, Any]:
    key = VapidKey.generate()
    return {
        "origin": on.origin,
        "ca_file": str(on.folder / "ca.pem"),
        "private_key": encode_base64url(key.private_bytes()),
        "public_key": key.public_text,
        "count": count,
        "at_once": AT_ONCE,
        "payload": payload,
        "subscriptions": [
            {
                "endpoint": f"{on.origin}/p/{number}",
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


def report(asked: argparse.Namespace, words: str, found: dict[str, Any]) -> None:
    contestants: dict[str, Contestant] = found["contestants"]
    ours = contestants["gateway"]
    table = stage.table("sender", "messages/s", "CPU us", "Postgres us", "per CPU s", "gateway is")
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
    figures = {
        name: {"cpu_us": one.cpu_us, "postgres_us": one.beside_us, "rate": one.rate, "all_us": one.all_us}
        for name, one in contestants.items()
    }
    kept = {"sink": words, "devices": asked.devices, "messages": asked.messages, "contestants": figures}
    stage.keep(asked.json, kept | {"peak_mb": found["peak_mb"], "encryption_us": found["encryption_us"]})


if __name__ == "__main__":
    main()
