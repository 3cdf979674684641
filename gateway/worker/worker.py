"""The worker: claim jobs, send their messages lane by lane, settle what came of it.

Any number of workers run beside each other; the queue's leases keep them apart. A worker holds a few jobs at a time,
with places of their own for urgent ones, and a fixed crew of senders of which some
take only urgent messages.
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
from gateway.domain.job import CHUNK, Job, JobKind
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
DATABASE_PAUSE_S = 1.0
# That a host is stuck is told by nothing that happens: it is looked for so often.
LOOK_S = 0.1
# Longer than it takes from the word that there are urgent jobs until one of them is ours, if it ever is.
MAKE_WAY_S = 0.1
# Longer than it takes to plan and load it, unless it goes to very many.
MAKE_WAY_TIMES = 4
# These say it even when no try comes after: WNS's word for it, and everybody else's.
THROTTLED = (406, 429)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """`senders` messages in flight at the most, and `urgent_senders` more that only urgent ones may use.

    `jobs`: what is at hand to be sent, in whole jobs; the messages that slow hosts hold up do not count.
    """

    senders: int = 1024
    urgent_senders: int = 16
    jobs: int = 4
    urgent_jobs: int = 4
    lanes: Sequence[Lane] = tuple(Lane)
    lease: timedelta = timedelta(seconds=60)
    drain: timedelta = timedelta(seconds=30)


class Worker:
    def __init__(
        self,
        queue: Queue,
        office: WorkerBackend,
        composer: RendererCache,
        courier: PushSender,
        crew: WorkerConfig | None = None,
    ) -> None:
        self._queue = queue
        self._office = office
        self._composer = composer
        self._courier = courier
        self._crew = crew or WorkerConfig()
        self._lanes: SendScheduler[SendTask] = SendScheduler(self._crew.senders)
        self._runs: dict[int, JobExecutor] = {}
        self._urgent: set[int] = set()
        """Urgent jobs that are ours, but have no messages at hand yet."""

    def open_breakers(self) -> set[str]:
        """Return the push services with an open circuit breaker in this worker."""
        return self._lanes.open_breakers()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`, then drain: claim nothing more, finish what is in flight, settle, give back the rest."""
        crew = self._crew
        async with AsyncExitStack() as stack:
            stack.enter_context(metrics.JOBS_HELD.set_callback(lambda: {(): len(self._runs)}))
            stack.enter_context(self._lanes.measured())
            background = await stack.enter_async_context(asyncio.TaskGroup())
            helpers = [background.create_task(one) for one in (self._renew(), self._listen(), self._look())]
            if Lane.URGENT in crew.lanes:
                helpers.append(background.create_task(self._make_way()))
            helpers += [background.create_task(self._send(urgent_only=False)) for _ in range(crew.senders)]
            helpers += [background.create_task(self._send(urgent_only=True)) for _ in range(crew.urgent_senders)]
            async with asyncio.TaskGroup() as jobs:
                claims = [jobs.create_task(self._claim(jobs, crew.lanes, crew.jobs))]
                if Lane.URGENT in crew.lanes:
                    claims.append(jobs.create_task(self._claim(jobs, (Lane.URGENT,), crew.urgent_jobs)))
                log.info("worker.started", lanes=[lane.label for lane in crew.lanes], senders=crew.senders)
                await stop.wait()
                log.info("worker.draining", jobs=len(self._runs))
                for task in claims:
                    task.cancel()
                limit = asyncio.get_running_loop().call_later(crew.drain.total_seconds(), self._stop_all)
            limit.cancel()
            for task in helpers:
                task.cancel()
        log.info("worker.stopped")

    async def _claim(self, group: asyncio.TaskGroup, lanes: Sequence[Lane], places: int) -> None:
        """Keep work at hand for the senders, up to `places` jobs of it."""
        held = asyncio.Semaphore(self._crew.senders + CHUNK)  # each of which may wait for one slow answer
        loading = asyncio.Semaphore(places)
        while True:
            await held.acquire()
            await loading.acquire()
            await self._lanes.wait_until_below(lanes, (places - 1) * CHUNK)
            try:
                [*claimed] = await self._queue.claim(lanes=lanes, limit=1, lease=self._crew.lease, wait=CLAIM_WAIT)
            except DATABASE_ERRORS as error:
                log.warning("claim.database_unavailable", error=type(error).__name__)
                await asyncio.sleep(DATABASE_PAUSE_S)
                claimed = []
            if not claimed:
                held.release()
                loading.release()
            for job in claimed:
                group.create_task(self._work(job, loading)).add_done_callback(lambda _: held.release())

    async def _work(self, job: Job, loading: asyncio.Semaphore) -> None:
        with structlog.contextvars.bound_contextvars(**job.named), ExitStack() as place:
            place.callback(loading.release)
            if job.lane is Lane.URGENT:
                self._urgent.add(job.id)
                place.callback(self._urgent.discard, job.id)
            try:
                match job.kind:
                    case JobKind.PLAN:
                        await self._office.plan(job)
                    case JobKind.SEND:
                        await self._deliver(job, place)
            except LeaseLost:
                metrics.LEASES_LOST.inc()
                log.warning("job.lease_lost")
            except DATABASE_ERRORS as error:
                # Nothing of it is lost: the lease runs out and the job comes due again.
                sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
                log.warning("job.database_unavailable", error=type(error).__name__, sqlstate=sqlstate)
            except Exception:
                # A fault of ours in one job must not end the worker for all; the job comes due again with its lease.
                log.exception("job.failed")

    async def _deliver(self, job: Job, place: ExitStack) -> None:
        run, began = JobExecutor(job, self._queue), time.time_ns()
        if (lost := self._runs.get(job.id)) is not None:
            lost.stop()  # its lease ran out, and it is we who have claimed the job anew
        self._runs[job.id] = run  # from here on it hears what is said of its notification
        try:
            cargo = await self._office.load(job)
            if cargo is None:
                return
            self._courier.load_keys(cargo.keys)
            messages = self._composer.messages(cargo.notification, cargo.default_origin)
            run.load(
                PreparedNotification(cargo.notification, messages, cargo.template_context),
                cargo,
                self._office.refresh_status,
            )
            place.close()  # its messages are at hand as soon as others have their turn
            said: tracing.Attributes = {
                "notification.id": job.named["notification_id"],
                "job.id": job.id,
                "job.attempt": job.lease_generation,
                "lane": job.lane.label,
                "devices": len(job.device_ids),
            }
            trace = cargo.notification.trace
            with (
                tracing.span("deliver", said, kind="consumer", parent=trace, start_ns=began) as span,
                structlog.contextvars.bound_contextvars(**tracing.log_fields(span)),
            ):
                await run.deliver(self._lanes)
        finally:
            run.stop()
            if self._runs.get(job.id) is run:
                del self._runs[job.id]
        if run.has_unsettled:
            await self._office.requeue(job)

    async def _send(self, *, urgent_only: bool) -> None:
        while True:
            parcel = await self._lanes.next(urgent_only=urgent_only)
            run, target = parcel.run, parcel.target
            if not run.begin():
                self._lanes.done(parcel)
                continue
            try:
                sent = await self._courier.send(parcel.post, target, run.job.attempts)
            except Exception:
                log.exception("delivery.failed", **run.job.named, device_id=ids.format_id(ids.DEVICE, target.device_id))
                sent = self._courier.internal_error_result(parcel.post, run.job.attempts)
            if not sent.posted:
                await asyncio.sleep(0)  # nothing was waited for: others have their turn
            self._lanes.done(parcel, _sign(sent), sent.duration_ms / 1000)
            run.finish(target, sent)

    async def _renew(self) -> None:
        """Hold on to what we work on; let go of what we have lost."""
        while True:
            await asyncio.sleep(self._crew.lease.total_seconds() / 3)
            held = [run.job for run in self._runs.values()]
            try:
                kept = await self._queue.renew(held, self._crew.lease)
            except DATABASE_ERRORS as error:
                log.warning("renew.database_unavailable", error=type(error).__name__)
                continue
            for job_id in [job.id for job in held if job.id not in kept]:
                if job_id in self._runs:
                    self._runs[job_id].stop()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._lanes.reassess_hosts()

    async def _make_way(self) -> None:
        """Send nothing else while an alert is on its way to us.

        It takes some thirty questions to the database to claim, plan and load it. Each of them would wait for the event
        loop to encrypt a few dozen messages of a campaign.
        """
        clock = asyncio.get_running_loop().time
        with self._office.urgent_job_events() as waiter:
            while True:
                if Lane.URGENT.label in await waiter.wait(self._crew.lease.total_seconds()):
                    began = clock()
                    for _ in range(MAKE_WAY_TIMES):
                        if await self._lanes.pause_non_urgent(MAKE_WAY_S) or not self._urgent:
                            break
                    await waiter.wait(0)  # what was said of the same alert meanwhile
                    await asyncio.sleep(clock() - began)  # however many alerts come, half of the time is the others'

    async def _listen(self) -> None:
        """Stop sending what was paused or cancelled, at once and not only with the next job."""
        with self._office.status_changes() as waiter:
            while True:
                heard = await waiter.wait(self._crew.lease.total_seconds())
                if "" in heard or not heard:  # signals may have been missed: ask
                    heard = await self._ask()
                for said in heard:
                    notification_id, _, status = said.partition(" ")
                    for run in self._runs.values():
                        if str(run.job.notification_id) == notification_id:
                            run.on_status(Status(status))

    async def _ask(self) -> set[str]:
        """What would have been signalled of the notifications at work."""
        active = {run.job.notification_id for run in self._runs.values()}
        if not active:
            return set()
        try:
            found = await self._office.statuses(active)
        except DATABASE_ERRORS as error:
            log.warning("control.database_unavailable", error=type(error).__name__)
            return set()
        return {f"{id_} {status}" for id_, status in found.items()}

    def _stop_all(self) -> None:
        for run in self._runs.values():
            run.stop()


def _sign(sent: SendResult) -> Feedback | None:
    if not sent.posted:
        return None
    if (isinstance(sent.outcome, Retry) and sent.outcome.slow_down) or sent.status in THROTTLED:
        return Feedback.BACKPRESSURE
    if sent.status is None or sent.status >= 500:
        return Feedback.FAILURE
    return Feedback.SUCCESS
