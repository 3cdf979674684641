"""The queue in NATS JetStream, for workers without a database connection.

Postgres stays the source of truth. A relay publishes each job as one message into the stream of its lane, with
everything that is needed to send it. The relay also writes the workers' results into the log.

A worker publishes the results of a job to the subject `gateway.results.<job>`. With each result it sends the sequence
number of the last result that it knows. The broker refuses the result if there is a newer one (expected last sequence).
So a worker that has lost its lease can publish nothing more. A worker that takes over a job reads the remaining devices
from the last result.

A retry is a result too: the database creates another job for the devices, which the relay publishes when it is due. A
`nak` would redeliver the whole job although only some devices need a retry, and opt-outs, quiet hours and cancellations
would not be checked again. `nak` with a delay is used only for messages that cannot be decoded.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, Header, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from gateway.domain.delivery import ResultBatch
from gateway.domain.job import Job, LeaseLost
from gateway.domain.notification import Lane, Status
from gateway.queue import wire
from gateway.queue.connection import CONNECT_TIMEOUT, BrokerConnection, BrokerUnavailable, cancellable, connect
from gateway.records.postgres.notifier import ChannelSubscription

# Subjects of notification statuses and of job results, each followed by an id, and of announcements of new jobs.
STATUSES, RESULTS, NEW_JOBS = "gateway.statuses", "gateway.results", "gateway.new_jobs"
# Names of the streams and consumers.
STATUSES_STREAM, RESULTS_STREAM = "GATEWAY_STATUSES", "GATEWAY_RESULTS"
WORKER_CONSUMER, RECORDER_CONSUMER = "workers", "recorder"
# Results stay in the stream after they were recorded, because a worker that takes over a job reads the last one.
RESULTS_MAX_AGE = timedelta(days=1)
# How long a status stays in the stream: longer than the lifetime of any notification.
STATUSES_MAX_AGE = timedelta(days=60)
# How long the broker remembers message ids, to ignore a message that is published again.
DUPLICATE_WINDOW = timedelta(minutes=2)
# A job is redelivered to another worker if its worker has sent no heartbeat for this long.
ACK_WAIT = timedelta(seconds=12)
# Announcements of new jobs may be lost, so workers also poll at this interval.
POLL_INTERVAL_S = 1.0
# Errors of the NATS client. `Broker.request` raises BrokerUnavailable for most of them.
BROKER_ERRORS = (nats.errors.Error, NoStreamResponseError)
# The body of a request that pulls one message, and does not wait if the stream has none.
PULL_ONE_NO_WAIT = b'{"batch":1,"no_wait":true}'
# Delay before a message that cannot be decoded is redelivered, possibly to a worker whose version can decode it.
UNDECODABLE_DELAY_S = 30.0
# Time limit for a response of the broker.
REQUEST_TIMEOUT_S = 5.0
# The broker's error code when the last message of a subject does not have the expected sequence number.
WRONG_LAST_SEQUENCE = 10071
# Bytes reserved for the headers of a message, which count towards the server's maximum payload.
HEADER_BYTES = 1024

T = TypeVar("T")
log = structlog.get_logger(__name__)


def jobs_stream(lane: Lane) -> str:
    """Return the name of a lane's stream."""
    return f"GATEWAY_WORKER_JOBS_{lane.name}"


def job_subject(lane: Lane, job_id: int | str) -> str:
    """Return the subject of one job's message."""
    return f"gateway.jobs.{lane.label}.{job_id}"


