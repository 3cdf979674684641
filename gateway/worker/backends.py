"""What a worker asks beside its queue: what to send, and what has been said of it meanwhile."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.job_payload import Cargo
from gateway.domain.notification import Notification, Status
from gateway.queue.nats import BELL, Broker, NatsQueue
from gateway.records import notifications
from gateway.records.postgres import notifier
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import Composer
from gateway.service.pipeline import job_loading, planning


class Office(Protocol):
    async def plan(self, job: Job) -> None:
        """Cut a plan job into send jobs."""
        ...

    async def load(self, job: Job) -> Cargo | None:
        """What to send to whom; None when the job was put back instead."""
        ...

    async def look(self, notification: Notification) -> Status:
        """What has become of it: asked after every batch, since words may be missed."""
        ...

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]: ...

    def words(self) -> AbstractContextManager[notifier.Waiter]:
        """Hear what is said: a notification's id and its new status, with a space between."""
        ...

    def alarms(self) -> AbstractContextManager[notifier.Waiter]:
        """Hear of jobs that have come, among much else; `urgent` says that there are some of that lane."""
        ...

    async def give_back(self, job: Job) -> None:
        """Put back a job that is not finished."""
        ...


class Database:
    """The office of a worker that has the database at hand."""

    def __init__(self, context: Context, composer: Composer, bell: notifier.Signals) -> None:
        self._context = context
        self._composer = composer
        self._bell = bell

    async def plan(self, job: Job) -> None:
        await planning.plan(self._context, job)

    async def load(self, job: Job) -> Cargo | None:
        return await job_loading.load(self._context.engine, self._composer, job)

    async def look(self, notification: Notification) -> Status:
        return await lifecycle.look(self._context.engine, notification)

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        async with self._context.engine.connect() as conn:
            return {one.id: one.status for one in await notifications.load(conn, list(ids))}

    def words(self) -> AbstractContextManager[notifier.Waiter]:
        return self._bell.waiter(notifier.CONTROL)

    def alarms(self) -> AbstractContextManager[notifier.Waiter]:
        return self._bell.waiter(notifier.JOBS)

    async def give_back(self, job: Job) -> None:
        async with self._context.engine.begin() as conn:
            await lifecycle.give_back(conn, job)


class Elsewhere:
    """The office of a worker that has only the broker: the job brings what it takes to be sent."""

    def __init__(self, broker: Broker, queue: NatsQueue) -> None:
        self._broker = broker
        self._queue = queue

    async def plan(self, job: Job) -> None:
        raise AssertionError("a relay plans, and passes on nothing but send jobs")

    async def load(self, job: Job) -> Cargo | None:
        cargo = job.cargo
        if cargo is None:
            raise AssertionError("the broker's jobs carry their cargo")
        status = await self.look(cargo.notification)
        if status is Status.PAUSED and clock.now() < cargo.notification.delivery.expires_at:
            await self.give_back(job)
            return None
        return replace(cargo, notification=replace(cargo.notification, status=status))

    async def look(self, notification: Notification) -> Status:
        said = await self.statuses([notification.id])
        return said.get(notification.id, notification.status)

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        return await self._broker.statuses(ids)

    @contextmanager
    def words(self) -> Iterator[notifier.Waiter]:
        waiter = notifier.Waiter()
        with self._broker.said(lambda id_, status: waiter.hear(f"{id_} {status}")):
            yield waiter

    @contextmanager
    def alarms(self) -> Iterator[notifier.Waiter]:
        waiter = notifier.Waiter()
        with self._broker.heard(BELL, lambda _, lane: waiter.hear(lane)):
            yield waiter

    async def give_back(self, job: Job) -> None:
        """The database knows when a paused one goes on; any other is for the next worker."""
        said = await self.statuses([job.notification_id])
        if said.get(job.notification_id) is Status.PAUSED:
            await self._queue.give_back(job)
        else:
            await self._queue.release(job)
