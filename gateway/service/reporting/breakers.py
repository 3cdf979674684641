"""Which push services are paused by a circuit breaker, for those who report it.

The breakers belong to the workers' schedulers. A server that runs in the same process (`gateway up`) reports their
state in the statistics, so the composition root gives both the same `BreakerDirectory`: the workers register a source,
the server reads. A server in a process of its own has no source and reports no breaker.
"""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager


class BreakerDirectory:
    """The open circuit breakers of this process, by push service. The sources are read on demand."""

    def __init__(self) -> None:
        """Start without sources."""
        self._sources: list[Callable[[], Set[str]]] = []

    @contextmanager
    def add_source(self, source: Callable[[], Set[str]]) -> Iterator[None]:
        """Read `source` too, until the context ends. It returns the push services whose breaker is open."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def open_breakers(self) -> frozenset[str]:
        """Return the push services with an open breaker in any worker of this process."""
        return frozenset().union(*(source() for source in self._sources))
