"""Limit the message rate of one application at one push-service host that refuses its messages.

Push services limit each sender separately: Chrome's site limit, for example, counts the messages of one VAPID key. So a
refusal (429, 406, 503 with Retry-After) counts for the application at that host. A few refusals among many accepted
messages count for their devices only.

After SUSPECT_CONSECUTIVE refusals in a row, messages wait for the responses to the messages in flight, and single
messages are sent as probes. The application becomes limited if PROBES probes are refused, or if the share of refused
messages exceeds MAX_REFUSED_SHARE for some time. Repeated refusals of a device do not count.

Then a hold begins: nothing is sent until Retry-After, or for a pause that doubles while probes are refused. After the
hold, messages are sent at a pace: the number of messages accepted between two holds, divided by the time. The budget at
the push service is used up when a hold begins, so this is the rate at which it is refilled. Non-urgent messages use
NON_URGENT_SHARE of the pace. The rest is a reserve for urgent messages. While no message is refused, the pace grows,
more slowly after each hold, until the application is not limited.

The module only makes decisions: it does no I/O, and callers pass the time as an argument.
"""

import math
import random

from gateway.worker.host_limiter import Feedback

# Number of refusals in a row after which messages are sent as probes, the interval between probes, and the number of
# refused probes after which a hold begins.
SUSPECT_CONSECUTIVE, SUSPECT_INTERVAL_S, PROBES = 3, 0.1, 3
# Number of refusals in a row after which a hold begins, for an application with a pace.
MAX_CONSECUTIVE_PACED = 3
# Share of refused messages that is attributed to single devices, for an application without and with a pace.
MAX_REFUSED_SHARE, MAX_REFUSED_SHARE_PACED = 0.5, 0.03
# Number of refusals in excess of that share after which a hold begins, for an application without and with a pace.
MAX_EXCESS, MAX_EXCESS_PACED = 40.0, 5.0
# The refusals of an application that is not limited are forgotten after this time without another refusal.
SUSPECT_LIFETIME_S = 60.0
# Time without an accepted message after which the pace does not grow, and after which the limit is forgotten.
MAX_GAP_S, IDLE_LIFETIME_S = 1.0, 600.0
# First and longest duration of a hold without Retry-After.
INITIAL_PAUSE_S, MAX_PAUSE_S = 1.0, 300.0
# Maximum random extension of a hold, as a share, so that workers do not probe at the same time.
JITTER = 0.1
# First interval between urgent probes during a hold, and its maximum without and with a Retry-After. Each hold doubles
# the interval.
INITIAL_URGENT_PAUSE_S, MAX_URGENT_PAUSE_S, MAX_URGENT_PAUSE_AFTER_S = 1.0, 5.0, 30.0
# Rates in messages per second: of the first probes; the minimum of the first learnt rate, whose period may include an
# idle time, and of all later ones; and the rate at which an application is no longer limited.
PROBE_RATE, FIRST_RATE, MIN_RATE, MAX_RATE = 2.0, 0.1, 1 / 300, 5000.0
# Share of the pace that non-urgent messages use.
NON_URGENT_SHARE = 0.7
# Minimum factor from the learnt rate of one hold to that of the next: if the pace has grown in between, and otherwise.
INCREASE, MAX_REDUCTION = 1.25, 0.5
# Time for which an unused part of the pace stays available to urgent messages, and the multiple of the pace at which
# they are then sent.
RESERVE_S, URGENT_SPEEDUP = 15.0, 3
# Time for which an unused part of the pace stays available to non-urgent messages, which are released periodically.
BURST_S = 0.2
# After a hold the pace is constant for a while (the plateau): at least as long as the time in which it was learnt,
# twice as long as after the previous hold, and for PLATEAU_MESSAGES messages. So an unchanged limit is exceeded less
# and less often.
INITIAL_PLATEAU_S, MAX_PLATEAU_S, PLATEAU_MESSAGES = 1.0, 300.0, 10
# After the plateau, the pace doubles in a fraction of the plateau's length, but in no less than MIN_DOUBLING_S and
# DOUBLING_MESSAGES messages.
DOUBLINGS_PER_PLATEAU, MIN_DOUBLING_S, DOUBLING_MESSAGES = 4, 1.0, 4
# Maximum number of doublings in one update; more than from MIN_RATE to MAX_RATE.
MAX_DOUBLINGS = 32
# Responses to messages that were sent earlier than LATE_S after the beginning of a hold are ignored. No message is sent
# in this time, so these messages were sent before the hold.
LATE_S = 0.5
# Tolerance for deciding whether a message was sent as a probe: response times are rounded to milliseconds.
PROBE_TOLERANCE_S = 0.002


