"""Measure the cost of a delivery: the gateway (queue, encryption, POST, log) and the bare send loops of libraries.

In each round all senders send to the same TLS sink, one after the other, so that noise of the machine affects all of
them. The gateway's worker is a separate process on a Postgres of its own; its figure is the CPU time of the worker and
of Postgres per delivery in the log. Ratios compare messages per CPU second.
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

import testbed
from testbed import CONTENT, HERE, Context, DeviceKeys, Testbed, console

from gateway.domain.device import Subscription
from gateway.push.encryption import encode_base64url, encrypt
from gateway.push.vapid import VapidKey

CONCURRENCY = 64


@dataclass(slots=True)
class Sender:
    """A sender: CPU microseconds per message and messages per second, by round.

    `postgres_us` is the CPU time of Postgres, for the gateway only.
    """

    name: str
    cpu_us: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    postgres_us: list[float] = field(default_factory=list)

    @property
    def all_us(self) -> float:
        """Return the median CPU microseconds per message, Postgres included."""
        return statistics.median(self.cpu_us) + (statistics.median(self.postgres_us) if self.postgres_us else 0)


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("send", __doc__)
    parser.add_argument("--devices", type=int, default=20_000, help="deliveries of the gateway per round (%(default)s)")
    parser.add_argument("--messages", type=int, default=4000, help="messages of each bare loop per round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (%(default)s)")
    options = parser.parse_args()
    with testbed.create_testbed() as bed:
        result = asyncio.run(compare(options, bed))
    report(options, bed.sink, result)


async def compare(options: argparse.Namespace, bed: Testbed) -> dict[str, Any]:
    """Run all senders in turn."""
    senders = {"gateway": Sender("gateway: queue, retries and log")}
    loops = available_loops(bed)
    async with testbed.open_context(bed) as context:
        application_id = await testbed.create_application(context)
        pairs = await testbed.create_devices(context, application_id, bed.origin, options.devices)
        with testbed.run_process(bed, "work", until="worker.started", worker_concurrency=str(CONCURRENCY)) as worker:
            for number in range(options.rounds):
                console.print(f"[dim]round {number + 1} of {options.rounds}: gateway[/]")
                await run_gateway_round(context, application_id, senders["gateway"], worker.pid, options.devices)
                payload = json.dumps({"web_push": 8030, "notification": CONTENT | {"data": {"receipt": "x" * 150}}})
                for name, run in loops.items():
                    console.print(f"[dim]round {number + 1} of {options.rounds}: {name}[/]")
                    sender = senders.setdefault(name, Sender(name))
                    usage = await asyncio.to_thread(run, loop_input(bed, pairs, options.messages, payload))
                    sender.cpu_us.append(usage["cpu_s"] / options.messages * 1e6)
                    sender.rate.append(options.messages / usage["seconds"])
            peak = testbed.peak_memory_mb(worker.pid)
    return {"senders": senders, "peak_mb": peak, "encryption_us": encryption_us(pairs)}


async def run_gateway_round(
    context: Context, application_id: UUID, sender: Sender, worker: int, device_count: int
) -> None:
    """Send one campaign to everyone; measure from the submission to the last log row."""
    postmaster = await testbed.postmaster_pid(context)
    cpu_before, postgres_before, start = (
        testbed.process_cpu_s(worker),
        testbed.tree_cpu_s(postmaster),
        time.perf_counter(),
    )
    notification_id = await testbed.submit_notification(context, application_id)
    await testbed.wait_until_finished(context, notification_id)
    seconds = time.perf_counter() - start
    sender.cpu_us.append((testbed.process_cpu_s(worker) - cpu_before) / device_count * 1e6)
    sender.postgres_us.append((testbed.tree_cpu_s(postmaster) - postgres_before) / device_count * 1e6)
    sender.rate.append(device_count / seconds)
    await testbed.check_log(context, notification_id, device_count)


def available_loops(bed: Testbed) -> dict[str, Callable[[dict[str, Any]], dict[str, float]]]:
    """Return the bare loops that can run on this machine."""
    python = [sys.executable, str(HERE / "loop_pywebpush.py")]
    loops: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
        "pywebpush, its async call": lambda parameters: run_loop(python, parameters | {"cached": False}),
        "pywebpush, signing once": lambda parameters: run_loop(python, parameters | {"cached": True}),
    }
    if (node := shutil.which("node")) and (npm := shutil.which("npm")):
        installed = subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-fund", "web-push@3"],
            cwd=bed.folder,
            capture_output=True,
            check=False,
        )
        if installed.returncode == 0:
            environment = {
                "NODE_PATH": str(bed.folder / "node_modules"),
                "NODE_EXTRA_CA_CERTS": str(bed.folder / "ca.pem"),
            }
            script = [node, str(HERE / "loop_web_push.js")]
            loops["npm web-push"] = lambda parameters: run_loop(script, parameters, environment)
        else:
            console.print("npm web-push is left out: npm could not install it")
    else:
        console.print("npm web-push is left out: node or npm is not installed")
    return loops


def run_loop(
    command: list[str], parameters: dict[str, Any], environment: dict[str, str] | None = None
) -> dict[str, float]:
    """Run a bare loop in a process of its own and return its seconds and CPU seconds."""
    process = subprocess.run(
        command,
        input=json.dumps(parameters),
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
        check=False,
    )
    if process.returncode != 0:
        raise SystemExit(f"{command[-1]}: {process.stderr}")
    usage: dict[str, float] = json.loads(process.stdout)
    return usage


def loop_input(bed: Testbed, pairs: list[DeviceKeys], count: int, payload: str) -> dict[str, Any]:
    """Return the input of a bare loop."""
    key = VapidKey.generate()
    return {
        "origin": bed.origin,
        "ca_file": str(bed.folder / "ca.pem"),
        "private_key": encode_base64url(key.private_bytes()),
        "public_key": key.public_text,
        "count": count,
        "concurrency": CONCURRENCY,
        "payload": payload,
        "subscriptions": [
            {
                "endpoint": f"{bed.origin}/p/{number}",
                "keys": {"p256dh": encode_base64url(pair.p256dh), "auth": encode_base64url(pair.auth)},
            }
            for number, pair in enumerate(pairs)
        ],
    }


def encryption_us(pairs: list[DeviceKeys]) -> float:
    """Return the CPU microseconds of RFC 8291 encryption alone, for a message of 450 octets."""
    subscriptions = [Subscription("", pair.p256dh, pair.auth) for pair in pairs]
    cpu_before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for subscription in subscriptions * 4:
        encrypt(b"x" * 450, subscription)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu_before) / (4 * len(subscriptions)) * 1e6


def report(options: argparse.Namespace, sink: str, result: dict[str, Any]) -> None:
    """Print the figures."""
    senders: dict[str, Sender] = result["senders"]
    gateway = senders["gateway"]
    table = testbed.make_table("sender", "messages/s", "CPU us", "Postgres us", "per CPU s", "ratio to gateway")
    for sender in senders.values():
        table.add_row(
            sender.name,
            f"{statistics.median(sender.rate):,.0f}",
            f"{statistics.median(sender.cpu_us):,.0f}",
            f"{statistics.median(sender.postgres_us):,.0f}" if sender.postgres_us else "",
            f"{1e6 / sender.all_us:,.0f}",
            "" if sender is gateway else f"x {sender.all_us / gateway.all_us:.2f}",
        )
    console.print(f"\n{options.devices:,} deliveries in {options.rounds} rounds, medians; the sink is {sink}")
    console.print(table)
    console.print(
        f"peak memory of the gateway's worker: {result['peak_mb']:.0f} MB; "
        f"encryption alone takes {result['encryption_us']:.0f} us per message"
    )
    figures = {
        name: {"cpu_us": sender.cpu_us, "postgres_us": sender.postgres_us, "rate": sender.rate, "all_us": sender.all_us}
        for name, sender in senders.items()
    }
    summary = {"sink": sink, "devices": options.devices, "messages": options.messages, "senders": figures}
    testbed.write_json(options.json, summary | {"peak_mb": result["peak_mb"], "encryption_us": result["encryption_us"]})


if __name__ == "__main__":
    main()
