"""Limit the messages that a worker has in flight to what its event loop can process quickly.

While push services respond quickly, a few dozen messages keep a CPU busy; more would only wait in the event loop, with
every alert behind them. While push services respond slowly, it takes hundreds. The length of an iteration of the event
loop tells the two apart, so the limit keeps it within bounds.
"""

INITIAL_LIMIT = 64
GROWTH_FACTOR = 1.25
# The limit grows while an iteration is shorter than the first, and shrinks while it is longer than the second.
SHORT_ITERATION_S, LONG_ITERATION_S = 0.005, 0.010
ITERATIONS_PER_UPDATE = 16


class ConcurrencyLimit:
    """Adaptive limit on the messages in flight of one worker, between INITIAL_LIMIT and a maximum."""

    def __init__(self, max_limit: int) -> None:
        """Start at INITIAL_LIMIT; the limit never exceeds `max_limit`."""
        self.limit = min(INITIAL_LIMIT, max_limit)
        # Whether a message had to wait because of the limit since the last update.
        self.was_reached = False
        self._min_limit = self.limit
        self._max_limit = max_limit
        self._iterations = 0
        self._seconds = 0.0

    def record_iteration(self, seconds: float) -> None:
        """Record the length of one iteration of the event loop."""
        self._iterations += 1
        self._seconds += seconds
        if self._iterations < ITERATIONS_PER_UPDATE:
            return
        mean_s = self._seconds / self._iterations
        if mean_s > LONG_ITERATION_S:
            self.limit = max(self._min_limit, int(self.limit / GROWTH_FACTOR))
        elif mean_s < SHORT_ITERATION_S and self.was_reached:
            self.limit = min(self._max_limit, int(self.limit * GROWTH_FACTOR) + 1)
        self._iterations, self._seconds, self.was_reached = 0, 0.0, False