class Broker:
    """The NATS broker: its streams, the published statuses, and requests whose failures become BrokerUnavailable."""

    def __init__(self, connection: BrokerConnection, *, replicas: int, ack_wait: timedelta = ACK_WAIT) -> None:
        """Create the broker. `replicas` is the number of copies of each stream: 3 in a cluster of three or more."""
        self.connection = connection
        self.client = connection.client
        self.js: JetStreamContext = self.client.jetstream(timeout=REQUEST_TIMEOUT_S)
        self.ack_wait = ack_wait
        self._replicas = replicas

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        servers: Sequence[str],
        *,
        ca: Path | None = None,
        ack_wait: timedelta = ACK_WAIT,
        timeout: timedelta = CONNECT_TIMEOUT,
    ) -> AsyncIterator["Broker"]:
        """Connect to the broker.

        Raises:
            BrokerUnavailable: no server responds within `timeout`.
            BrokerIncompatible: a server refuses the credentials or is too old.
        """
        async with connect(servers, ca=ca, timeout=timeout) as connection:
            nodes = len(connection.client.discovered_servers) + len(servers)
            yield cls(connection, replicas=3 if nodes >= 3 else 1, ack_wait=ack_wait)

    @property
    def max_payload(self) -> int:
        """The maximum payload of a message in bytes. It may change when the client connects to another server."""
        return self.client.max_payload - HEADER_BYTES

    async def prepare(self) -> None:
        """Create the streams and consumers, or update their configuration."""
        for stream, consumer in self._configuration():
            await self.request(self._configure(stream, consumer))

    async def is_prepared(self) -> bool:
        """Whether all streams and consumers exist."""
        for stream, consumer in self._configuration():
            name = str(stream.name)
            try:
                if consumer is None:
                    await self.request(self.js.stream_info(name))
                else:
                    await self.request(self.js.consumer_info(name, str(consumer.name)))
            except NotFoundError:
                return False
        return True

    def _configuration(self) -> list[tuple[StreamConfig, ConsumerConfig | None]]:
        """Return the configuration of each stream, with that of its consumer if it has one."""
        shared: dict[str, Any] = {"num_replicas": self._replicas, "storage": StorageType.FILE, "allow_direct": True}
        window = DUPLICATE_WINDOW.total_seconds()
        jobs = [
            StreamConfig(
                name=jobs_stream(lane),
                subjects=[job_subject(lane, "*")],
                retention=RetentionPolicy.WORK_QUEUE,
                max_msgs_per_subject=1,
                discard=DiscardPolicy.OLD,
                duplicate_window=window,
                **shared,
            )
            for lane in Lane
        ]
        results = StreamConfig(
            RESULTS_STREAM,
            subjects=[f"{RESULTS}.*"],
            max_age=RESULTS_MAX_AGE.total_seconds(),
            duplicate_window=window,
            **shared,
        )
        statuses = StreamConfig(
            STATUSES_STREAM,
            subjects=[f"{STATUSES}.*"],
            max_msgs_per_subject=1,
            max_age=STATUSES_MAX_AGE.total_seconds(),
            **shared,
        )
        workers = ConsumerConfig(WORKER_CONSUMER, ack_wait=self.ack_wait.total_seconds())
        return [
            *((stream, workers) for stream in jobs),
            (results, ConsumerConfig(RECORDER_CONSUMER, ack_wait=30)),
            (statuses, None),
        ]

    async def _configure(self, stream: StreamConfig, consumer: ConsumerConfig | None) -> None:
        """Create a stream and its consumer, or update their configuration."""
        try:
            # Do not reduce the number of replicas: some servers of the cluster may be down now.
            replicas = (await self.js.stream_info(str(stream.name))).config.num_replicas or 1
            stream = replace(stream, num_replicas=max(replicas, self._replicas))
            await self.js.update_stream(stream)
        except NotFoundError:
            await self.js.add_stream(stream)
        if consumer is not None:
            config = replace(
                consumer,
                durable_name=consumer.name,
                ack_policy=AckPolicy.EXPLICIT,
                max_ack_pending=100_000,
                max_deliver=-1,
                num_replicas=stream.num_replicas,
            )
            await self.js.add_consumer(str(stream.name), config)

    async def request(self, response: Awaitable[T]) -> T:
        """Await a response of the broker.

        Raises:
            BrokerUnavailable: the broker does not respond, or reports an internal error.
            APIError: the broker refuses the request.
        """
        try:
            return await cancellable(response)
        except (nats.errors.Error, NoStreamResponseError, TimeoutError, OSError) as error:
            if isinstance(error, APIError) and (error.code or 500) < 500:
                raise
            raise BrokerUnavailable(f"NATS: {type(error).__name__}") from None

    async def last_message(self, stream: str, subject: str) -> "LastMessage | None":
        """Return the last message on a subject."""
        try:
            message = await self.request(self.js.get_last_msg(stream, subject))
        except NotFoundError:
            return None
        return LastMessage(message.seq or 0, message.data or b"", (message.headers or {}).get(Header.MSG_ID, ""))

    async def publish_status(self, notification_id: UUID, status: Status) -> None:
        """Publish a notification's status. The broker stores it for workers that connect later."""
        await self.request(self.js.publish(f"{STATUSES}.{notification_id}", status.value.encode()))

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        """Return the published statuses, by id. Notifications that were never paused or cancelled have none."""
        statuses = {}
        for id_ in ids:
            message = await self.last_message(STATUSES_STREAM, f"{STATUSES}.{id_}")
            if message is None:
                continue
            if (status := _parse_status(message.data.decode(errors="replace"))) is not None:
                statuses[id_] = status
        return statuses

    @contextmanager
    def subscribe_status(self, on_status: Callable[[str, Status], None]) -> Iterator[None]:
        """Call `on_status(notification id, status)` for every published status until the context ends."""

        def parse(id_: str, payload: str) -> None:
            if (status := _parse_status(payload)) is not None:
                on_status(id_, status)

        with self.subscribe(f"{STATUSES}.*", parse):
            yield

    @contextmanager
    def subscribe(self, subject: str, on_message: Callable[[str, str], None]) -> Iterator[None]:
        """Call `on_message(last token of the subject, payload)` for every message until the context ends."""
        task = asyncio.ensure_future(self._receive(subject, on_message))
        try:
            yield
        finally:
            task.cancel()

    async def _receive(self, subject: str, on_message: Callable[[str, str], None]) -> None:
        subscription = await self.client.subscribe(subject)
        try:
            async for message in subscription.messages:
                on_message(message.subject.rpartition(".")[2], message.data.decode(errors="replace"))
        finally:
            with suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()


