"""Execute one claimed send job: put its messages into the scheduler, collect the results, settle them in batches.

To settle a batch means to write its results to the delivery log, and to remove its devices from the job, in one
transaction. Batches are settled while other messages of the job are still being sent. If the worker crashes, the worker
that claims the job next sends only to the remaining devices.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import structlog

from gateway import metrics, tracing
from gateway.domain import clock
from gateway.domain.delivery import Accepted, Attempt, Deferred, DeliveryResult, Gone, ResultBatch, Retry
from gateway.domain.job import Job
from gateway.domain.job_payload import JobPayload, Recipient
from gateway.domain.notification import Lane, Notification, Status
from gateway.domain.retry import defer
from gateway.queue.protocol import Queue
from gateway.records.postgres.engine import DATABASE_ERRORS, IntegrityError
from gateway.service.pipeline.push_sender import PreparedNotification, SendResult, terminal_outcome
from gateway.worker import instrumentation
from gateway.worker.scheduler import SendScheduler

log = structlog.get_logger(__name__)

# Maximum number of results in a batch.
MAX_BATCH = 500
# Maximum time between the first result of a batch and its settlement.
MAX_BATCH_WAIT_S = 0.3
# Pause before results are written again after an error of the database.
DATABASE_RETRY_S = 0.5


class SendTask:
    """One message to one device: the unit that the scheduler and the senders process."""

    __slots__ = ("application_id", "executor", "host", "lane", "prepared", "recipient", "repeated")

    def __init__(self, executor: "JobExecutor", prepared: PreparedNotification, recipient: Recipient) -> None:
        """Create the task for one recipient of a job."""
        self.executor = executor
        self.prepared = prepared
        self.recipient = recipient
        self.lane: Lane = executor.job.lane
        self.application_id = executor.job.application_id
        self.repeated = executor.job.attempts > 0
        self.host = recipient.host

    def defer(self, seconds: float) -> None:
        """Return the message to the queue, due again in `seconds`."""
        self.executor.defer(self.recipient, seconds)


class JobExecutor:
    """The state of one send job from its claim to its last settled result."""

    def __init__(self, job: Job, queue: Queue) -> None:
        """Create an executor whose devices are all unsettled."""
        self.job = job
        self.stopped = False
        self._queue = queue
        self._prepared: PreparedNotification | None = None
        self._cancelled = False
        self._refresh_status: Callable[[], Awaitable[Status]] | None = None
        self._unsettled = dict.fromkeys(job.device_ids)
        self._in_flight = 0
        self._tasks: list[SendTask] = []
        self._results: list[tuple[Recipient, SendResult]] = []
        self._batch_started = asyncio.Event()
        self._batch_complete = asyncio.Event()

    def load(
        self,
        prepared: PreparedNotification,
        payload: JobPayload,
        refresh_status: Callable[[Notification], Awaitable[Status]],
    ) -> None:
        """Set the payload of the job. Devices of the job that are not in the payload were unregistered meanwhile."""
        self._prepared = prepared
        if self._cancelled:  # the status changed while the job was being loaded
            prepared.status = Status.CANCELLED
        self._refresh_status = partial(refresh_status, payload.notification)
        recipients, outcomes = payload.recipients, payload.pre_send_outcomes
        if len(recipients) < len(self._unsettled):
            gone = SendResult(Gone("the device was unregistered before the message was sent"))
            for device_id in self._unsettled.keys() - {recipient.device_id for recipient in recipients}:
                self._results.append((_unregistered(device_id), gone))
        if outcomes:
            self._results += [
                (recipient, SendResult(outcomes[recipient.device_id]))
                for recipient in recipients
                if recipient.device_id in outcomes
            ]
            recipients = [recipient for recipient in recipients if recipient.device_id not in outcomes]
        self._tasks = [SendTask(self, prepared, recipient) for recipient in recipients]
        # Devices that were registered together may be refused together. Sent in a row, their messages would look like
        # those of a host that refuses the application.
        random.shuffle(self._tasks)

    def on_status(self, status: Status, expires_at: datetime | None = None) -> None:
        """Handle a new status of the notification. A pause stops the job, unless the notification has expired."""
        expires_at = self._prepared.notification.delivery.expires_at if self._prepared is not None else expires_at
        if status is Status.PAUSED and (expires_at is None or clock.now() < expires_at):
            self.stop()
        if status is Status.CANCELLED:
            self._cancelled = True
            if self._prepared is not None:
                self._prepared.status = Status.CANCELLED

    async def run(self, scheduler: SendScheduler[SendTask]) -> None:
        """Send to all recipients and settle every result. Returns early if the job is stopped.

        Raises:
            LeaseLost: another worker has claimed the job.
        """
        # The executor must not keep a reference to its tasks, which refer to the executor: only a run of the garbage
        # collector, which blocks the process, would free such a cycle.
        tasks, self._tasks = self._tasks, []
        scheduler.put(self.job.lane, self.job.application_id, tasks)
        del tasks
        self._check_progress()
        while self._unsettled:
            await self._wait_for_batch()
            batch, self._results = self._results, []
            self._batch_started.clear()
            self._batch_complete.clear()
            if batch:
                await self._settle(batch)
            elif self.stopped and not self._in_flight:
                return
            self._check_progress()

    @property
    def has_unsettled(self) -> bool:
        """Whether there are devices without a settled result."""
        return bool(self._unsettled)

    def begin(self) -> bool:
        """Record that a sender takes a task of the job; return False if the job is stopped and must not be sent."""
        if self.stopped:
            return False
        self._in_flight += 1
        return True

    def finish(self, recipient: Recipient, result: SendResult) -> None:
        """Record the result of a task for which `begin` returned True."""
        self._in_flight -= 1
        self._results.append((recipient, result))
        self._check_progress()

    def defer(self, recipient: Recipient, seconds: float) -> None:
        """Return a message to the queue, due again in `seconds`, because its host is slow or unreachable."""
        if self.stopped or self._prepared is None:
            return
        now = clock.now()
        due = defer(timedelta(seconds=seconds), now, self._prepared.notification.delivery.expires_at)
        outcome = terminal_outcome(self._prepared, recipient, now.timestamp()) or Deferred(due)
        self._results.append((recipient, SendResult(outcome)))
        self._check_progress()

    def stop(self) -> None:
        """Send no more messages of the job: its lease was lost, its notification was paused, or the worker stops."""
        self.stopped = True
        self._check_progress()

    def _check_progress(self) -> None:
        count = len(self._results)
        has_ended = self.stopped and not self._in_flight
        if count or has_ended:
            self._batch_started.set()
        if count >= MAX_BATCH or count == len(self._unsettled) or has_ended:
            self._batch_complete.set()

    async def _wait_for_batch(self) -> None:
        """Wait until a batch is full, or MAX_BATCH_WAIT_S have passed since its first result."""
        await self._batch_started.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_BATCH_WAIT_S):
                await self._batch_complete.wait()

    async def _settle(self, batch: list[tuple[Recipient, SendResult]]) -> None:
        """Settle a batch: write its results, record metrics, and refresh the status of the notification."""
        results = _result_batch(self.job, batch)
        for recipient, _ in batch:
            del self._unsettled[recipient.device_id]
        remaining = list(self._unsettled)
        notification = self._prepared.notification if self._prepared else None
        instrumentation.record_batch(self.job, notification, batch)
        started_at = time.perf_counter()
        counts = Counter(result.outcome.name for result in results.settled)
        attributes = {f"results.{outcome}": count for outcome, count in counts.items()}
        with tracing.span("settle", {"results": len(batch), "results.retry": results.retries, **attributes}):
            await self._write(results, remaining)
        metrics.SETTLE_BATCH.observe(len(batch))
        metrics.SETTLE_SECONDS.observe(time.perf_counter() - started_at)
        for outcome, count in counts.items():
            metrics.SETTLED.labels(outcome).inc(count)
        if self._refresh_status is not None and (self._unsettled or self._has_failure_limit):
            with suppress(*DATABASE_ERRORS):  # the next batch refreshes the status again
                self.on_status(await self._refresh_status())

    @property
    def _has_failure_limit(self) -> bool:
        return self._prepared is not None and self._prepared.notification.policy.pause_when is not None

    async def _write(self, results: ResultBatch, remaining: list[UUID]) -> None:
        """Write the results of a batch; retry while the database is unavailable."""
        while True:
            try:
                await self._queue.settle(self.job, results, remaining)
                return
            except IntegrityError:
                raise
            except DATABASE_ERRORS as error:
                # Results of sent messages must not be lost, so retry until the database responds or the lease is lost.
                log.warning("settle.database_unavailable", error=type(error).__name__)
                await asyncio.sleep(DATABASE_RETRY_S)


def _result_batch(job: Job, batch: list[tuple[Recipient, SendResult]]) -> ResultBatch:
    """Sort the results of a batch into log entries, attempts to retry and devices to requeue."""
    results = ResultBatch()
    now = clock.now()
    for recipient, result in batch:
        attempts = job.attempts + result.posted
        outcome = result.outcome
        if isinstance(outcome, Deferred):
            results.requeued.setdefault((outcome.until, attempts), []).append(recipient.device_id)
            continue
        if not isinstance(outcome, Retry):
            if isinstance(outcome, Accepted) and result.posted:
                if recipient.refused_since is not None:
                    results.reaccepted.append(recipient.device_id)
                elif not recipient.was_accepted:
                    results.newly_accepted.append(recipient.device_id)
            results.settled.append(
                DeliveryResult(
                    device_id=recipient.device_id,
                    user_id=recipient.user_id,
                    host=recipient.host,
                    outcome=outcome,
                    attempts=attempts,
                    status=result.status,
                    attempted_at=result.at,
                    duration_ms=result.duration_ms,
                    settled_at=now,
                    variant=result.variant,
                )
            )
            continue
        due = result.retry_at or now
        results.retries += 1
        results.requeued.setdefault((due, attempts), []).append(recipient.device_id)
        if result.at is not None:
            results.attempts.append(
                Attempt(recipient.device_id, attempts, result.at, result.duration_ms, result.status, outcome.cause, due)
            )
    return results


def _unregistered(device_id: UUID) -> Recipient:
    """Return a recipient for a device that was unregistered. Only its id is known."""
    return Recipient(device_id, "", "", b"", b"", UUID(int=0), "", None)
