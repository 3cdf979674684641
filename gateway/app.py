"""The composition root: creates the components from the settings, connects them and runs them.

Each role of a process is one function: `serve` runs the HTTP server, `work` a worker, `relay` the link between database
and broker, and `up` all of them in one process. A role runs until its stop event is set. Then it completes the requests
and messages in flight, within time limits.

Workers that have a database and the relay also run the background tasks: maintenance, webhooks and alert feeds.
"""

import asyncio
import gc
import os
import secrets
import signal
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
from aiohttp import web
from nats.js.errors import APIError

from gateway import metrics, tracing
from gateway.domain.database_work import STATEMENT_TIMEOUT_S
from gateway.domain.errors import OperatorError
from gateway.domain.notification import Lane
from gateway.embedded import EmbeddedPostgres
from gateway.isolation import HelperProcesses
from gateway.outbound.client import OutboundClient
from gateway.outbound.policy import OutboundPolicy
from gateway.push.client import PushClient
from gateway.push.endpoints import EndpointPolicy
from gateway.queue.connection import BrokerIncompatible, BrokerUnavailable
from gateway.queue.nats import Broker, NatsQueue
from gateway.queue.postgres import PostgresQueue
from gateway.records import outbox
from gateway.records.postgres import clock_sync, migrate
from gateway.records.postgres.connection_shares import divide_pool
from gateway.records.postgres.engine import Engine, count_connections, open_engine
from gateway.records.postgres.notifier import Notifier
from gateway.service.access.authentication import Principal
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.notifications.rendering import RendererCache
from gateway.service.operations import key_rotation
from gateway.service.pipeline.push_sender import PushSender
from gateway.service.reporting.breakers import BreakerDirectory
from gateway.settings import Settings, load_or_create_secret
from gateway.sim import DEMO, Sim
from gateway.web.api import health
from gateway.web.http.client_address import ClientAddressResolver
from gateway.web.http.connections import ConnectionTable, raise_descriptor_limit
from gateway.web.http.load_shedding import RequestLimiter, StreamLimiter
from gateway.web.http.protocol import Runner
from gateway.web.http.rate_limits import AddressBuckets, SharedBuckets, TokenBuckets
from gateway.web.http.routing import WebLimits, WebState
from gateway.web.server import build
from gateway.worker import maintenance
from gateway.worker.backends import BrokerBackend, DatabaseBackend
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.pollers.feed_poller import FeedPoller
from gateway.worker.pollers.webhook_dispatcher import WebhookDispatcher
from gateway.worker.relay import Relay, prepare
from gateway.worker.worker import Worker, WorkerConfig

log = structlog.get_logger(__name__)

# How long requests in flight may take to complete after the stop event is set.
SHUTDOWN_TIMEOUT_S = 10.0
# Number of allocations between two garbage collections of the youngest generation; Python's default is 700.
GC_THRESHOLD = 5_000
# Maximum attempts to create the streams of the broker.
MAX_PREPARE_ATTEMPTS = 6
# An embedded Postgres that ends by itself is restarted this often within the window; then the gateway ends, too.
MAX_POSTGRES_RESTARTS = 5
POSTGRES_RESTART_WINDOW_S = 600.0
POSTGRES_POLL_S = 0.5


class CannotStart(OperatorError):
    """The gateway cannot start; the message gives the reason in one line."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A database and the secrets that belong to it."""

    database_url: str
    master_key: bytes
    admin_token: str | None


def postgres_dir(settings: Settings) -> Path:
    """Return the directory of the embedded Postgres."""
    return settings.data_dir / "postgres"


def find_installation(settings: Settings) -> Installation:
    """Return the installation with the database of the settings, or else the one that `gateway up` runs.

    Raises:
        CannotStart: there is no database or no master key.
    """
    url = settings.database_url and settings.database_url.get_secret_value()
    url = url or EmbeddedPostgres.running_url(postgres_dir(settings))
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
    """Return the master key of the settings or of the data directory. Raise CannotStart if there is none."""
    key_file = settings.data_dir / "master-key"
    master_key = settings.master_key and settings.master_key.get_secret_value()
    if not master_key and not key_file.exists():
        raise CannotStart("there is no master key: set GATEWAY_MASTER_KEY to at least 32 random characters")
    return (master_key or load_or_create_secret(key_file)).encode()


