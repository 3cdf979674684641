"""Decide which repeated messages a fault explains: those that were in flight or not yet settled at the fault.

A message may be repeated if a push service accepted it
- within the last batch before its worker was killed,
- while the database was unavailable, if its worker was killed or lost its lease during that time, or
- while the connections to the push service were cut.

The times are those that the push services recorded. The delivery log is not used, because a gateway that never
settles would then explain all repeats.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

from gateway.domain import ids
from tests.faults.execution import InjectedFault
from tests.faults.latency_probe import LatencyProbe
from tests.faults.plan import LEASE_S, SENDERS, URGENT_SENDERS, WORKERS, FaultKind, LinkGroup
from tests.faults.recording_sim import Response

# The time after which a worker settles a batch. It is not imported from the gateway, so that it checks the gateway.
BATCH_WAIT_S = 0.3
# The time of two settlements: a result waits for the settlement in progress, and then for the one with the result.
SETTLE_S = 0.7
# The time from the end of a database outage until all pending results are settled.
RECOVER_S = 2.0
# The tolerance when times that two processes measured are compared.
SLACK_S = 0.5
# The number of steps in which a worker settles. The latency probe's delay is added for each step.
STEPS = 4
# The maximum number of devices of a job, and so of messages that one lost lease repeats.
JOB_SIZE = 500
# The delay of the latency probe from which it explains a lost lease: a third of the time between a failed renewal and
# the end of the lease.
STARVATION_S = 0.3
# Delays that the latency probe measured up to this many seconds before an event also apply to the event.
NEAR_S = 3.0


@dataclass(frozen=True, slots=True)
class RepeatWindow:
    """A period in which a fault explains repeated messages.

    The window explains a repeat if the first message was requested by `until` and answered after `since`, and the
    repeat was requested after `after`. It explains at most `max_repeats`, and only repeats of `notification_id` if
    that is set.
    """

    cause: str
    # Times in seconds since the epoch.
    since: float
    until: float
    after: float
    max_repeats: int | None = None
    notification_id: UUID | None = None

    def contains(self, response: Response, notification_id: UUID) -> bool:
        """Return whether a repeat of the message with this response may be explained."""
        matches = self.notification_id in (None, notification_id)
        return matches and response.requested_at <= self.until and response.responded_at >= self.since

    def explains(
        self, first: Response, second: Response, notification_id: UUID, remaining: Mapping["RepeatWindow", int]
    ) -> bool:
        """Return whether the window explains the repeat; `remaining` counts the repeats left to limited windows."""
        return (
            self.contains(first, notification_id) and second.requested_at >= self.after and remaining.get(self, 1) > 0
        )


@dataclass(frozen=True, slots=True)
class LostLease:
    """A worker logged that it lost a job's lease."""

    at: float
    notification_id: UUID


def parse_lost_leases(log: str, skew_s: float) -> Iterator[LostLease]:
    """Parse the lost leases of a worker's log. `skew_s` is the error of the worker's clock."""
    for line in log.splitlines():
        if '"job.lease_lost"' in line:
            entry = json.loads(line)
            notification_id = ids.parse(ids.NOTIFICATION, entry["notification_id"])
            assert notification_id is not None
            yield LostLease(datetime.fromisoformat(entry["timestamp"]).timestamp() - skew_s, notification_id)


def repeat_windows(
    faults: Iterable[InjectedFault], lost_leases: Iterable[LostLease], probe: LatencyProbe
) -> list[RepeatWindow]:
    """Return the windows in which faults and lost leases explain repeats."""
    faults = sorted(faults, key=lambda injected: injected.started_at)
    outages = [_outage(injected, probe) for injected in faults if _prevents_settling(injected)]
    windows = [
        _window_of_kill(injected.started_at.timestamp(), outages, probe)
        for injected in faults
        if injected.fault.kind is FaultKind.KILL_WORKER
    ]
    windows += [
        _window_of_cut(injected.started_at.timestamp(), probe)
        for injected in faults
        if injected.fault.kind is FaultKind.CUT and injected.fault.link_group is LinkGroup.WORKERS_AND_PUSH
    ]
    return windows + [_window_of_lost_lease(lost_lease, outages, probe) for lost_lease in lost_leases]


def find_unexplained_losses(
    faults: Iterable[InjectedFault], lost_leases: Iterable[LostLease], probe: LatencyProbe
) -> list[LostLease]:
    """Return the leases that were lost although the database was available and the worker had CPU time.

    Claims are committed asynchronously, so that a claim just before a stop of the database may be lost.
    """
    outages = [_outage(injected, probe) for injected in faults if _prevents_settling(injected)]
    return [
        lost_lease
        for lost_lease in lost_leases
        if not any(start <= lost_lease.at and end >= lost_lease.at - LEASE_S for start, end in outages)
        and probe.max_delay_s(lost_lease.at - LEASE_S - NEAR_S, lost_lease.at) < STARVATION_S
    ]


