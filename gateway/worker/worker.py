"""The worker: claim jobs, send their messages, settle the results.

Any number of workers can run at once. The leases of the queue ensure that one worker at a time has a job. A worker
claims a few jobs at a time, with separate slots for urgent jobs. It has a fixed number of sender tasks, some of which
send only urgent messages.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog

from gateway import metrics, tracing
from gateway.domain import ids
from gateway.domain.job import MAX_CHUNK_SIZE, Job, JobKind
from gateway.domain.notification import Lane, Status
from gateway.queue.protocol import LeaseLost, Queue
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline.push_sender import PreparedNotification, PushSender, SendResult
from gateway.service.reporting.breakers import ApplicationLimit
from gateway.worker.backends import WorkerBackend
from gateway.worker.executor import JobExecutor, SendTask
from gateway.worker.host_limiter import Feedback
from gateway.worker.scheduler import SendScheduler

log = structlog.get_logger(__name__)

# Maximum time for which a claim waits for due jobs.
CLAIM_WAIT = timedelta(seconds=15)
# As CLAIM_WAIT, while jobs of an application are left in the queue because it uses its share of the loading slots.
EXCLUDED_WAIT = timedelta(milliseconds=100)
# Pause before the next claim after an error of the database.
DATABASE_RETRY_S = 1.0
# No event reports a stalled host, so hosts are checked at this interval.
HOST_POLL_INTERVAL_S = 0.1
# Upper bound on the time between the event of an urgent job and the claim of the job.
MAX_URGENT_CLAIM_S = 0.1
# Maximum number of pauses of MAX_URGENT_CLAIM_S for one event, while an urgent job is planned and loaded. It is enough
# except for very large audiences.
MAX_URGENT_PAUSES = 4


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Sizes and timeouts of a worker.

    Attributes:
        senders: the maximum number of messages in flight.
        urgent_senders: the maximum number of urgent messages in flight beyond that.
        jobs: the maximum number of messages that are claimed and ready to be sent, in units of full jobs. Messages for
            slow hosts do not count.
        urgent_jobs: as `jobs`, for claims of urgent jobs only.
        lanes: the lanes whose jobs the worker claims.
        lease: the duration of a lease, which is renewed while a job is in progress.
        drain: the time for messages in flight to complete on shutdown.
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
        """Create a worker; `run` starts it."""
        self._queue = queue
        self._backend = backend
        self._renderers = renderers
        self._push_sender = push_sender
        self._config = config or WorkerConfig()
        self._scheduler: SendScheduler[SendTask] = SendScheduler(self._config.senders)
        self._executors: dict[int, JobExecutor] = {}
        # The ids of urgent jobs that are claimed, but not loaded yet.
        self._loading_urgent: set[int] = set()

    def open_breakers(self, application_id: UUID) -> set[str]:
        """Return the push services with a circuit breaker that is open for the application in this worker."""
        return self._scheduler.open_breakers() | self._push_sender.open_breakers(application_id)

    def limits(self, application_id: UUID) -> list[ApplicationLimit]:
        """Return the limits that push services put on an application, as this worker has learnt them."""
        return self._scheduler.limits(application_id)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain.

        To drain means to claim no more jobs, to wait for messages in flight and settle their results, and to requeue
        unfinished jobs.
        """
        config = self._config
        async with AsyncExitStack() as stack:
            stack.enter_context(metrics.JOBS_HELD.set_callback(lambda: {(): len(self._executors)}))
            stack.enter_context(self._scheduler.export_metrics())
            stack.enter_context(self._push_sender.export_metrics())
            background = await stack.enter_async_context(asyncio.TaskGroup())
            loops = [self._renew_leases(), self._follow_statuses(), self._poll_hosts()]
            if Lane.URGENT in config.lanes:
                loops.append(self._pause_for_urgent_jobs())
            loops += [self._send(urgent_only=False) for _ in range(config.senders)]
            loops += [self._send(urgent_only=True) for _ in range(config.urgent_senders)]
            background_tasks = [background.create_task(loop) for loop in loops]
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
            for task in background_tasks:
                task.cancel()
        log.info("worker.stopped")

    async def _claim(self, group: asyncio.TaskGroup, lanes: Sequence[Lane], max_jobs: int) -> None:
        """Claim jobs as long as fewer messages than those of `max_jobs` full jobs are ready to be sent."""
        # A job stays open until its last message has completed, so there may be an open job for each message in flight.
        open_jobs = asyncio.Semaphore(self._config.senders + MAX_CHUNK_SIZE)
        loading_slots = asyncio.Semaphore(max_jobs)
        # Loading slots in use, by application. Each application may have half of the slots. A plan job counts as this
        # half, because evaluating its audience may take seconds. So slow audiences of one application leave slots to
        # other applications.
        share, loading = max(1, max_jobs // 2), Counter[UUID]()
        while True:
            await open_jobs.acquire()
            await loading_slots.acquire()
            await self._scheduler.wait_until_below(lanes, (max_jobs - 1) * MAX_CHUNK_SIZE)
            excluded = [id_ for id_, count in loading.items() if count >= share]
            try:
                [*claimed] = await self._queue.claim(
                    lanes=lanes,
                    limit=1,
                    lease=self._config.lease,
                    wait=EXCLUDED_WAIT if excluded else CLAIM_WAIT,
                    excluded=excluded,
                )
            except DATABASE_ERRORS as error:
                log.warning("claim.database_unavailable", error=type(error).__name__)
                await asyncio.sleep(DATABASE_RETRY_S)
                claimed = []
            if not claimed:
                open_jobs.release()
                loading_slots.release()
            for job in claimed:
                slots = share if job.kind is JobKind.PLAN else 1
                loading[job.application_id] += slots
                release = partial(_release_loading, loading_slots, loading, job.application_id, slots)
                task = group.create_task(self._process(job, release))
                task.add_done_callback(lambda _: open_jobs.release())

    async def _process(self, job: Job, release_loading: Callable[[], None]) -> None:
        """Execute a claimed job. Releases its loading slot once its messages are in the scheduler."""
        with structlog.contextvars.bound_contextvars(**job.log_fields), ExitStack() as loading:
            loading.callback(release_loading)
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
                # The job is not lost: its lease expires, and the job comes due again.
                sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
                log.warning("job.database_unavailable", error=type(error).__name__, sqlstate=sqlstate)
            except Exception:
                # The worker must not end because of a defect that concerns one job. The job comes due again after its
                # lease.
                log.exception("job.failed")

    async def _execute(self, job: Job, loading: ExitStack) -> None:
        """Load a send job and send its messages; requeue the job if it was stopped before all results were settled."""
        executor, started_ns = JobExecutor(job, self._queue), time.time_ns()
        if (superseded := self._executors.get(job.id)) is not None:
            superseded.stop()  # its lease expired, and this worker has claimed the job again
        self._executors[job.id] = executor  # before loading, so that the executor misses no status change
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
                tracing.span("deliver", attributes, kind="consumer", parent=trace, start_ns=started_ns) as span,
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
        """Run one sender: take a message from the scheduler, send it, report the result, and repeat."""
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
                await asyncio.sleep(0)  # `send` has not awaited anything, so let other tasks run
            self._scheduler.complete(task, _feedback(result), result.duration_ms / 1000, result.retry_after_s)
            executor.finish(recipient, result)

    async def _renew_leases(self) -> None:
        """Renew the leases of all jobs in progress, and stop jobs whose lease was lost."""
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
        """Pause the non-urgent lanes from the event of an urgent job until its messages are loaded.

        Claiming, planning and loading a job takes some thirty database queries. Without the pause, the event loop would
        encrypt a few dozen messages of a campaign between any two of these queries.
        """
        clock = asyncio.get_running_loop().time
        with self._backend.urgent_job_events() as events:
            while True:
                if Lane.URGENT.label in await events.wait(self._config.lease.total_seconds()):
                    started_at = clock()
                    for _ in range(MAX_URGENT_PAUSES):
                        if await self._scheduler.pause_non_urgent(MAX_URGENT_CLAIM_S) or not self._loading_urgent:
                            break
                    await events.wait(0)  # discard further events of the same job
                    # The non-urgent lanes get at least half of the time, however many urgent jobs arrive.
                    await asyncio.sleep(clock() - started_at)

    async def _follow_statuses(self) -> None:
        """Pass status changes to the executors, so that a pause or cancellation also stops jobs in progress."""
        with self._backend.status_changes() as changes:
            while True:
                messages = await changes.wait(self._config.lease.total_seconds())
                if "" in messages or not messages:  # events may have been lost, so query the statuses
                    messages = await self._query_statuses()
                for message in messages:
                    notification_id, _, status = message.partition(" ")
                    for executor in self._executors.values():
                        if str(executor.job.notification_id) == notification_id:
                            executor.on_status(Status(status))

    async def _query_statuses(self) -> set[str]:
        """Return the current statuses of notifications in progress, as payloads of status events."""
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
    """Return the conclusion from a result about the push-service host, or None if there is none.

    A failed response is no evidence against the host while the host fails only for one application, or only for devices
    that it has never accepted.
    """
    if not result.posted:
        return None
    if result.slow_down:
        return Feedback.REFUSAL
    if result.host_failed:
        return Feedback.FAILURE
    if result.status is None or result.status >= 500:
        return None
    return Feedback.SUCCESS


def _release_loading(
    loading_slots: asyncio.Semaphore, loading: Counter[UUID], application_id: UUID, slots: int
) -> None:
    loading_slots.release()
    loading[application_id] -= slots
    if not loading[application_id]:
        del loading[application_id]
