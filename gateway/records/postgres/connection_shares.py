"""Divide the database connections of a server among applications and kinds of work.

Work takes a slot before it takes a connection, and holds no connection while it waits for a slot. Slots are charged to
the application of the work, in total and by kind. So the slow previews of an application, or its many requests, use up
only its own share. Applications that wait get free slots in turn. Urgent work (alerts, urgent notifications) has
reserved connections.

Each kind of work has a time limit for statements, which bounds the time that a slot can be occupied.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from gateway.domain.database_work import ALERT, LIVE, LOOKUP, STATEMENT_TIMEOUT_S, URGENT, WorkKind
from gateway.domain.errors import ShareExhausted, StatementTimeout

# SQLSTATE of a statement that exceeded its time limit.
QUERY_CANCELLED = "57014"


class PoolSizes(NamedTuple):
    """The division of a pool: connections for requests, open pages, lookups and urgent work."""

    requests: int
    live: int
    lookups: int
    urgent: int

    @property
    def general(self) -> int:
        """The connections that are not reserved for urgent work."""
        return self.requests + self.live + self.lookups


def divide_pool(connections: int) -> PoolSizes:
    """Divide a number of connections, at least 5."""
    live, urgent = max(1, connections // 5), max(2, connections // 5)
    return PoolSizes(max(1, connections - live - urgent - 1), live, 1, urgent)


class _Gate:
    """A number of slots, which are charged per key (an application) and kind of work, as the module docstring says."""

    def __init__(self, slots: int, key_limit: int) -> None:
        """Create a gate; `key_limit` is the number of slots that one key may occupy in total."""
        self._slots = slots
        self._key_limit = max(1, key_limit)
        self._in_use = 0
        self._by_kind = Counter[WorkKind]()
        self._by_key = Counter[Hashable]()
        self._by_both = Counter[tuple[WorkKind, Hashable]]()
        # Waiting work by key, in the order in which the keys get free slots.
        self._waiting: OrderedDict[Hashable, deque[tuple[WorkKind, asyncio.Future[None]]]] = OrderedDict()

    def holds(self, kind: WorkKind, key: Hashable) -> bool:
        """Return whether a key occupies a slot with work of this kind."""
        return self._by_both[kind, key] > 0

    def try_acquire(self, kind: WorkKind, key: Hashable) -> bool:
        """Take a slot if one is free for the key and the kind of work; return whether a slot was taken."""
        if not self._has_slot(kind, key):
            return False
        self._occupy(kind, key)
        return True

    async def acquire(self, kind: WorkKind, key: Hashable) -> None:
        """Wait for a free slot and take it.

        Raises:
            ShareExhausted: no slot became free in time, or too much work of the key is waiting.
        """
        if self.try_acquire(kind, key):
            return
        waiting = self._waiting.setdefault(key, deque())
        if len(waiting) >= kind.max_waiting:
            raise self._refusal(kind, key)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((kind, turn))
        try:
            async with asyncio.timeout(kind.max_wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.release(kind, key)  # the slot was assigned just when the wait timed out or was cancelled
            else:
                waiting.remove((kind, turn))
                if not waiting and self._waiting.get(key) is waiting:
                    del self._waiting[key]
            if isinstance(error, TimeoutError):
                raise self._refusal(kind, key) from None
            raise

    def release(self, kind: WorkKind, key: Hashable) -> None:
        """Release a slot, and assign free slots to waiting work that may take them."""
        self._in_use -= 1
        self._by_kind[kind] -= 1
        self._by_key[key] -= 1
        self._by_both[kind, key] -= 1
        if not self._by_both[kind, key]:
            del self._by_both[kind, key]
        if not self._by_key[key]:
            del self._by_key[key]
        for next_key, waiting in list(self._waiting.items()):
            for entry in waiting:
                next_kind, turn = entry
                if not turn.done() and self._has_slot(next_kind, next_key):
                    self._occupy(next_kind, next_key)
                    turn.set_result(None)
                    waiting.remove(entry)
                    self._waiting.move_to_end(next_key)
                    if not waiting:
                        del self._waiting[next_key]
                    break
            if self._in_use >= self._slots:
                break

    def _has_slot(self, kind: WorkKind, key: Hashable) -> bool:
        return (
            self._in_use < self._slots
            and self._by_kind[kind] < self._limit(kind.share)
            and self._by_key[key] < self._key_limit
            and self._by_both[kind, key] < self._limit(kind.application_share)
        )

    def _limit(self, share: int) -> int:
        return max(1, self._slots * share // 100)

    def _occupy(self, kind: WorkKind, key: Hashable) -> None:
        self._in_use += 1
        self._by_kind[kind] += 1
        self._by_key[key] += 1
        self._by_both[kind, key] += 1

    def _refusal(self, kind: WorkKind, key: Hashable) -> ShareExhausted:
        kind_limit = min(self._key_limit, self._limit(kind.application_share))
        if self._by_both[kind, key] >= kind_limit or self._by_key[key] >= self._key_limit:
            return ShareExhausted(f"the application has its share of database connections in use for {kind.name}")
        return ShareExhausted(f"all database connections for {kind.name} are in use on this server")


class ConnectionShare:
    """The share of one key, such as an application's id, in the connections for one kind of work."""

    def __init__(self, shares: "ConnectionShares", kind: WorkKind, key: Hashable) -> None:
        """Create the share. It takes no slot until `begin` or `connect`."""
        self._shares = shares
        self._kind = kind
        self._key = key

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction on a connection of the share; it commits when the context ends.

        Raises:
            ShareExhausted: the share is in use.
            StatementTimeout: a statement exceeded the time limit of the kind of work.
        """
        timeout_s = self._kind.statement_timeout_s
        async with self._shares.reserve(self._kind, self._key) as engine:
            try:
                async with engine.begin() as conn:
                    if timeout_s is not None:
                        await conn.execute(text(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}"))
                    yield conn
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != QUERY_CANCELLED:
                    raise
                limit_s = STATEMENT_TIMEOUT_S if timeout_s is None else timeout_s
                raise StatementTimeout(
                    f"a query took longer than the {limit_s:g} s of database time for {self._kind.name}"
                ) from None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection of the share in autocommit mode, for single statements.

        Raises:
            ShareExhausted: the share is in use.
        """
        async with self._shares.reserve(self._kind, self._key) as engine, engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")


