"""Limit the work in progress in this process, and refuse excess requests at once.

A request that waited in a queue would be answered late or never, and its body would occupy memory meanwhile. A refused
request gets 503 with Retry-After (RFC 9110 section 15.6.4).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from gateway.domain.errors import RateLimited, Unavailable

SHARE_RETRY_AFTER = {"Retry-After": "5"}
# The total size of all request bodies in memory.
MAX_BODY_OCTETS = 64 * 1024 * 1024


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

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a slot.

        Raises:
            Unavailable: all slots are in use.
        """
        if self._in_use >= self._limit:
            raise Unavailable(self._refusal)
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1


class RequestLimiter(_Slots):
    """Limits the requests in progress in this process, and the memory of their bodies.

    Charged per process: a client is bounded by its rate limits (`rate_limits`) before it occupies slots.
    """

    def __init__(self, limit: int) -> None:
        """Create a limiter of `limit` requests. Long polls that wait occupy no slot."""
        super().__init__(limit, "too many requests are in progress on this server; try again shortly")
        self._octets = 0

    @property
    def octets_in_use(self) -> int:
        """The memory that request bodies occupy."""
        return self._octets

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Reserve memory for one body until the context ends; call the yielded function with each chunk's length.

        Raises:
            Unavailable: from the yielded function, when all bodies together exceed MAX_BODY_OCTETS.
        """
        reserved = 0

        def reserve(octets: int) -> None:
            nonlocal reserved
            reserved += octets
            self._octets += octets
            if self._octets > MAX_BODY_OCTETS:
                raise Unavailable("the request bodies in progress exceed this server's memory limit; try again shortly")

        try:
            yield reserve
        finally:
            self._octets -= reserved


class StreamLimiter(_Slots):
    """Limits long-lived connections of one kind; they occupy no slot of the request limiter.

    Charged per application, which may have a share of the slots, and per process: no single application can use up all
    slots.
    """

    def __init__(self, kind: str, limit: int, share: int = 50) -> None:
        """Create a limiter.

        Args:
            kind: plural noun for the connections, for error messages.
            limit: connections in this process.
            share: the percentage of them that one application may have.
        """
        super().__init__(limit, f"{limit} {kind} are open on this server; try again shortly")
        self._kind = kind
        self._application_limit = max(1, limit * share // 100)
        self._by_application = Counter[UUID]()

    @contextmanager
    def share(self, application_id: UUID) -> Iterator[None]:
        """Count a connection towards its application, without a slot.

        Raises:
            RateLimited: the application has its share of connections.
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
        """Occupy a slot and count it towards the application.

        Raises:
            RateLimited: the application has its share of connections.
            Unavailable: all slots are in use.
        """
        with self.share(application_id), self.slot():
            yield
