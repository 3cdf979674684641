"""Limit the messages that a worker has in flight to a number that its event loop can process quickly.

If push services respond quickly, a few dozen messages in flight keep a CPU busy. More messages would only wait in the
event loop, and delay alerts. If push services respond slowly, hundreds of messages are needed to keep the CPU busy. The
duration of an iteration of the event loop distinguishes the two cases, so the limit is adjusted by it.
"""

# Initial limit, which is also the minimum.
INITIAL_LIMIT = 64
# Factor by which the limit grows or shrinks in one update.
GROWTH_FACTOR = 1.25
# The limit grows if the mean iteration is shorter than the first duration, and shrinks if it is longer than the second.
SHORT_ITERATION_S, LONG_ITERATION_S = 0.005, 0.010
# Number of iterations of the event loop between two updates of the limit.
ITERATIONS_PER_UPDATE = 16


class ConcurrencyLimit:
    """Adaptive limit on the messages in flight of one worker, between INITIAL_LIMIT and a maximum."""

    def __init__(self, max_limit: int) -> None:
        """Create a limit that starts at INITIAL_LIMIT and never exceeds `max_limit`."""
        self.limit = min(INITIAL_LIMIT, max_limit)
        # Whether a message has had to wait because of the limit since the last update.
        self.was_reached = False
        self._min_limit = self.limit
        self._max_limit = max_limit
        self._iterations = 0
        self._seconds = 0.0

    def record_iteration(self, seconds: float) -> None:
        """Record the duration of one iteration of the event loop. ITERATIONS_PER_UPDATE of them update the limit."""
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
