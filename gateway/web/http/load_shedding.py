"""Limit the work in progress in this process, and refuse excess requests at once.

There is no queue: a request in a queue would be answered late or never, and its body would occupy memory. A refused
request gets 503 with Retry-After (RFC 9110 section 15.6.4), or 429 when the limit that it exceeds is its sender's own.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

from gateway.domain.errors import RateLimited, Unavailable

# Header of the response to an application that has used up its share of connections.
SHARE_RETRY_AFTER = {"Retry-After": "5"}
# Limit of the total size of all request bodies in memory.
MAX_BODY_OCTETS = 64 * 1024 * 1024
# Percentage of the slots and of the memory that only credentials with the scope `send` can use.
SEND_RESERVE = 20

# The keys that a request is charged to, each with the multiple of the free amount that it may use.
Shares = Mapping[Hashable, float]


class _Slots:
    """A number of slots, shared by all requests of the process."""

    def __init__(self, limit: int, refusal: str) -> None:
        self._limit = limit
        self._refusal = refusal
        self._in_use = 0

    @property
    def in_use(self) -> int:
        """The number of slots in use."""
        return self._in_use

    def check(self) -> None:
        """Check that a slot is free; raises Unavailable when all slots are in use."""
        if self._in_use >= self._limit:
            raise Unavailable(self._refusal)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Take a slot until the context ends.

        Raises:
            Unavailable: all slots are in use.
        """
        self.check()
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1


class SharedBudget:
    """An amount, of slots or octets, that the requests of this process share.

    Charged per key: an application, a credential or a client address. A key may use a multiple of what is free. With a
    multiple of 2 a single greedy key gets two thirds, and two get two fifths each: whatever they do, other keys find
    something free. A part of the amount is reserved for credentials that send.
    """

    def __init__(self, limit: int, refusal: str) -> None:
        """Create a budget of `limit`; `refusal` is the error message when nothing is free."""
        self._limit = limit
        self._refusal = refusal
        self._in_use = 0
        self._by_key = Counter[Hashable]()

    @property
    def in_use(self) -> int:
        """The amount in use."""
        return self._in_use

    def acquire(self, shares: Shares, amount: int, *, sends: bool) -> None:
        """Take an amount and charge it to the keys; `sends` requests may use the reserve.

        Raises:
            RateLimited: a key has its share.
            Unavailable: nothing is free.
        """
        limit = self._limit if sends else self._limit - self._limit * SEND_RESERVE // 100
        if self._in_use + amount > limit:
            raise Unavailable(self._refusal)
        free = limit - self._in_use
        for key, multiple in shares.items():
            if self._by_key[key] + amount > multiple * free:
                raise RateLimited("too many requests of this client are in progress", SHARE_RETRY_AFTER)
        self._in_use += amount
        for key in shares:
            self._by_key[key] += amount

    def release(self, shares: Shares, amount: int) -> None:
        """Release an amount that was taken with the same keys."""
        self._in_use -= amount
        for key in shares:
            self._by_key[key] -= amount
            if not self._by_key[key]:
                del self._by_key[key]

    @contextmanager
    def slot(self, shares: Shares, *, sends: bool = False) -> Iterator[None]:
        """Take one until the context ends.

        Raises:
            RateLimited: a key has its share.
            Unavailable: nothing is free.
        """
        self.acquire(shares, 1, sends=sends)
        try:
            yield
        finally:
            self.release(shares, 1)


class RequestLimiter:
    """Limits the requests in progress in this process, and the memory of their bodies.

    Both are charged to the keys that the caller names; see `SharedBudget`.
    """

    def __init__(self, limit: int, max_octets: int = MAX_BODY_OCTETS) -> None:
        """Create a limiter of `limit` requests and `max_octets` of bodies. Long polls that wait occupy no slot."""
        self._slots = SharedBudget(limit, "too many requests are in progress on this server; try again shortly")
        self._octets = SharedBudget(
            max_octets, "the request bodies in progress exceed this server's memory limit; try again shortly"
        )

    @property
    def in_use(self) -> int:
        """The number of requests in progress."""
        return self._slots.in_use

    @property
    def octets_in_use(self) -> int:
        """The memory that request bodies occupy."""
        return self._octets.in_use

    def slot(self, shares: Shares, *, sends: bool) -> AbstractContextManager[None]:
        """Return a context that occupies a slot; entering it raises RateLimited or Unavailable."""
        return self._slots.slot(shares, sends=sends)

    @contextmanager
    def body(self, shares: Shares, *, sends: bool) -> Iterator[Callable[[int], None]]:
        """Reserve memory for one body until the context ends; call the yielded function with each chunk's length.

        Raises:
            RateLimited: from the yielded function, when a key has its share of the memory.
            Unavailable: from the yielded function, when all bodies together exceed the memory limit.
        """
        reserved = 0

        def reserve(octets: int) -> None:
            nonlocal reserved
            self._octets.acquire(shares, octets, sends=sends)
            reserved += octets

        try:
            yield reserve
        finally:
            self._octets.release(shares, reserved)


class StreamLimiter(_Slots):
    """Limits long-lived connections of one kind. They take no slots of the request limiter.

    Charged per process and per application. An application may have only a share of the slots, so it cannot use up all
    of them.
    """

    def __init__(self, kind: str, limit: int, share: int = 50) -> None:
        """Create a limiter.

        Args:
            kind: plural noun for the connections, for error messages.
            limit: the maximum number of connections in this process.
            share: the percentage of the limit that one application may have.
        """
        super().__init__(limit, f"{limit} {kind} are open on this server; try again shortly")
        self._kind = kind
        self._application_limit = max(1, limit * share // 100)
        self._by_application = Counter[UUID]()

    @contextmanager
    def share(self, application_id: UUID) -> Iterator[None]:
        """Count a connection towards its application until the context ends, without taking a slot.

        Raises:
            RateLimited: the application has used up its share of connections.
        """
        if self._by_application[application_id] >= self._application_limit:
            detail = (
                f"the application has {self._application_limit} {self._kind} open on this server; try again shortly"
            )
            raise RateLimited(detail, SHARE_RETRY_AFTER)
        self._by_application[application_id] += 1
        try:
            yield
        finally:
            self._by_application[application_id] -= 1
            if not self._by_application[application_id]:
                del self._by_application[application_id]

    @contextmanager
    def slot_of(self, application_id: UUID) -> Iterator[None]:
        """Take a slot, and count it towards the application, until the context ends.

        Raises:
            RateLimited: the application has used up its share of connections.
            Unavailable: all slots are in use.
        """
        with self.share(application_id), self.slot():
            yield
