"""The queue engines that the contract suite runs over, each with what a test must do beside the Queue's own verbs.

A second engine is one more class here with the same verbs, and one more name in `ENGINES`.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from gateway.domain import ids
from gateway.domain.delivery import Accepted, Attempt, Final, Settled, Settlement
from gateway.domain.job import Job
from gateway.domain.notification import Delivery, Kind, Lane, Notification, Progress, Status, Urgency
from gateway.queue.postgres import PostgresQueue
from gateway.queue.protocol import Queue
from gateway.records import notifications, partitions, signals
from gateway.records.database import open_engine
from gateway.records.schema import applications, attempts, deliveries, jobs


class Engine(Protocol):
    """One queue engine under test."""

    queue: Queue
    faults: tuple[type[Exception], ...]
    """What settling raises when its records cannot be written."""

    async def put(
        self, devices: Sequence[UUID], *, lane: Lane = Lane.NORMAL, due: datetime | None = None, most: int | None = None
    ) -> UUID:
        """A notification to these devices, as send jobs of up to `most` devices; due now unless told otherwise."""
        ...

    async def recorded(self, notification_id: UUID) -> dict[UUID, str]:
        """Outcome by device; fails when a device has two."""
        ...

    async def tried(self, notification_id: UUID) -> list[tuple[UUID, int]]:
        """(device, number) of every attempt that is to be tried again."""
        ...

    async def progress(self, notification_id: UUID) -> tuple[Status, Progress]: ...


class PostgresEngine:
    faults = (IntegrityError,)

    def __init__(self, url: str, bell: signals.Signals) -> None:
        self._engine = open_engine(url, pool_size=20)
        self._application_id = ids.new_id()
        self.queue: Queue = PostgresQueue(self._engine, bell)

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str) -> AsyncIterator["PostgresEngine"]:
        bell = signals.Signals(url)
        engine = cls(url, bell)
        async with bell.running():
            async with engine._engine.begin() as conn:
                await partitions.ensure(conn, datetime.now(UTC).date(), 2)
                values = {"id": engine._application_id, "name": "Weather", "subject": "mailto:ops@example.org"}
                await conn.execute(insert(applications).values(**values))
            try:
                yield engine
            finally:
                await engine._engine.dispose()

    async def put(
        self, devices: Sequence[UUID], *, lane: Lane = Lane.NORMAL, due: datetime | None = None, most: int | None = None
    ) -> UUID:
        now = datetime.now(UTC)
        size = most or len(devices)
        notification = self._notification(lane, now)
        rows = [
            {
                "application_id": self._application_id,
                "notification_id": notification.id,
                "lane": lane,
                "day": now.date(),
                "device_ids": list(devices[start : start + size]),
                **({} if due is None else {"run_at": due}),
            }
            for start in range(0, len(devices), size)
        ]
        async with self._engine.begin() as conn:
            await notifications.add(conn, [notification])
            await notifications.start(conn, notification.id, now.date(), len(devices))
            await conn.execute(insert(jobs), rows)
            await signals.send(conn, signals.JOBS)
        return notification.id

    async def recorded(self, notification_id: UUID) -> dict[UUID, str]:
        query = select(deliveries.c.device_id, deliveries.c.outcome)
        rows = await self._rows(query.where(deliveries.c.notification_id == notification_id))
        assert len(dict(rows)) == len(rows)
        return dict(rows)

    async def tried(self, notification_id: UUID) -> list[tuple[UUID, int]]:
        query = select(attempts.c.device_id, attempts.c.number)
        return await self._rows(query.where(attempts.c.notification_id == notification_id))

    async def progress(self, notification_id: UUID) -> tuple[Status, Progress]:
        async with self._engine.connect() as conn:
            found = await notifications.get(conn, self._application_id, notification_id)
        assert found is not None
        return found[0].status, found[1]

    async def _rows(self, query: Any) -> list[Any]:
        async with self._engine.connect() as conn:
            return [tuple(row) for row in await conn.execute(query)]

    def _notification(self, lane: Lane, now: datetime) -> Notification:
        return Notification(
            id=ids.new_id(),
            application_id=self._application_id,
            kind=Kind.DIRECT,
            name=None,
            status=Status.SCHEDULED,
            day=None,
            content={"title": "Storm"},
            audience={"everyone": True},
            delivery=Delivery(lane, Urgency.NORMAL, timedelta(hours=1), now + timedelta(hours=1)),
            details={},
            start_at=now,
            created_at=now,
        )


ENGINES: dict[str, Callable[[str], AbstractAsyncContextManager[Engine]]] = {"postgres": PostgresEngine.opened}


def accepted(*devices: UUID) -> Settlement:
    return Settlement(settled=[settled(device, Accepted("https://push.example.org/m/1", 60)) for device in devices])


def settled(device: UUID, outcome: Final) -> Settled:
    now = datetime.now(UTC)
    return Settled(
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


def retried(due: datetime, *devices: UUID, tries: int = 1) -> Settlement:
    now = datetime.now(UTC)
    noted = [
        Attempt(device, tries, now, 12, 503, "the push service has a passing fault (503)", due) for device in devices
    ]
    return Settlement(attempts=noted, later={(due, tries): list(devices)}, retries=len(devices))


def both(*parts: Settlement) -> Settlement:
    whole = Settlement()
    for part in parts:
        whole.settled += part.settled
        whole.attempts += part.attempts
        whole.later |= part.later
        whole.retries += part.retries
    return whole


def as_held(job: Job, **changes: Any) -> Job:
    """The job as somebody with another idea of it holds it."""
    return replace(job, **changes)
