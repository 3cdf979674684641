"""What a worker asks beside its queue: what to send, and what has been said of it meanwhile."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.job_payload import JobPayload
from gateway.domain.notification import Notification, Status
from gateway.queue.nats import BELL, Broker, NatsQueue
from gateway.records import notifications
from gateway.records.postgres import notifier
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import job_loading, planning


class WorkerBackend(Protocol):
    async def plan(self, job: Job) -> None:
        """Cut a plan job into send jobs."""
        ...

    async def load(self, job: Job) -> JobPayload | None:
        """What to send to whom; None when the job was put back instead."""
        ...

    async def refresh_status(self, notification: Notification) -> Status:
        """What has become of it: asked after every batch, since words may be missed."""
        ...

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]: ...

    def status_changes(self) -> AbstractContextManager[notifier.Subscription]:
        """Hear what is said: a notification's id and its new status, with a space between."""
        ...

    def urgent_job_events(self) -> AbstractContextManager[notifier.Subscription]:
        """Hear of jobs that have come, among much else; `urgent` says that there are some of that lane."""
        ...

    async def requeue(self, job: Job) -> None:
        """Put back a job that is not finished."""
        ...


class DatabaseBackend:
    """The office of a worker that has the database at hand."""

    def __init__(self, context: Context, composer: RendererCache, bell: notifier.Notifier) -> None:
        self._context = context
        self._composer = composer
        self._bell = bell

    async def plan(self, job: Job) -> None:
        await planning.plan(self._context, job)

    async def load(self, job: Job) -> JobPayload | None:
        return await job_loading.load(self._context.engine, self._composer, job)

    async def refresh_status(self, notification: Notification) -> Status:
        return await lifecycle.refresh_status(self._context.engine, notification)

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        async with self._context.engine.connect() as conn:
            return {one.id: one.status for one in await notifications.load(conn, list(ids))}

    def status_changes(self) -> AbstractContextManager[notifier.Subscription]:
        return self._bell.subscribe(notifier.CONTROL)

    def urgent_job_events(self) -> AbstractContextManager[notifier.Subscription]:
        return self._bell.subscribe(notifier.JOBS)

    async def requeue(self, job: Job) -> None:
        async with self._context.engine.begin() as conn:
            await lifecycle.requeue(conn, job)


class BrokerBackend:
    """The office of a worker that has only the broker: the job brings what it takes to be sent."""

    def __init__(self, broker: Broker, queue: NatsQueue) -> None:
        self._broker = broker
        self._queue = queue

    async def plan(self, job: Job) -> None:
        raise AssertionError("a relay plans, and passes on nothing but send jobs")

    async def load(self, job: Job) -> JobPayload | None:
        cargo = job.payload
        if cargo is None:
            raise AssertionError("the broker's jobs carry their cargo")
        status = await self.refresh_status(cargo.notification)
        if status is Status.PAUSED and clock.now() < cargo.notification.delivery.expires_at:
            await self.requeue(job)
            return None
        return replace(cargo, notification=replace(cargo.notification, status=status))

    async def refresh_status(self, notification: Notification) -> Status:
        said = await self.statuses([notification.id])
        return said.get(notification.id, notification.status)

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        return await self._broker.statuses(ids)

    @contextmanager
    def status_changes(self) -> Iterator[notifier.Subscription]:
        waiter = notifier.Subscription()
        with self._broker.subscribe_status(lambda id_, status: waiter.publish(f"{id_} {status}")):
            yield waiter

    @contextmanager
    def urgent_job_events(self) -> Iterator[notifier.Subscription]:
        waiter = notifier.Subscription()
        with self._broker.heard(BELL, lambda _, lane: waiter.publish(lane)):
            yield waiter

    async def requeue(self, job: Job) -> None:
        """The database knows when a paused one goes on; any other is for the next worker."""
        said = await self.statuses([job.notification_id])
        if said.get(job.notification_id) is Status.PAUSED:
            await self._queue.requeue(job)
        else:
            await self._queue.release(job)
