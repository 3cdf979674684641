"""Decide what a response is evidence of, and when sending with a VAPID key to a push service is paused.

A status such as 401 or 500 may be due to the device, to the key or to the push service. The evidence is whether the
same push service accepts other devices of the same key. A device for which no message was ever accepted may be
invented, so its failures do not count while other devices of the key are accepted.

The module only makes decisions: it does no I/O, and callers pass the time as an argument.
"""

import math
import random
from enum import Enum
from uuid import UUID

from gateway.domain.delivery import Accepted, Outcome, Retry
from gateway.push.responses import NO_SUBSCRIBER, PushResponse

# Number of consecutive failures that pause sending, unless another message succeeded within SUCCESS_WINDOW_S.
FAILURES_TO_OPEN = 10
SUCCESS_WINDOW_S = 1.0
# Number of consecutive failures that pause sending, however recent the last success is.
MAX_CONSECUTIVE_FAILURES = 64
# Time after an acceptance during which repeated refusals of one device concern only that device.
ACCEPTANCE_WINDOW_S = 3600.0
# First and longest pause. Each failed probe doubles the pause.
INITIAL_PAUSE_S, MAX_PAUSE_S = 5.0, 300.0
# Maximum number of urgent messages in flight during a pause.
MAX_URGENT_PROBES = 4
# Bounds of the maximum deferral of urgent messages during a pause. Within the bounds it is half of the pause.
MIN_URGENT_DEFERRAL_S, MAX_URGENT_DEFERRAL_S = 2.0, 15.0
# Application failures older than this are no evidence against a push service.
MAX_EVIDENCE_AGE_S = 2 * MAX_PAUSE_S
# Faults before the request was sent. They are evidence against the host, whichever device the message was for.
CONNECT_FAULTS = ("connect", "dns", "private", "tls")


class Evidence(Enum):
    """The conclusion from a response about the push service and the VAPID key, whatever the outcome of the message."""

    ACCEPTED = "the push service accepts the key"
    WORKS = "the push service works, and may or may not accept the key"
    REFUSED = "the push service refuses the key or its token"
    FAILED = "the push service failed or did not respond"
    UNREACHABLE = "no connection to the push service could be made"


def classify_evidence(response: PushResponse, outcome: Outcome) -> Evidence | None:
    """Return the evidence of a response; None if it concerns only the device or the request."""
    if isinstance(outcome, Accepted):
        return Evidence.ACCEPTED
    if isinstance(outcome, Retry) and outcome.unauthorized:
        return Evidence.REFUSED
    if response.fault is not None:
        if response.fault.kind == "request":
            return None
        return Evidence.UNREACHABLE if response.fault.kind in CONNECT_FAULTS else Evidence.FAILED
    if response.status == NO_SUBSCRIBER:
        return None
    failed = response.status is None or response.status >= 500
    throttled = isinstance(outcome, Retry) and outcome.slow_down
    return Evidence.FAILED if failed and not throttled else Evidence.WORKS


