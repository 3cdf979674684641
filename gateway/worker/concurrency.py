"""How many messages a worker has in flight at all: as many as its event loop can turn over quickly.

While answers come quickly a few dozen keep a processor busy, and more of them would only wait for their turn in the
loop, with every alert behind them. When they come slowly it takes hundreds. What tells one from the other
is how long a round of the loop takes; so that is kept in bounds.
"""

START = 64
GROWTH = 1.25
QUICK_S, LONG_S = 0.005, 0.010
ROUNDS = 16


class ConcurrencyLimit:
    def __init__(self, most: int) -> None:
        """`most`: in flight at the most, whatever the loop could do."""
        self.limit = min(START, most)
        self.wanted = False
        """Whether a message has had to wait for it since it was last looked at."""
        self._least = self.limit
        self._most = most
        self._rounds = 0
        self._seconds = 0.0

    def record_turn(self, seconds: float) -> None:
        """A round of the event loop took so long."""
        self._rounds += 1
        self._seconds += seconds
        if self._rounds < ROUNDS:
            return
        round_s = self._seconds / self._rounds
        if round_s > LONG_S:
            self.limit = max(self._least, int(self.limit / GROWTH))
        elif round_s < QUICK_S and self.wanted:
            self.limit = min(self._most, int(self.limit * GROWTH) + 1)
        self._rounds, self._seconds, self.wanted = 0, 0.0, False
