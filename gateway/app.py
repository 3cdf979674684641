"""The composition root: settings in, running parts out. Nothing else puts the parts together.

`serve` is the web side, `work` the worker with its maintenance, `up` both in one process on a database of its own.
Each runs until it is told to stop, and then finishes what it has begun.
"""

import asyncio
import gc
import os
import resource
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import structlog
from aiohttp import web
from nats.js.errors import APIError
from sqlalchemy.pool import AsyncAdaptedQueuePool

from gateway import metrics, tracing
from gateway.domain.errors import OperatorError
from gateway.domain.notification import Lane
from gateway.embedded import EmbeddedPostgres
from gateway.outbound.client import OutboundClient
from gateway.outbound.policy import OutboundPolicy
from gateway.push.client import PushClient
from gateway.push.endpoints import EndpointPolicy
from gateway.queue.connection import BrokerIncompatible, BrokerUnavailable
from gateway.queue.nats import Broker, NatsQueue
from gateway.queue.postgres import PostgresQueue
from gateway.records import outbox
from gateway.records.postgres import clock_sync, migrate
from gateway.records.postgres.engine import open_engine
from gateway.records.postgres.notifier import Notifier
from gateway.service.access.authentication import Principal
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.notifications.rendering import RendererCache
from gateway.service.operations import key_rotation
from gateway.service.pipeline.push_sender import PushSender
from gateway.settings import Settings, load_or_create_secret
from gateway.sim import DEMO, Sim
from gateway.web.api import health
from gateway.web.http.client_address import ClientAddressResolver
from gateway.web.http.load_shedding import RequestLimiter, StreamLimiter
from gateway.web.http.protocol import Runner
from gateway.web.http.rate_limits import TokenBuckets
from gateway.web.http.routing import WebState
from gateway.web.server import build
from gateway.worker import maintenance
from gateway.worker.backends import BrokerBackend, DatabaseBackend
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.pollers.feed_poller import FeedPoller
from gateway.worker.pollers.webhook_dispatcher import WebhookDispatcher
from gateway.worker.relay import Relay, prepare
from gateway.worker.worker import Worker, WorkerConfig

log = structlog.get_logger(__name__)

# What a request may still take once we were told to stop.
LAST_REQUESTS_S = 10.0
GARBAGE = 5_000
PREPARE_TRIES = 6


class CannotStart(OperatorError):
    """Why the gateway does not run, in one line for whoever started it."""


@dataclass(frozen=True, slots=True)
class Installation:
    """One database and the secrets that belong to it."""

    database_url: str
    master_key: bytes
    admin_token: str | None


def postgres_home(settings: Settings) -> Path:
    return settings.data_dir / "postgres"


def find(settings: Settings) -> Installation:
    """The installation that the settings name, or the one that `gateway up` runs in the data directory.

    Raises CannotStart.
    """
    url = settings.database_url and settings.database_url.get_secret_value()
    url = url or EmbeddedPostgres.running_url(postgres_home(settings))
    if url is None:
        raise CannotStart(
            f"there is no database: set GATEWAY_DATABASE_URL, or start `gateway up` on {settings.data_dir}"
        )
    master_key, token_file = _master_key(settings), settings.data_dir / "admin-token"
    token = settings.admin_token and settings.admin_token.get_secret_value()
    if not token and token_file.exists():
        token = load_or_create_secret(token_file)
    return Installation(url, master_key, token or None)


def _master_key(settings: Settings) -> bytes:
    """Raises CannotStart."""
    key_file = settings.data_dir / "master-key"
    master_key = settings.master_key and settings.master_key.get_secret_value()
    if not master_key and not key_file.exists():
        raise CannotStart("there is no master key: set GATEWAY_MASTER_KEY to at least 32 random characters")
    return (master_key or load_or_create_secret(key_file)).encode()


