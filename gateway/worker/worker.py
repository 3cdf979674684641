"""The worker: claim jobs, send their messages, settle the results.

Any number of workers run side by side; the leases of the queue keep their jobs apart. A worker claims a few jobs at a
time, with separate slots for urgent ones, and has a fixed number of sender tasks, some of which send urgent messages
only.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import timedelta

import structlog

from gateway import metrics, tracing
from gateway.domain import ids
from gateway.domain.delivery import Retry
from gateway.domain.job import MAX_CHUNK_SIZE, Job, JobKind
from gateway.domain.notification import Lane, Status
from gateway.queue.protocol import LeaseLost, Queue
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline.push_sender import PreparedNotification, PushSender, SendResult
from gateway.worker.backends import WorkerBackend
from gateway.worker.executor import JobExecutor, SendTask
from gateway.worker.host_limiter import Feedback
from gateway.worker.scheduler import SendScheduler

log = structlog.get_logger(__name__)

CLAIM_WAIT = timedelta(seconds=15)
DATABASE_RETRY_S = 1.0
# A stalled host raises no event, so poll for it at this interval.
HOST_POLL_INTERVAL_S = 0.1
# Upper bound on the time between an urgent-job notification and our claiming one of those jobs.
MAX_URGENT_CLAIM_S = 0.1
# Pauses per urgent-job notification while a claimed job is planned and loaded; enough except for very large audiences.
MAX_URGENT_PAUSES = 4
# Throttling statuses. They count as backpressure even when the delivery is not retried (WNS sends 406).
THROTTLING_STATUSES = (406, 429)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Sizes and timeouts of a worker.

    `senders` messages are in flight at most, and `urgent_senders` urgent ones in addition. `jobs` bounds the messages
    that are claimed and ready to be sent, in units of full jobs; messages that wait for slow hosts do not count.
    `drain` is the time that messages in flight have to complete on shutdown.
    """

    senders: int = 1024
    urgent_senders: int = 16
    jobs: int = 4
    urgent_jobs: int = 4
    lanes: Sequence[Lane] = tuple(Lane)
    lease: timedelta = timedelta(seconds=60)
    drain: timedelta = timedelta(seconds=30)


