"""One claimed send job on its way through the worker: hand out, gather, settle.

Results are settled in batches while the rest is still being sent. Each batch shrinks the job in the same
transaction, so whoever claims the job after a crash sends only what was never settled.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError

from gateway import metrics, tracing
from gateway.domain import clock
from gateway.domain.delivery import Attempt, Deferred, DeliveryResult, Gone, ResultBatch, Retry
from gateway.domain.job import Job
from gateway.domain.job_payload import JobPayload, Recipient
from gateway.domain.notification import Lane, Notification, Status
from gateway.domain.retry import defer
from gateway.queue.protocol import Queue
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.service.pipeline.push_sender import PreparedNotification, SendResult, terminal_outcome
from gateway.worker import instrumentation
from gateway.worker.scheduler import SendScheduler

log = structlog.get_logger(__name__)

BATCH = 500
BATCH_WAIT_S = 0.3
DATABASE_PAUSE_S = 0.5


class SendTask:
    """One message of a run, as lanes and senders see it."""

    __slots__ = ("host", "lane", "post", "run", "target")

    def __init__(self, run: "JobExecutor", post: PreparedNotification, target: Recipient) -> None:
        self.run = run
        self.post = post
        self.target = target
        self.lane: Lane = run.job.lane
        self.host = target.host

    def defer(self, seconds: float) -> None:
        self.run.defer(self.target, seconds)


class JobExecutor:
    def __init__(self, job: Job, queue: Queue) -> None:
        self.job = job
        self.stopped = False
        self._post: PreparedNotification | None = None
        self._cancelled = False
        self._look_up: Callable[[], Awaitable[Status]] | None = None
        self._queue = queue
        self._unsettled = dict.fromkeys(job.device_ids)
        self._sending = 0
        self._parcels: list[SendTask] = []
        self._results: list[tuple[Recipient, SendResult]] = []
        self._some = asyncio.Event()
        self._enough = asyncio.Event()

    def load(
        self,
        post: PreparedNotification,
        cargo: JobPayload,
        look: Callable[[Notification], Awaitable[Status]],
    ) -> None:
        """What to send to whom. A device that is missing was unregistered."""
        self._post = post
        if self._cancelled:  # heard while we were loading
            post.status = Status.CANCELLED
        self._look_up = partial(look, cargo.notification)
        if len(cargo.recipients) < len(self._unsettled):
            gone = SendResult(Gone("the device was unregistered before this was sent"))
            for device_id in self._unsettled.keys() - {target.device_id for target in cargo.recipients}:
                self._results.append((_unregistered(device_id), gone))
        targets, verdicts = cargo.recipients, cargo.pre_send_outcomes
        if verdicts:
            self._results += [
                (one, SendResult(verdicts[one.device_id])) for one in targets if one.device_id in verdicts
            ]
            targets = [one for one in targets if one.device_id not in verdicts]
        self._parcels = [SendTask(self, post, target) for target in targets]

    @property
    def _may_fail_too_often(self) -> bool:
        return self._post is not None and self._post.notification.policy.pause_when is not None

    def on_status(self, status: Status, expires_at: datetime | None = None) -> None:
        """What was said of the notification. A pause stops the run, unless there is no time left to pause in."""
        expires_at = self._post.notification.delivery.expires_at if self._post is not None else expires_at
        if status is Status.PAUSED and (expires_at is None or clock.now() < expires_at):
            self.stop()
        if status is Status.CANCELLED:
            self._cancelled = True
            if self._post is not None:
                self._post.status = Status.CANCELLED

    async def deliver(self, lanes: SendScheduler[SendTask]) -> None:
        """Send to all that were loaded and settle every result; returns early once stopped. Raises LeaseLost."""
        # Not kept: they know us, and what knows each other is only freed by a collection, which holds everybody up.
        parcels, self._parcels = self._parcels, []
        lanes.put(self.job.lane, self.job.application_id, parcels)
        del parcels
        self._check_progress()
        while self._unsettled:
            await self._gather()
            batch, self._results = self._results, []
            self._some.clear()
            self._enough.clear()
            if batch:
                await self._settle(batch)
            elif self.stopped and not self._sending:
                return
            self._check_progress()

    @property
    def has_unsettled(self) -> bool:
        """Whether devices remain that somebody must still send to."""
        return bool(self._unsettled)

    def begin(self) -> bool:
        """A sender has taken one of our parcels; False when it must be left alone."""
        if self.stopped:
            return False
        self._sending += 1
        return True

    def finish(self, target: Recipient, sent: SendResult) -> None:
        self._sending -= 1
        self._results.append((target, sent))
        self._check_progress()

    def defer(self, target: Recipient, seconds: float) -> None:
        """Its host is in no state to take it: it goes back into the queue for so long."""
        if self.stopped or self._post is None:
            return
        now = clock.now()
        due = defer(timedelta(seconds=seconds), now, self._post.notification.delivery.expires_at)
        self._results.append(
            (target, SendResult(terminal_outcome(self._post, target, now.timestamp()) or Deferred(due)))
        )
        self._check_progress()

    def stop(self) -> None:
        """Send nothing more of it: the lease was lost, or we are draining."""
        self.stopped = True
        self._check_progress()

    def _check_progress(self) -> None:
        waiting = len(self._results)
        idle = self.stopped and not self._sending
        if waiting or idle:
            self._some.set()
        if waiting >= BATCH or waiting == len(self._unsettled) or idle:
            self._enough.set()

    async def _gather(self) -> None:
        """A full batch, or what there is a moment after the first result."""
        await self._some.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(BATCH_WAIT_S):
                await self._enough.wait()

    async def _settle(self, batch: list[tuple[Recipient, SendResult]]) -> None:
        settlement = _settlement(self.job, batch)
        for target, _ in batch:
            del self._unsettled[target.device_id]
        remaining = list(self._unsettled)
        instrumentation.count(self.job, self._post.notification if self._post else None, batch)
        began = time.perf_counter()
        ends = Counter(done.outcome.name for done in settlement.settled)
        told = {f"results.{outcome}": count for outcome, count in ends.items()}
        with tracing.span("settle", {"results": len(batch), "results.retry": settlement.retries, **told}):
            await self._write(settlement, remaining)
        metrics.SETTLE_BATCH.observe(len(batch))
        metrics.SETTLE_SECONDS.observe(time.perf_counter() - began)
        for outcome, count in ends.items():
            metrics.SETTLED.labels(outcome).inc(count)
        if self._look_up is not None and (self._unsettled or self._may_fail_too_often):
            with suppress(*DATABASE_ERRORS):  # the next batch looks again; what is in flight must not be dropped
                self.on_status(await self._look_up())

    async def _write(self, settlement: ResultBatch, remaining: list[UUID]) -> None:
        while True:
            try:
                await self._queue.settle(self.job, settlement, remaining)
                return
            except IntegrityError:
                raise
            except DATABASE_ERRORS as error:
                # What was sent must be written down: hold on until the database is back or the lease is lost.
                log.warning("settle.database_unavailable", error=type(error).__name__)
                await asyncio.sleep(DATABASE_PAUSE_S)


def _settlement(job: Job, batch: list[tuple[Recipient, SendResult]]) -> ResultBatch:
    settlement = ResultBatch()
    now = clock.now()
    for target, sent in batch:
        made = job.attempts + sent.posted
        outcome = sent.outcome
        if isinstance(outcome, Deferred):
            settlement.later.setdefault((outcome.until, made), []).append(target.device_id)
            continue
        if not isinstance(outcome, Retry):
            settlement.settled.append(
                DeliveryResult(
                    device_id=target.device_id,
                    user_id=target.user_id,
                    host=target.host,
                    outcome=outcome,
                    attempts=made,
                    status=sent.status,
                    attempted_at=sent.at,
                    duration_ms=sent.duration_ms,
                    settled_at=now,
                    variant=sent.variant,
                )
            )
            continue
        due = sent.retry_at or now
        settlement.retries += 1
        settlement.later.setdefault((due, made), []).append(target.device_id)
        if sent.at is not None:
            settlement.attempts.append(
                Attempt(target.device_id, made, sent.at, sent.duration_ms, sent.status, outcome.cause, due)
            )
    return settlement


def _unregistered(device_id: UUID) -> Recipient:
    return Recipient(device_id, "", "", b"", b"", UUID(int=0), "", None)
