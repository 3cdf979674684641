"""The queue in NATS JetStream, for workers that have no database.

Postgres stays the truth: a relay publishes each job, with all it takes to be sent, into the stream of its lane,
and a recorder writes the results into the log. A job is one message. Every result of it goes to a subject of its
own, `gateway.results.<job>`, and may only be written by whoever has seen the one before (expected last sequence):
that is what guards a lease here. Who takes a job over reads there what is left of it.

Devices to be tried again are a result like others, and come back from the database as a job of their own when they are
due: a `nak` would bring the whole job again for three of its 500 devices, and nobody would have asked again for
opt-outs, quiet hours and cancellations. `nak` with a delay is for messages that cannot be read.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
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
from gateway.domain.job import Job
from gateway.domain.notification import Lane, Status
from gateway.queue import wire
from gateway.queue.connection import PATIENCE, BrokerUnavailable, Connection, cancellable, connected
from gateway.queue.protocol import LeaseLost
from gateway.records.postgres.notifier import Subscription

WORDS, RESULTS, BELL = "gateway.words", "gateway.results", "gateway.bell"
WORDS_STREAM, RESULTS_STREAM = "GATEWAY_WORDS", "GATEWAY_RESULTS"
CONSUMER, RECORDER = "workers", "recorder"
RESULTS_KEPT = timedelta(days=1)
"""Results are kept after they were recorded: who takes a job over reads there what is left of it."""
WORDS_KEPT = timedelta(days=60)
"""Longer than any notification is sent for."""
DUPLICATES = timedelta(minutes=2)
HOLD = timedelta(seconds=12)
"""A worker that says nothing for so long has died, and others get its jobs."""
LOOK_S = 1.0
BROKER_ERRORS = (nats.errors.Error, NoStreamResponseError)
ONE_NOW = b'{"batch":1,"no_wait":true}'
UNREADABLE_S = 30.0
ANSWER_S = 5.0
WRONG_LAST_SEQUENCE = 10071
HEADERS = 1024
"""Octets that the headers of a message may take, which count towards what a server allows."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


def jobs_stream(lane: Lane) -> str:
    return f"GATEWAY_WORKER_JOBS_{lane.name}"


def job_subject(lane: Lane, job_id: int | str) -> str:
    return f"gateway.jobs.{lane.label}.{job_id}"


