"""Compare the cost of polling for news with the cost of pushing it, for the same clients.

Clients poll every five minutes and close the connection in between, so each poll opens a new one; it has an
If-None-Match header. The octets are those of HTTP without TCP and TLS, which would cost a poll two more round trips and
about 3 kB. A push is one POST to a push service on loopback, which counts its octets. CPU time is that of the server or
the worker, and of Postgres. The benchmark measures one poll without news and one with news for all clients, and
multiplies the costs by the number of polls in an hour.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import testbed
from sqlalchemy import text
from testbed import Testbed, console, process_cpu_s, tree_cpu_s

CONCURRENCY = 50
POLL_EVERY_S = 300
CREATED = b"HTTP/1.1 201 Created\r\nLocation: /m/1\r\nTTL: 60\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Cost:
    """Cost of one round over all clients."""

    requests: int
    octets: int
    gateway_s: float
    postgres_s: float


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("push_vs_pull", __doc__)
    parser.add_argument("--clients", type=int, default=1000, help="number of clients (%(default)s)")
    parser.add_argument(
        "--changes",
        type=int,
        nargs="*",
        default=[0, 1, 4, 12],
        help="changes per hour, each for all clients (%(default)s)",
    )
    options = parser.parse_args()
    with testbed.create_testbed() as bed:
        unchanged, changed, pushed = asyncio.run(measure(bed, options.clients))
    report(options.clients, options.changes, unchanged, changed, pushed)
    figures = {"304": asdict(unchanged), "200": asdict(changed), "push": asdict(pushed)}
    testbed.write_json(options.json, {"clients": options.clients} | figures)


async def measure(bed: Testbed, clients: int) -> tuple[Cost, Cost, Cost]:
    """Return the costs of a poll without news, a poll with news, and a push."""
    traffic = {"octets": 0}
    sink = await asyncio.start_server(lambda reader, writer: _serve_push(reader, writer, traffic), "127.0.0.1", 0)
    bed = replace(bed, origin=f"http://127.0.0.1:{sink.sockets[0].getsockname()[1]}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"port": str(port), "inbox_per_minute": "100000"}
    async with testbed.open_context(bed) as context:
        application_id = await testbed.create_application(context)
        await testbed.create_devices(context, application_id, bed.origin, clients)
        postmaster = await testbed.postmaster_pid(context)
        async with context.engine.connect() as conn:
            devices = (await conn.execute(text("SELECT id FROM devices ORDER BY id"))).scalars().all()
        with (
            testbed.run_process(bed, "work", until="worker.started") as worker,
            testbed.run_process(bed, "serve", until="web.listening", **settings) as server,
        ):

            async def push() -> Cost:
                octets, cpu_before, postgres_before = (
                    traffic["octets"],
                    process_cpu_s(worker.pid),
                    tree_cpu_s(postmaster),
                )
                await testbed.wait_until_finished(context, await testbed.submit_notification(context, application_id))
                cpu = process_cpu_s(worker.pid) - cpu_before, tree_cpu_s(postmaster) - postgres_before
                return Cost(clients, traffic["octets"] - octets, *cpu)

            etags: dict[Any, str] = {}

            async def poll() -> Cost:
                cpu_before, postgres_before = process_cpu_s(server.pid), tree_cpu_s(postmaster)
                slots = asyncio.Semaphore(CONCURRENCY)

                async def poll_one(device: Any) -> int:
                    async with slots:
                        token = context.keyring.issue_device_token(device)
                        octets, etags[device] = await _poll(port, f"dev_{device.hex}", token, etags.get(device, ""))
                        return octets

                octets = sum(await asyncio.gather(*map(poll_one, devices)))
                return Cost(
                    clients, octets, process_cpu_s(server.pid) - cpu_before, tree_cpu_s(postmaster) - postgres_before
                )

            for _ in range(10):  # fill every inbox
                await push()
            await poll()
            unchanged, pushed, changed = await poll(), await push(), await poll()
    sink.close()
    return unchanged, changed, pushed


async def _serve_push(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, traffic: dict[str, int]) -> None:
    """Serve a push service that accepts everything and counts the octets in both directions."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(CREATED)
            traffic["octets"] += len(head) + len(body) + len(CREATED)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _poll(port: int, device: str, token: str, etag: str) -> tuple[int, str]:
    """Poll an inbox; return the octets in both directions and the ETag."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = (
        f"GET /v1/devices/{device}/inbox?limit=10 HTTP/1.1\r\nHost: push.example.org\r\n"
        f"Authorization: Bearer {token}\r\nAccept: application/json\r\n"
        f"If-None-Match: {etag}\r\nConnection: close\r\n\r\n"
    ).encode()
    writer.write(request)
    response = await reader.read(-1)
    writer.close()
    head = response.partition(b"\r\n\r\n")[0].decode()
    assert head.split()[1] in ("200", "304"), head
    etag_line = next(line for line in head.split("\r\n") if line.lower().startswith("etag:"))
    return len(request) + len(response), etag_line.partition(":")[2].strip()


def report(clients: int, changes: list[int], unchanged: Cost, changed: Cost, pushed: Cost) -> None:
    """Print the costs of a request and of an hour."""
    figures: list[tuple[str, Callable[[Cost], float]]] = [
        ("octets", lambda cost: cost.octets / cost.requests),
        ("gateway us", lambda cost: cost.gateway_s / cost.requests * 1e6),
        ("Postgres us", lambda cost: cost.postgres_s / cost.requests * 1e6),
    ]
    table = testbed.make_table("request", *(name for name, _ in figures))
    for name, cost in (("poll without news", unchanged), ("poll with news", changed), ("push", pushed)):
        table.add_row(name, *(f"{figure(cost):,.0f}" for _, figure in figures))
    console.print(table)
    table = testbed.make_table("changes per hour", "", "requests", "MB", "CPU seconds", "delay in seconds")
    polls = 3600 // POLL_EVERY_S
    for number in changes:
        news_polls = min(number, polls)
        pull = [(polls - news_polls, unchanged), (news_polls, changed)]
        for name, parts, delay in (
            ("pull", pull, f"{POLL_EVERY_S / 2:.0f}"),
            ("push", [(number, pushed)], "immediate"),
        ):
            requests = sum(times * cost.requests for times, cost in parts)
            octets = sum(times * cost.octets for times, cost in parts)
            cpu = sum(times * (cost.gateway_s + cost.postgres_s) for times, cost in parts)
            table.add_row(str(number), name, f"{requests:,}", f"{octets / 1e6:.1f}", f"{cpu:.1f}", delay)
    console.print(f"{clients:,} clients for an hour, polling every {POLL_EVERY_S} s")
    console.print(table)


if __name__ == "__main__":
    main()
