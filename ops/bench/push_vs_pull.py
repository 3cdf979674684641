"""What it costs to be asked for news, against bringing it: clients that poll their inbox, and the same ones pushed to.

Every poll is a connection of its own with an If-None-Match, since nobody keeps one open for five minutes; the octets
are those of HTTP, without TCP and TLS, which would cost a poll another two round trips and about 3 kB. A push is one
POST to a push service on loopback, which counts its octets. Processor time is that of the server or the worker, and of
Postgres. The polls of an hour are measured once for each kind of answer and multiplied.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import stage
from sqlalchemy import text
from stage import Stage, console, family_cpu, process_cpu

AT_ONCE = 50
EVERY_S = 300
CREATED = b"HTTP/1.1 201 Created\r\nLocation: /m/1\r\nTTL: 60\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Cost:
    """Of one round over all clients."""

    requests: int
    octets: int
    gateway_s: float
    postgres_s: float


def main() -> None:
    parser = stage.parser("push_vs_pull", __doc__)
    parser.add_argument("--clients", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--changes", type=int, nargs="*", default=[0, 1, 4, 12], help="an hour, each for everyone")
    asked = parser.parse_args()
    with stage.stage() as on:
        same, new, pushed = asyncio.run(measured(on, asked.clients))
    report(asked.clients, asked.changes, same, new, pushed)
    stage.keep(asked.json, {"clients": asked.clients, "304": asdict(same), "200": asdict(new), "push": asdict(pushed)})


async def measured(on: Stage, clients: int) -> tuple[Cost, Cost, Cost]:
    """A poll with nothing new, one with something, and a push."""
    counted = {"octets": 0}
    sink = await asyncio.start_server(lambda reader, writer: _take(reader, writer, counted), "127.0.0.1", 0)
    on = replace(on, origin=f"http://127.0.0.1:{sink.sockets[0].getsockname()[1]}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = {"port": str(port), "inbox_per_minute": "100000"}
    async with stage.orders(on) as context:
        application_id = await stage.application(context)
        await stage.devices(context, application_id, on.origin, clients)
        postmaster = await stage.postmaster(context)
        async with context.engine.connect() as conn:
            devices = (await conn.execute(text("SELECT id FROM devices ORDER BY id"))).scalars().all()
        with (
            stage.running(on, "work", until="worker.started") as worker,
            stage.running(on, "serve", until="web.listening", **served) as server,
        ):

            async def push() -> Cost:
                octets, used, beside = counted["octets"], process_cpu(worker.pid), family_cpu(postmaster)
                await stage.ended(context, await stage.send(context, application_id))
                spent = process_cpu(worker.pid) - used, family_cpu(postmaster) - beside
                return Cost(clients, counted["octets"] - octets, *spent)

            etags: dict[Any, str] = {}

            async def poll() -> Cost:
                used, beside = process_cpu(server.pid), family_cpu(postmaster)
                places = asyncio.Semaphore(AT_ONCE)

                async def one(device: Any) -> int:
                    async with places:
                        token = context.keyring.device_token(device)
                        octets, etags[device] = await _poll(port, f"dev_{device.hex}", token, etags.get(device, ""))
                        return octets

                octets = sum(await asyncio.gather(*map(one, devices)))
                return Cost(clients, octets, process_cpu(server.pid) - used, family_cpu(postmaster) - beside)

            for _ in range(10):  # something is in every inbox
                await push()
            await poll()
            same, pushed, new = await poll(), await push(), await poll()
    sink.close()
    return same, new, pushed


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: dict[str, int]) -> None:
    """A push service that takes everything and counts what it took and gave."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(CREATED)
            counted["octets"] += len(head) + len(body) + len(CREATED)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _poll(port: int, device: str, token: str, etag: str) -> tuple[int, str]:
    """(octets there and back, the ETag)"""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = (
        f"GET /v1/devices/{device}/inbox?limit=10 HTTP/1.1\r\nHost: push.example.org\r\n"
        f"Authorization: Bearer {token}\r\nAccept: application/json\r\n"
        f"If-None-Match: {etag}\r\nConnection: close\r\n\r\n"
    ).encode()
    writer.write(asked)
    answer = await reader.read(-1)
    writer.close()
    head = answer.partition(b"\r\n\r\n")[0].decode()
    assert head.split()[1] in ("200", "304"), head
    found = next(line for line in head.split("\r\n") if line.lower().startswith("etag:"))
    return len(asked) + len(answer), found.partition(":")[2].strip()


def report(clients: int, changes: list[int], same: Cost, new: Cost, pushed: Cost) -> None:
    once: list[tuple[str, Callable[[Cost], float]]] = [
        ("octets", lambda cost: cost.octets / cost.requests),
        ("gateway us", lambda cost: cost.gateway_s / cost.requests * 1e6),
        ("Postgres us", lambda cost: cost.postgres_s / cost.requests * 1e6),
    ]
    shown = stage.table("one", *(name for name, _ in once))
    for name, cost in (("poll with nothing new", same), ("poll with something new", new), ("push", pushed)):
        shown.add_row(name, *(f"{of(cost):,.0f}" for _, of in once))
    console.print(shown)
    shown = stage.table("changes an hour", "", "requests", "MB", "CPU seconds", "seconds until it is known")
    rounds = 3600 // EVERY_S
    for number in changes:
        told = min(number, rounds)
        pull = [(rounds - told, same), (told, new)]
        for name, parts, late in (("pull", pull, f"{EVERY_S / 2:.0f}"), ("push", [(number, pushed)], "at once")):
            requests = sum(times * cost.requests for times, cost in parts)
            octets = sum(times * cost.octets for times, cost in parts)
            cpu = sum(times * (cost.gateway_s + cost.postgres_s) for times, cost in parts)
            shown.add_row(str(number), name, f"{requests:,}", f"{octets / 1e6:.1f}", f"{cpu:.1f}", late)
    console.print(f"{clients:,} clients for an hour, polling every {EVERY_S} s")
    console.print(shown)


if __name__ == "__main__":
    main()
