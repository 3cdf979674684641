"""Limit the work in progress in this process, and refuse excess requests at once.

There is no queue: a request in a queue would be answered late or never, and its body would occupy memory. A refused
request gets 503 with Retry-After (RFC 9110 section 15.6.4), or 429 if it exceeds the share of its sender.
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
# Percentage of the slots and of the memory that is reserved for credentials with the scope `send` or `admin`.
SEND_RESERVE = 20

# The keys to which a request is charged. Each has a multiple of the free amount, up to which the key may be charged.
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
    """An amount of slots or octets that the requests of this process share.

    Uses of the amount are charged to keys: applications, credentials and client addresses. A key may use up to a
    multiple of the free amount. With a multiple of 2, one key can use at most two thirds of the total, and two keys two
    fifths each. So a part of the amount is always free for other keys. SEND_RESERVE is reserved for credentials that
    may send.
    """

    def __init__(self, limit: int, refusal: str) -> None:
        """Create a budget of `limit` in total; `refusal` is the error message if the free amount is too small."""
        self._limit = limit
        self._refusal = refusal
        self._in_use = 0
        self._by_key = Counter[Hashable]()

    @property
    def in_use(self) -> int:
        """The amount in use."""
        return self._in_use

    def acquire(self, shares: Shares, amount: int, *, sends: bool) -> None:
        """Take an amount and charge it to the keys. With `sends` the reserve may be used.

        Raises:
            RateLimited: a key would use more than its share.
            Unavailable: the free amount is too small.
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
        """Take an amount of 1 (a slot) until the context ends.

        Raises:
            RateLimited: a key would use more than its share.
            Unavailable: no slot is free.
        """
        self.acquire(shares, 1, sends=sends)
        try:
            yield
        finally:
            self.release(shares, 1)


class RequestLimiter:
    """Limits the number of requests in progress in this process, and the memory of their bodies.

    Slots and memory are charged to the keys that the caller passes; see `SharedBudget`.
    """

    def __init__(self, limit: int, max_octets: int = MAX_BODY_OCTETS) -> None:
        """Create a limiter for `limit` requests and `max_octets` of bodies. Waiting long polls occupy no slot."""
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
        """The number of octets that request bodies occupy."""
        return self._octets.in_use

    def slot(self, shares: Shares, *, sends: bool) -> AbstractContextManager[None]:
        """Return a context that occupies a slot; entering it raises RateLimited or Unavailable."""
        return self._slots.slot(shares, sends=sends)

    @contextmanager
    def body(self, shares: Shares, *, sends: bool) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves memory for a body. Call it with the length of each chunk.

        The memory is released when the context ends.

        Raises:
            RateLimited: raised by the yielded function if a key would use more than its share of the memory.
            Unavailable: raised by the yielded function if all bodies together would exceed the memory limit.
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

    The number is limited for the process, and for each application to a share of the slots, so that no application can
    use up all of them.
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
