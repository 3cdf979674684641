"""The environment of a run: Postgres, push services, the gateway's processes, and the links between them."""

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
from gateway.sim import DeviceKeys, Vendor
from tests.faults import hostile
from tests.faults.cluster import Cluster
from tests.faults.links import Link, open_link
from tests.faults.malformed import MalformedService, serve_malformed
from tests.faults.plan import JOBS, LEASE_S, MALFORMED_DEVICES, SENDERS, URGENT_SENDERS, LinkGroup, Plan
from tests.faults.processes import Process
from tests.faults.recording_sim import RecordingSim
from tests.support.gateway_parts import MASTER_KEY, Parts, gateway
from tests.support.tls import make_ca

# The number of topics; each device has one of them.
TOPICS = 50
# The number of devices that are registered at once.
REGISTRATION_BATCH = 500
# The ports for the API, below the ephemeral range.
PORTS = range(14_000, 19_000)


@dataclass(slots=True)
class Environment:
    """The services of a run.

    `origin` is the origin of the link to the API, and `direct_origin` that of the API without a link. `endpoints` and
    `topics` have the endpoint and topic of each registered device. A task that stops and starts Postgres acquires
    `postgres_lock`. `observer` is the link between the harness and Postgres, on which no fault occurs.
    """

    plan: Plan
    cluster: Cluster
    database: str
    parts: Parts
    sim: RecordingSim
    malformed: MalformedService
    api: Process
    workers: list[Process]
    origin: str
    direct_origin: str
    http: aiohttp.ClientSession
    observer: Link
    hostile_tenant: Parts
    links: dict[LinkGroup, list[Link]]
    endpoints: dict[UUID, str] = field(default_factory=dict)
    topics: dict[UUID, str] = field(default_factory=dict)
    postgres_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def stop_postgres(self) -> None:
        """Stop Postgres immediately, without finishing transactions."""
        await self.cluster.stop_immediately()

    async def start_postgres(self) -> None:
        """Start Postgres and point the links to it."""
        await self.cluster.start()
        for link in (
            self.observer,
            *self.links[LinkGroup.WORKERS_AND_POSTGRES],
            *self.links[LinkGroup.API_AND_POSTGRES],
        ):
            link.target = self.cluster.port


@asynccontextmanager
async def start_environment(cluster: Cluster, plan: Plan, folder: Path) -> AsyncIterator[Environment]:
    """Start the environment, register the devices, and start the gateway's processes."""
    async with AsyncExitStack() as stack:
        names = ("observer", "workers", "api", "clients", *Vendor)
        observer, worker_link, api_link, client_link, *push_links = [
            await stack.enter_async_context(open_link(name)) for name in names
        ]
        for link in (observer, worker_link, api_link):
            link.target = cluster.port
        sim = RecordingSim(
            origins={vendor: f"http://127.0.0.1:{link.port}" for vendor, link in zip(Vendor, push_links, strict=True)},
            max_messages=None,
        )
        database = await stack.enter_async_context(cluster.database())
        context, ca = make_ca(folder / "tls")
        malformed = await stack.enter_async_context(serve_malformed(context))
        parts = await stack.enter_async_context(
            gateway(cluster.url(database, observer.port), sim=sim, hosts=[malformed.origin])
        )
        for vendor, link in zip(Vendor, push_links, strict=True):
            link.target = sim.ports[vendor]
        hostile_tenant = await hostile.create_tenant(parts)
        sim.hostile_tokens = {subscriber.token for subscriber in sim.subscribers}
        sim.behave(*plan.rules, seed=plan.seed, limits=[hostile.refusals(hostile_tenant, plan.hostile_status)])
        await cluster.put_log_on_disk(database)
        settings = {
            "database_pool": 8,
            "master_key": MASTER_KEY.decode(),
            "push_hosts": ",".join([*sim.origins.values(), malformed.origin]),
            "push_ca": ca,
            "data_dir": folder / "data",
            "log_format": "json",
            "worker_concurrency": SENDERS,
            "worker_urgent_concurrency": URGENT_SENDERS,
            "worker_jobs": JOBS,
            "lease": LEASE_S,
        }
        port = client_link.target = _free_port()
        env = Environment(
            plan,
            cluster,
            database,
            parts,
            sim,
            malformed,
            Process(
                "api",
                "serve",
                "web.listening",
                folder / "api.log",
                settings
                | {"port": port, "skew_s": plan.skew_s[-1], "database_url": cluster.url(database, api_link.port)},
            ),
            [
                Process(
                    f"worker {number}",
                    "work",
                    "worker.started",
                    folder / f"worker-{number}.log",
                    settings | {"skew_s": skew, "database_url": cluster.url(database, worker_link.port)},
                )
                for number, skew in enumerate(plan.skew_s[:-1])
            ],
            f"http://127.0.0.1:{client_link.port}",
            f"http://127.0.0.1:{port}",
            await stack.enter_async_context(
                aiohttp.ClientSession(
                    headers={"Authorization": f"Bearer {parts.application['secret_key']}"},
                    timeout=aiohttp.ClientTimeout(total=10),
                )
            ),
            observer,
            hostile_tenant,
            {
                LinkGroup.WORKERS_AND_POSTGRES: [worker_link],
                LinkGroup.API_AND_POSTGRES: [api_link],
                LinkGroup.CLIENTS_AND_API: [client_link],
                LinkGroup.WORKERS_AND_PUSH: push_links,
            },
        )
        await _register_devices(env)
        for process in (env.api, *env.workers):
            stack.push_async_callback(process.close)
            process.start()
        yield env


def _free_port() -> int:
    """Return a free port below the ephemeral range, so that it is still free when the API restarts."""
    first = PORTS[os.getpid() % len(PORTS)]
    for port in (*range(first, PORTS.stop), *range(PORTS.start, first)):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no free port")


async def _register_devices(env: Environment) -> None:
    """Register the plan's devices: MALFORMED_DEVICES at the malformed push service, the others at the simulator."""
    parts, plan = env.parts, env.plan
    keys = DeviceKeys.generate()
    counts = Counter(list(Vendor)[number % len(Vendor)] for number in range(plan.devices - MALFORMED_DEVICES))
    endpoints = [
        subscriber.endpoint
        for vendor, count in counts.items()
        for subscriber in parts.subscribe(vendor, count, share_keys=True)
    ]
    subscribers = {subscriber.endpoint: subscriber for subscriber in parts.sim.subscribers}
    endpoints += [env.malformed.origin + path for path in env.malformed.paths(MALFORMED_DEVICES)]
    registrations = [
        Registration(
            subscribers[endpoint].subscription
            if endpoint in subscribers
            else Subscription(endpoint, keys.p256dh, keys.auth),
            topics=(f"t{number % TOPICS}",),
        )
        for number, endpoint in enumerate(endpoints)
    ]
    async with parts.engine.begin() as conn:
        registrar = await DeviceRegistrar.open(conn, parts.context, parts.application_id)
        for start in range(0, len(registrations), REGISTRATION_BATCH):
            batch = registrations[start : start + REGISTRATION_BATCH]
            for registration, result in zip(
                batch, await registrar.register_all(conn, list(map(registrar.check, batch))), strict=True
            ):
                env.endpoints[result.device_id] = registration.subscription.endpoint
                env.topics[result.device_id] = (registration.topics or ("",))[0]