@asynccontextmanager
async def context(settings: Settings, installation: Installation) -> AsyncIterator[Context]:
    """What orders need, for as long as it is open. Raises CannotStart."""
    try:
        engine = open_engine(installation.database_url, pool_size=settings.database_pool)
        vault = Keyring(installation.master_key, *settings.retired_keys)
        policy = EndpointPolicy(settings.push_hosts)
        outbound = OutboundPolicy(settings.outbound_hosts)
    except ValueError as error:
        raise CannotStart(str(error)) from None
    pool = cast(AsyncAdaptedQueuePool, engine.pool)
    limit: metrics.Reading = {(): settings.database_pool}
    try:
        with (
            metrics.POOL.set_callback(lambda: {("in_use",): pool.checkedout(), ("idle",): pool.checkedin()}),
            metrics.POOL_LIMIT.set_callback(lambda: limit),
        ):
            yield Context(engine, vault, policy, settings.public_url, outbound)
    finally:
        await engine.dispose()


async def serve(settings: Settings, installation: Installation, stop: asyncio.Event) -> None:
    """The HTTP API and the pages."""
    async with tracing.running(), _serving(settings, installation):
        await stop.wait()


@asynccontextmanager
async def in_process_api(
    settings: Settings, installation: Installation, caller: Principal
) -> AsyncIterator[tuple[str, str]]:
    """The API for one caller alone, in this process: its address, and a key that nobody else is ever told."""
    url, key = installation.database_url, secrets.token_urlsafe(32)
    async with context(settings, installation) as ours, Notifier(url).running() as bell:
        await _check(ours, url)
        front = WebState(ours, bell, max_body=settings.max_body, in_process_keys={key: caller})
        runner = Runner(build(front, pages=False), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", key
        finally:
            await runner.cleanup()


async def work(settings: Settings, stop: asyncio.Event, installation: Installation | None = None) -> None:
    """Deliver. With jobs in the database also keep the house in order; with a broker that is the relay's."""
    async with tracing.running(), _measured(settings):
        await _work(settings, stop, installation)


async def _work(settings: Settings, stop: asyncio.Event, installation: Installation | None) -> None:
    if settings.nats_servers:
        await _work_for_broker(settings, stop, installation)
        return
    house = await asyncio.to_thread(find, settings) if installation is None else installation
    async with (
        _at_database(settings, house) as (ours, bell),
        PushClient(settings.push_ca, unsure=ours.policy.only_by_suffix) as client,
    ):
        composer = RendererCache(ours.keyring, ours.public_url)
        office = DatabaseBackend(ours, composer, bell)
        courier = PushSender(client, ours.keyring, ours.policy)
        worker = Worker(PostgresQueue(ours.engine, bell), office, composer, courier, _worker_config(settings))
        async with _maintenance(settings, ours, bell, stop):
            await worker.run(stop)


async def relay(settings: Settings, installation: Installation, stop: asyncio.Event) -> None:
    """Pass jobs to the broker's workers and their results into the log, and keep the house in order."""
    if not settings.nats_servers:
        raise CannotStart("there is nothing to relay: GATEWAY_QUEUE does not name servers of NATS")
    async with tracing.running(), _measured(settings):
        await _relay(settings, installation, stop)


async def _relay(settings: Settings, installation: Installation, stop: asyncio.Event) -> None:
    async with (
        _at_database(settings, installation) as (ours, bell),
        _broker(settings) as broker,
        _maintenance(settings, ours, bell, stop),
    ):
        await _prepare(ours, broker)
        await Relay(ours, broker, bell, timedelta(seconds=settings.lease)).run(stop)


async def _work_for_broker(settings: Settings, stop: asyncio.Event, installation: Installation | None) -> None:
    master_key = installation.master_key if installation is not None else _master_key(settings)
    try:
        vault, policy = Keyring(master_key, *settings.retired_keys), EndpointPolicy(settings.push_hosts)
    except ValueError as error:
        raise CannotStart(str(error)) from None
    async with (
        _broker(settings) as broker,
        PushClient(settings.push_ca, unsure=policy.only_by_suffix) as client,
        NatsQueue(broker) as queue,
    ):
        courier, composer = PushSender(client, vault, policy), RendererCache(vault, settings.public_url)
        _tune_gc()
        await Worker(queue, BrokerBackend(broker, queue), composer, courier, _worker_config(settings)).run(stop)


async def up(settings: Settings, installation: Installation, stop: asyncio.Event, sim: Sim | None = None) -> None:
    """Both in one process, and the local push service beside them when there is one.

    Each has its own connections, so that a flood of requests takes none from the worker.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracing.running())
        if sim is not None:
            try:
                await stack.enter_async_context(sim)
            except OSError as error:
                raise CannotStart(
                    f"the local push service cannot listen on port {sim.port}: {error.strerror}"
                ) from None
            sim.behave(*DEMO)
        await stack.enter_async_context(_serving(settings, installation))
        async with asyncio.TaskGroup() as group:
            if settings.nats_servers:
                group.create_task(_relay(settings, installation, stop))
            group.create_task(_work(settings, stop, installation))


async def _check(ours: Context, url: str) -> None:
    """Better not to start than to fail with every message. Raises CannotStart and Unsealable."""
    async with ours.engine.connect() as conn:
        if not await migrate.is_current(conn, url):
            raise CannotStart("the database lacks migrations of this version: run `gateway migrate`")
        await key_rotation.check(conn, ours.keyring)


@asynccontextmanager
async def _at_database(settings: Settings, installation: Installation) -> AsyncIterator[tuple[Context, Notifier]]:
    url = installation.database_url
    async with context(settings, installation) as ours, Notifier(url).running() as bell:
        await _check(ours, url)
        async with _on_time(ours):
            yield ours, bell


@asynccontextmanager
async def _on_time(ours: Context) -> AsyncIterator[None]:
    await clock_sync.sync_clock(ours.engine)
    keeping = asyncio.create_task(clock_sync.sync_forever(ours.engine), name="timekeeping")
    try:
        yield
    finally:
        keeping.cancel()


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[Broker]:
    """Raises CannotStart, also when the broker refuses us later on."""
    async with AsyncExitStack() as stack:
        try:
            broker = await stack.enter_async_context(Broker.connected(settings.nats_servers, ca=settings.queue_ca))
        except (BrokerUnavailable, BrokerIncompatible) as error:
            raise CannotStart(f"GATEWAY_QUEUE: {error}") from None
        group = await stack.enter_async_context(asyncio.TaskGroup())
        watching = group.create_task(_end_with(broker))
        yield broker
        watching.cancel()


async def _end_with(broker: Broker) -> None:
    """Better to end, and be started again, than to run on without a broker. Raises CannotStart."""
    raise CannotStart(f"GATEWAY_QUEUE: the connection has ended: {await broker.connection.ended()}")


async def _prepare(ours: Context, broker: Broker) -> None:
    """Raises CannotStart."""
    for tries in range(PREPARE_TRIES, 0, -1):
        try:
            await prepare(ours.engine, broker)
            return
        except APIError as error:
            raise CannotStart(f"GATEWAY_QUEUE: NATS refuses our streams: {error.description}") from None
        except BrokerUnavailable as error:
            if tries == 1:
                raise CannotStart(f"GATEWAY_QUEUE: the streams cannot be made: {error}; is JetStream on?") from None


@asynccontextmanager
async def _maintenance(settings: Settings, ours: Context, bell: Notifier, stop: asyncio.Event) -> AsyncIterator[None]:
    """Upkeep, webhooks and feeds, beside whoever has the database."""
    limits = retention_policy(settings)
    _tune_gc()
    async with ours.engine.begin() as conn:
        if await outbox.rebase_restored_outbox(conn):
            log.warning("webhooks.restored", advice="some events may be told again")
    await maintenance.run_once(ours.engine, limits)  # today's partitions must be there before anything is sent
    async with OutboundClient(ours.outbound) as outbound, asyncio.TaskGroup() as group:
        rounds = group.create_task(maintenance.run_forever(ours.engine, limits))
        group.create_task(WebhookDispatcher(ours, bell, outbound).run(stop))
        group.create_task(FeedPoller(ours, bell, outbound).run(stop))
        yield
        rounds.cancel()


def _tune_gc() -> None:
    # What is loaded by now stays; what a delivery or a request makes is gone with it. Looking through it all again and
    # again for cycles, as by default every 700 objects, would cost a delivery as much as the log, and a request most of
    # its time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)


def _worker_config(settings: Settings) -> WorkerConfig:
    return WorkerConfig(
        senders=settings.worker_concurrency,
        urgent_senders=settings.worker_urgent_concurrency,
        jobs=settings.worker_jobs,
        urgent_jobs=settings.worker_urgent_jobs,
        lanes=tuple(Lane.labelled(label) for label in settings.lanes),
        lease=timedelta(seconds=settings.lease),
        drain=timedelta(seconds=settings.drain),
    )


def retention_policy(settings: Settings) -> RetentionPolicy:
    """How long what is kept, by the settings."""
    return RetentionPolicy(
        log=timedelta(days=settings.retention_days),
        gone_devices=timedelta(days=settings.gone_devices_days),
        idempotency=timedelta(hours=settings.idempotency_hours),
        audit=timedelta(days=settings.audit_days),
    )


@asynccontextmanager
async def _serving(settings: Settings, installation: Installation) -> AsyncIterator[None]:
    url = installation.database_url
    async with context(settings, installation) as ours, Notifier(url).running() as bell:
        await _check(ours, url)
        front = WebState(
            ours,
            bell,
            installation.admin_token,
            _metrics_token(settings),
            settings.max_body,
            RequestLimiter(settings.max_concurrent_requests),
            TokenBuckets("inbox", settings.inbox_per_minute),
            ClientAddressResolver(settings.proxies),
            TokenBuckets("address", settings.address_per_minute),
            TokenBuckets("key", settings.key_per_minute),
            map_tiles=settings.map_tiles,
            imports=StreamLimiter("NDJSON streams", settings.max_concurrent_imports, settings.application_share),
            streams=StreamLimiter(
                "live streams of the log", settings.max_concurrent_log_streams, settings.application_share
            ),
            channels=StreamLimiter(
                "live channels and long polls", settings.max_concurrent_live_channels, settings.application_share
            ),
        )
        runner = Runner(build(front), settings.public_url, shutdown_timeout=LAST_REQUESTS_S)
        await runner.setup()
        try:
            with (
                metrics.REQUESTS_IN_PROGRESS.set_callback(lambda: {(): front.request_limiter.inside}),
                metrics.LONG_LIVED_CONNECTIONS.set_callback(
                    lambda: {(kind,): room.inside for kind, room in front.stream_limiters.items()}
                ),
            ):
                async with _on_time(ours):
                    await _listen(runner, settings.host, settings.port)
                    _tune_gc()
                    yield
        finally:
            await runner.cleanup()


@asynccontextmanager
async def _measured(settings: Settings) -> AsyncIterator[None]:
    """Let Prometheus ask a process that serves nothing else."""
    if settings.metrics_port is None:
        yield
        return
    runner = Runner(health.metrics_app(_metrics_token(settings)))
    await runner.setup()
    try:
        await _listen(runner, settings.metrics_host, settings.metrics_port, "GATEWAY_METRICS_PORT")
        yield
    finally:
        await runner.cleanup()


def _metrics_token(settings: Settings) -> str | None:
    return settings.metrics_token.get_secret_value() if settings.metrics_token else None


async def _listen(runner: web.AppRunner, host: str, port: int, setting: str = "--port") -> None:
    # Every connection takes a file descriptor, also one that says nothing.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotStart(f"cannot listen on {host}:{port}: {reason}; choose another with {setting}") from None
    log.info("web.listening", host=host, port=port)


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and Ctrl-C end what runs in order; a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def told(number: signal.Signals) -> None:
        log.info("stopping", signal=number.name)
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)


def migrated(url: str) -> None:
    """Bring the database up to date. Raises CannotStart."""
    try:
        migrate.upgrade(url)
    except (OSError, ValueError) as error:
        raise CannotStart(f"the database cannot be reached: {error}") from None
