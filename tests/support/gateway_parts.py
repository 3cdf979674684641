"""The gateway assembled for tests: an application, devices of the push service simulator, and workers.

    async with gateway(database_url) as parts:
        devices = await parts.register(parts.subscribe(Vendor.FCM, 10))
        async with parts.run_worker():
            sent = await parts.submit()
            await parts.wait_until_done(sent.id)

Everything is real except the push services. Tests wait until the delivery log signals new rows, not for a duration.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain import ids
from gateway.domain.device import Registration
from gateway.domain.notification import Kind, Notification, Progress, Status
from gateway.push.client import PushClient
from gateway.push.encryption import decode_base64url
from gateway.push.endpoints import EndpointPolicy
from gateway.queue.postgres import PostgresQueue
from gateway.queue.protocol import Queue
from gateway.records import notifications
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import open_engine
from gateway.records.postgres.schema import attempts, deliveries
from gateway.records.postgres.schema import devices as devices_table
from gateway.service.access import applications
from gateway.service.access.secrets import Keyring
from gateway.service.audience.registration import DeviceRegistrar
from gateway.service.context import Context
from gateway.service.notifications.rendering import RendererCache
from gateway.service.notifications.submission import Draft, submit
from gateway.service.pipeline.push_sender import PushSender
from gateway.sim import Sim, Subscriber, Vendor
from gateway.worker import maintenance
from gateway.worker.backends import DatabaseBackend
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.worker import Worker, WorkerConfig

MASTER_KEY = b"a master key for tests, 32 octets"
APP_ORIGIN = "https://app.example.org"
# The upper bound of every wait; only a failing test reaches it.
TIMEOUT_S = 120.0


@dataclass(slots=True)
class Parts:
    """A gateway with one application, in the process of the test.

    `url` is the URL of the database, and `application` the response to the application's creation, with its keys.
    Workers use `context` and `client`.
    """

    url: str
    context: Context
    notifier: notifier.Notifier
    sim: Sim
    application_id: UUID
    application: dict[str, Any]
    client: PushClient
    workers: list[Worker] = field(default_factory=list)

    @property
    def engine(self) -> AsyncEngine:
        return self.context.engine

    @property
    def vapid_public_key(self) -> bytes:
        return decode_base64url(self.application["vapid_public_key"])

    def queue(self) -> PostgresQueue:
        return PostgresQueue(self.engine, self.notifier)

    async def add_application(self, name: str = "Other") -> "Parts":
        """Create another application; return a copy of the parts with that application."""
        async with self.engine.begin() as conn:
            application = await applications.create(
                conn, self.context.keyring, name, "mailto:ops@example.net", [APP_ORIGIN]
            )
        application_id = ids.parse(ids.APPLICATION, application["id"])
        assert application_id is not None
        return replace(self, application_id=application_id, application=application)

    def subscribe(self, vendor: Vendor, count: int, *, share_keys: bool = False) -> list[Subscriber]:
        """Create simulated browsers that are subscribed with the application's VAPID key.

        With `share_keys` they have one encryption key pair, which saves the time to generate a pair for each.
        """
        return self.sim.subscribe_many(vendor, count, self.vapid_public_key, share_keys=share_keys)

    async def register(self, subscribers: Sequence[Subscriber], **details: Any) -> dict[UUID, Subscriber]:
        """Register the subscribers as devices; return them by device id. `details` are fields of Registration."""
        registrations = [Registration(subscriber.subscription, **details) for subscriber in subscribers]
        async with self.engine.begin() as conn:
            registrar = await DeviceRegistrar.open(conn, self.context, self.application_id)
            verdicts = [
                verdict
                for start in range(0, len(registrations), 500)
                for verdict in await registrar.register_all(
                    conn, list(map(registrar.check, registrations[start : start + 500]))
                )
            ]
        devices = {}
        for subscriber, verdict in zip(subscribers, verdicts, strict=True):
            devices[verdict.device_id] = subscriber
        return devices

    async def submit(self, kind: Kind = Kind.CAMPAIGN, audience: Any = None, **fields: Any) -> Notification:
        """Submit a notification, by default a campaign to everyone; `fields` are fields of Draft."""
        fields.setdefault("content", {"title": "Storm", "body": "Stay inside"})
        draft = Draft(kind, audience=audience or {"everyone": True}, **fields)
        async with self.engine.begin() as conn:
            return await submit(conn, self.context, self.application_id, draft)

    async def get_notification(self, id_: UUID) -> tuple[Notification, Progress]:
        async with self.engine.connect() as conn:
            row = await notifications.get(conn, self.application_id, id_)
        assert row is not None
        return row

    async def wait_until_done(self, id_: UUID, seconds: float = TIMEOUT_S) -> Progress:
        """Wait until every delivery of a notification has settled, and return the counts."""
        notification, progress = await self.wait_until(id_, lambda progress: progress.pending == 0, seconds, done=True)
        assert notification.status in (Status.DONE, Status.CANCELLED)
        return progress

    async def wait_until(
        self, id_: UUID, condition: Any, seconds: float = TIMEOUT_S, *, done: bool = False
    ) -> tuple[Notification, Progress]:
        """Wait until the condition on the counts of a notification holds; check it when the delivery log has grown.

        With `done`, wait until the notification has finished as well.
        """
        async with asyncio.timeout(seconds):
            with self.notifier.subscribe(notifier.LOG) as waiter:
                while True:
                    notification, progress = await self.get_notification(id_)
                    if condition(progress) and (not done or notification.finished_at is not None):
                        return notification, progress
                    await waiter.wait(1.0)

    async def list_deliveries(self, id_: UUID) -> dict[UUID, Row[Any]]:
        """Return the deliveries of a notification by device id; fail when a device has two deliveries."""
        async with self.engine.connect() as conn:
            query = select(deliveries).where(deliveries.c.notification_id == id_)
            rows = (await conn.execute(query)).all()
        by_device = {row.device_id: row for row in rows}
        assert len(by_device) == len(rows)
        return by_device

    async def list_attempts(self, id_: UUID, device_id: UUID) -> Sequence[Row[Any]]:
        """Return the logged attempts of a delivery in order; only attempts that were retried are logged."""
        columns = attempts.c
        of_device = (columns.notification_id == id_, columns.device_id == device_id)
        query = select(attempts).where(*of_device).order_by(columns.number)
        async with self.engine.connect() as conn:
            return (await conn.execute(query)).all()

    async def device_status(self, device_id: UUID) -> str:
        async with self.engine.connect() as conn:
            query = select(devices_table.c.status).where(devices_table.c.id == device_id)
            status: str = (await conn.execute(query)).scalar_one()
        return status

    async def scalar(self, sql: str, **values: Any) -> Any:
        """Return the first column of the first row of a query with the parameters `values`, or None without rows."""
        async with self.engine.connect() as conn:
            return (await conn.execute(text(sql), values)).scalar()

    @asynccontextmanager
    async def run_worker(
        self, config: WorkerConfig | None = None, *, queue: Queue | None = None, client: PushClient | None = None
    ) -> AsyncIterator[asyncio.Event]:
        """Run a worker with short timeouts until the context ends; yield the event that stops it."""
        stop = asyncio.Event()
        renderers = RendererCache(self.context.keyring, self.context.public_url)
        sender = PushSender(client or self.client, self.context.keyring, self.context.policy)
        backend = DatabaseBackend(self.context, renderers, self.notifier)
        worker = Worker(queue or self.queue(), backend, renderers, sender, config or quick_config())
        task = asyncio.create_task(worker.run(stop), name="worker")
        try:
            yield stop
        finally:
            stop.set()
            await asyncio.wait_for(task, TIMEOUT_S)


def quick_config(**fields: Any) -> WorkerConfig:
    """Return a worker configuration with a short drain and a short lease."""
    return WorkerConfig(**{"drain": timedelta(seconds=0.2), "lease": timedelta(seconds=10), **fields})


@asynccontextmanager
async def gateway(
    database_url: str, *, pool_size: int = 10, sim: Sim | None = None, hosts: Sequence[str] = ()
) -> AsyncIterator[Parts]:
    """Assemble a gateway on a migrated database, without a running worker.

    Args:
        database_url: a database without applications.
        pool_size: the maximum number of connections.
        sim: the push services; by default a simulator that accepts every valid message.
        hosts: origins besides those of the simulator to which workers may post.
    """
    engine = open_engine(database_url, pool_size=pool_size, application_name="gateway-parts")
    database_notifier = notifier.Notifier(database_url)
    try:
        async with sim or Sim() as running_sim, database_notifier.running(), PushClient() as client:
            policy = EndpointPolicy([*running_sim.origins.values(), *hosts])
            context = Context(engine, Keyring(MASTER_KEY), policy, "https://push.example.org")
            await maintenance.run_once(engine, RetentionPolicy())
            async with engine.begin() as conn:
                application = await applications.create(
                    conn, context.keyring, "Weather", "mailto:ops@example.org", [APP_ORIGIN]
                )
            application_id = ids.parse(ids.APPLICATION, application["id"])
            assert application_id is not None
            yield Parts(database_url, context, database_notifier, running_sim, application_id, application, client)
            await context.helpers.close()
    finally:
        await engine.dispose()
