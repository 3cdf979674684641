"""The table of open connections: which one is closed when there are too many."""

from dataclasses import dataclass
from itertools import count
from typing import Any

from gateway.web.http.connections import ConnectionTable

# The limit of connections of the process.
LIMIT = 40
# The limit of silent connections of one address, which ConnectionTable derives from LIMIT.
ADDRESS_LIMIT = 10


@dataclass(eq=False)
class Connection:
    """A connection that records whether it was closed."""

    closed: bool = False

    def force_close(self) -> None:
        self.closed = True


def open_connections(table: ConnectionTable, peer: str, count: int) -> list[Connection]:
    connections = [Connection() for _ in range(count)]
    for connection in connections:
        table.add(connection, peer)
    return connections


def table_with_slow_arrivals(**options: Any) -> ConnectionTable:
    """Return a table whose clock advances by one second at each reading, so that connections arrive slowly."""
    seconds = count()
    return ConnectionTable(LIMIT, clock=lambda: float(next(seconds)), **options)


def count_closed(connections: list[Connection]) -> int:
    return sum(connection.closed for connection in connections)


def test_flooding_address_loses_its_oldest_connections() -> None:
    """30 connections from one address close 20 connections of that address, the oldest first, and none of another."""
    table = table_with_slow_arrivals()
    [other] = open_connections(table, "198.51.100.2", 1)
    flood = open_connections(table, "198.51.100.1", 30)
    assert [connection.closed for connection in flood] == [True] * 20 + [False] * ADDRESS_LIMIT
    assert not other.closed
    assert len(table) == ADDRESS_LIMIT + 1


def test_connection_with_a_request_is_never_closed() -> None:
    """Only connections without a request in progress count towards the limit of their address."""
    table = table_with_slow_arrivals()
    [busy] = open_connections(table, "198.51.100.1", 1)
    table.begin_request(busy)
    flood = open_connections(table, "198.51.100.1", 30)
    assert not busy.closed
    assert count_closed(flood) == 20


def test_kept_alive_connection_outlives_silent_ones() -> None:
    """A connection that has had a request is closed after those without one: its next request may be on the way."""
    table = table_with_slow_arrivals()
    [idle] = open_connections(table, "198.51.100.1", 1)
    table.begin_request(idle)
    table.end_request(idle)
    open_connections(table, "198.51.100.1", 30)
    assert not idle.closed


def test_full_table_closes_connection_of_top_address() -> None:
    """At the limit of the process, the address with the most silent connections loses one for each new connection."""
    table = table_with_slow_arrivals()
    flood = open_connections(table, "198.51.100.1", ADDRESS_LIMIT)
    others = [open_connections(table, f"203.0.113.{number}", 5) for number in range(7)]
    assert len(table) == LIMIT
    assert count_closed(flood) == 5
    assert not any(count_closed(connections) for connections in others)


def test_burst_of_new_connections_is_served() -> None:
    """Connections younger than MIN_AGE_S are closed only above LIMIT, not above ADDRESS_LIMIT."""
    table = ConnectionTable(LIMIT, clock=lambda: 0.0)
    burst = open_connections(table, "198.51.100.1", LIMIT)
    assert not count_closed(burst)
    open_connections(table, "198.51.100.1", 1)
    assert count_closed(burst) == 1


def test_trusted_proxy_has_no_address_limit() -> None:
    """A trusted proxy's connections carry the requests of many clients, so only the limit of the process applies."""
    table = table_with_slow_arrivals(is_proxy=lambda peer: peer == "10.0.0.1")
    proxied = open_connections(table, "10.0.0.1", LIMIT)
    assert not count_closed(proxied)
    open_connections(table, "10.0.0.1", 1)
    assert count_closed(proxied) == 1


def test_new_connection_is_refused_when_all_are_busy() -> None:
    """When every connection has a request in progress, the table closes the new connection."""
    table = table_with_slow_arrivals()
    for connection in open_connections(table, "198.51.100.1", ADDRESS_LIMIT):
        table.begin_request(connection)
    for number in range(LIMIT - ADDRESS_LIMIT):
        [connection] = open_connections(table, f"203.0.113.{number}", 1)
        table.begin_request(connection)
    [refused] = open_connections(table, "192.0.2.1", 1)
    assert refused.closed
    assert len(table) == LIMIT
