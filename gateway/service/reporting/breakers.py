"""The open circuit breakers of the workers in this process, for the statistics.

Circuit breakers belong to the schedulers of workers. The statistics of a server report them, which is possible only if
a worker runs in the same process (`gateway up`). The composition root gives server and workers the same
`BreakerDirectory`: each worker registers a source, and the server reads all sources. A server without workers in its
process has no source, and reports no open breaker.
"""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager


class BreakerDirectory:
    """The open circuit breakers in this process. The sources are read on demand."""

    def __init__(self) -> None:
        """Create a directory without sources."""
        self._sources: list[Callable[[], Set[str]]] = []

    @contextmanager
    def add_source(self, source: Callable[[], Set[str]]) -> Iterator[None]:
        """Add a source until the context ends. A source returns the names of push services with an open breaker."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def open_breakers(self) -> frozenset[str]:
        """Return the names of push services with an open breaker in any worker of this process."""
        return frozenset().union(*(source() for source in self._sources))
