"""The relay between the database and the broker: publish due jobs, and write the results of workers into the log.

The relay claims a job in the database as a worker would. It renews the lease while the broker has the job or its
results. If the broker loses the job and its results, the lease expires and the job comes due again. So nothing is lost
if a relay or the broker crashes, and any number of relays can run at once.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from nats.aio.msg import Msg
from nats.js.api import Header

from gateway.domain import clock
from gateway.domain.delivery import Deferred, DeliveryResult, Final, Gone, Rejected, ResultBatch
from gateway.domain.job import Job, JobKind, LeaseLost
from gateway.domain.job_payload import JobPayload
from gateway.domain.notification import Lane
from gateway.queue import nats, postgres, wire
from gateway.queue.connection import BrokerUnavailable, cancellable
from gateway.queue.nats import Broker
from gateway.records import notifications
from gateway.records.postgres import advisory_locks, notifier
from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, Engine, IntegrityError
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import job_loading, planning
from gateway.service.pipeline.push_sender import PreparedNotification, terminal_outcome

log = structlog.get_logger(__name__)

# Maximum number of jobs of a lane in the broker: enough to keep many workers busy, few enough to be cancelled quickly.
MAX_PUBLISHED = 256
# Maximum number of jobs that are claimed at once.
MAX_CLAIMED = 2
# Maximum number of plan jobs of one lane that are executed at once, in total and for one application, so that its slow
# audiences delay no other application.
MAX_CONCURRENT_PLANS, MAX_APPLICATION_PLANS = 4, 2
# The broker has no event for a stream that has capacity again, so the relay polls at this interval.
CAPACITY_POLL_INTERVAL_S = 0.05
# Maximum time for which a claim waits for due jobs.
CLAIM_WAIT = timedelta(seconds=15)
# The same while a claim excludes an application with MAX_APPLICATION_PLANS running plan jobs. It is short, because the
# jobs of that application can be claimed as soon as one of these plan jobs ends.
EXCLUDED_WAIT = timedelta(milliseconds=100)
# A fetch does not detect that its stream was deleted or its server restarted, so it ends after this time.
FETCH_TIMEOUT_S = 5.0
# Maximum number of results in one fetch.
FETCH_BATCH = 16
# Pause before the relay tries again after an error of the database or the broker.
RETRY_S = 1.0
# Delay before a result that cannot be recorded is redelivered.
UNRECORDABLE_DELAY_S = 30.0
# The broker has no event for a deleted stream, so the relay polls at this interval.
STREAMS_POLL_INTERVAL_S = 2.0
# The type of `postgres.apply` and `postgres.apply_unlogged`.
Apply = Callable[[Connection, Job, ResultBatch, Sequence[UUID]], Awaitable[bool]]
# Errors after which the relay tries again.
RETRIED_ERRORS = (*DATABASE_ERRORS, *nats.BROKER_ERRORS)


async def prepare(engine: Engine, broker: Broker) -> None:
    """Create the streams and consumers of the broker.

    An advisory lock admits one relay at a time: if two relays request the same stream at once, a NATS cluster responds
    to neither of them.

    Raises:
        BrokerUnavailable: the broker does not respond.
        APIError: the broker refuses a stream or a consumer.
    """
    async with engine.begin() as conn:
        await advisory_locks.lock_transaction(conn, "gateway.broker.streams")
        await broker.prepare()


@contextmanager
def _isolate(job: Job) -> Iterator[None]:
    """Log an exception that one job has raised. The relay continues; the job comes due again after its lease."""
    try:
        with structlog.contextvars.bound_contextvars(**job.log_fields):
            yield
    except LeaseLost:
        log.warning("job.lease_lost", **job.log_fields)
    except BrokerUnavailable:
        raise
    except DATABASE_ERRORS as error:
        log.warning("job.database_unavailable", **job.log_fields, error=type(error).__name__)
    except Exception:
        log.exception("job.failed", **job.log_fields)


@dataclass(frozen=True, slots=True)
class Relay:
    """Connects the jobs table with the broker, for all lanes.

    `max_published` is the maximum number of jobs of one lane in the broker.
    """

    context: Context
    broker: Broker
    notifier: notifier.Notifier
    lease: timedelta = timedelta(seconds=60)
    max_published: int = MAX_PUBLISHED

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set. Another relay can then take over the published jobs."""
        queue = postgres.PostgresQueue(self.context.engine, self.notifier, self.context.urgent_engine)
        renderers = RendererCache(self.context.keyring, self.context.public_url)
        published: dict[int, Job] = {}
        loops = [
            *(self._publish_lane(queue, renderers, lane, published) for lane in Lane),
            self._renew_leases(queue, published),
            self._forward_statuses(published),
            self._record_results(published),
            self._restore_streams(published),
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for loop in loops]
            log.info("relay.started")
            await stop.wait()
            for task in tasks:
                task.cancel()
        log.info("relay.stopped")

    async def _publish_lane(
        self, queue: postgres.PostgresQueue, renderers: RendererCache, lane: Lane, published: dict[int, Job]
    ) -> None:
        """Execute the due plan jobs of a lane, and publish its due send jobs, up to `max_published`."""
        stream, plan_slots = nats.jobs_stream(lane), asyncio.Semaphore(MAX_CONCURRENT_PLANS)
        plan_counts = Counter[UUID]()  # by application
        async with asyncio.TaskGroup() as plans:
            while True:
                try:
                    info = await self.broker.request(self.broker.js.stream_info(stream))
                    if info.state.messages >= self.max_published:
                        await asyncio.sleep(CAPACITY_POLL_INTERVAL_S)
                        continue
                    excluded = [id_ for id_, count in plan_counts.items() if count >= MAX_APPLICATION_PLANS]
                    jobs = await queue.claim(
                        lanes=(lane,),
                        limit=MAX_CLAIMED,
                        lease=self.lease,
                        wait=EXCLUDED_WAIT if excluded else CLAIM_WAIT,
                        excluded=excluded,
                    )
                    for position, job in enumerate(jobs):  # one by one, to keep their order
                        if job.kind is JobKind.PLAN:  # in the background, since planning a large audience takes long
                            await plan_slots.acquire()
                            task = plans.create_task(self._plan(job))
                            plan_counts[job.application_id] += 1
                            task.add_done_callback(partial(_release_plan, plan_slots, plan_counts, job))
                            continue
                        try:
                            await self._publish_job(renderers, job, published)
                        except BrokerUnavailable:
                            # Release the jobs. Otherwise an alert would wait for its lease to expire when the broker
                            # was unavailable only briefly, during a leader election.
                            for unpublished in jobs[position:]:
                                await queue.release(unpublished)
                            raise
                except RETRIED_ERRORS as error:
                    log.warning("relay.database_unavailable", error=type(error).__name__)
                    await asyncio.sleep(RETRY_S)

    async def _publish_job(self, renderers: RendererCache, job: Job, published: dict[int, Job]) -> None:
        """Publish a send job with its payload.

        Raises:
            BrokerUnavailable: the broker does not confirm that it has stored the job.
        """
        with _isolate(job):
            if job.lease_generation > 1 and await self._is_in_broker(job):
                published[job.id] = job
                return
            payload = await job_loading.load(self.context.engine_for(job.lane), renderers, job)
            if payload is None:
                return
            data = wire.write_job(job, payload)
            if len(data) > self.broker.max_payload:
                await self._handle_oversize(renderers, job, payload, len(data))
                return
            subject = nats.job_subject(job.lane, job.id)
            headers = {Header.MSG_ID.value: f"{job.id}.{job.lease_generation}"}
            await self.broker.request(self.broker.js.publish(subject, data, headers=headers))
            published[job.id] = job
            with suppress(BrokerUnavailable):  # without this message, workers find the job by polling
                await self.broker.request(self.broker.client.publish(nats.NEW_JOBS, job.lane.label.encode()))

    async def _plan(self, job: Job) -> None:
        with _isolate(job):
            await planning.plan(self.context, job)

    async def _handle_oversize(self, renderers: RendererCache, job: Job, payload: JobPayload, size: int) -> None:
        """Split a job that exceeds the maximum payload of the broker, or reject it if it has only one device.

        Raises:
            LeaseLost: another worker has claimed the job.
        """
        async with self.context.engine.begin() as conn:
            if len(job.device_ids) > 1:
                await postgres.split_job(conn, job)
                return
            renderer = renderers.get(payload.notification, payload.default_origin)
            prepared = PreparedNotification(payload.notification, renderer, payload.template_context)
            cause = f"the job payload is {size:,} bytes; the broker accepts at most {self.broker.max_payload:,}"
            await postgres.apply(conn, job, _resolve_oversize(job, payload, prepared, Rejected(cause)), [])
        if payload.notification.policy.pause_when is not None:
            await lifecycle.refresh_status(self.context.engine, payload.notification)

    async def _is_in_broker(self, job: Job) -> bool:
        """Return whether the broker has the job, or results of the job that are not recorded yet."""
        subject = nats.job_subject(job.lane, job.id)
        if await self.broker.last_message(nats.jobs_stream(job.lane), subject) is not None:
            return True
        last = await self.broker.last_message(nats.RESULTS_STREAM, f"{nats.RESULTS}.{job.id}")
        if last is None:
            return False
        try:
            result = wire.read_result(last.data)
        except wire.DecodeError:
            return True  # a worker of another version wrote the result; a relay of that version will record it
        # If no devices remain, the result is unrecorded, since recording it deletes the row of the job. If the worker
        # returned the job, the result is unrecorded as long as the row has other devices than the remaining ones.
        # After any other result the job is unfinished, and must be published again.
        return not result.remaining or (result.returned and set(result.remaining) != set(job.device_ids))

    async def _renew_leases(self, queue: postgres.PostgresQueue, published: dict[int, Job]) -> None:
        """Renew the leases of published jobs, as long as the broker has the job or its results."""
        while True:
            await asyncio.sleep(self.lease.total_seconds() / 3)
            try:
                jobs = [job for job in list(published.values()) if await self._is_in_broker(job)]
                renewed = await queue.renew(jobs, self.lease)
            except RETRIED_ERRORS as error:
                log.warning("renew.database_unavailable", error=type(error).__name__)
                continue
            for job_id in published.keys() - renewed:
                del published[job_id]

    async def _forward_statuses(self, published: dict[int, Job]) -> None:
        """Publish the status changes of notifications to the broker."""
        with self.notifier.subscribe(notifier.STATUS) as changes:
            while True:
                messages = await changes.wait(self.lease.total_seconds())
                try:
                    ids = {UUID(message.partition(" ")[0]) for message in messages if message}
                    if "" in messages or not messages:  # NOTIFY messages may have been lost
                        ids |= {job.notification_id for job in published.values()}
                    await self._publish_statuses(ids)
                except RETRIED_ERRORS as error:
                    log.warning("control.database_unavailable", error=type(error).__name__)
                    await asyncio.sleep(RETRY_S)
                    for message in messages | {""}:  # the next wait() returns these; "" adds all published jobs
                        changes.publish(message)

    async def _publish_statuses(self, ids: set[UUID]) -> None:
        """Publish the current statuses of notifications.

        They are read from the database, since status events may arrive in any order.
        """
        async with self.context.engine.connect() as conn:
            loaded = await notifications.load(conn, list(ids))
        for notification in loaded:
            await self.broker.publish_status(notification.id, notification.status)

    async def _restore_streams(self, published: dict[int, Job]) -> None:
        """Recreate deleted streams. The jobs of a deleted stream come due again when their leases expire."""
        while True:
            await asyncio.sleep(STREAMS_POLL_INTERVAL_S)
            try:
                if not await self.broker.is_prepared():
                    log.warning("relay.streams_missing")
                    await prepare(self.context.engine, self.broker)
                    await self._publish_statuses({job.notification_id for job in published.values()})
            except RETRIED_ERRORS as error:
                log.warning("streams.database_unavailable", error=type(error).__name__)

    async def _record_results(self, published: dict[int, Job]) -> None:
        """Write the results of workers into the delivery log."""
        while True:
            try:
                subscription = await self.broker.request(
                    self.broker.js.pull_subscribe_bind(nats.RECORDER_CONSUMER, stream=nats.RESULTS_STREAM)
                )
                while True:
                    with suppress(TimeoutError):
                        for message in await cancellable(subscription.fetch(FETCH_BATCH, timeout=FETCH_TIMEOUT_S)):
                            await self._record_result(message, published)
            except RETRIED_ERRORS as error:
                log.warning("record.database_unavailable", error=type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _record_result(self, message: Msg, published: dict[int, Job]) -> None:
        """Record one result, and acknowledge its message. A result that cannot be recorded is redelivered later."""
        log_fields: dict[str, Any] = {}
        try:
            result = wire.read_result(message.data)
            log_fields = result.job.log_fields
            try:
                await self._settle_result(result)
            except IntegrityError:  # the log has some of the devices already; settle the others
                await self._settle_result(result, postgres.apply_unlogged)
        except (wire.DecodeError, IntegrityError) as error:
            log.error("result.unrecordable", cause=type(error).__name__, **log_fields)
            await message.nak(delay=UNRECORDABLE_DELAY_S)
            return
        await message.ack()
        if result.returned or not result.remaining:
            published.pop(result.job.id, None)
        if result.checks_failure_rate:
            async with self.context.engine.connect() as conn:
                [notification] = await notifications.load(conn, [result.job.notification_id])
            await lifecycle.refresh_status(self.context.engine, notification)

    async def _settle_result(self, result: wire.Result, apply: Apply = postgres.apply) -> None:
        """Write the results of the devices that the job still has.

        The results of other devices were recorded before: results may arrive repeatedly and in any order.
        """
        async with self.context.engine.begin() as conn:
            job = await postgres.lock_job(conn, result.job)
            if job is None:
                return
            unrecorded = result.settlement.for_devices(set(job.device_ids))
            if unrecorded.count_devices():
                settled = unrecorded.device_ids()
                await apply(conn, job, unrecorded, [id_ for id_ in job.device_ids if id_ not in settled])
            if result.returned and (claimed := await postgres.steal_lease(conn, job)) is not None:
                await lifecycle.requeue(conn, claimed)


def _release_plan(slots: asyncio.Semaphore, counts: Counter[UUID], job: Job, _: object) -> None:
    slots.release()
    counts[job.application_id] -= 1
    if not counts[job.application_id]:
        del counts[job.application_id]


def _resolve_oversize(
    job: Job, payload: JobPayload, prepared: PreparedNotification, rejection: Rejected
) -> ResultBatch:
    """Return the result of a job of one device that is too large for the broker.

    The outcome is `rejection`, unless the message would not be sent anyway.
    """
    [device_id] = job.device_ids
    now = clock.now()
    recipient = next(iter(payload.recipients), None)
    outcome: Final | Deferred
    if recipient is None:
        outcome = Gone("the device was unregistered before the message was sent")
    else:
        outcome = (
            payload.pre_send_outcomes.get(device_id)
            or terminal_outcome(prepared, recipient, now.timestamp())
            or rejection
        )
    if isinstance(outcome, Deferred):
        return ResultBatch(requeued={(outcome.until, job.attempts): [device_id]})
    user_id, host = (None, "") if recipient is None else (recipient.user_id, recipient.host)
    return ResultBatch([DeliveryResult(device_id, user_id, host, outcome, job.attempts, None, None, 0, now)])
