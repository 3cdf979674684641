"""Backends of a worker: they load the payloads of jobs and the statuses of notifications.

`DatabaseBackend` is for workers with a database connection. `BrokerBackend` is for workers that are connected only to
the broker.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol
from uuid import UUID
from weakref import WeakValueDictionary

from gateway.domain import clock
from gateway.domain.job import Job
from gateway.domain.job_payload import JobPayload
from gateway.domain.notification import Lane, Notification, Status
from gateway.queue.nats import NEW_JOBS, Broker, NatsQueue
from gateway.records import notifications
from gateway.records.postgres import notifier
from gateway.records.postgres.connection_shares import count_pool
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import job_loading, planning


class WorkerBackend(Protocol):
    """The interface between a worker and the store of notifications."""

    async def plan(self, job: Job) -> None:
        """Replace a plan job by send jobs."""
        ...

    async def load(self, job: Job) -> JobPayload | None:
        """Return the payload of a send job, or None if the job was requeued instead."""
        ...

    async def refresh_status(self, notification: Notification) -> Status:
        """Return the current status of a notification.

        Workers call this method after every batch, since status events may be lost.
        """
        ...

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        """Return the statuses of notifications, by id."""
        ...

    def status_changes(self) -> AbstractContextManager[notifier.ChannelSubscription]:
        """Subscribe to status events. Payload: the id and the new status of a notification, separated by a space."""
        ...

    def urgent_job_events(self) -> AbstractContextManager[notifier.ChannelSubscription]:
        """Subscribe to job events. The payload is `urgent` for urgent jobs, and differs for other jobs."""
        ...

    async def requeue(self, job: Job) -> None:
        """Return an unfinished job to the queue."""
        ...


class DatabaseBackend:
    """The backend of workers with a database connection."""

    def __init__(self, context: Context, renderers: RendererCache, notifier: notifier.Notifier) -> None:
        """Create a backend that uses the engine of the context and subscriptions of the notifier."""
        self._context = context
        self._renderers = renderers
        self._notifier = notifier
        # Plans in progress on connections for urgent work, and a lock for each application with urgent plans.
        self._urgent_plans = 0
        self._plan_locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def plan(self, job: Job) -> None:
        """Replace a plan job by send jobs. Urgent jobs of one application are planned one after the other."""
        context = self._context
        if job.lane is not Lane.URGENT:
            await planning.plan(context, job, context.engine)
            return
        lock = self._plan_locks.setdefault(job.application_id, asyncio.Lock())
        async with lock:
            # Evaluating an audience may take seconds, so one connection for urgent work is left for claims and results.
            has_connection = self._urgent_plans < count_pool(context.engine_for(job.lane)) - 1
            self._urgent_plans += has_connection
            try:
                await planning.plan(context, job, context.engine_for(job.lane) if has_connection else context.engine)
            finally:
                self._urgent_plans -= has_connection

    async def load(self, job: Job) -> JobPayload | None:
        """Load the payload from the database."""
        return await job_loading.load(self._context.engine_for(job.lane), self._renderers, job)

    async def refresh_status(self, notification: Notification) -> Status:
        """Return the current status of a notification, and pause it if it exceeds its failure limit."""
        return await lifecycle.refresh_status(self._context.engine_for(notification.delivery.lane), notification)

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        """Return the statuses of notifications, by id."""
        async with self._context.engine.connect() as conn:
            rows = await notifications.load(conn, list(ids))
        return {notification.id: notification.status for notification in rows}

    def status_changes(self) -> AbstractContextManager[notifier.ChannelSubscription]:
        """Subscribe to the status events of the database."""
        return self._notifier.subscribe(notifier.STATUS)

    def urgent_job_events(self) -> AbstractContextManager[notifier.ChannelSubscription]:
        """Subscribe to the job events of the database."""
        return self._notifier.subscribe(notifier.JOBS)

    async def requeue(self, job: Job) -> None:
        """Return an unfinished job to the queue."""
        async with self._context.engine_for(job.lane).begin() as conn:
            await lifecycle.requeue(conn, job)


class BrokerBackend:
    """The backend of workers without a database.

    A job of the broker contains its payload. Statuses come from the status stream of the broker.
    """

    def __init__(self, broker: Broker, queue: NatsQueue) -> None:
        """Create a backend on the connection of the broker; `queue` is the queue of the worker."""
        self._broker = broker
        self._queue = queue

    async def plan(self, job: Job) -> None:
        """Raise AssertionError: the relay executes plan jobs, and publishes only send jobs."""
        raise AssertionError("a relay plans, and publishes send jobs only")

    async def load(self, job: Job) -> JobPayload | None:
        """Return the payload in the job, with the current status of the notification."""
        payload = job.payload
        if payload is None:
            raise AssertionError("jobs of the broker carry their payload")
        status = await self.refresh_status(payload.notification)
        if status is Status.PAUSED and clock.now() < payload.notification.delivery.expires_at:
            await self.requeue(job)
            return None
        return replace(payload, notification=replace(payload.notification, status=status))

    async def refresh_status(self, notification: Notification) -> Status:
        """Return the published status of a notification, or without one its status in the job."""
        statuses = await self.statuses([notification.id])
        return statuses.get(notification.id, notification.status)

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        """Return the published statuses of notifications, by id.

        A notification that was never paused or cancelled has no published status.
        """
        return await self._broker.statuses(ids)

    @contextmanager
    def status_changes(self) -> Iterator[notifier.ChannelSubscription]:
        """Subscribe to the status messages of the broker."""
        subscription = notifier.ChannelSubscription()
        with self._broker.subscribe_status(lambda id_, status: subscription.publish(f"{id_} {status}")):
            yield subscription

    @contextmanager
    def urgent_job_events(self) -> Iterator[notifier.ChannelSubscription]:
        """Subscribe to the messages with which the relay announces jobs."""
        subscription = notifier.ChannelSubscription()
        with self._broker.subscribe(NEW_JOBS, lambda _, lane: subscription.publish(lane)):
            yield subscription

    async def requeue(self, job: Job) -> None:
        """Return an unfinished job to the queue.

        The job of a paused notification returns to the database, where it can be resumed. Any other job returns to the
        broker, for another worker.
        """
        statuses = await self.statuses([job.notification_id])
        if statuses.get(job.notification_id) is Status.PAUSED:
            await self._queue.requeue(job)
        else:
            await self._queue.release(job)
