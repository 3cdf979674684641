"""Limit the work in progress in this process, and refuse excess requests at once.

There is no queue: a request in a queue would be answered late or never, and its body would occupy memory. A refused
request gets 503 with Retry-After (RFC 9110 section 15.6.4).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from gateway.domain.errors import RateLimited, Unavailable

# Header of the response to an application that has used up its share of connections.
SHARE_RETRY_AFTER = {"Retry-After": "5"}
# Limit of the total size of all request bodies in memory.
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
        """Take a slot until the context ends.

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
    """Limits the number of requests in progress in this process, and the memory of their bodies.

    Charged per process. The rate limits of a client (`rate_limits`) apply before a request takes a slot, so that one
    client cannot use up all slots.
    """

    def __init__(self, limit: int) -> None:
        """Create a limiter of `limit` requests. Long polls that wait occupy no slot."""
        super().__init__(limit, "too many requests are in progress on this server; try again shortly")
        self._octets = 0

    @property
    def octets_in_use(self) -> int:
        """The number of octets that request bodies occupy."""
        return self._octets

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves memory for a body. Call it with the length of each chunk.

        The memory is released when the context ends.

        Raises:
            Unavailable: raised by the yielded function if all bodies together exceed MAX_BODY_OCTETS.
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
