"""Decide which repeated messages a fault explains: those that were in flight or not yet settled when it occurred.

The bounds follow from the design, in times of the push services: what they accepted within the last batch before a
worker was killed; what they accepted while the database was unavailable, if a worker was killed or its lease expired
meanwhile; and what was in flight when connections to them were cut. The log is not consulted, or a gateway that never
settles would excuse itself.
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

# A worker settles every few hundred rows or milliseconds. A constant of its own, so that it checks the code's.
BATCH_WAIT_S = 0.3
# Time of two settlements: the current one, which a result waits for, and its own.
SETTLE_S = 0.7
# Time from the database's return until all pending results are settled.
RECOVER_S = 2.0
# Tolerance between the clocks of two processes.
SLACK_S = 0.5
# A worker's step takes this many measured delays.
STEPS = 4
JOB_SIZE = 500
# A third of the time that a worker has left when it fails to renew a lease. Longer delays explain a lost lease.
STARVATION_S = 0.3
NEAR_S = 3.0


@dataclass(frozen=True, slots=True)
class RepeatWindow:
    """A window in which a fault explains repeats.

    The first message was requested by `until` and responded to after `since`; the repeat was requested after `after`.
    A window explains at most `max_repeats`, and only of `notification_id` if that is set.
    """

    what: str
    since: float
    until: float
    after: float
    max_repeats: int | None = None
    notification_id: UUID | None = None

    def contains(self, response: Response, notification_id: UUID) -> bool:
        matches = self.notification_id in (None, notification_id)
        return matches and response.requested_at <= self.until and response.responded_at >= self.since

    def explains(
        self, first: Response, second: Response, notification_id: UUID, remaining: Mapping["RepeatWindow", int]
    ) -> bool:
        """Return whether the window explains the repeat. `remaining` has the open capacity of limited windows."""
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
    faults = sorted(faults, key=lambda injected: injected.began)
    outages = [_outage(injected, probe) for injected in faults if _prevents_settling(injected)]
    windows = [
        _window_of_kill(injected.began.timestamp(), outages, probe)
        for injected in faults
        if injected.fault.kind is FaultKind.KILL_WORKER
    ]
    windows += [
        _window_of_cut(injected.began.timestamp(), probe)
        for injected in faults
        if injected.fault.kind is FaultKind.CUT and injected.fault.link_group is LinkGroup.WORKERS_AND_PUSH
    ]
    return windows + [_window_of_lost_lease(lost_lease, outages, probe) for lost_lease in lost_leases]


def find_unexplained_losses(
    faults: Iterable[InjectedFault], lost_leases: Iterable[LostLease], probe: LatencyProbe
) -> list[LostLease]:
    """Return the leases that were lost while the database was available and the machine was not starved.

    A claim is committed asynchronously, so a claim from just before the database stopped may be lost when it returns.
    """
    outages = [_outage(injected, probe) for injected in faults if _prevents_settling(injected)]
    return [
        lost_lease
        for lost_lease in lost_leases
        if not any(began <= lost_lease.at and ended >= lost_lease.at - LEASE_S for began, ended in outages)
        and probe.max_delay_s(lost_lease.at - LEASE_S - NEAR_S, lost_lease.at) < STARVATION_S
    ]


def find_unexplained_repeats(
    copies: Mapping[tuple[UUID, str], Sequence[Response]], allowed: Sequence[RepeatWindow]
) -> list[str]:
    """Return the repeats that no fault explains. A window explains at most one repeat of a delivery."""
    breaches, remaining = [], {window: window.max_repeats for window in allowed if window.max_repeats is not None}
    unlimited_first = sorted(allowed, key=lambda window: (window.max_repeats is not None, window.until))
    for (notification_id, endpoint), responses in copies.items():
        candidates = list(unlimited_first)
        for first, second in pairwise(sorted(responses, key=lambda response: response.requested_at)):
            explanation = next(
                (window for window in candidates if window.explains(first, second, notification_id, remaining)), None
            )
            if explanation is None:
                host, at = endpoint.rpartition("/")[0], datetime.fromtimestamp(first.requested_at, UTC)
                when = f"at {at:%H:%M:%S.%f} and {second.requested_at - first.requested_at:.3f} s later"
                breaches.append(f"{notification_id} was sent twice to {host}, {when}: no fault explains it")
                continue
            candidates.remove(explanation)
            if explanation in remaining:
                remaining[explanation] -= 1
    return breaches


def max_repeats(copies: Mapping[tuple[UUID, str], Sequence[Response]], allowed: Iterable[RepeatWindow]) -> int:
    """Return how many repeats the windows explain at most."""
    total = 0
    for window in allowed:
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
    """Return the interval in which results of the workers may be unsettled because of a fault."""
    assert injected.ended is not None
    began, ended = injected.began.timestamp(), injected.ended.timestamp()
    return began - _unsettled(began, probe), ended + RECOVER_S + STEPS * _delay(ended, probe)


def _window_of_kill(at: float, outages: Sequence[tuple[float, float]], probe: LatencyProbe) -> RepeatWindow:
    without_outages = at - _unsettled(at, probe)
    since = _unsettled_since(without_outages, at, outages)
    slack = _slack(at, probe)
    # A worker killed while the database was unavailable may have lost its lease before, without time to log it.
    return RepeatWindow("a kill", since, at + slack, at - slack if since == without_outages else since)


def _window_of_cut(at: float, probe: LatencyProbe) -> RepeatWindow:
    slack = _slack(at, probe)
    return RepeatWindow("a cut", at - slack, at + slack, at - slack, max_repeats=(SENDERS + URGENT_SENDERS) * WORKERS)


def _window_of_lost_lease(
    lost_lease: LostLease, outages: Sequence[tuple[float, float]], probe: LatencyProbe
) -> RepeatWindow:
    without_outages = lost_lease.at - LEASE_S - _unsettled(lost_lease.at, probe)
    since, slack = _unsettled_since(without_outages, lost_lease.at, outages), _slack(lost_lease.at, probe)
    return RepeatWindow("a lost lease", since, lost_lease.at + slack, since, JOB_SIZE, lost_lease.notification_id)


def _unsettled_since(since: float, until: float, outages: Sequence[tuple[float, float]]) -> float:
    """Extend an interval backwards by every outage that overlaps it, and by the outages that overlap those."""
    for began, ended in sorted(outages, reverse=True):
        if began <= until and ended >= since:
            since = min(since, began)
    return since


def _unsettled(at: float, probe: LatencyProbe) -> float:
    return BATCH_WAIT_S + SETTLE_S + STEPS * _delay(at, probe)


def _slack(at: float, probe: LatencyProbe) -> float:
    return SLACK_S + _delay(at, probe)


def _delay(at: float, probe: LatencyProbe) -> float:
    return probe.max_delay_s(at - NEAR_S, at + SLACK_S)