class Broker:
    """One connection and what is said over it. `replicas`: copies of each stream, 3 in a cluster of three or more."""

    def __init__(self, connection: Connection, *, replicas: int, hold: timedelta = HOLD) -> None:
        self.connection = connection
        self.client = connection.client
        self.js: JetStreamContext = self.client.jetstream(timeout=ANSWER_S)
        self.hold = hold
        self._replicas = replicas

    @classmethod
    @asynccontextmanager
    async def connected(
        cls,
        servers: Sequence[str],
        *,
        ca: Path | None = None,
        hold: timedelta = HOLD,
        patience: timedelta = PATIENCE,
    ) -> AsyncIterator["Broker"]:
        """Raises Unavailable when no server answers within `patience`, and Unfit."""
        async with connected(servers, ca=ca, patience=patience) as connection:
            nodes = len(connection.client.discovered_servers) + len(servers)
            yield cls(connection, replicas=3 if nodes >= 3 else 1, hold=hold)

    @property
    def room(self) -> int:
        """Octets that one message may carry. It may change with the server that we are connected to."""
        return self.client.max_payload - HEADERS

    async def prepare(self) -> None:
        """Make the streams and consumers, or see that they are as we want them."""
        for stream, consumer in self._wanted():
            await self.ask(self._make(stream, consumer))

    async def is_prepared(self) -> bool:
        """Whether all streams and consumers are there."""
        for stream, consumer in self._wanted():
            name = str(stream.name)
            try:
                if consumer is None:
                    await self.ask(self.js.stream_info(name))
                else:
                    await self.ask(self.js.consumer_info(name, str(consumer.name)))
            except NotFoundError:
                return False
        return True

    def _wanted(self) -> list[tuple[StreamConfig, ConsumerConfig | None]]:
        shared: dict[str, Any] = {"num_replicas": self._replicas, "storage": StorageType.FILE, "allow_direct": True}
        window = DUPLICATES.total_seconds()
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
            max_age=RESULTS_KEPT.total_seconds(),
            duplicate_window=window,
            **shared,
        )
        words = StreamConfig(
            WORDS_STREAM, subjects=[f"{WORDS}.*"], max_msgs_per_subject=1, max_age=WORDS_KEPT.total_seconds(), **shared
        )
        workers = ConsumerConfig(CONSUMER, ack_wait=self.hold.total_seconds())
        return [
            *((stream, workers) for stream in jobs),
            (results, ConsumerConfig(RECORDER, ack_wait=30)),
            (words, None),
        ]

    async def _make(self, stream: StreamConfig, consumer: ConsumerConfig | None) -> None:
        try:
            # Of a cluster whose servers we do not all see now we must not take copies away.
            kept = (await self.js.stream_info(str(stream.name))).config.num_replicas or 1
            stream = replace(stream, num_replicas=max(kept, self._replicas))
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

    async def ask(self, answer: Awaitable[T]) -> T:
        """Await the broker's answer. Raises Unavailable when there is none."""
        try:
            return await cancellable(answer)
        except (nats.errors.Error, NoStreamResponseError, TimeoutError, OSError) as error:
            if isinstance(error, APIError) and (error.code or 500) < 500:
                raise
            raise BrokerUnavailable(f"NATS: {type(error).__name__}") from None

    async def last(self, stream: str, subject: str) -> "Last | None":
        """The last message on a subject."""
        try:
            found = await self.ask(self.js.get_last_msg(stream, subject))
        except NotFoundError:
            return None
        return Last(found.seq or 0, found.data or b"", (found.headers or {}).get(Header.MSG_ID, ""))

    async def publish_status(self, notification_id: UUID, status: Status) -> None:
        """Tell the workers, and those that come later, what has become of a notification."""
        await self.ask(self.js.publish(f"{WORDS}.{notification_id}", status.value.encode()))

    async def statuses(self, ids: Iterable[UUID]) -> dict[UUID, Status]:
        """What was said of each; nothing of those that simply go on."""
        found = {}
        for id_ in ids:
            word = await self.last(WORDS_STREAM, f"{WORDS}.{id_}")
            if word is not None and (status := _understood(word.data.decode(errors="replace"))) is not None:
                found[id_] = status
        return found

    @contextmanager
    def subscribe_status(self, hear: Callable[[str, Status], None]) -> Iterator[None]:
        """Call `hear(notification's id, status)` for whatever is said."""

        def understand(id_: str, word: str) -> None:
            if (status := _understood(word)) is not None:
                hear(id_, status)

        with self.heard(f"{WORDS}.*", understand):
            yield

    @contextmanager
    def heard(self, subject: str, hear: Callable[[str, str], None]) -> Iterator[None]:
        """Call `hear(subject's last word, payload)` for every message on `subject`."""
        task = asyncio.ensure_future(self._hear(subject, hear))
        try:
            yield
        finally:
            task.cancel()

    async def _hear(self, subject: str, hear: Callable[[str, str], None]) -> None:
        subscription = await self.client.subscribe(subject)
        try:
            async for message in subscription.messages:
                hear(message.subject.rpartition(".")[2], message.data.decode(errors="replace"))
        finally:
            with suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()


@dataclass(frozen=True, slots=True)
class Last:
    sequence: int
    data: bytes
    message_id: str


@dataclass(slots=True)
class _Held:
    message: Msg
    job: Job
    until: float
    sequence: int
    """Of the last result that we know of: the next one must follow it."""
    remaining: tuple[UUID, ...]
    token: str
    count: int = 0


