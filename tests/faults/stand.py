"""Everything that a run needs, put together: Postgres, push services, links between them, the gateway's processes."""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import aiohttp

from gateway.domain.device import Registration, Subscription
from gateway.service.audience.registration import DeviceRegistrar
from gateway.sim import Keys, Vendor
from tests.faults.cluster import Cluster
from tests.faults.links import Link, link
from tests.faults.malformed import Malformed, malformed
from tests.faults.plan import JOBS, LEASE_S, RAW_DEVICES, SENDERS, URGENT_SENDERS, Between, Plan
from tests.faults.processes import Process
from tests.faults.remembering import Remembering
from tests.support.gateway_parts import MASTER_KEY, Parts, gateway
from tests.support.tls import make_ca

TOPICS = 50
IN_HAND = 500
PORTS = range(14_000, 19_000)


@dataclass(slots=True)
class Stand:
    plan: Plan
    cluster: Cluster
    database: str
    parts: Parts
    sim: Remembering
    malformed: Malformed
    api: Process
    workers: list[Process]
    origin: str
    http: aiohttp.ClientSession
    observer: Link
    links: dict[Between, list[Link]]
    endpoints: dict[UUID, str] = field(default_factory=dict)
    topics: dict[UUID, str] = field(default_factory=dict)
    postgres_is_ours: asyncio.Lock = field(default_factory=asyncio.Lock)
    """To stop and start."""

    async def stop_postgres(self) -> None:
        await self.cluster.stop_at_once()

    async def start_postgres(self) -> None:
        await self.cluster.start()
        for one in (self.observer, *self.links[Between.WORKERS_AND_POSTGRES], *self.links[Between.API_AND_POSTGRES]):
            one.target = self.cluster.port


@asynccontextmanager
async def stand(cluster: Cluster, plan: Plan, folder: Path) -> AsyncIterator[Stand]:
    """With devices registered, and the processes told to start."""
    async with AsyncExitStack() as stack:
        names = ("observer", "workers", "api", "clients", *Vendor)
        observer, by_workers, by_api, by_clients, *by_push = [
            await stack.enter_async_context(link(name)) for name in names
        ]
        for one in (observer, by_workers, by_api):
            one.target = cluster.port
        sim = Remembering(
            origins={vendor: f"http://127.0.0.1:{one.port}" for vendor, one in zip(Vendor, by_push, strict=True)},
            keep=None,
        )
        database = await stack.enter_async_context(cluster.database())
        context, ca = make_ca(folder / "tls")
        raw = await stack.enter_async_context(malformed(context))
        parts = await stack.enter_async_context(
            gateway(cluster.url(database, observer.port), sim=sim, hosts=[raw.origin])
        )
        for vendor, one in zip(Vendor, by_push, strict=True):
            one.target = sim.ports[vendor]
        sim.behave(*plan.rules, seed=plan.seed)
        await cluster.put_log_on_disk(database)
        settings = {
            "database_pool": 8,
            "master_key": MASTER_KEY.decode(),
            "push_hosts": ",".join([*sim.origins.values(), raw.origin]),
            "push_ca": ca,
            "data_dir": folder / "data",
            "log_format": "json",
            "senders": SENDERS,
            "urgent_senders": URGENT_SENDERS,
            "jobs": JOBS,
            "lease": LEASE_S,
        }
        port = by_clients.target = _free_port()
        made = Stand(
            plan,
            cluster,
            database,
            parts,
            sim,
            raw,
            Process(
                "api",
                "serve",
                "web.listening",
                folder / "api.log",
                settings
                | {"port": port, "skew_s": plan.skew_s[-1], "database_url": cluster.url(database, by_api.port)},
            ),
            [
                Process(
                    f"worker {number}",
                    "work",
                    "worker.started",
                    folder / f"worker-{number}.log",
                    settings | {"skew_s": skew, "database_url": cluster.url(database, by_workers.port)},
                )
                for number, skew in enumerate(plan.skew_s[:-1])
            ],
            f"http://127.0.0.1:{by_clients.port}",
            await stack.enter_async_context(
                aiohttp.ClientSession(
                    headers={"Authorization": f"Bearer {parts.application['secret_key']}"},
                    timeout=aiohttp.ClientTimeout(total=10),
                )
            ),
            observer,
            {
                Between.WORKERS_AND_POSTGRES: [by_workers],
                Between.API_AND_POSTGRES: [by_api],
                Between.CLIENTS_AND_API: [by_clients],
                Between.WORKERS_AND_PUSH: by_push,
            },
        )
        await _register(made)
        for process in (made.api, *made.workers):
            stack.push_async_callback(process.close)
            process.start()
        yield made


def _free_port() -> int:
    """Below those that the kernel gives to connections: the API comes back to it, and must find it free."""
    first = PORTS[os.getpid() % len(PORTS)]
    for port in (*range(first, PORTS.stop), *range(PORTS.start, first)):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no free port")


async def _register(made: Stand) -> None:
    """The plan's devices, a few of them with the push service that answers malformed."""
    parts, plan = made.parts, made.plan
    keys = Keys.generate()
    share = Counter(list(Vendor)[number % len(Vendor)] for number in range(plan.devices - RAW_DEVICES))
    endpoints = [
        subscriber.endpoint
        for vendor, count in share.items()
        for subscriber in parts.subscribe(vendor, count, share_keys=True)
    ]
    known = {one.endpoint: one for one in parts.sim.subscribers}
    endpoints += [made.malformed.origin + path for path in made.malformed.paths(RAW_DEVICES)]
    registrations = [
        Registration(
            known[endpoint].subscription if endpoint in known else Subscription(endpoint, keys.p256dh, keys.auth),
            topics=(f"t{number % TOPICS}",),
        )
        for number, endpoint in enumerate(endpoints)
    ]
    async with parts.engine.begin() as conn:
        desk = await DeviceRegistrar.open(conn, parts.context, parts.application_id)
        for start in range(0, len(registrations), IN_HAND):
            some = registrations[start : start + IN_HAND]
            for registration, verdict in zip(
                some, await desk.register_all(conn, list(map(desk.check, some))), strict=True
            ):
                made.endpoints[verdict.device_id] = registration.subscription.endpoint
                made.topics[verdict.device_id] = (registration.topics or ("",))[0]