class Worker:
    """Runs the claim loops, the senders and the executors of the claimed jobs in one event loop."""

    def __init__(
        self,
        queue: Queue,
        backend: WorkerBackend,
        renderers: RendererCache,
        push_sender: PushSender,
        config: WorkerConfig | None = None,
    ) -> None:
        """Combine the parts; `run` starts the work."""
        self._queue = queue
        self._backend = backend
        self._renderers = renderers
        self._push_sender = push_sender
        self._config = config or WorkerConfig()
        self._scheduler: SendScheduler[SendTask] = SendScheduler(self._config.senders)
        self._executors: dict[int, JobExecutor] = {}
        # Urgent jobs that are claimed, but not loaded yet.
        self._loading_urgent: set[int] = set()

    def open_breakers(self) -> set[str]:
        """Return the push services with an open circuit breaker in this worker."""
        return self._scheduler.open_breakers()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`, then drain: claim nothing more, complete and settle messages in flight, requeue jobs."""
        config = self._config
        async with AsyncExitStack() as stack:
            stack.enter_context(metrics.JOBS_HELD.set_callback(lambda: {(): len(self._executors)}))
            stack.enter_context(self._scheduler.export_metrics())
            background = await stack.enter_async_context(asyncio.TaskGroup())
            loops = [self._renew_leases(), self._follow_statuses(), self._poll_hosts()]
            if Lane.URGENT in config.lanes:
                loops.append(self._pause_for_urgent_jobs())
            loops += [self._send(urgent_only=False) for _ in range(config.senders)]
            loops += [self._send(urgent_only=True) for _ in range(config.urgent_senders)]
            helpers = [background.create_task(loop) for loop in loops]
            async with asyncio.TaskGroup() as jobs:
                claims = [jobs.create_task(self._claim(jobs, config.lanes, config.jobs))]
                if Lane.URGENT in config.lanes:
                    claims.append(jobs.create_task(self._claim(jobs, (Lane.URGENT,), config.urgent_jobs)))
                log.info("worker.started", lanes=[lane.label for lane in config.lanes], senders=config.senders)
                await stop.wait()
                log.info("worker.draining", jobs=len(self._executors))
                for task in claims:
                    task.cancel()
                deadline = asyncio.get_running_loop().call_later(config.drain.total_seconds(), self._stop_all)
            deadline.cancel()
            for task in helpers:
                task.cancel()
        log.info("worker.stopped")

    async def _claim(self, group: asyncio.TaskGroup, lanes: Sequence[Lane], max_jobs: int) -> None:
        """Claim jobs so that the senders have messages, up to `max_jobs` full jobs of them."""
        # The last message of each job may wait for a slow response: so many jobs can be open at once.
        open_jobs = asyncio.Semaphore(self._config.senders + MAX_CHUNK_SIZE)
        loading_slots = asyncio.Semaphore(max_jobs)
        while True:
            await open_jobs.acquire()
            await loading_slots.acquire()
            await self._scheduler.wait_until_below(lanes, (max_jobs - 1) * MAX_CHUNK_SIZE)
            try:
                [*claimed] = await self._queue.claim(lanes=lanes, limit=1, lease=self._config.lease, wait=CLAIM_WAIT)
            except DATABASE_ERRORS as error:
                log.warning("claim.database_unavailable", error=type(error).__name__)
                await asyncio.sleep(DATABASE_RETRY_S)
                claimed = []
            if not claimed:
                open_jobs.release()
                loading_slots.release()
            for job in claimed:
                task = group.create_task(self._process(job, loading_slots))
                task.add_done_callback(lambda _: open_jobs.release())

    async def _process(self, job: Job, loading_slots: asyncio.Semaphore) -> None:
        """Plan or send a claimed job. Release its loading slot when its messages are in the scheduler."""
        with structlog.contextvars.bound_contextvars(**job.log_fields), ExitStack() as loading:
            loading.callback(loading_slots.release)
            if job.lane is Lane.URGENT:
                self._loading_urgent.add(job.id)
                loading.callback(self._loading_urgent.discard, job.id)
            try:
                match job.kind:
                    case JobKind.PLAN:
                        await self._backend.plan(job)
                    case JobKind.SEND:
                        await self._execute(job, loading)
            except LeaseLost:
                metrics.LEASES_LOST.inc()
                log.warning("job.lease_lost")
            except DATABASE_ERRORS as error:
                # Nothing is lost: the lease expires and the job comes due again.
                sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
                log.warning("job.database_unavailable", error=type(error).__name__, sqlstate=sqlstate)
            except Exception:
                # A bug that one job triggers must not end the worker; the job comes due again after its lease.
                log.exception("job.failed")

    async def _execute(self, job: Job, loading: ExitStack) -> None:
        """Load a send job and send it; requeue what remains when it was stopped."""
        executor, began = JobExecutor(job, self._queue), time.time_ns()
        if (superseded := self._executors.get(job.id)) is not None:
            superseded.stop()  # the lease expired and this worker re-claimed the job
        self._executors[job.id] = executor  # before loading, so that it receives status changes from now on
        try:
            payload = await self._backend.load(job)
            if payload is None:
                return
            self._push_sender.load_keys(payload.keys)
            renderer = self._renderers.get(payload.notification, payload.default_origin)
            executor.load(
                PreparedNotification(payload.notification, renderer, payload.template_context),
                payload,
                self._backend.refresh_status,
            )
            loading.close()
            attributes: tracing.Attributes = {
                "notification.id": job.log_fields["notification_id"],
                "job.id": job.id,
                "job.attempt": job.lease_generation,
                "lane": job.lane.label,
                "devices": len(job.device_ids),
            }
            trace = payload.notification.trace
            with (
                tracing.span("deliver", attributes, kind="consumer", parent=trace, start_ns=began) as span,
                structlog.contextvars.bound_contextvars(**tracing.log_fields(span)),
            ):
                await executor.run(self._scheduler)
        finally:
            executor.stop()
            if self._executors.get(job.id) is executor:
                del self._executors[job.id]
        if executor.has_unsettled:
            await self._backend.requeue(job)

    async def _send(self, *, urgent_only: bool) -> None:
        """Send one message after the other: the loop of one sender."""
        while True:
            task = await self._scheduler.next(urgent_only=urgent_only)
            executor, recipient = task.executor, task.recipient
            if not executor.begin():
                self._scheduler.complete(task)
                continue
            attempts = executor.job.attempts
            try:
                result = await self._push_sender.send(task.prepared, recipient, attempts)
            except Exception:
                device_id = ids.format_id(ids.DEVICE, recipient.device_id)
                log.exception("delivery.failed", **executor.job.log_fields, device_id=device_id)
                result = self._push_sender.internal_error_result(task.prepared, attempts)
            if not result.posted:
                await asyncio.sleep(0)  # `send` awaited nothing, so let other tasks run
            self._scheduler.complete(task, _feedback(result), result.duration_ms / 1000)
            executor.finish(recipient, result)

    async def _renew_leases(self) -> None:
        """Renew the leases of all jobs in progress, and stop those whose lease was lost."""
        while True:
            await asyncio.sleep(self._config.lease.total_seconds() / 3)
            jobs = [executor.job for executor in self._executors.values()]
            try:
                renewed = await self._queue.renew(jobs, self._config.lease)
            except DATABASE_ERRORS as error:
                log.warning("renew.database_unavailable", error=type(error).__name__)
                continue
            for job in jobs:
                if job.id not in renewed and job.id in self._executors:
                    self._executors[job.id].stop()

    async def _poll_hosts(self) -> None:
        while True:
            await asyncio.sleep(HOST_POLL_INTERVAL_S)
            self._scheduler.reassess_hosts()

    async def _pause_for_urgent_jobs(self) -> None:
        """Send nothing else from the notification of an urgent job until its messages are loaded.

        Claiming, planning and loading a job takes some thirty database queries. Each of them would wait for the event
        loop while it encrypts a few dozen messages of a campaign.
        """
        clock = asyncio.get_running_loop().time
        with self._backend.urgent_job_events() as events:
            while True:
                if Lane.URGENT.label in await events.wait(self._config.lease.total_seconds()):
                    began = clock()
                    for _ in range(MAX_URGENT_PAUSES):
                        if await self._scheduler.pause_non_urgent(MAX_URGENT_CLAIM_S) or not self._loading_urgent:
                            break
                    await events.wait(0)  # discard notifications of the same job that arrived meanwhile
                    # However many urgent jobs arrive, at least half of the time remains for the other lanes.
                    await asyncio.sleep(clock() - began)

    async def _follow_statuses(self) -> None:
        """Stop sending a notification as soon as it is paused or cancelled, not only with its next job."""
        with self._backend.status_changes() as changes:
            while True:
                messages = await changes.wait(self._config.lease.total_seconds())
                if "" in messages or not messages:  # events may have been missed, so query the statuses
                    messages = await self._query_statuses()
                for message in messages:
                    notification_id, _, status = message.partition(" ")
                    for executor in self._executors.values():
                        if str(executor.job.notification_id) == notification_id:
                            executor.on_status(Status(status))

    async def _query_statuses(self) -> set[str]:
        """Return the statuses of the notifications in progress, in the form of status events."""
        active = {executor.job.notification_id for executor in self._executors.values()}
        if not active:
            return set()
        try:
            statuses = await self._backend.statuses(active)
        except DATABASE_ERRORS as error:
            log.warning("control.database_unavailable", error=type(error).__name__)
            return set()
        return {f"{id_} {status}" for id_, status in statuses.items()}

    def _stop_all(self) -> None:
        for executor in self._executors.values():
            executor.stop()


def _feedback(result: SendResult) -> Feedback | None:
    """Return what a result says of the push-service host; None without a POST."""
    if not result.posted:
        return None
    if (isinstance(result.outcome, Retry) and result.outcome.slow_down) or result.status in THROTTLING_STATUSES:
        return Feedback.BACKPRESSURE
    if result.status is None or result.status >= 500:
        return Feedback.FAILURE
    return Feedback.SUCCESS
