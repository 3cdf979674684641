"""The queue engines under test, each with a Queue and the operations by which tests fill and inspect it.

A new engine is a class with these operations and an entry in `ENGINES`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, cast
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from gateway.domain import ids
from gateway.domain.delivery import Accepted, Attempt, DeliveryResult, Final, ResultBatch
from gateway.domain.job import Job
from gateway.domain.notification import DeliveryOptions, Kind, Lane, Notification, Progress, Status, Urgency
from gateway.push.endpoints import EndpointPolicy
from gateway.queue.nats import RECORDER_CONSUMER, RESULTS_STREAM, Broker, NatsQueue, jobs_stream
from gateway.queue.postgres import PostgresQueue
from gateway.queue.protocol import Queue
from gateway.records import jobs as job_records
from gateway.records import notifications
from gateway.records.postgres import notifier, partitions
from gateway.records.postgres.engine import open_engine
from gateway.records.postgres.schema import applications, attempts, deliveries, jobs
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.worker.relay import Relay
from tests.support.nats_server import start_nodes

# How long the broker waits for the acknowledgement of a job before it delivers the job again.
ACK_WAIT = timedelta(seconds=0.4)
# The upper bound of a wait for the relay; only a failing test reaches it.
TIMEOUT_S = 30.0


class Engine(Protocol):
    """One queue engine under test."""

    queue: Queue
    faults: tuple[type[Exception], ...]
    """The exceptions that `settle` raises when its rows cannot be written."""

    async def put(
        self,
        devices: Sequence[UUID],
        *,
        lane: Lane = Lane.NORMAL,
        due_at: datetime | None = None,
        job_size: int | None = None,
    ) -> UUID:
        """Add a notification to these devices and its send jobs, and return the notification's id.

        A job has up to `job_size` devices, by default all of them, and is due now unless `due_at` is given.
        """
        ...

    async def insert_delivery_row(self, notification_id: UUID, device_id: UUID) -> None:
        """Insert a delivery that no worker has sent into the delivery log."""
        ...

    async def list_outcomes(self, notification_id: UUID) -> dict[UUID, str]:
        """Return the outcome of each device; fail when a device has two outcomes."""
        ...

    async def list_attempts(self, notification_id: UUID) -> list[tuple[UUID, int]]:
        """Return (device, number) of every attempt that will be retried."""
        ...

    async def progress(self, notification_id: UUID) -> tuple[Status, Progress]: ...


class PostgresEngine:
    """The queue in the tables of the database."""

    faults = (IntegrityError,)

    def __init__(self, url: str, notifier_: notifier.Notifier) -> None:
        self.database = open_engine(url, pool_size=20)
        self.notifier = notifier_
        self.application_id = ids.new_id()
        self.queue: Queue = PostgresQueue(self.database, notifier_)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["PostgresEngine"]:
        database_notifier = notifier.Notifier(url)
        engine = cls(url, database_notifier)
        async with database_notifier.running():
            async with engine.database.begin() as conn:
                await partitions.create_partitions(conn, datetime.now(UTC).date(), 2)
                values = {"id": engine.application_id, "name": "Weather", "subject": "mailto:ops@example.org"}
                await conn.execute(insert(applications).values(**values))
            try:
                yield engine
            finally:
                await engine.database.dispose()

    async def put(
        self,
        devices: Sequence[UUID],
        *,
        lane: Lane = Lane.NORMAL,
        due_at: datetime | None = None,
        job_size: int | None = None,
    ) -> UUID:
        now = datetime.now(UTC)
        size = job_size or len(devices)
        notification = self._notification(lane, now)
        rows = [
            {
                "application_id": self.application_id,
                "notification_id": notification.id,
                "lane": lane,
                "day": now.date(),
                "device_ids": list(devices[start : start + size]),
                **({} if due_at is None else {"run_at": due_at}),
            }
            for start in range(0, len(devices), size)
        ]
        async with self.database.begin() as conn:
            await notifications.add(conn, [notification])
            await notifications.start(conn, notification.id, now.date(), len(devices))
            await conn.execute(insert(jobs), rows)
            await notifier.notify(conn, notifier.JOBS)
        return notification.id

    async def accept(self, lane: Lane) -> UUID:
        """Add a notification to everyone with its plan job, which no worker has executed."""
        notification = self._notification(lane, datetime.now(UTC))
        async with self.database.begin() as conn:
            await notifications.add(conn, [notification])
            await job_records.enqueue_plans(conn, [notification])
        return notification.id

    async def insert_delivery_row(self, notification_id: UUID, device_id: UUID) -> None:
        now = datetime.now(UTC)
        row = {
            "day": now.date(),
            "notification_id": notification_id,
            "device_id": device_id,
            "application_id": self.application_id,
            "position": 0,
            "host": "push.example.net",
            "outcome": "gone",
            "cause": "inserted by a test",
            "attempts": 1,
            "duration_ms": 0,
            "settled_at": now,
        }
        async with self.database.begin() as conn:
            await conn.execute(insert(deliveries).values(**row))

    async def list_outcomes(self, notification_id: UUID) -> dict[UUID, str]:
        query = select(deliveries.c.device_id, deliveries.c.outcome)
        rows = await self._rows(query.where(deliveries.c.notification_id == notification_id))
        assert len(dict(rows)) == len(rows)
        return dict(rows)

    async def list_attempts(self, notification_id: UUID) -> list[tuple[UUID, int]]:
        query = select(attempts.c.device_id, attempts.c.number)
        return await self._rows(query.where(attempts.c.notification_id == notification_id))

    async def progress(self, notification_id: UUID) -> tuple[Status, Progress]:
        async with self.database.connect() as conn:
            row = await notifications.get(conn, self.application_id, notification_id)
        assert row is not None
        return row[0].status, row[1]

    async def _rows(self, query: Any) -> list[Any]:
        async with self.database.connect() as conn:
            return [tuple(row) for row in await conn.execute(query)]

    def _notification(self, lane: Lane, now: datetime) -> Notification:
        return Notification(
            id=ids.new_id(),
            application_id=self.application_id,
            kind=Kind.DIRECT,
            name=None,
            status=Status.SCHEDULED,
            day=None,
            content={"title": "Storm"},
            audience={"everyone": True},
            delivery=DeliveryOptions(lane, Urgency.NORMAL, timedelta(hours=1), now + timedelta(hours=1)),
            details={},
            start_at=now,
            created_at=now,
        )


class NatsEngine(PostgresEngine):
    """The queue in a NATS broker, and a relay that moves jobs and results between the broker and the database."""

    faults = (ValueError,)
    broker: Broker

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, settings: str = "") -> AsyncIterator["NatsEngine"]:
        """Start a NATS server with these settings, and a relay."""
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="nats-")))
            [node] = await stack.enter_async_context(start_nodes(1, directory, settings))
            engine = cast("NatsEngine", await stack.enter_async_context(super().open(url)))
            broker = await stack.enter_async_context(Broker.connect([node.url], ack_wait=ACK_WAIT))
            await broker.prepare()
            context = Context(engine.database, Keyring(bytes(32)), EndpointPolicy())
            stop = asyncio.Event()
            relay = Relay(context, broker, engine.notifier, lease=timedelta(seconds=5), max_published=1000)
            relay_task = asyncio.create_task(relay.run(stop))
            engine.broker = broker
            engine.queue = RelayedQueue(await stack.enter_async_context(NatsQueue(broker)), engine.wait_until_relayed)
            try:
                yield engine
            finally:
                stop.set()
                await relay_task

    async def wait_until_relayed(self) -> None:
        """Wait until all due jobs are in the broker and all results are in the database."""
        count_relayed = select(func.count()).where(jobs.c.attempt > 0)
        count_due = select(func.count()).where(jobs.c.run_at <= func.now())
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                recorder = await self.broker.js.consumer_info(RESULTS_STREAM, RECORDER_CONSUMER)
                unrecorded = (recorder.num_pending or 0) + (recorder.num_ack_pending or 0)
                streams = [await self.broker.js.stream_info(jobs_stream(lane)) for lane in Lane]
                in_broker = sum(stream.state.messages for stream in streams)
                if (
                    not unrecorded
                    and await self._rows(count_due) == [(0,)]
                    and await self._rows(count_relayed) == [(in_broker,)]
                ):
                    return
                await asyncio.sleep(0.01)  # neither side signals that it is idle

    async def list_outcomes(self, notification_id: UUID) -> dict[UUID, str]:
        await self.wait_until_relayed()
        return await super().list_outcomes(notification_id)

    async def list_attempts(self, notification_id: UUID) -> list[tuple[UUID, int]]:
        await self.wait_until_relayed()
        return await super().list_attempts(notification_id)

    async def progress(self, notification_id: UUID) -> tuple[Status, Progress]:
        await self.wait_until_relayed()
        return await super().progress(notification_id)


class RelayedQueue:
    """A queue whose claims without a wait first wait until the relay has moved new jobs into the broker."""

    def __init__(self, queue: Queue, wait_until_relayed: Callable[[], Awaitable[None]]) -> None:
        self._queue = queue
        self._wait_until_relayed = wait_until_relayed
        self.renew, self.settle, self.release = queue.renew, queue.settle, queue.release

    async def claim(
        self,
        *,
        lanes: Sequence[Lane],
        limit: int,
        lease: timedelta,
        wait: timedelta,
        excluded: Collection[UUID] = (),
    ) -> list[Job]:
        if not wait:
            await self._wait_until_relayed()
        return await self._queue.claim(lanes=lanes, limit=limit, lease=lease, wait=wait, excluded=excluded)


ENGINES: dict[str, Callable[[str], AbstractAsyncContextManager[Engine]]] = {
    "postgres": PostgresEngine.open,
    "nats": NatsEngine.open,
}


def accepted_batch(*devices: UUID) -> ResultBatch:
    """Return a batch in which the push service has accepted the message to each device."""
    return ResultBatch(
        settled=[delivery_result(device, Accepted("https://push.example.org/m/1", 60)) for device in devices]
    )


def delivery_result(device: UUID, outcome: Final) -> DeliveryResult:
    now = datetime.now(UTC)
    return DeliveryResult(
        device_id=device,
        user_id=None,
        host="push.example.org",
        outcome=outcome,
        attempts=1,
        status=201,
        attempted_at=now,
        duration_ms=12,
        settled_at=now,
    )


def retry_batch(due: datetime, *devices: UUID, tries: int = 1) -> ResultBatch:
    """Return a batch in which the attempt with the number `tries` of each device is retried at `due`."""
    now = datetime.now(UTC)
    retried = [
        Attempt(device, tries, now, 12, 503, "the push service has a temporary error (503)", due) for device in devices
    ]
    return ResultBatch(attempts=retried, requeued={(due, tries): list(devices)}, retries=len(devices))


def merge_batches(*parts: ResultBatch) -> ResultBatch:
    merged = ResultBatch()
    for part in parts:
        merged.settled += part.settled
        merged.attempts += part.attempts
        merged.requeued |= part.requeued
        merged.retries += part.retries
    return merged


def changed_job(job: Job, **changes: Any) -> Job:
    """Return a copy of a job with changed fields, such as the lease of another worker."""
    return replace(job, **changes)