def find_unexplained_repeats(
    copies: Mapping[tuple[UUID, str], Sequence[Response]], windows: Sequence[RepeatWindow]
) -> list[str]:
    """Return a sentence for each repeat that no fault explains. A window explains at most one repeat of a delivery."""
    breaches, remaining = [], {window: window.max_repeats for window in windows if window.max_repeats is not None}
    unlimited_first = sorted(windows, key=lambda window: (window.max_repeats is not None, window.until))
    for (notification_id, endpoint), responses in copies.items():
        candidates = list(unlimited_first)
        for first, second in pairwise(sorted(responses, key=lambda response: response.requested_at)):
            explanation = next(
                (window for window in candidates if window.explains(first, second, notification_id, remaining)), None
            )
            if explanation is None:
                host, first_at = endpoint.rpartition("/")[0], datetime.fromtimestamp(first.requested_at, UTC)
                times = f"at {first_at:%H:%M:%S.%f} and {second.requested_at - first.requested_at:.3f} s later"
                breaches.append(f"{notification_id} was sent twice to {host}, {times}: no fault explains it")
                continue
            candidates.remove(explanation)
            if explanation in remaining:
                remaining[explanation] -= 1
    return breaches


def max_repeats(copies: Mapping[tuple[UUID, str], Sequence[Response]], windows: Iterable[RepeatWindow]) -> int:
    """Return the maximum number of repeats that the windows explain."""
    total = 0
    for window in windows:
        count = sum(
            any(window.contains(response, id_) for response in responses) for (id_, _), responses in copies.items()
        )
        total += count if window.max_repeats is None else min(count, window.max_repeats)
    return total


def _prevents_settling(injected: InjectedFault) -> bool:
    return (
        injected.fault.kind in (FaultKind.STOP_POSTGRES, FaultKind.FULL_DISK)
        or injected.fault.link_group is LinkGroup.WORKERS_AND_POSTGRES
    )


def _outage(injected: InjectedFault, probe: LatencyProbe) -> tuple[float, float]:
    """Return (start, end) of the period in which results of the workers may be unsettled because of a fault."""
    assert injected.ended_at is not None
    start, end = injected.started_at.timestamp(), injected.ended_at.timestamp()
    return start - _unsettled_s(start, probe), end + RECOVER_S + STEPS * _delay_s(end, probe)


def _window_of_kill(at: float, outages: Sequence[tuple[float, float]], probe: LatencyProbe) -> RepeatWindow:
    without_outages = at - _unsettled_s(at, probe)
    since = _unsettled_since(without_outages, at, outages)
    slack = _slack_s(at, probe)
    # A worker that is killed while the database is unavailable may have lost its lease before, without logging it.
    return RepeatWindow("a kill", since, at + slack, at - slack if since == without_outages else since)


def _window_of_cut(at: float, probe: LatencyProbe) -> RepeatWindow:
    slack = _slack_s(at, probe)
    return RepeatWindow("a cut", at - slack, at + slack, at - slack, max_repeats=(SENDERS + URGENT_SENDERS) * WORKERS)


def _window_of_lost_lease(
    lost_lease: LostLease, outages: Sequence[tuple[float, float]], probe: LatencyProbe
) -> RepeatWindow:
    without_outages = lost_lease.at - LEASE_S - _unsettled_s(lost_lease.at, probe)
    since, slack = _unsettled_since(without_outages, lost_lease.at, outages), _slack_s(lost_lease.at, probe)
    return RepeatWindow("a lost lease", since, lost_lease.at + slack, since, JOB_SIZE, lost_lease.notification_id)


def _unsettled_since(since: float, until: float, outages: Sequence[tuple[float, float]]) -> float:
    """Return the start of a period, extended backwards by every outage that overlaps the extended period."""
    for start, end in sorted(outages, reverse=True):
        if start <= until and end >= since:
            since = min(since, start)
    return since


def _unsettled_s(at: float, probe: LatencyProbe) -> float:
    return BATCH_WAIT_S + SETTLE_S + STEPS * _delay_s(at, probe)


def _slack_s(at: float, probe: LatencyProbe) -> float:
    return SLACK_S + _delay_s(at, probe)


def _delay_s(at: float, probe: LatencyProbe) -> float:
    return probe.max_delay_s(at - NEAR_S, at + SLACK_S)