class ConnectionShares:
    """The database connections of one server process, charged per application and kind of work."""

    def __init__(
        self, engine: AsyncEngine, urgent_engine: AsyncEngine | None = None, *, application_share: int = 50
    ) -> None:
        """Divide the pools of the engines.

        Args:
            engine: the connections for everything but urgent work.
            urgent_engine: the connections for urgent work; None takes them from `engine`.
            application_share: the percentage of the connections for requests that one application may use.
        """
        pool_size = count_pool(engine)
        sizes = divide_pool(pool_size + (0 if urgent_engine is None else count_pool(urgent_engine)))
        self._engine = engine
        self._urgent_engine = urgent_engine or engine
        self._requests = _Gate(sizes.requests, sizes.requests * application_share // 100)
        self._live = _Gate(sizes.live, sizes.live)
        self._lookups = _Gate(sizes.lookups, sizes.lookups)
        self._urgent = _Gate(sizes.urgent, sizes.urgent - 1)  # one application cannot take all slots

    def share(self, kind: WorkKind, key: Hashable) -> ConnectionShare:
        """Return the share of a key, such as an application's id, for a kind of work."""
        return ConnectionShare(self, kind, key)

    @asynccontextmanager
    async def reserve(self, kind: WorkKind, key: Hashable) -> AsyncIterator[AsyncEngine]:
        """Take a slot until the context ends; yield the engine whose pool has a connection for the slot.

        Raises:
            ShareExhausted: the share is in use.
        """
        gate, engine = await self._acquire(kind, key)
        try:
            yield engine
        finally:
            gate.release(kind, key)

    async def _acquire(self, kind: WorkKind, key: Hashable) -> tuple[_Gate, AsyncEngine]:
        """Take a slot for a kind of work; return the gate of the slot, and the engine with its connection.

        Urgent work may also take free slots for requests, except for a second alert of an application at a time.
        """
        if kind not in (URGENT, ALERT):
            gate = {LIVE: self._live, LOOKUP: self._lookups}.get(kind, self._requests)
            await gate.acquire(kind, key)
            return gate, self._engine
        has_alert = kind == ALERT and (self._urgent.holds(kind, key) or self._requests.holds(kind, key))
        if not has_alert and self._urgent.try_acquire(kind, key):
            return self._urgent, self._urgent_engine
        if not has_alert and self._requests.try_acquire(kind, key):
            return self._requests, self._engine
        await self._urgent.acquire(kind, key)
        return self._urgent, self._urgent_engine


def count_pool(engine: AsyncEngine) -> int:
    """Return the size of an engine's pool."""
    return cast(AsyncAdaptedQueuePool, engine.pool).size()