class KeyHealth:
    """The circuit breaker of one VAPID key at one push service.

    There is one breaker per VAPID key and origin, and a key belongs to one application. So failures of an application's
    devices pause neither other applications nor the application's sending to other push services. While the breaker is
    open, non-urgent messages wait until the end of the pause; then one of them at a time is sent as a probe. Urgent
    messages are sent as probes during the pause too, a few at a time. Any success closes the breaker.
    """

    __slots__ = (
        "_failures",
        "_refusals",
        "_worked_at",
        "accepted_at",
        "application_id",
        "has_accepted_devices",
        "opened_at",
        "opened_by",
        "pause_s",
        "probe_at",
        "probes",
    )

    def __init__(self, application_id: UUID) -> None:
        """Start closed, without evidence."""
        self.application_id = application_id
        # Whether the push service has ever accepted a message that was signed with the key, and when it last did.
        self.has_accepted_devices = False
        self.accepted_at = -math.inf
        # When the breaker last opened, and because of which evidence.
        self.opened_at = 0.0
        self.opened_by = Evidence.FAILED
        # When the open breaker lets a non-urgent probe through; 0 while it is closed.
        self.probe_at = 0.0
        # Messages in flight that were sent while the breaker was open.
        self.probes = 0
        # For how long the open breaker holds non-urgent messages back.
        self.pause_s = 0.0
        # Consecutive refusals and failures, and when the push service last worked.
        self._refusals = self._failures = 0
        self._worked_at = -math.inf

    def consider_device(self, *, was_accepted: bool) -> None:
        """Record a message for a device; `was_accepted`: the push service has accepted a message for the device before.

        The first device that was accepted closes a breaker that failures of other devices opened: those failures no
        longer count.
        """
        if was_accepted and not self.has_accepted_devices:
            self.has_accepted_devices = True
            self._reset()

    def admits(self, now: float, *, urgent: bool) -> bool:
        """Return whether a message may be sent now."""
        if not self.probe_at:
            return True
        if urgent:
            return self.probes < MAX_URGENT_PROBES
        return now >= self.probe_at and not self.probes

    def deferral_s(self, now: float, *, urgent: bool) -> float:
        """Return for how long to defer a message that is not admitted, with jitter to spread the deferred messages."""
        if urgent:
            longest = min(max(MIN_URGENT_DEFERRAL_S, self.pause_s / 2), MAX_URGENT_DEFERRAL_S)
            return random.uniform(1, longest)  # noqa: S311 - jitter, not a secret
        return max(0.0, self.probe_at - now) + random.uniform(1, 1 + self.pause_s)  # noqa: S311 - jitter, not a secret

    def begin(self) -> bool:
        """Record that a message is being sent; return whether it is a probe, for `end`."""
        is_probe = bool(self.probe_at)
        self.probes += is_probe
        return is_probe

    def end(
        self, evidence: Evidence | None, now: float, *, was_accepted: bool, was_refused: bool, is_probe: bool
    ) -> None:
        """Record the response to a message.

        Args:
            evidence: the evidence of the response; None for no evidence.
            now: the time of the response.
            was_accepted: the push service has accepted a message for the device before.
            was_refused: the push service refused the device's previous message too.
            is_probe: what `begin` returned.
        """
        self.probes -= is_probe
        counts = was_accepted or not self.has_accepted_devices
        if evidence is Evidence.ACCEPTED:
            self.has_accepted_devices = True
            self.accepted_at = self._worked_at = now
            self._reset()
        elif evidence is Evidence.WORKS:
            self._failures = 0
            self._worked_at = now
            if self.opened_by is Evidence.FAILED:
                self._close()
        elif counts and (evidence is Evidence.REFUSED or evidence is Evidence.FAILED):
            if self.probe_at:
                if is_probe and now >= self.probe_at:
                    self._open(evidence, now)
                return
            if evidence is Evidence.REFUSED:
                # While the key is accepted for other devices, only the first refusal of a device counts.
                self._refusals += not (was_refused and self.accepts_others(now))
                conclusive = is_conclusive(self._refusals, now - self.accepted_at)
            else:
                self._failures += 1
                conclusive = is_conclusive(self._failures, now - self._worked_at)
            if conclusive:
                self._open(evidence, now)

    def accepts_others(self, now: float) -> bool:
        """Return whether the push service has accepted the key for any device within ACCEPTANCE_WINDOW_S."""
        return 0 <= now - self.accepted_at < ACCEPTANCE_WINDOW_S

    def _open(self, evidence: Evidence, now: float) -> None:
        if self.probe_at:
            self.pause_s = min(MAX_PAUSE_S, self.pause_s * 2)
        else:
            self.pause_s = INITIAL_PAUSE_S
            self.opened_at, self.opened_by = now, evidence
        self.probe_at = now + self.pause_s

    def _close(self) -> None:
        self.probe_at = self.pause_s = 0.0

    def _reset(self) -> None:
        self._refusals = self._failures = 0
        if self.probe_at:
            self._close()


def is_conclusive(failures: int, since_success_s: float) -> bool:
    """Return whether a number of consecutive failures pauses sending."""
    if failures >= MAX_CONSECUTIVE_FAILURES:
        return True
    return failures >= FAILURES_TO_OPEN and since_success_s >= SUCCESS_WINDOW_S


class ServiceEvidence:
    """The applications for which one push service (an origin) fails.

    Only failures for devices that the push service accepted before are recorded. Failures for one application are no
    evidence against the push service: at least two applications must be affected.
    """

    __slots__ = ("_failing",)

    def __init__(self) -> None:
        """Start without evidence."""
        # By application: when the push service last failed for it.
        self._failing: dict[UUID, float] = {}

    def record(self, application_id: UUID, now: float, *, fails: bool) -> None:
        """Record that the push service fails for an application, or works for it."""
        if fails:
            self._failing[application_id] = now
        else:
            self._failing.pop(application_id, None)

    def fails_for_several(self, now: float) -> bool:
        """Return whether the push service fails for more than one application at once."""
        if len(self._failing) < 2:
            return False
        return sum(now - at < MAX_EVIDENCE_AGE_S for at in self._failing.values()) >= 2
