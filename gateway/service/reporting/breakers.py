"""The open circuit breakers and the learnt limits of the workers in this process, for the statistics.

Both belong to the schedulers of workers. The statistics of a server report them, which is possible only if a worker
runs in the same process (`gateway up`). The composition root gives server and workers the same `BreakerDirectory`: each
worker registers itself as a source, and the server reads all sources. A server without workers in its process has no
source, and reports no open breaker and no limit.
"""

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import NamedTuple, Protocol
from uuid import UUID


class ApplicationLimit(NamedTuple):
    """A limit that a push service puts on an application.

    At most `per_second` messages per second are sent, and none for the next `held_s` seconds.
    """

    push_service: str
    per_second: float
    held_s: float


class BreakerSource(Protocol):
    """A worker as a source of open breakers and learnt limits."""

    def open_breakers(self, application_id: UUID) -> Set[str]:
        """Return the push services with a breaker that is open for an application."""
        ...

    def limits(self, application_id: UUID) -> list[ApplicationLimit]:
        """Return the limits that push services put on an application."""
        ...


class BreakerDirectory:
    """The open circuit breakers and the learnt limits in this process. The sources are read on demand."""

    def __init__(self) -> None:
        """Create a directory without sources."""
        self._sources: list[BreakerSource] = []

    @contextmanager
    def add_source(self, source: BreakerSource) -> Iterator[None]:
        """Add a source until the context ends."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def open_breakers(self, application_id: UUID) -> frozenset[str]:
        """Return the names of push services with a breaker that is open for the application in this process."""
        return frozenset().union(*(source.open_breakers(application_id) for source in self._sources))

    def limits(self, application_id: UUID) -> list[ApplicationLimit]:
        """Return the limits on an application that any worker of this process has learnt."""
        return [limit for source in self._sources for limit in source.limits(application_id)]
