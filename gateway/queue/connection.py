"""The connection to the NATS broker.

The first connection must succeed within a time limit; a lost connection is re-established without one. The NATS client
alone would retry the first connection for ever without a reason, and after some errors of the server it would stay
closed and not report that. Error messages never contain the credentials, which are before the `@` of a server URL.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import nats.errors
import structlog
from nats.aio.client import Client

from gateway.domain.json_object import JsonObject

# Oldest version of the NATS server that the gateway supports.
MIN_SERVER_VERSION = (2, 10)
# Default time limit of the first connection.
CONNECT_TIMEOUT = timedelta(seconds=10)
# Time limit for connecting to one server.
SERVER_TIMEOUT_S = 2
# Pause between two attempts to re-establish a lost connection.
RECONNECT_INTERVAL_S = 0.25
# When a server does not respond to two pings, the client gives up the connection to it.
PING_INTERVAL_S = 10
# Interval between two checks whether the connection has ended.
POLL_INTERVAL_S = 0.5

T = TypeVar("T")
log = structlog.get_logger(__name__)


class BrokerUnavailable(ConnectionError):
    """The broker does not respond, for example while its cluster elects a leader."""


class BrokerIncompatible(Exception):
    """The broker responds, but cannot be used: it refuses the credentials, or is too old. Retrying does not help."""


class BrokerConnection:
    """An established connection, which the client re-establishes when it is lost."""

    def __init__(self, client: Client, errors: "_ErrorTracker") -> None:
        """Wrap a connected client."""
        self.client = client
        self._errors = errors

    async def wait_until_closed(self, timeout: timedelta = CONNECT_TIMEOUT) -> str:
        """Wait until the connection has ended for good, and return the reason.

        The connection has ended for good if the client has closed it, as after some errors of the server, or if the
        servers have refused the credentials for as long as `timeout`.
        """
        loop = asyncio.get_running_loop()
        while not self.client.is_closed:
            if self._errors.refusal and loop.time() - self._errors.refused_at > timeout.total_seconds():
                return self._errors.refusal
            await asyncio.sleep(POLL_INTERVAL_S)  # if closing fails, the client does not call its callback
        return "it was closed" if self.client.last_error is None else _cause(self.client.last_error)


@asynccontextmanager
async def connect(
    servers: Sequence[str], *, ca: Path | None = None, timeout: timedelta = CONNECT_TIMEOUT
) -> AsyncIterator["BrokerConnection"]:
    """Connect to one of the servers.

    Args:
        servers: URLs, with credentials if needed.
        ca: a file of CA certificates to trust in addition to the system's.
        timeout: time limit for the first connection.

    Raises:
        BrokerUnavailable: no server responds within `timeout`.
        BrokerIncompatible: a server refuses the credentials or is too old, or `ca` has no certificate.
    """
    client, hosts, errors = _Client(servers), format_hosts(servers), _ErrorTracker()
    try:
        tls = _tls_context(ca)
    except ssl.SSLError:
        raise BrokerIncompatible(f"there is no certificate in {ca}") from None
    connecting = asyncio.ensure_future(
        client.connect(
            list(servers),
            name="webpush-gateway",
            **_credentials(servers),
            tls=tls,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_INTERVAL_S,  # type: ignore[arg-type] # only used for asyncio.sleep
            connect_timeout=SERVER_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            error_cb=errors.record,
            reconnected_cb=errors.clear,
        )
    )
    try:
        refused = asyncio.ensure_future(errors.refused.wait())
        await asyncio.wait({connecting, refused}, timeout=timeout.total_seconds(), return_when="FIRST_COMPLETED")
        refused.cancel()
        if not connecting.done():
            connecting.cancel()
            if errors.refusal:
                raise BrokerIncompatible(f"NATS at {hosts} refuses the user or password: {errors.refusal}")
            raise BrokerUnavailable(f"no NATS server responds at {hosts}: {errors.last}")
        version = client.connected_server_version
        if (version.major, version.minor) < MIN_SERVER_VERSION:
            minimum = ".".join(map(str, MIN_SERVER_VERSION))
            raise BrokerIncompatible(
                f"NATS at {hosts} is {version.major}.{version.minor}; it must be {minimum} or newer"
            )
        yield BrokerConnection(client, errors)
    finally:
        connecting.cancel()
        # uvloop raises RuntimeError when a connection ended before all data was written.
        with suppress(nats.errors.Error, OSError, TimeoutError, RuntimeError):
            await client.close()


async def cancellable(request: Awaitable[T]) -> T:
    """Await a request of the NATS client so that a cancellation is not lost.

    The client waits with `asyncio.wait_for`, which may swallow a cancellation in CPython 3.11.
    """
    task = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # Retrieve the exception of the abandoned task; otherwise asyncio logs it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        task.cancel()
        raise


def format_hosts(servers: Sequence[str]) -> str:
    """Return the hosts and ports of server URLs, without credentials."""
    return ",".join(server.rpartition("@")[2].rpartition("/")[2] for server in servers)


class _Client(Client):
    """A client that sends no credentials to a server without TLS if a URL begins with `tls://`.

    The library itself would send the password unencrypted.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        super().__init__()
        self._requires_tls = any(urlsplit(server).scheme == "tls" for server in servers)

    def _connect_command(self) -> bytes:
        if self._requires_tls and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()


class _ErrorTracker:
    """Stores the last connection error, and logs an error only if it differs from the previous one.

    The client retries several times a second, so most errors are repetitions.
    """

    def __init__(self) -> None:
        self.last = "it does not respond"
        self.refused = asyncio.Event()
        self.refusal = ""
        self.refused_at = 0.0
        self._logged = ""

    async def record(self, error: Exception) -> None:
        self.last = _cause(error)
        if self.last != self._logged:
            self._logged = self.last
            log.warning("broker.error", error=type(error).__name__, cause=self.last)
        if not self.refusal and isinstance(error, nats.errors.Error) and "authorization" in self.last.lower():
            self.refusal, self.refused_at = self.last, asyncio.get_running_loop().time()
            self.refused.set()

    async def clear(self) -> None:
        self.refusal = self._logged = ""
        log.info("broker.reconnected")


def _credentials(servers: Sequence[str]) -> JsonObject:
    """Return the first credentials in the URLs. The client uses them for all servers, including discovered ones."""
    for parts in map(urlsplit, servers):
        if parts.username and parts.password is not None:
            return {"user": unquote(parts.username), "password": unquote(parts.password)}
        if parts.username:
            return {"token": unquote(parts.username)}
    return {}


def _tls_context(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        context.load_verify_locations(ca)
    return context


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it does not respond"
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or str(error) or type(error).__name__).removeprefix("nats: ").strip("'")
