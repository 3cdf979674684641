"""How much is under way in this process. What is beyond is refused at once, to be asked again, before it costs memory.

What waits in line is answered late or never, and holds its body meanwhile (RFC 9110 section 15.6.4).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from gateway.domain.errors import RateLimited, Unavailable

SHARE_LATER = {"Retry-After": "5"}

MAX_BODY_OCTETS = 64 * 1024 * 1024
"""Of all bodies together."""


class _Slots:
    def __init__(self, most: int, refusal: str) -> None:
        self._most = most
        self._refusal = refusal
        self._inside = 0

    @property
    def inside(self) -> int:
        """How many are taken."""
        return self._inside

    @contextmanager
    def slot(self) -> Iterator[None]:
        """For one, whosever it is. Raises Unavailable."""
        if self._inside >= self._most:
            raise Unavailable(self._refusal)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class RequestLimiter(_Slots):
    def __init__(self, most: int) -> None:
        """`most`: requests that are read or answered at once. Those that only wait for news do not count."""
        super().__init__(most, "too many requests are under way on this server; try again shortly")
        self._octets = 0

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """For one body, until it is done with: call with the octets that have come. The call raises Unavailable."""
        held = 0

        def hold(octets: int) -> None:
            nonlocal held
            held += octets
            self._octets += octets
            if self._octets > MAX_BODY_OCTETS:
                raise Unavailable("too much is being sent to this server at once; try again shortly")

        try:
            yield hold
        finally:
            self._octets -= held


class StreamLimiter(_Slots):
    """For what lasts as long as somebody listens or sends, and takes no place in the crowd meanwhile."""

    def __init__(self, what: str, most: int, share: int = 50) -> None:
        """`what`: many of them. `most`: at once in this process. `share`: percent of these for one application."""
        super().__init__(most, f"{most} {what} are open on this server; try again shortly")
        self._what = what
        self._most_of_one = max(1, most * share // 100)
        self._of = Counter[UUID]()

    @contextmanager
    def share(self, application_id: UUID) -> Iterator[None]:
        """For an application's, beside its place. Raises RateLimited."""
        if self._of[application_id] >= self._most_of_one:
            detail = f"the application has {self._most_of_one} {self._what} open on this server; try again shortly"
            raise RateLimited(detail, SHARE_LATER)
        self._of[application_id] += 1
        try:
            yield
        finally:
            self._of[application_id] -= 1
            if not self._of[application_id]:
                del self._of[application_id]

    @contextmanager
    def slot_of(self, application_id: UUID) -> Iterator[None]:
        """Both. Raises RateLimited and Unavailable."""
        with self.share(application_id), self.slot():
            yield
