"""The connection to the broker: made within bounded time, and once it was there made again for as long as it takes.

The client by itself would try for ever from the start, say nothing of why, and stay closed without a word after some
of a server's refusals. No message here repeats what stands before the `@` of an address.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import nats.errors
import structlog
from nats.aio.client import Client

MIN_SERVER_VERSION = (2, 10)
PATIENCE = timedelta(seconds=10)
CONNECT_S = 2
AGAIN_S = 0.25
PING_S = 10
"""A server that leaves two of them unanswered is gone, though nobody closed the connection."""
LOOK_S = 0.5

T = TypeVar("T")
log = structlog.get_logger(__name__)


class BrokerUnavailable(ConnectionError):
    """The broker does not answer, as while its cluster elects a leader."""


class BrokerIncompatible(Exception):
    """The broker answers, and asking again will not help: it refuses us, or is too old."""


class Connection:
    def __init__(self, client: Client, trouble: "_Trouble") -> None:
        self.client = client
        self._trouble = trouble

    async def ended(self, patience: timedelta = PATIENCE) -> str:
        """Wait until there is no use in it any more, and answer why.

        That is when the client has closed it for good, as after some of a server's errors, and when for so long all
        that answers has refused our user or password.
        """
        loop = asyncio.get_running_loop()
        while not self.client.is_closed:
            if self._trouble.refusal and loop.time() - self._trouble.refused_at > patience.total_seconds():
                return self._trouble.refusal
            await asyncio.sleep(LOOK_S)  # the client's own word for it is lost when closing fails
        return "it was closed" if self.client.last_error is None else _cause(self.client.last_error)


@asynccontextmanager
async def connected(
    servers: Sequence[str], *, ca: Path | None = None, patience: timedelta = PATIENCE
) -> AsyncIterator["Connection"]:
    """`ca`: a file of CA certificates to trust beside the usual ones.

    Raises Unavailable when no server answers within `patience`, and Unfit.
    """
    client, hosts, trouble = _Client(servers), hosts_of(servers), _Trouble()
    try:
        tls = _trusting(ca)
    except ssl.SSLError:
        raise BrokerIncompatible(f"there is no certificate in {ca}") from None
    connecting = asyncio.ensure_future(
        client.connect(
            list(servers),
            name="webpush-gateway",
            **_credentials(servers),
            tls=tls,
            max_reconnect_attempts=-1,
            reconnect_time_wait=AGAIN_S,  # type: ignore[arg-type] # it only sleeps for so long
            connect_timeout=CONNECT_S,
            ping_interval=PING_S,
            error_cb=trouble.note,
            reconnected_cb=trouble.over,
        )
    )
    try:
        refused = asyncio.ensure_future(trouble.refused.wait())
        await asyncio.wait({connecting, refused}, timeout=patience.total_seconds(), return_when="FIRST_COMPLETED")
        refused.cancel()
        if not connecting.done():
            connecting.cancel()
            if trouble.refusal:
                raise BrokerIncompatible(f"NATS at {hosts} refuses our user or password: {trouble.refusal}")
            raise BrokerUnavailable(f"no NATS server answers at {hosts}: {trouble.last}")
        version = client.connected_server_version
        if (version.major, version.minor) < MIN_SERVER_VERSION:
            oldest = ".".join(map(str, MIN_SERVER_VERSION))
            raise BrokerIncompatible(
                f"NATS at {hosts} is {version.major}.{version.minor}; it must be {oldest} or newer"
            )
        yield Connection(client, trouble)
    finally:
        connecting.cancel()
        # A RuntimeError is what uvloop has to say of a connection that ended with something still to be written.
        with suppress(nats.errors.Error, OSError, TimeoutError, RuntimeError):
            await client.close()


async def cancellable(answer: Awaitable[T]) -> T:
    """Await something of the client's, whose own waiting may swallow a cancellation (`wait_for` of CPython 3.11)."""
    waiting = asyncio.ensure_future(answer)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        waiting.add_done_callback(lambda left: left.cancelled() or left.exception())  # nobody else will ask for it
        waiting.cancel()
        raise


def hosts_of(servers: Sequence[str]) -> str:
    return ",".join(server.rpartition("@")[2].rpartition("/")[2] for server in servers)


class _Client(Client):
    """Where TLS is demanded it says nothing to a server without: by itself it would send it the password."""

    def __init__(self, servers: Sequence[str]) -> None:
        super().__init__()
        self._tls_demanded = any(urlsplit(server).scheme == "tls" for server in servers)

    def _connect_command(self) -> bytes:
        if self._tls_demanded and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()


class _Trouble:
    """Why we are not connected. Logged when it changes, since it is tried again several times a second."""

    def __init__(self) -> None:
        self.last = "it does not answer"
        self.refused = asyncio.Event()
        self.refusal = ""
        self.refused_at = 0.0
        self._logged = ""

    async def note(self, error: Exception) -> None:
        self.last = _cause(error)
        if self.last != self._logged:
            self._logged = self.last
            log.warning("broker.error", error=type(error).__name__, cause=self.last)
        if not self.refusal and isinstance(error, nats.errors.Error) and "authorization" in self.last.lower():
            self.refusal, self.refused_at = self.last, asyncio.get_running_loop().time()
            self.refused.set()

    async def over(self) -> None:
        self.refusal = self._logged = ""
        log.info("broker.reconnected")


def _credentials(servers: Sequence[str]) -> dict[str, Any]:
    """Of the first server that names them: one account is good for all, also for those a cluster tells us of."""
    for parts in map(urlsplit, servers):
        if parts.username and parts.password is not None:
            return {"user": unquote(parts.username), "password": unquote(parts.password)}
        if parts.username:
            return {"token": unquote(parts.username)}
    return {}


def _trusting(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        context.load_verify_locations(ca)
    return context


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    said = error.strerror if isinstance(error, OSError) else None
    return (said or str(error) or type(error).__name__).removeprefix("nats: ").strip("'")
