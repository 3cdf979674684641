"""Keep the number of open connections below the limit of file descriptors, whichever client opens them.

A connection without a request in progress costs its client nothing, but the server a file descriptor. The number of
such connections is limited for each client address. At the limit of the process, a connection of the address that has
the most of them is closed. A connection that has sent no request yet is closed before a connection that is kept alive
between requests, since a client may be sending its next request on a connection that is kept alive.
"""

import resource
import time
from collections.abc import Callable
from typing import Protocol

from gateway.web.http.client_address import rate_limit_key

# File descriptors that are reserved for other purposes than clients' connections (the listening socket, the database,
# push services, files): a minimum number, and a fraction of the limit.
MIN_RESERVED_DESCRIPTORS = 96
RESERVED_FRACTION = 0.2
# Maximum number of connections, also if the operating system sets no limit of file descriptors.
MAX_CONNECTIONS = 1_000_000
# The fraction of the maximum number of connections that one address may have open without a request in progress.
ADDRESS_FRACTION = 0.25
# A connection that is younger than this is closed only when the whole table is full: its request may be on the way.
MIN_AGE_S = 1.0


class Closable(Protocol):
    """The interface of a connection for the table."""

    def force_close(self) -> None:
        """Close the connection at once."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors to the hard limit: every connection takes one."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def connection_limit() -> int:
    """Return the number of connections that fit into this process's limit of file descriptors."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, limit - max(MIN_RESERVED_DESCRIPTORS, int(limit * RESERVED_FRACTION))))


class ConnectionTable:
    """The open connections of one server.

    Connections are charged to client addresses. Connections from trusted proxies are not charged, since each of them
    carries the requests of many clients.
    """

    def __init__(
        self,
        limit: int | None = None,
        is_proxy: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty table.

        Args:
            limit: the maximum number of connections; None derives it from the limit of file descriptors.
            is_proxy: returns whether an address is that of a trusted proxy.
            clock: returns the time in seconds.
        """
        self._clock = clock
        self._limit = connection_limit() if limit is None else limit
        self._address_limit = max(1, int(self._limit * ADDRESS_FRACTION))
        self._is_proxy = is_proxy
        self._addresses: dict[Closable, str] = {}
        # By address, the connections without a request in progress, with the time since when they are silent, oldest
        # first. `_silent` has those that have sent no request yet, `_kept_alive` those that are kept alive.
        self._silent: dict[str, dict[Closable, float]] = {}
        self._kept_alive: dict[str, dict[Closable, float]] = {}

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._addresses)

    def add(self, connection: Closable, peer: str) -> None:
        """Add a new connection from an IP address. If there are too many, closes one of them, perhaps the new one."""
        address = rate_limit_key(peer)
        self._addresses[connection] = address
        self._silent.setdefault(address, {})[connection] = self._clock()
        if len(self._addresses) > self._limit:
            self._close_one(max({*self._silent, *self._kept_alive}, key=self._count), 0)
        elif self._count(address) > self._address_limit and not self._is_proxy(peer):
            self._close_one(address, MIN_AGE_S)

    def begin_request(self, connection: Closable) -> None:
        """Record that a connection has a request in progress."""
        if (address := self._addresses.get(connection)) is not None:
            _discard(self._silent, address, connection)
            _discard(self._kept_alive, address, connection)

    def end_request(self, connection: Closable) -> None:
        """Record that a connection is kept alive for its next request."""
        if (address := self._addresses.get(connection)) is not None:
            self._kept_alive.setdefault(address, {})[connection] = self._clock()

    def remove(self, connection: Closable) -> None:
        """Remove a closed connection."""
        self.begin_request(connection)
        self._addresses.pop(connection, None)

    def _count(self, address: str) -> int:
        return len(self._silent.get(address, ())) + len(self._kept_alive.get(address, ()))

    def _close_one(self, address: str, min_age: float) -> None:
        """Close the longest silent connection of an address, if it has been silent for `min_age` seconds."""
        for connections in (self._silent.get(address), self._kept_alive.get(address)):
            if not connections:
                continue
            connection, silent_since = next(iter(connections.items()))
            if self._clock() - silent_since >= min_age:
                self.remove(connection)
                connection.force_close()
                return


def _discard(table: dict[str, dict[Closable, float]], address: str, connection: Closable) -> None:
    if (connections := table.get(address)) is not None:
        connections.pop(connection, None)
        if not connections:
            del table[address]