def migrate_database(url: str) -> None:
    """Apply the missing migrations.

    Raises:
        CannotStart: the database cannot be reached.
    """
    try:
        migrate.upgrade(url)
    except (OSError, ValueError) as error:
        raise CannotStart(f"the database cannot be reached: {error}") from None


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` on SIGTERM and SIGINT (Ctrl-C). A second signal terminates the process at once."""
    loop = asyncio.get_running_loop()

    def handle(received: signal.Signals) -> None:
        log.info("app.stopping", signal=received.name)
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)


# The roles of a process.


async def serve(settings: Settings, installation: Installation, stop: asyncio.Event) -> None:
    """Serve the HTTP API, the console and the documentation."""
    async with (
        tracing.export_spans(),
        _metrics_server(settings),
        _http_server(settings, installation, BreakerDirectory()),
    ):
        await stop.wait()


async def work(settings: Settings, stop: asyncio.Event, installation: Installation | None = None) -> None:
    """Run a worker that sends messages.

    A worker that claims its jobs from the database also runs the background tasks. With a broker the relay runs them.
    """
    async with tracing.export_spans(), _metrics_server(settings):
        await _run_worker(settings, installation, BreakerDirectory(), stop)


async def relay(settings: Settings, installation: Installation, stop: asyncio.Event) -> None:
    """Publish jobs to the broker, write the workers' results to the database, and run the background tasks."""
    if not settings.nats_servers:
        raise CannotStart("a relay needs NATS: set GATEWAY_QUEUE to NATS servers")
    async with tracing.export_spans(), _metrics_server(settings):
        await _run_relay(settings, installation, stop)


async def up(
    settings: Settings,
    installation: Installation,
    stop: asyncio.Event,
    sim: Sim | None = None,
    postgres: EmbeddedPostgres | None = None,
) -> None:
    """Run the HTTP server and a worker; with a broker also the relay, and with `sim` also the simulated push service.

    `postgres` is the embedded Postgres, which is restarted when it ends by itself.

    Server and worker have separate connection pools, so that requests cannot occupy the worker's connections.
    """
    breakers = BreakerDirectory()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracing.export_spans())
        await stack.enter_async_context(_metrics_server(settings))
        if sim is not None:
            await stack.enter_async_context(_simulator(sim))
        if postgres is not None:
            await stack.enter_async_context(keep_running(postgres))
        await stack.enter_async_context(_http_server(settings, installation, breakers))
        async with asyncio.TaskGroup() as group:
            if settings.nats_servers:
                group.create_task(_run_relay(settings, installation, stop))
            group.create_task(_run_worker(settings, installation, breakers, stop))


@asynccontextmanager
async def in_process_api(
    settings: Settings, installation: Installation, principal: Principal
) -> AsyncIterator[tuple[str, str]]:
    """Serve the API to the current process only, for commands of the CLI.

    Yields:
        The base URL, and a random key that authenticates as `principal`.
    """
    url, key = installation.database_url, secrets.token_urlsafe(32)
    async with open_context(settings, installation) as context, Notifier(url).running() as notifier:
        await _check_database(context, url)
        limits = WebLimits(max_body=settings.max_body)
        state = WebState.create(context, notifier, in_process_keys={key: principal}, limits=limits)
        runner = Runner(build(state, pages=False), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", key
        finally:
            await runner.cleanup()


@asynccontextmanager
async def keep_running(postgres: EmbeddedPostgres) -> AsyncIterator[None]:
    """Restart the embedded Postgres whenever it ends, until the context ends.

    Raises:
        CannotStart: it ends too often.
        EmbeddedUnavailable: it cannot be started again.
    """
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(_restart_forever(postgres))
        yield
        watcher.cancel()


async def _restart_forever(postgres: EmbeddedPostgres) -> None:
    restarted_at: deque[float] = deque(maxlen=MAX_POSTGRES_RESTARTS)
    now = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(POSTGRES_POLL_S)
        if postgres.is_running:
            continue
        if len(restarted_at) == MAX_POSTGRES_RESTARTS and now() - restarted_at[0] < POSTGRES_RESTART_WINDOW_S:
            raise CannotStart(
                f"Postgres has ended {MAX_POSTGRES_RESTARTS + 1} times; see its log in the data directory"
            )
        log.error("postgres.ended", restarts=len(restarted_at))
        restarted_at.append(now())
        await asyncio.to_thread(postgres.restart)
        log.warning("postgres.restarted")


# The HTTP server.


@asynccontextmanager
async def _http_server(
    settings: Settings, installation: Installation, breakers: BreakerDirectory
) -> AsyncIterator[None]:
    raise_descriptor_limit()
    opened = _open_database(settings, installation, breakers, statement_timeout_s=STATEMENT_TIMEOUT_S)
    async with opened as (context, notifier):
        state = _web_state(settings, installation, context, notifier)
        connections = ConnectionTable(is_proxy=state.client_addresses.is_proxy)
        runner = Runner(build(state), settings.public_url, shutdown_timeout=SHUTDOWN_TIMEOUT_S, connections=connections)
        await runner.setup()
        try:
            with (
                metrics.REQUESTS_IN_PROGRESS.set_callback(lambda: {(): state.limits.requests.in_use}),
                metrics.LONG_LIVED_CONNECTIONS.set_callback(
                    lambda: {(kind,): count for kind, count in state.limits.long_lived_connections().items()}
                ),
            ):
                await _listen(runner, settings.host, settings.port)
                _tune_gc()
                yield
        finally:
            await runner.cleanup()


def _web_state(settings: Settings, installation: Installation, context: Context, notifier: Notifier) -> WebState:
    share = settings.application_share
    limits = WebLimits(
        max_body=settings.max_body,
        requests=RequestLimiter(settings.max_concurrent_requests),
        imports=StreamLimiter("NDJSON streams", settings.max_concurrent_imports, share),
        log_streams=StreamLimiter("live streams of the log", settings.max_concurrent_log_streams, share),
        live_channels=StreamLimiter("live channels and long polls", settings.max_concurrent_live_channels, share),
        address_buckets=AddressBuckets("address", settings.address_per_minute),
        key_buckets=TokenBuckets("key", settings.key_per_minute),
        publishable_key_buckets=SharedBuckets("key", settings.key_per_minute),
        new_device_address_buckets=AddressBuckets("new devices", settings.new_devices_per_address),
        new_device_buckets=SharedBuckets("new devices", settings.new_devices_per_minute),
        inbox_buckets=TokenBuckets("inbox", settings.inbox_per_minute),
    )
    return WebState.create(
        context,
        notifier,
        admin_token=installation.admin_token,
        limits=limits,
        client_addresses=ClientAddressResolver(settings.proxies),
        map_tiles=settings.map_tiles,
    )


@asynccontextmanager
async def _metrics_server(settings: Settings) -> AsyncIterator[None]:
    """Serve `/metrics` and `/healthz` on a port of their own, if one is set."""
    if settings.metrics_port is None:
        yield
        return
    raise_descriptor_limit()
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
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotStart(f"cannot listen on {host}:{port}: {reason}; choose another with {setting}") from None
    log.info("web.listening", host=host, port=port)


# The worker, with jobs from the database or from the broker.


async def _run_worker(
    settings: Settings, installation: Installation | None, breakers: BreakerDirectory, stop: asyncio.Event
) -> None:
    if settings.nats_servers:
        await _run_broker_worker(settings, installation, breakers, stop)
        return
    if installation is None:
        installation = await asyncio.to_thread(find_installation, settings)
    async with (
        _open_database(settings, installation) as (context, notifier),
        PushClient(settings.push_ca, must_check_address=context.policy.is_wildcard_only) as client,
    ):
        renderers = RendererCache(context.keyring, context.public_url)
        worker = Worker(
            PostgresQueue(context.engine, notifier, context.urgent_engine),
            DatabaseBackend(context, renderers, notifier),
            renderers,
            PushSender(client, context.keyring, context.policy),
            _worker_config(settings),
        )
        with breakers.add_source(worker):
            async with _background_tasks(settings, context, notifier, stop):
                await worker.run(stop)


async def _run_broker_worker(
    settings: Settings, installation: Installation | None, breakers: BreakerDirectory, stop: asyncio.Event
) -> None:
    """Run a worker without a database: the broker's jobs contain what is needed to send them."""
    master_key = installation.master_key if installation is not None else _master_key(settings)
    try:
        keyring, policy = Keyring(master_key, *settings.retired_keys), EndpointPolicy(settings.push_hosts)
    except ValueError as error:
        raise CannotStart(str(error)) from None
    async with (
        _connect_broker(settings) as broker,
        PushClient(settings.push_ca, must_check_address=policy.is_wildcard_only) as client,
        NatsQueue(broker) as queue,
    ):
        renderers = RendererCache(keyring, settings.public_url)
        worker = Worker(
            queue,
            BrokerBackend(broker, queue),
            renderers,
            PushSender(client, keyring, policy),
            _worker_config(settings),
        )
        _tune_gc()
        with breakers.add_source(worker):
            await worker.run(stop)


def _worker_config(settings: Settings) -> WorkerConfig:
    return WorkerConfig(
        senders=settings.worker_concurrency,
        urgent_senders=settings.worker_urgent_concurrency,
        jobs=settings.worker_jobs,
        urgent_jobs=settings.worker_urgent_jobs,
        lanes=tuple(Lane.from_label(label) for label in settings.lanes),
        lease=timedelta(seconds=settings.lease),
        drain=timedelta(seconds=settings.drain),
    )


# The relay and the broker.


async def _run_relay(settings: Settings, installation: Installation, stop: asyncio.Event) -> None:
    async with (
        _open_database(settings, installation) as (context, notifier),
        _connect_broker(settings) as broker,
        _background_tasks(settings, context, notifier, stop),
    ):
        await _prepare_streams(context, broker)
        await Relay(context, broker, notifier, timedelta(seconds=settings.lease)).run(stop)


@asynccontextmanager
async def _connect_broker(settings: Settings) -> AsyncIterator[Broker]:
    """Connect to NATS. Raise CannotStart if that fails, and later if the connection ends and cannot be restored."""
    async with AsyncExitStack() as stack:
        try:
            broker = await stack.enter_async_context(Broker.connect(settings.nats_servers, ca=settings.queue_ca))
        except (BrokerUnavailable, BrokerIncompatible) as error:
            raise CannotStart(f"GATEWAY_QUEUE: {error}") from None
        group = await stack.enter_async_context(asyncio.TaskGroup())
        watcher = group.create_task(_raise_when_closed(broker))
        yield broker
        watcher.cancel()


async def _raise_when_closed(broker: Broker) -> None:
    """Raise CannotStart when the connection ends for good: the process exits, and its supervisor restarts it."""
    raise CannotStart(f"GATEWAY_QUEUE: the connection has ended: {await broker.connection.wait_until_closed()}")


async def _prepare_streams(context: Context, broker: Broker) -> None:
    """Create the streams of the broker. Raise CannotStart if that fails."""
    for attempts_left in range(MAX_PREPARE_ATTEMPTS, 0, -1):
        try:
            await prepare(context.engine, broker)
            return
        except APIError as error:
            raise CannotStart(f"GATEWAY_QUEUE: NATS refuses to create the streams: {error.description}") from None
        except BrokerUnavailable as error:
            if attempts_left == 1:
                raise CannotStart(
                    f"GATEWAY_QUEUE: the streams cannot be created: {error}; is JetStream enabled?"
                ) from None


# The components that the roles share.


@asynccontextmanager
async def open_context(
    settings: Settings,
    installation: Installation,
    breakers: BreakerDirectory | None = None,
    *,
    statement_timeout_s: float | None = None,
) -> AsyncIterator[Context]:
    """Open the connection pools and build the service context.

    A part of the connections is reserved for urgent work. `statement_timeout_s` limits every statement.

    Raises:
        CannotStart: a setting is not valid.
    """
    try:
        sizes, url = divide_pool(settings.database_pool), installation.database_url
        engine = open_engine(url, pool_size=sizes.general, statement_timeout_s=statement_timeout_s)
        urgent_engine = open_engine(url, pool_size=sizes.urgent, statement_timeout_s=statement_timeout_s)
        keyring = Keyring(installation.master_key, *settings.retired_keys)
        policy = EndpointPolicy(settings.push_hosts)
        outbound = OutboundPolicy(settings.outbound_hosts)
    except ValueError as error:
        raise CannotStart(str(error)) from None
    limit: metrics.Reading = {(): settings.database_pool}
    helpers = HelperProcesses()
    try:
        with (
            metrics.POOL.set_callback(lambda: _count_by_state(engine)),
            metrics.POOL.set_callback(lambda: _count_by_state(urgent_engine)),
            metrics.POOL_LIMIT.set_callback(lambda: limit),
        ):
            yield Context(
                engine,
                keyring,
                policy,
                settings.public_url,
                outbound,
                breakers or BreakerDirectory(),
                settings.max_attributes,
                urgent_engine,
                settings.application_share,
                helpers,
            )
    finally:
        await helpers.close()
        await engine.dispose()
        await urgent_engine.dispose()


def _count_by_state(engine: Engine) -> metrics.Reading:
    return {(state,): count for state, count in count_connections(engine).items()}


@asynccontextmanager
async def _open_database(
    settings: Settings,
    installation: Installation,
    breakers: BreakerDirectory | None = None,
    *,
    statement_timeout_s: float | None = None,
) -> AsyncIterator[tuple[Context, Notifier]]:
    """Open the context and the notifier, check the database, and synchronise the clock with that of the database."""
    url = installation.database_url
    opened = open_context(settings, installation, breakers, statement_timeout_s=statement_timeout_s)
    async with opened as context, Notifier(url).running() as notifier:
        await _check_database(context, url)
        await clock_sync.sync_clock(context.engine)
        clock_task = asyncio.create_task(clock_sync.sync_forever(context.engine), name="clock-sync")
        try:
            yield context, notifier
        finally:
            clock_task.cancel()


async def _check_database(context: Context, url: str) -> None:
    """Check that the database has all migrations and that the master key decrypts its secrets.

    Raises:
        CannotStart: a migration is missing.
        DecryptionFailed: the master key is not the one of this database.
    """
    async with context.engine.connect() as conn:
        if not await migrate.is_current(conn, url):
            raise CannotStart("the database is older than this version of the gateway: run `gateway migrate`")
        await key_rotation.check(conn, context.keyring)


@asynccontextmanager
async def _background_tasks(
    settings: Settings, context: Context, notifier: Notifier, stop: asyncio.Event
) -> AsyncIterator[None]:
    """Run maintenance, webhook dispatch and feed polling until the context ends."""
    policy = retention_policy(settings)
    _tune_gc()
    async with context.engine.begin() as conn:
        if await outbox.rebase_restored_outbox(conn):
            log.warning("webhooks.restored", advice="some events may be delivered twice")
    await maintenance.run_once(context.engine, policy)  # today's partitions must exist before the first message
    async with OutboundClient(context.outbound) as outbound, asyncio.TaskGroup() as group:
        maintenance_task = group.create_task(maintenance.run_forever(context.engine, policy))
        group.create_task(WebhookDispatcher(context, notifier, outbound).run(stop))
        group.create_task(FeedPoller(context, notifier, outbound).run(stop))
        yield
        maintenance_task.cancel()


def retention_policy(settings: Settings) -> RetentionPolicy:
    """Return the retention periods of the settings."""
    return RetentionPolicy(
        log=timedelta(days=settings.retention_days),
        gone_devices=timedelta(days=settings.gone_devices_days),
        idempotency=timedelta(hours=settings.idempotency_hours),
        audit=timedelta(days=settings.audit_days),
    )


@asynccontextmanager
async def _simulator(sim: Sim) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(sim)
        except OSError as error:
            raise CannotStart(f"the local push service cannot listen on port {sim.port}: {error.strerror}") from None
        sim.behave(*DEMO)
        yield


def _tune_gc() -> None:
    """Let the garbage collector run less often, and ignore the objects that exist now.

    Objects that were created at start-up live as long as the process. Those of a request or a delivery are freed by
    reference counting. With the default threshold, the search for cycles would cost a delivery as much as its log
    entry, and a request most of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