class ApplicationLimiter:
    """The pace of one application at one host, in one worker.

    There is one limiter per application and host: only refusals of the application by the host count. A limiter exists
    only while there are recent refusals.
    """

    __slots__ = (
        "_accepted",
        "_accepted_at",
        "_consecutive",
        "_counted_from",
        "_excess",
        "_grown_at",
        "_learnt_rate",
        "_next_at",
        "_pause_s",
        "_plateau_s",
        "_probed_at",
        "_probes",
        "_refused_at",
        "_spent_until",
        "_steady_until",
        "_urgent_at",
        "_urgent_pause_s",
        "held_until",
        "limited_at",
        "rate",
    )

    def __init__(self) -> None:
        """Create a limiter without a limit."""
        # Messages per second that the host probably accepts from the application.
        self.rate = math.inf
        # When the hold ends. Until then, no non-urgent message is sent.
        self.held_until = 0.0
        # When the application became limited; 0 if it is not.
        self.limited_at = 0.0
        # The rate at the beginning of the last hold; 0 until the second hold.
        self._learnt_rate = 0.0
        self._consecutive = 0
        self._excess = 0.0
        self._refused_at = 0.0
        # While the application is not limited: when the first probe was sent (0 if none was), and the number of refused
        # probes.
        self._probed_at = 0.0
        self._probes = 0
        # Messages accepted since the last hold began, when that was, and when the last message was accepted.
        self._accepted = 0
        self._counted_from = self._accepted_at = 0.0
        # When the next non-urgent message may be sent.
        self._next_at = 0.0
        # When the next urgent message may be sent during a hold, and until when the budget is used up.
        self._urgent_at = self._spent_until = 0.0
        self._pause_s, self._urgent_pause_s = INITIAL_PAUSE_S, INITIAL_URGENT_PAUSE_S
        self._plateau_s = INITIAL_PLATEAU_S
        self._steady_until = self._grown_at = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether there is a hold or a pace."""
        return self.limited_at > 0

    @property
    def is_clear(self) -> bool:
        """Whether the refusals so far are attributed to single devices."""
        return not self.limited_at and self._excess <= 0

    @property
    def is_probing(self) -> bool:
        """Whether the next message is a probe. It should be sent to a random device instead of the next one."""
        return not self._accepted if self.limited_at else self._consecutive >= SUSPECT_CONSECUTIVE

    def admits(self, now: float, *, urgent: bool) -> bool:
        """Return whether a message may be sent now."""
        if not self.limited_at:
            return urgent or self._consecutive < SUSPECT_CONSECUTIVE or now >= self._next_at
        if urgent:
            return now >= self._urgent_at and now >= self._spent_until
        return now >= self._next_at

    def begin(self, now: float, *, urgent: bool) -> None:
        """Record that a message is being sent."""
        if not self.limited_at:
            if self._consecutive >= SUSPECT_CONSECUTIVE and now >= self._next_at:
                self._probed_at = self._probed_at or now
                self._next_at = now + SUSPECT_INTERVAL_S
            return
        urgent_s, other_s = 1 / self.pace(urgent=True), 1 / self.pace(urgent=False)
        self._spent_until = max(self._spent_until, now - RESERVE_S) + urgent_s
        if not urgent:
            self._next_at = max(self._next_at, now - BURST_S) + other_s
            return
        self._next_at = max(self._next_at, now + other_s)
        if self._consecutive:
            self._urgent_at = now + self._urgent_pause_s
        else:
            self._urgent_at = max(self._urgent_at, now - BURST_S) + urgent_s / URGENT_SPEEDUP

    def end(
        self,
        now: float,
        feedback: Feedback | None,
        seconds: float,
        retry_after_s: float | None = None,
        *,
        repeated: bool = False,
    ) -> bool:
        """Record that a message completed.

        Args:
            now: the current time.
            feedback: the conclusion from the response, None if there is none.
            seconds: the time until the response; 0 if no POST was sent.
            retry_after_s: the Retry-After of a refusal.
            repeated: whether the message had been sent to the device before.

        Returns:
            Whether a hold begins because of this response.
        """
        if feedback is None:
            if self.limited_at and not seconds:
                self._spent_until -= 1 / self.pace(urgent=True)
                self._next_at = max(self.held_until, self._next_at - 1 / self.pace(urgent=False))
            return False
        if self.limited_at and now - seconds < self._refused_at + LATE_S:
            return False
        if feedback is not Feedback.REFUSAL:
            if feedback is Feedback.SUCCESS:
                self._on_success(now)
            return False
        if repeated and (self._accepted or not self.limited_at):
            return False
        self._consecutive += 1
        self._excess += 1
        if self._probed_at and now - seconds >= self._probed_at - PROBE_TOLERANCE_S:
            self._probes += 1
        if self._must_hold():
            self._hold(now, retry_after_s)
            return True
        if not self.limited_at:
            self._refused_at = now
            if self._consecutive == SUSPECT_CONSECUTIVE:
                self._next_at = now + SUSPECT_INTERVAL_S
        return False

    def update(self, now: float) -> bool:
        """Increase the pace while messages are accepted; return whether the limiter is still needed.

        Call it periodically.
        """
        if not self.limited_at:
            return now < self._refused_at + SUSPECT_LIFETIME_S
        if not self._accepted or now > self._accepted_at + max(MAX_GAP_S, DOUBLING_MESSAGES / self.rate):
            self._grown_at = now
            return now < max(self.held_until, self._accepted_at) + IDLE_LIFETIME_S
        elapsed_s = now - max(self._grown_at, self._steady_until)
        if elapsed_s > 0:
            doubling_s = max(MIN_DOUBLING_S, self._plateau_s / DOUBLINGS_PER_PLATEAU, DOUBLING_MESSAGES / self.rate)
            self.rate = min(MAX_RATE, self.rate * 2 ** min(elapsed_s / doubling_s, MAX_DOUBLINGS))
            self._grown_at = now
        return self.rate < MAX_RATE or now < self.held_until

    @property
    def is_learnt(self) -> bool:
        """Whether the pace was learnt, not only assumed."""
        return self._learnt_rate > 0

    def pace(self, *, urgent: bool) -> float:
        """Return the messages per second that a limited application may send.

        The pace of urgent messages exceeds that of other messages by the reserve that was learnt. The reserve does not
        grow, so the pace of urgent messages stays constant until that of other messages has reached it.
        """
        if urgent:
            return max(self._learnt_rate or self.rate, self.rate * NON_URGENT_SHARE)
        return self.rate * NON_URGENT_SHARE

    def _on_success(self, now: float) -> None:
        """Count an accepted message, which ends a run of refusals."""
        if self._consecutive:
            self._urgent_at = now
        self._consecutive = self._probes = 0
        self._probed_at = 0.0
        self._excess = max(0.0, self._excess - (MAX_REFUSED_SHARE_PACED if self.limited_at else MAX_REFUSED_SHARE))
        self._accepted += 1
        self._accepted_at = now
        self._pause_s, self._urgent_pause_s = INITIAL_PAUSE_S, INITIAL_URGENT_PAUSE_S
        if not self._learnt_rate:
            self._steady_until = min(self._steady_until, now)

    def _must_hold(self) -> bool:
        if not self.limited_at:
            return self._probes >= PROBES or self._excess >= MAX_EXCESS
        return not self._accepted or self._consecutive >= MAX_CONSECUTIVE_PACED or self._excess >= MAX_EXCESS_PACED

    def _hold(self, now: float, retry_after_s: float | None) -> None:
        """Begin a hold: the budget is used up."""
        if not self.limited_at:
            self.limited_at = now
            self.rate = PROBE_RATE
        elif self._accepted:
            period_s = now - self._counted_from
            # Fewer messages may have been accepted because fewer were sent.
            lowest_rate = self._learnt_rate * (INCREASE if self.rate > self._learnt_rate else MAX_REDUCTION)
            self._learnt_rate = self.rate = max(lowest_rate or FIRST_RATE, MIN_RATE, self._accepted / period_s)
            self._plateau_s = min(MAX_PLATEAU_S, max(self._plateau_s * 2, period_s))
        if self._accepted or not self._counted_from:
            self._accepted, self._counted_from = 0, now
        hold_s = max(self._pause_s, retry_after_s or 0.0) * random.uniform(1, 1 + JITTER)  # noqa: S311 - no secret
        self._pause_s = min(MAX_PAUSE_S, self._pause_s * 2)
        self.held_until = max(self.held_until, now + hold_s)
        self._next_at = max(self._next_at, self.held_until)
        self._urgent_at = now + self._urgent_pause_s
        longest_s = MAX_URGENT_PAUSE_S if retry_after_s is None else MAX_URGENT_PAUSE_AFTER_S
        self._urgent_pause_s = min(longest_s, self._urgent_pause_s * 2)
        self._spent_until = self._refused_at = self._grown_at = now
        self._excess = 0.0
        steady_s = max(self._plateau_s, PLATEAU_MESSAGES / self.rate) if self.is_learnt else 0.0
        self._steady_until = self.held_until + steady_s
