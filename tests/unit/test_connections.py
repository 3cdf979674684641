"""The table of open connections: which one is closed when there are too many."""

from dataclasses import dataclass
from itertools import count
from typing import Any

from gateway.web.http.connections import ConnectionTable

LIMIT = 40
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


def slow_table(**options: Any) -> ConnectionTable:
    """Return a table in which a second passes between two connections."""
    seconds = count()
    return ConnectionTable(LIMIT, clock=lambda: float(next(seconds)), **options)


def count_closed(connections: list[Connection]) -> int:
    return sum(connection.closed for connection in connections)


def test_address_loses_its_longest_silent_connections() -> None:
    """A flood from one address closes that address's own connections, the oldest first."""
    table = slow_table()
    [other] = open_connections(table, "198.51.100.2", 1)
    flood = open_connections(table, "198.51.100.1", 30)
    assert [connection.closed for connection in flood] == [True] * 20 + [False] * ADDRESS_LIMIT
    assert not other.closed
    assert len(table) == ADDRESS_LIMIT + 1


def test_connection_with_a_request_is_never_closed() -> None:
    """Only connections without a request in progress are charged."""
    table = slow_table()
    [busy] = open_connections(table, "198.51.100.1", 1)
    table.begin_request(busy)
    flood = open_connections(table, "198.51.100.1", 30)
    assert not busy.closed
    assert count_closed(flood) == 20


def test_kept_alive_connection_outlives_silent_ones() -> None:
    """A client may be sending its next request on a connection that is kept alive."""
    table = slow_table()
    [idle] = open_connections(table, "198.51.100.1", 1)
    table.begin_request(idle)
    table.end_request(idle)
    open_connections(table, "198.51.100.1", 30)
    assert not idle.closed


def test_full_table_closes_one_of_the_greediest_address() -> None:
    """At the limit of the process, the address with most silent connections loses one."""
    table = slow_table()
    flood = open_connections(table, "198.51.100.1", ADDRESS_LIMIT)
    others = [open_connections(table, f"203.0.113.{number}", 5) for number in range(7)]
    assert len(table) == LIMIT
    assert count_closed(flood) == 5
    assert not any(count_closed(connections) for connections in others)


def test_burst_of_new_connections_is_served() -> None:
    """Connections that have just been opened count towards the limit of the process only."""
    table = ConnectionTable(LIMIT, clock=lambda: 0.0)
    burst = open_connections(table, "198.51.100.1", LIMIT)
    assert not count_closed(burst)
    open_connections(table, "198.51.100.1", 1)
    assert count_closed(burst) == 1


def test_proxy_has_no_limit_of_its_own() -> None:
    """The connections of a trusted proxy carry the requests of many clients."""
    table = slow_table(is_proxy=lambda peer: peer == "10.0.0.1")
    proxied = open_connections(table, "10.0.0.1", LIMIT)
    assert not count_closed(proxied)
    open_connections(table, "10.0.0.1", 1)
    assert count_closed(proxied) == 1


def test_new_connection_is_refused_when_all_are_busy() -> None:
    """Without a silent connection the new one is closed."""
    table = slow_table()
    for connection in open_connections(table, "198.51.100.1", ADDRESS_LIMIT):
        table.begin_request(connection)
    for number in range(LIMIT - ADDRESS_LIMIT):
        [connection] = open_connections(table, f"203.0.113.{number}", 1)
        table.begin_request(connection)
    [refused] = open_connections(table, "192.0.2.1", 1)
    assert refused.closed
    assert len(table) == LIMIT