@dataclass(frozen=True, slots=True)
class LastMessage:
    """The last message on a subject of a stream."""

    sequence: int
    data: bytes
    message_id: str


@dataclass(slots=True)
class _Lease:
    """A claimed job.

    `message` is the latest delivery of the job's message to this worker. `expires_at` is a time of the event loop's
    clock; each renewal extends it, even if the broker does not respond. `last_sequence` is the sequence number of the
    last result that the worker knows; the broker refuses the next result if there is a newer one. The message id of a
    result consists of `token` and `result_count`.
    """

    message: Msg
    job: Job
    expires_at: float
    last_sequence: int
    remaining: tuple[UUID, ...]
    token: str
    result_count: int = 0


def _parse_status(payload: str) -> Status | None:
    """Parse a status; None if it is unknown, because a newer version of the gateway published it."""
    try:
        return Status(payload)
    except ValueError:
        log.warning("status.unknown", status=payload[:40])
        return None


class NatsQueue:
    """Claims jobs from the streams and publishes results, for one worker.

    Use it with `async with`. While it is open, it sends heartbeats for the claimed jobs until their leases end.
    """

    def __init__(self, broker: Broker) -> None:
        """Create the queue on a connected broker."""
        self._broker = broker
        self._leases: dict[int, _Lease] = {}
        self._new_jobs = ChannelSubscription()

    async def __aenter__(self) -> "NatsQueue":
        """Subscribe to announcements of new jobs, and start the heartbeats."""
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._broker.subscribe(NEW_JOBS, lambda *_: self._new_jobs.publish("")))
        self._heartbeats = asyncio.create_task(self._send_heartbeats())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the heartbeats, after which the broker redelivers claimed jobs to other workers."""
        self._heartbeats.cancel()
        self._stack.close()

    async def _send_heartbeats(self) -> None:
        """Report the claimed jobs to the broker as in progress, until their leases end."""
        ack_wait_s = self._broker.ack_wait.total_seconds()
        while True:
            await asyncio.sleep(ack_wait_s / 4)
            now = asyncio.get_running_loop().time()
            for lease in list(self._leases.values()):
                if lease.expires_at > now:
                    with suppress(nats.errors.Error, OSError):
                        await lease.message.in_progress()
                elif lease.expires_at + ack_wait_s < now:
                    del self._leases[lease.job.id]  # the broker has redelivered the job to another worker

    async def claim(
        self,
        *,
        lanes: Sequence[Lane],
        limit: int,
        lease: timedelta,
        wait: timedelta,
        excluded: Collection[UUID] = (),
    ) -> list[Job]:
        """Claim jobs, see `Queue.claim`."""
        deadline = asyncio.get_running_loop().time() + wait.total_seconds()
        while True:
            claimed = await self._claim_shielded(lanes, limit, lease)
            remaining_s = deadline - asyncio.get_running_loop().time()
            if claimed or remaining_s <= 0:
                return claimed
            await self._new_jobs.wait(min(remaining_s, POLL_INTERVAL_S))

    async def _claim_shielded(self, lanes: Sequence[Lane], limit: int, duration: timedelta) -> list[Job]:
        """Run `_claim_now`. When cancelled, wait for its end and release the jobs that it claimed."""
        claim = asyncio.ensure_future(self._claim_now(lanes, limit, duration))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            with suppress(BrokerUnavailable):
                for job in await claim:
                    await self.release(job)
            raise

    async def _claim_now(self, lanes: Sequence[Lane], limit: int, duration: timedelta) -> list[Job]:
        claimed: list[Job] = []
        for lane in lanes:
            while len(claimed) < limit and (message := await self._pull(lane)) is not None:
                if (job := await self._claim_message(message, duration)) is not None:
                    claimed.append(job)
        return claimed

    async def _pull(self, lane: Lane) -> Msg | None:
        """Return the next message of the lane, or None if there is none now.

        The request does not wait at the broker: otherwise a message could arrive after the request has timed out here.
        """
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{jobs_stream(lane)}.{WORKER_CONSUMER}"
        # `old_style` uses an inbox of its own for the request. In the shared inbox the client matches a response to its
        # request by the subject, but the response to a pull has the subject of the job.
        response = self._broker.client.request(subject, PULL_ONE_NO_WAIT, timeout=REQUEST_TIMEOUT_S, old_style=True)
        message: Msg = await self._broker.request(response)
        return None if message.headers and message.headers.get("Status") else message

    async def _claim_message(self, message: Msg, duration: timedelta) -> Job | None:
        """Return the job in a message; None if no devices remain, or if the message cannot be decoded."""
        try:
            return await self._take_lease(message, duration)
        except wire.DecodeError as error:
            log.error("job.undecodable", cause=str(error))
            await message.nak(delay=UNDECODABLE_DELAY_S)
            return None

    async def _take_lease(self, message: Msg, duration: timedelta) -> Job | None:
        """Decode a job and take its lease; return None if no devices remain, or if this worker has the lease already.

        Raises:
            DecodeError: another version wrote the job, or its last result.
        """
        job = wire.read_job(message.data)
        now = asyncio.get_running_loop().time()
        existing_lease = self._leases.get(job.id)
        if (
            existing_lease is not None
            and existing_lease.expires_at > now
            and await self._continue_own_job(existing_lease, message)
        ):
            return None
        delivery_count = message.metadata.num_delivered
        expires_at = now + duration.total_seconds()
        lease = _Lease(message, job, expires_at, 0, job.device_ids, uuid4().hex)
        if delivery_count > 1 or job.lease_generation > 1:
            if not await self._take_over(lease):
                await message.ack()
                return None
            remaining = set(lease.remaining)
            payload = job.payload
            if payload is not None:
                recipients = [recipient for recipient in payload.recipients if recipient.device_id in remaining]
                payload = replace(payload, recipients=recipients)
            job = replace(
                job,
                device_ids=lease.remaining,
                lease_generation=job.lease_generation + delivery_count - 1,
                payload=payload,
            )
            lease.job = job
        self._leases[job.id] = lease
        return job

    async def _continue_own_job(self, lease: _Lease, message: Msg) -> bool:
        """Continue a job of this worker whose message was redelivered to it, for example after an outage.

        Return False if another worker has taken over the job in the meantime.
        """
        last_result = await self._broker.last_message(RESULTS_STREAM, f"{RESULTS}.{lease.job.id}")
        if (
            last_result is not None
            and last_result.sequence != lease.last_sequence
            and not last_result.message_id.startswith(lease.token)
        ):
            return False
        lease.message = message
        return True

    async def _take_over(self, lease: _Lease) -> bool:
        """Continue a job after the last result of another worker, and fence that worker.

        Return False if no devices remain.
        """
        subject = f"{RESULTS}.{lease.job.id}"
        while True:
            last_result = await self._broker.last_message(RESULTS_STREAM, subject)
            if last_result is not None:
                remaining = set(wire.read_result(last_result.data).remaining)
                lease.remaining = tuple(id_ for id_ in lease.job.device_ids if id_ in remaining)
                lease.last_sequence = last_result.sequence
            if not lease.remaining:
                return False
            try:
                # The other worker does not know this empty result, so the broker refuses that worker's next result.
                await self._publish(lease, ResultBatch(), lease.remaining)
            except LeaseLost:
                continue  # the other worker has published another result in the meantime: read it
            return True

    async def renew(self, jobs: Sequence[Job], lease: timedelta) -> set[int]:
        """Extend leases, see `Queue.renew`."""
        renewed = set()
        # The worker starts its next renewal after this one, which may wait up to REQUEST_TIMEOUT_S for a response.
        expires_at = asyncio.get_running_loop().time() + lease.total_seconds() + REQUEST_TIMEOUT_S
        job_leases = [job_lease for job in jobs if (job_lease := self._find_lease(job)) is not None]
        for job_lease in job_leases:
            job_lease.expires_at = expires_at
        for job_lease in job_leases:
            last_result = await self._broker.last_message(RESULTS_STREAM, f"{RESULTS}.{job_lease.job.id}")
            if (0 if last_result is None else last_result.sequence) == job_lease.last_sequence:
                renewed.add(job_lease.job.id)
        return renewed

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        """Publish results, see `Queue.settle`."""
        lease = self._find_lease(job)
        if lease is None:
            raise LeaseLost
        settled, unsettled = settlement.device_ids(), set(lease.remaining)
        if settled and unsettled == set(remaining):
            return  # a repeated call: this settlement was published before
        unknown = settled - set(lease.job.device_ids)
        # A repeated call may contain results that `_publish_halves` published before it failed: devices no longer in
        # `unsettled`. They are not published again.
        if unknown or settled & set(remaining) or (settled & unsettled) | set(remaining) != unsettled:
            raise ValueError("each device of the job, and no other, must either have a result or remain")
        await self._publish(lease, settlement.for_devices(unsettled), remaining)
        if not remaining:
            del self._leases[job.id]
            await self._broker.request(lease.message.ack())

    async def release(self, job: Job) -> None:
        """Return a job to the stream, see `Queue.release`."""
        lease = self._find_lease(job)
        if lease is not None:
            del self._leases[job.id]
            await self._broker.request(lease.message.nak())
            await self._broker.request(self._broker.client.publish(NEW_JOBS, b""))

    async def requeue(self, job: Job) -> None:
        """Return a job to the database, which publishes it again when its notification is resumed."""
        lease = self._find_lease(job)
        if lease is not None:
            await self._publish(lease, ResultBatch(), lease.remaining, returned=True)
            del self._leases[job.id]
            await self._broker.request(lease.message.ack())

    def _find_lease(self, job: Job) -> _Lease | None:
        lease = self._leases.get(job.id)
        return lease if lease is not None and lease.job.lease_generation == job.lease_generation else None

    async def _publish(
        self, lease: _Lease, settlement: ResultBatch, remaining: Sequence[UUID], *, returned: bool = False
    ) -> None:
        """Publish a result, in parts if it is too large for one message. Raises LeaseLost if the lease was lost."""
        payload = lease.job.payload
        checks_failure_rate = payload is not None and payload.notification.policy.pause_when is not None
        result = wire.Result(lease.job, settlement, remaining, returned, checks_failure_rate)
        data = wire.write_result(result)
        if len(data) > self._broker.max_payload and settlement.count_devices() > 1:
            await self._publish_halves(lease, settlement, remaining)
            return
        message_id = f"{lease.token}.{lease.result_count}"
        subject = f"{RESULTS}.{lease.job.id}"
        headers = {Header.MSG_ID: message_id, "Nats-Expected-Last-Subject-Sequence": str(lease.last_sequence)}
        try:
            response = await self._broker.request(self._broker.js.publish(subject, data, headers=headers))
            sequence = response.seq
        except APIError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise BrokerUnavailable(f"NATS: {error.description}") from None
            last_result = await self._broker.last_message(RESULTS_STREAM, subject)
            if last_result is None or last_result.message_id != message_id:
                if self._leases.get(lease.job.id) is lease:
                    del self._leases[lease.job.id]  # ends the heartbeats
                raise LeaseLost from None
            sequence = last_result.sequence  # the broker has stored this result; only its response was lost
        lease.last_sequence, lease.remaining = sequence, tuple(remaining)
        lease.result_count += 1

    async def _publish_halves(self, lease: _Lease, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        """Publish a result in two parts.

        The split is deterministic. If there is no response to the second part and the caller repeats the call, the
        second part has the same content and the same message id again.
        """
        device_ids = settlement.device_ids()
        settled = [id_ for id_ in lease.remaining if id_ in device_ids]
        first, second = settled[: len(settled) // 2], settled[len(settled) // 2 :]
        await self._publish(lease, settlement.for_devices(set(first)), [*second, *remaining])
        await self._publish(lease, settlement.for_devices(set(second)), remaining)