def _understood(word: str) -> Status | None:
    """None for what a relay of a newer version may say, which its own workers will understand."""
    try:
        return Status(word)
    except ValueError:
        log.warning("word.unknown", word=word[:40])
        return None


class NatsQueue:
    """What workers hold. Open it with `async with`: it keeps saying that we live, for as long as our leases last."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._held: dict[int, _Held] = {}
        self._bell = Subscription()

    async def __aenter__(self) -> "NatsQueue":
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._broker.heard(BELL, lambda *_: self._bell.publish("")))
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        self._stack.close()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._broker.hold.total_seconds() / 4)
            now = asyncio.get_running_loop().time()
            for held in list(self._held.values()):
                if held.until > now:
                    with suppress(nats.errors.Error, OSError):
                        await held.message.in_progress()
                elif held.until + self._broker.hold.total_seconds() < now:
                    del self._held[held.job.id]  # others have it by now

    async def claim(self, *, lanes: Sequence[Lane], limit: int, lease: timedelta, wait: timedelta) -> list[Job]:
        deadline = asyncio.get_running_loop().time() + wait.total_seconds()
        while True:
            found = await self._claim_whole(lanes, limit, lease)
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0:
                return found
            await self._bell.wait(min(left, LOOK_S))

    async def _claim_whole(self, lanes: Sequence[Lane], limit: int, lease: timedelta) -> list[Job]:
        """Like `_claim_now`; when cancelled in the middle it gives back what it got."""
        claiming = asyncio.ensure_future(self._claim_now(lanes, limit, lease))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(BrokerUnavailable):
                for job in await claiming:
                    await self.release(job)
            raise

    async def _claim_now(self, lanes: Sequence[Lane], limit: int, lease: timedelta) -> list[Job]:
        found: list[Job] = []
        for lane in lanes:
            while len(found) < limit and (message := await self._next(lane)) is not None:
                if (job := await self._take(message, lease)) is not None:
                    found.append(job)
        return found

    async def _next(self, lane: Lane) -> Msg | None:
        """The lane's next message. Asked for without waiting: a request that waits could be answered after we left."""
        asked = f"$JS.API.CONSUMER.MSG.NEXT.{jobs_stream(lane)}.{CONSUMER}"
        # An inbox of its own: a job keeps its subject, by which the shared one would not know whose answer it is.
        answer = self._broker.client.request(asked, ONE_NOW, timeout=ANSWER_S, old_style=True)
        message: Msg = await self._broker.ask(answer)
        return None if message.headers and message.headers.get("Status") else message

    async def _take(self, message: Msg, lease: timedelta) -> Job | None:
        """The job in a message; None when nothing is left of it, or when it cannot be read."""
        try:
            return await self._read(message, lease)
        except wire.DecodeError as error:
            log.error("job.unreadable", cause=str(error))
            await message.nak(delay=UNREADABLE_S)
            return None

    async def _read(self, message: Msg, lease: timedelta) -> Job | None:
        """Raises Unreadable, also when another version has written what is left of it."""
        job = wire.read_job(message.data)
        delivered = message.metadata.num_delivered
        held = _Held(
            message,
            job,
            asyncio.get_running_loop().time() + lease.total_seconds(),
            0,
            job.device_ids,
            uuid4().hex,
        )
        if delivered > 1 or job.lease_generation > 1:
            if not await self._take_over(held):
                await message.ack()
                return None
            left = set(held.remaining)
            cargo = job.payload
            if cargo is not None:
                cargo = replace(cargo, recipients=[one for one in cargo.recipients if one.device_id in left])
            job = replace(
                job, device_ids=held.remaining, lease_generation=job.lease_generation + delivered - 1, payload=cargo
            )
            held.job = job
        self._held[job.id] = held
        return job

    async def _take_over(self, held: _Held) -> bool:
        """Go on where another holder stopped, and let it settle nothing more; False when nothing is left."""
        subject = f"{RESULTS}.{held.job.id}"
        while True:
            last = await self._broker.last(RESULTS_STREAM, subject)
            if last is not None:
                left = set(wire.read_result(last.data).remaining)
                held.remaining = tuple(id_ for id_ in held.job.device_ids if id_ in left)
                held.sequence = last.sequence
            if not held.remaining:
                return False
            try:
                await self._write(held, ResultBatch(), held.remaining)
            except LeaseLost:
                continue  # somebody settled in between: look again
            return True

    async def renew(self, jobs: Sequence[Job], lease: timedelta) -> set[int]:
        kept = set()
        until = asyncio.get_running_loop().time() + lease.total_seconds()
        for job in jobs:
            held = self._mine(job)
            if held is None:
                continue
            last = await self._broker.last(RESULTS_STREAM, f"{RESULTS}.{job.id}")
            if (0 if last is None else last.sequence) == held.sequence:
                held.until = until
                kept.add(job.id)
        return kept

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        held = self._mine(job)
        if held is None:
            raise LeaseLost
        told, left = settlement.device_ids(), set(held.remaining)
        if told and left == set(remaining):
            return  # settled before
        if told - set(held.job.device_ids) or told & set(remaining) or (told & left) | set(remaining) != left:
            raise ValueError("a result names a device that the job does not hold")
        await self._write(held, settlement.for_devices(left), remaining)
        if not remaining:
            del self._held[job.id]
            await self._broker.ask(held.message.ack())

    async def release(self, job: Job) -> None:
        held = self._mine(job)
        if held is not None:
            del self._held[job.id]
            await self._broker.ask(held.message.nak())
            await self._broker.ask(self._broker.client.publish(BELL, b""))

    async def requeue(self, job: Job) -> None:
        """Return a job to the database, which knows when it goes on."""
        held = self._mine(job)
        if held is not None:
            await self._write(held, ResultBatch(), held.remaining, returned=True)
            del self._held[job.id]
            await self._broker.ask(held.message.ack())

    def _mine(self, job: Job) -> _Held | None:
        held = self._held.get(job.id)
        return held if held is not None and held.job.lease_generation == job.lease_generation else None

    async def _write(
        self, held: _Held, settlement: ResultBatch, remaining: Sequence[UUID], *, returned: bool = False
    ) -> None:
        """Write a result, in parts when it is too large for one message. Raises LeaseLost."""
        cargo = held.job.payload
        judged = cargo is not None and cargo.notification.policy.pause_when is not None
        result = wire.Result(held.job, settlement, remaining, returned, judged)
        data = wire.write_result(result)
        if len(data) > self._broker.room and settlement.devices() > 1:
            await self._write_halves(held, settlement, remaining)
            return
        id_ = f"{held.token}.{held.count}"
        subject = f"{RESULTS}.{held.job.id}"
        headers = {Header.MSG_ID: id_, "Nats-Expected-Last-Subject-Sequence": str(held.sequence)}
        try:
            answer = await self._broker.ask(self._broker.js.publish(subject, data, headers=headers))
            sequence = answer.seq
        except APIError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise BrokerUnavailable(f"NATS: {error.description}") from None
            last = await self._broker.last(RESULTS_STREAM, subject)
            if last is None or last.message_id != id_:
                if self._held.get(held.job.id) is held:
                    del self._held[held.job.id]  # we no longer say that we live, so that others get it soon
                raise LeaseLost from None
            sequence = last.sequence  # it was ours, and only the answer was lost
        held.sequence, held.remaining, held.count = sequence, tuple(remaining), held.count + 1

    async def _write_halves(self, held: _Held, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        """Always the same halves: who got no answer to the second asks for it again, and is known by its id."""
        told = settlement.device_ids()
        told_of = [id_ for id_ in held.remaining if id_ in told]
        first, second = told_of[: len(told_of) // 2], told_of[len(told_of) // 2 :]
        await self._write(held, settlement.for_devices(set(first)), [*second, *remaining])
        await self._write(held, settlement.for_devices(set(second)), remaining)
