"""What is known of one push-service host: how many messages at once it bears, how fast it takes them, if it answers.

The limit is a congestion window as TCP has one. It starts at START. Being asked for less, or a round with many faults,
halves it, once a round; each message that is taken then lets it grow by one a round. Above START it grows faster,
but only while all of it is used and answers come no later than before: more in flight would then only wait there.

After a run of faults with nothing else between, the breaker opens: the host is left alone for a pause that doubles,
then one message goes ahead to see. If that is taken the limit doubles each round up to half of
what it had. Pure decisions: the time comes in, nothing is awaited.
"""

from enum import Enum

START = 64
GROWTH = 1.25
TOLERANCE = 1.5
# A host's usual answer time creeps up by this much a round, so that a longer way to it is learnt in the end.
FORGET = 1.001
MIN_ROUND = 16
MANY_FAULTS = 0.1
# So many faults in a row are the host's; fewer may be the devices' or the network's.
FAULTS = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
# An alert does not wait for the pause to end: one of its messages goes ahead so often.
URGENT_PROBE_S = 1.0
URGENT_PROBES = 4
SMOOTH = 1 / 64
LATE_S = 0.5


class Feedback(Enum):
    """What an answer says of its host, whatever it says of the message. No POST, no sign."""

    SUCCESS = "it works"
    BACKPRESSURE = "it asks for less"
    FAILURE = "it failed or did not answer"


class HostLimiter:
    __slots__ = (
        "_baseline_latency",
        "_faults",
        "_faulty",
        "_ignored_responses",
        "_in_flight_before_open",
        "_latency_ewma",
        "_pause",
        "_rounded",
        "_seconds",
        "_service_time_ewma",
        "_threshold",
        "_urgent_probe_at",
        "full",
        "in_flight",
        "limit",
        "most",
        "moved_at",
        "name",
        "opened_at",
        "probe_at",
    )

    def __init__(self, name: str, most: int) -> None:
        """`most`: the limit never grows beyond."""
        self.name = name
        self.most = most
        self.limit = float(min(START, most))
        self.in_flight = 0
        self.full = False
        """Whether a message has had to wait for a place since the last round."""
        self.moved_at = 0.0
        """When it last took a message off our hands, or began to."""
        self.opened_at = 0.0
        self.probe_at = 0.0
        """When the open breaker lets a message through; 0 while it is closed."""
        self._threshold = self.limit
        self._ignored_responses = 0
        self._faults = 0
        self._pause = FIRST_PAUSE_S
        self._in_flight_before_open = 0
        self._urgent_probe_at = 0.0
        self._rounded = self._faulty = 0
        self._seconds = 0.0
        self._baseline_latency = 0.0
        self._service_time_ewma = 0.0
        self._latency_ewma = 0.0

    def is_open(self, now: float) -> bool:
        """Whether the breaker is open and its pause not over."""
        return self.probe_at > now

    def has_room(self, now: float, *, urgent: bool) -> bool:
        """Urgent messages have a quarter more: a campaign cannot fill that."""
        if self.probe_at:
            trying = self.in_flight - self._in_flight_before_open
            if urgent:
                return trying < URGENT_PROBES and (trying < 1 or now >= self._urgent_probe_at)
            return trying < 1 and now >= self.probe_at
        if urgent:
            return self.in_flight < int(self.limit) + max(1, int(self.limit) // 4)
        return self.in_flight < int(self.limit)

    def begin(self, now: float) -> None:
        """A message is on its way."""
        self.in_flight += 1
        if self.in_flight == 1:
            self.moved_at = now
        if self.probe_at:
            self._urgent_probe_at = now + URGENT_PROBE_S

    def end(self, now: float, sign: Feedback | None, seconds: float = 0.0, *, wanted: bool = False) -> None:
        """A message has come back after `seconds`. `wanted`: others wait for its place."""
        self.in_flight -= 1
        if wanted:
            gap = now - self.moved_at
            self._service_time_ewma = (
                gap / max(1.0, self.limit)
                if not self._service_time_ewma
                else self._service_time_ewma + (gap - self._service_time_ewma) * SMOOTH
            )
        self.moved_at = now
        if self._in_flight_before_open:
            self._in_flight_before_open -= 1
        # What was in flight at the last cut was sent before the host could be heard.
        heard = not self._ignored_responses
        if not heard:
            self._ignored_responses -= 1
        if sign is None:
            return
        self._latency_ewma += (seconds - self._latency_ewma) * SMOOTH
        self._rounded += 1
        if sign is Feedback.SUCCESS:
            self._faults = 0
            self._seconds += seconds
            if self.probe_at:
                self._close()
            if self.limit < self._threshold:
                self.limit = min(self._threshold, self.limit + 1)
            elif self.limit < START:
                self.limit = min(float(self.most), self.limit + 1 / self.limit)
        elif sign is Feedback.BACKPRESSURE:
            self._faults = 0
            if self.probe_at:
                self._close()
            if heard:
                self._cut()
        else:
            self._faults += 1
            self._faulty += 1
            if self._faults >= FAULTS and now >= self.probe_at:
                self._open(now)
        if not self.probe_at and self._rounded >= max(self.limit, MIN_ROUND):
            self._round(heard)

    def answers_late(self, now: float) -> bool:
        """Whether what is in flight to it mostly waits, and so costs us no work."""
        return max(self._latency_ewma, now - self.moved_at) > LATE_S

    def wait(self, ahead: int, now: float) -> float:
        """Seconds until it has taken `ahead` messages, as fast as it has of late."""
        pace = self._service_time_ewma
        if self.in_flight:
            # With a limit that was cut, every late answer would look like a host that hangs.
            pace = max(pace, (now - self.moved_at) / max(START, self.limit))
        return ahead * pace

    def _round(self, heard: bool) -> None:
        taken = self._rounded - self._faulty
        if self._faulty > self._rounded * MANY_FAULTS:
            if heard:
                self._cut()
        elif self.limit >= START and taken:
            seconds = self._seconds / taken
            self._baseline_latency = (
                min(seconds, self._baseline_latency * FORGET) if self._baseline_latency else seconds
            )
            if seconds > self._baseline_latency * TOLERANCE:
                self.limit = max(float(START), self.limit / GROWTH)
            elif self.full:
                self.limit = min(float(self.most), self.limit * GROWTH)
        self._anew()

    def _anew(self) -> None:
        self._rounded = self._faulty = 0
        self._seconds = 0.0
        self.full = False

    def _cut(self) -> None:
        self.limit = self._threshold = max(1.0, self.limit / 2)
        self._ignored_responses = self.in_flight

    def _open(self, now: float) -> None:
        if self.probe_at:
            self._pause = min(LONGEST_PAUSE_S, self._pause * 2)
        else:
            self.opened_at = now
            self._threshold = max(1.0, self.limit / 2)
        self.limit = 1.0
        self.probe_at = now + self._pause
        self._in_flight_before_open = self.in_flight

    def _close(self) -> None:
        self.probe_at = 0.0
        self._pause = FIRST_PAUSE_S
        self._in_flight_before_open = self._ignored_responses = 0
        self._anew()

    @property
    def pause(self) -> float:
        """Seconds that the open breaker leaves it alone."""
        return self._pause
