"""What a worker needs besides its queue: the payload of a job, and the status of its notification.

`DatabaseBackend` is for workers with a database connection, `BrokerBackend` for workers that are connected to the
broker only.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.job_payload import JobPayload
from gateway.domain.notification import Notification, Status
from gateway.queue.nats import NEW_JOBS, Broker, NatsQueue
from gateway.records import notifications
from gateway.records.postgres import notifier
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import job_loading, planning


class WorkerBackend(Protocol):
    """The port between a worker and the place where notifications are stored."""

    async def plan(self, job: Job) -> None:
        """Replace a plan job by send jobs."""
        ...

    async def load(self, job: Job) -> JobPayload | None:
        """Return what to send to whom; None when the job was requeued instead."""
        ...

    async def refresh_status(self, notification: Notification) -> Status:
        """Return the current status. Workers call it after every batch, since status events may be lost."""
        ...

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        """Return the statuses of notifications, by id."""
        ...

    def status_changes(self) -> AbstractContextManager[notifier.ChannelSubscription]:
        """Subscribe to status events: a notification's id and its new status, separated by a space."""
        ...

    def urgent_job_events(self) -> AbstractContextManager[notifier.ChannelSubscription]:
        """Subscribe to job events. The event is `urgent` when there are urgent jobs; other events occur too."""
        ...

    async def requeue(self, job: Job) -> None:
        """Return an unfinished job to the queue."""
        ...


class DatabaseBackend:
    """Reads and writes the database."""

    def __init__(self, context: Context, renderers: RendererCache, notifier: notifier.Notifier) -> None:
        """Use the context's engine and the notifier's subscriptions."""
        self._context = context
        self._renderers = renderers
        self._notifier = notifier

    async def plan(self, job: Job) -> None:
        """Replace a plan job by send jobs."""
        await planning.plan(self._context, job)

    async def load(self, job: Job) -> JobPayload | None:
        """Load the payload from the database."""
        return await job_loading.load(self._context.engine, self._renderers, job)

    async def refresh_status(self, notification: Notification) -> Status:
        """Return the current status; this also pauses a notification that exceeds its failure limit."""
        return await lifecycle.refresh_status(self._context.engine, notification)

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        """Return the statuses of notifications, by id."""
        async with self._context.engine.connect() as conn:
            rows = await notifications.load(conn, list(ids))
        return {notification.id: notification.status for notification in rows}

    def status_changes(self) -> AbstractContextManager[notifier.ChannelSubscription]:
        """Subscribe to the database's status events."""
        return self._notifier.subscribe(notifier.STATUS)

    def urgent_job_events(self) -> AbstractContextManager[notifier.ChannelSubscription]:
        """Subscribe to the database's job events."""
        return self._notifier.subscribe(notifier.JOBS)

    async def requeue(self, job: Job) -> None:
        """Return an unfinished job to the queue."""
        async with self._context.engine.begin() as conn:
            await lifecycle.requeue(conn, job)


class BrokerBackend:
    """Takes payloads from the jobs themselves, and statuses from the broker's status stream."""

    def __init__(self, broker: Broker, queue: NatsQueue) -> None:
        """Use the broker's connection; `queue` is the worker's own queue."""
        self._broker = broker
        self._queue = queue

    async def plan(self, job: Job) -> None:
        """Never called: the relay plans, and publishes send jobs only."""
        raise AssertionError("a relay plans, and publishes send jobs only")

    async def load(self, job: Job) -> JobPayload | None:
        """Return the payload that the job carries, with the notification's current status."""
        payload = job.payload
        if payload is None:
            raise AssertionError("jobs of the broker carry their payload")
        status = await self.refresh_status(payload.notification)
        if status is Status.PAUSED and clock.now() < payload.notification.delivery.expires_at:
            await self.requeue(job)
            return None
        return replace(payload, notification=replace(payload.notification, status=status))

    async def refresh_status(self, notification: Notification) -> Status:
        """Return the published status, or the one that the job carries."""
        statuses = await self.statuses([notification.id])
        return statuses.get(notification.id, notification.status)

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        """Return the published statuses, by id. Notifications that were never paused or cancelled have none."""
        return await self._broker.statuses(ids)

    @contextmanager
    def status_changes(self) -> Iterator[notifier.ChannelSubscription]:
        """Subscribe to the broker's status messages."""
        subscription = notifier.ChannelSubscription()
        with self._broker.subscribe_status(lambda id_, status: subscription.publish(f"{id_} {status}")):
            yield subscription

    @contextmanager
    def urgent_job_events(self) -> Iterator[notifier.ChannelSubscription]:
        """Subscribe to the relay's job announcements."""
        subscription = notifier.ChannelSubscription()
        with self._broker.subscribe(NEW_JOBS, lambda _, lane: subscription.publish(lane)):
            yield subscription

    async def requeue(self, job: Job) -> None:
        """Return a paused job to the database, which resumes it, and any other to the broker's next worker."""
        statuses = await self.statuses([job.notification_id])
        if statuses.get(job.notification_id) is Status.PAUSED:
            await self._queue.requeue(job)
        else:
            await self._queue.release(job)
