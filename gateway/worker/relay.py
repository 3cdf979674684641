"""Between the database and the broker: what is due goes out to the workers, what they did comes back into the log.

The job's row is the outbox. Claiming it, as a worker would, says that it is on its way; it is renewed for as long as
the broker has the job or its results, and comes due again when the broker has lost both. So nothing is lost between
the two, whichever of them dies, and any number of relays run beside each other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from nats.aio.msg import Msg
from nats.js.api import Header
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.domain import clock
from gateway.domain.delivery import Deferred, DeliveryResult, Final, Gone, Rejected, ResultBatch
from gateway.domain.job import Job, JobKind
from gateway.domain.job_payload import JobPayload
from gateway.domain.notification import Lane
from gateway.queue import nats, postgres, wire
from gateway.queue.connection import BrokerUnavailable, cancellable
from gateway.queue.nats import Broker
from gateway.queue.protocol import LeaseLost
from gateway.records import notifications
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline import job_loading, planning
from gateway.service.pipeline.push_sender import PreparedNotification, terminal_outcome

log = structlog.get_logger(__name__)

AHEAD = 256
"""Jobs of a lane in the broker at the most: enough to keep many workers busy, few enough to be called back."""
AT_ONCE = 4
ROOM_LOOK_S = 0.05
CLAIM_WAIT = timedelta(seconds=15)
RECORD_WAIT_S = 5.0
"""A fetch does not hear that its stream was deleted, or its server started again."""
BATCH = 16
PAUSE_S = 1.0
FAULT_S = 30.0
STREAMS_LOOK_S = 2.0
Apply = Callable[[AsyncConnection, Job, ResultBatch, Sequence[UUID]], Awaitable[bool]]
TROUBLE = (*DATABASE_ERRORS, *nats.BROKER_ERRORS)


async def prepare(engine: AsyncEngine, broker: Broker) -> None:
    """Streams and consumers, made by one relay at a time: asked by two for one stream, a cluster answers neither.

    Raises Unavailable, and APIError when the broker refuses.
    """
    async with engine.begin() as conn:
        await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("broker", 0))))
        await broker.prepare()


@contextmanager
def _by_itself(job: Job) -> Iterator[None]:
    """What goes wrong with one job must not end the relay for all; it comes due again with its lease."""
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
        # A fault of ours.
        log.exception("job.failed", **job.log_fields)


@dataclass(frozen=True, slots=True)
class Relay:
    context: Context
    broker: Broker
    bell: notifier.Notifier
    lease: timedelta = timedelta(seconds=60)
    ahead: int = AHEAD

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop`. What is on its way by then is looked after by the next relay."""
        queue = postgres.PostgresQueue(self.context.engine, self.bell)
        composer = RendererCache(self.context.keyring, self.context.public_url)
        out: dict[int, Job] = {}
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._feed(queue, composer, lane, out)) for lane in Lane]
            others = (self._renew(queue, out), self._pass_on(out), self._record(out), self._keep_streams(out))
            tasks += [group.create_task(one) for one in others]
            log.info("relay.started")
            await stop.wait()
            for task in tasks:
                task.cancel()
        log.info("relay.stopped")

    async def _feed(
        self, queue: postgres.PostgresQueue, composer: RendererCache, lane: Lane, out: dict[int, Job]
    ) -> None:
        """Plan what is due, and keep the broker a little ahead of the workers."""
        async with asyncio.TaskGroup() as plans:
            await self._feed_with(queue, composer, lane, out, plans)

    async def _feed_with(
        self,
        queue: postgres.PostgresQueue,
        composer: RendererCache,
        lane: Lane,
        out: dict[int, Job],
        plans: asyncio.TaskGroup,
    ) -> None:
        stream, room = nats.jobs_stream(lane), asyncio.Semaphore(AT_ONCE)
        while True:
            try:
                if (await self.broker.ask(self.broker.js.stream_info(stream))).state.messages >= self.ahead:
                    await asyncio.sleep(ROOM_LOOK_S)  # of room there is no signal
                    continue
                claimed = await queue.claim(lanes=(lane,), limit=AT_ONCE, lease=self.lease, wait=CLAIM_WAIT)
                for place, job in enumerate(claimed):  # one after the other, so that they stay in order
                    if job.kind is JobKind.PLAN:  # but for these: a plan to millions takes its time
                        await room.acquire()
                        plans.create_task(self._plan(job)).add_done_callback(lambda _: room.release())
                        continue
                    try:
                        await self._forward(composer, job, out)
                    except BrokerUnavailable:
                        # An alert must not wait for its lease because a leader was being elected.
                        for left in claimed[place:]:
                            await queue.release(left)
                        raise
            except TROUBLE as error:
                log.warning("relay.database_unavailable", error=type(error).__name__)
                await asyncio.sleep(PAUSE_S)

    async def _forward(self, composer: RendererCache, job: Job, out: dict[int, Job]) -> None:
        """Raises Unavailable when the broker does not say whether it has the job."""
        with _by_itself(job):
            if job.lease_generation > 1 and await self._still_out(job):
                out[job.id] = job
                return
            cargo = await job_loading.load(self.context.engine, composer, job)
            if cargo is None:
                return
            data = wire.write_job(job, cargo)
            if len(data) > self.broker.room:
                await self._make_smaller(composer, job, cargo, len(data))
                return
            headers = {Header.MSG_ID.value: f"{job.id}.{job.lease_generation}"}
            await self.broker.ask(self.broker.js.publish(nats.job_subject(job.lane, job.id), data, headers=headers))
            out[job.id] = job
            with suppress(BrokerUnavailable):  # workers look by themselves too
                await self.broker.ask(self.broker.client.publish(nats.BELL, job.lane.label.encode()))

    async def _plan(self, job: Job) -> None:
        with _by_itself(job):
            await planning.plan(self.context, job)

    async def _make_smaller(self, composer: RendererCache, job: Job, cargo: JobPayload, size: int) -> None:
        """Halve a job that no message of the broker's can carry; a job of one device ends. Raises LeaseLost."""
        async with self.context.engine.begin() as conn:
            if len(job.device_ids) > 1:
                await postgres.split_job(conn, job)
                return
            post = PreparedNotification(
                cargo.notification, composer.messages(cargo.notification, cargo.default_origin), cargo.template_context
            )
            cause = f"with all that is needed to send it, it takes {size} octets; the broker carries {self.broker.room}"
            await postgres.apply(conn, job, _unsent(job, cargo, post, Rejected(cause)), [])
        if cargo.notification.policy.pause_when is not None:
            await lifecycle.refresh_status(self.context.engine, cargo.notification)

    async def _still_out(self, job: Job) -> bool:
        """Whether the broker has the job, or results of it that are not recorded yet."""
        if await self.broker.last(nats.jobs_stream(job.lane), nats.job_subject(job.lane, job.id)) is not None:
            return True
        last = await self.broker.last(nats.RESULTS_STREAM, f"{nats.RESULTS}.{job.id}")
        if last is None:
            return False
        try:
            said = wire.read_result(last.data)
        except wire.DecodeError:
            return True  # for a relay of its version to record
        return not said.remaining or (said.returned and set(said.remaining) != set(job.device_ids))

    async def _renew(self, queue: postgres.PostgresQueue, out: dict[int, Job]) -> None:
        while True:
            await asyncio.sleep(self.lease.total_seconds() / 3)
            try:
                held = [job for job in list(out.values()) if await self._still_out(job)]
                kept = await queue.renew(held, self.lease)
            except TROUBLE as error:
                log.warning("renew.database_unavailable", error=type(error).__name__)
                continue
            for job_id in out.keys() - kept:
                del out[job_id]

    async def _pass_on(self, out: dict[int, Job]) -> None:
        """Tell the workers what was said of the notifications that they may have."""
        with self.bell.subscribe(notifier.CONTROL) as waiter:
            while True:
                heard = await waiter.wait(self.lease.total_seconds())
                try:
                    ids = {UUID(said.partition(" ")[0]) for said in heard if said}
                    if "" in heard or not heard:
                        ids |= {job.notification_id for job in out.values()}
                    await self._say(ids)
                except TROUBLE as error:
                    log.warning("control.database_unavailable", error=type(error).__name__)
                    await asyncio.sleep(PAUSE_S)
                    for said in heard | {""}:
                        waiter.publish(said)

    async def _say(self, ids: set[UUID]) -> None:
        """What has become of each, as the database has it: of two signals heard at once none is the later one."""
        async with self.context.engine.connect() as conn:
            found = await notifications.load(conn, list(ids))
        for one in found:
            await self.broker.publish_status(one.id, one.status)

    async def _keep_streams(self, out: dict[int, Job]) -> None:
        """Make anew what somebody deleted. The jobs that were in it come due again with their leases."""
        while True:
            await asyncio.sleep(STREAMS_LOOK_S)  # that a stream is deleted is told to nobody
            try:
                if not await self.broker.is_prepared():
                    log.warning("relay.streams_missing")
                    await prepare(self.context.engine, self.broker)
                    await self._say({job.notification_id for job in out.values()})
            except TROUBLE as error:
                log.warning("streams.database_unavailable", error=type(error).__name__)

    async def _record(self, out: dict[int, Job]) -> None:
        """Write the workers' results into the log."""
        while True:
            try:
                results = await self.broker.ask(
                    self.broker.js.pull_subscribe_bind(nats.RECORDER, stream=nats.RESULTS_STREAM)
                )
                while True:
                    with suppress(TimeoutError):
                        for message in await cancellable(results.fetch(BATCH, timeout=RECORD_WAIT_S)):
                            await self._note(message, out)
            except TROUBLE as error:
                log.warning("record.database_unavailable", error=type(error).__name__)
                await asyncio.sleep(PAUSE_S)

    async def _note(self, message: Msg, out: dict[int, Job]) -> None:
        """Record one result, and let the broker forget it; or leave it for later."""
        named: dict[str, Any] = {}
        try:
            result = wire.read_result(message.data)
            named = result.job.log_fields
            try:
                await self._write(result)
            except IntegrityError:
                await self._write(result, postgres.apply_unlogged)
        except (wire.DecodeError, IntegrityError) as error:
            log.error("result.unrecordable", cause=type(error).__name__, **named)
            await message.nak(delay=FAULT_S)
            return
        await message.ack()
        if result.returned or not result.remaining:
            out.pop(result.job.id, None)
        if result.checks_failure_rate:
            async with self.context.engine.connect() as conn:
                [notification] = await notifications.load(conn, [result.job.notification_id])
            await lifecycle.refresh_status(self.context.engine, notification)

    async def _write(self, result: wire.Result, apply: Apply = postgres.apply) -> None:
        """Record what the job still has of it: in any order, and again, each device's end is written once."""
        async with self.context.engine.begin() as conn:
            job = await postgres.lock_job(conn, result.job)
            if job is None:
                return
            fresh = result.settlement.for_devices(set(job.device_ids))
            if fresh.devices():
                told = fresh.device_ids()
                await apply(conn, job, fresh, [id_ for id_ in job.device_ids if id_ not in told])
            if result.returned and (taken := await postgres.steal_lease(conn, job)) is not None:
                await lifecycle.requeue(conn, taken)


def _unsent(job: Job, cargo: JobPayload, post: PreparedNotification, otherwise: Rejected) -> ResultBatch:
    """What becomes of the one device of a job without a worker: what a worker would say unasked, or `otherwise`."""
    [device_id] = job.device_ids
    now = clock.now()
    target = next(iter(cargo.recipients), None)
    outcome: Final | Deferred
    if target is None:
        outcome = Gone("the device was unregistered before this was sent")
    else:
        outcome = cargo.pre_send_outcomes.get(device_id) or terminal_outcome(post, target, now.timestamp()) or otherwise
    if isinstance(outcome, Deferred):
        return ResultBatch(requeued={(outcome.until, job.attempts): [device_id]})
    user_id, host = (None, "") if target is None else (target.user_id, target.host)
    return ResultBatch([DeliveryResult(device_id, user_id, host, outcome, job.attempts, None, None, 0, now)])
