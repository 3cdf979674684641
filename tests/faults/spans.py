"""Which messages a fault may have made to be sent again: those that were in flight or not yet settled when it came.

The bound is the design's, in moments of the push services' own: what they took within the last batch before a worker
was killed; within a database's absence, if a worker was killed or its lease ran out meanwhile; what lay with them when
the connections to them were cut. What the log holds is not asked, or a gateway that never settles would excuse itself.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

from gateway.domain import ids
from tests.faults.plan import LEASE_S, SENDERS, URGENT_SENDERS, WORKERS, Between, Break
from tests.faults.play import Happened
from tests.faults.pulse import Pulse
from tests.faults.remembering import Said

# A worker settles every few hundred rows or milliseconds. Not read from the code, so that this checks the code.
BATCH_WAIT_S = 0.3
# Two settlements: the one that a result waits for, and its own.
SETTLE_S = 0.7
# From the database's return until all that was held on to is settled.
RECOVER_S = 2.0
# Between a moment here and the same moment as another process has it.
SLACK_S = 0.5
# A worker's step takes so many of our own.
STEPS = 4
LARGEST_JOB = 500
# A third of what a worker has left when it renews a lease and cannot: later than that, nobody is surprised.
STARVED_S = 0.3
NEAR_S = 3.0


@dataclass(frozen=True, slots=True)
class Span:
    """A first message may be any that was asked for by `until` and answered after `since`; a second comes from `after`
    on. `most`: so many repeats at the most; of one notification, when it says which.
    """

    what: str
    since: float
    until: float
    after: float
    most: int | None = None
    notification_id: UUID | None = None

    def holds(self, said: Said, notification_id: UUID) -> bool:
        ours = self.notification_id in (None, notification_id)
        return ours and said.asked_at <= self.until and said.answered_at >= self.since

    def explains(self, first: Said, second: Said, notification_id: UUID, left: Mapping["Span", int]) -> bool:
        """`left`: how many more, of those that explain so many only."""
        return self.holds(first, notification_id) and second.asked_at >= self.after and left.get(self, 1) > 0


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker said that it lost a job's lease."""

    at: float
    notification_id: UUID


def losses(log: str, skew_s: float) -> Iterator[Loss]:
    """`skew_s`: how far the clock of who wrote it is ahead."""
    for line in log.splitlines():
        if '"job.lease_lost"' in line:
            said = json.loads(line)
            notification_id = ids.parse(ids.NOTIFICATION, said["notification_id"])
            assert notification_id is not None
            yield Loss(datetime.fromisoformat(said["timestamp"]).timestamp() - skew_s, notification_id)


def spans(happened: Iterable[Happened], lost: Iterable[Loss], pulse: Pulse) -> list[Span]:
    happened = sorted(happened, key=lambda one: one.began)
    away = [_away(one, pulse) for one in happened if _keeps_from_settling(one)]
    found = [_killed(one.began.timestamp(), away, pulse) for one in happened if one.fault.what is Break.KILL_WORKER]
    found += [
        _cut(one.began.timestamp(), pulse)
        for one in happened
        if one.fault.what is Break.CUT and one.fault.between is Between.WORKERS_AND_PUSH
    ]
    return found + [_lost(loss, away, pulse) for loss in lost]


def unexcused(happened: Iterable[Happened], lost: Iterable[Loss], pulse: Pulse) -> list[Loss]:
    """Leases that were lost while the database was there and the machine not starved.

    A claim is written behind, so that one from just before the database stopped may be lost at once when it is back.
    """
    away = [_away(one, pulse) for one in happened if _keeps_from_settling(one)]
    return [
        loss
        for loss in lost
        if not any(began <= loss.at and ended >= loss.at - LEASE_S for began, ended in away)
        and pulse.worst(loss.at - LEASE_S - NEAR_S, loss.at) < STARVED_S
    ]


def unexplained(copies: Mapping[tuple[UUID, str], Sequence[Said]], allowed: Sequence[Span]) -> list[str]:
    """Each repeat is laid to one fault, and of a delivery none is laid to the same fault twice."""
    found, left = [], {span: span.most for span in allowed if span.most is not None}
    unlimited_first = sorted(allowed, key=lambda span: (span.most is not None, span.until))
    for (notification_id, endpoint), several in copies.items():
        free = list(unlimited_first)
        for first, second in pairwise(sorted(several, key=lambda said: said.asked_at)):
            why = next((span for span in free if span.explains(first, second, notification_id, left)), None)
            if why is None:
                host, at = endpoint.rpartition("/")[0], datetime.fromtimestamp(first.asked_at, UTC)
                when = f"at {at:%H:%M:%S.%f} and {second.asked_at - first.asked_at:.3f} s later"
                found.append(f"{notification_id} went twice to {host}, {when}: no fault explains it")
                continue
            free.remove(why)
            if why in left:
                left[why] -= 1
    return found


def most_repeats(copies: Mapping[tuple[UUID, str], Sequence[Said]], allowed: Iterable[Span]) -> int:
    total = 0
    for span in allowed:
        held = sum(any(span.holds(said, id_) for said in several) for (id_, _), several in copies.items())
        total += held if span.most is None else min(held, span.most)
    return total


def _keeps_from_settling(one: Happened) -> bool:
    return one.fault.what in (Break.STOP_POSTGRES, Break.FULL_DISK) or one.fault.between is Between.WORKERS_AND_POSTGRES


def _away(one: Happened, pulse: Pulse) -> tuple[float, float]:
    """From when on results may lie with the workers, and until when they are settled."""
    assert one.ended is not None
    began, ended = one.began.timestamp(), one.ended.timestamp()
    return began - _unsettled(began, pulse), ended + RECOVER_S + STEPS * _slow(ended, pulse)


def _killed(at: float, away: Sequence[tuple[float, float]], pulse: Pulse) -> Span:
    usual = at - _unsettled(at, pulse)
    since = _unsettled_since(usual, at, away)
    slack = _slack(at, pulse)
    # Who is killed in the database's absence may have lost its lease before, and have had no time to say so.
    return Span("a kill", since, at + slack, at - slack if since == usual else since)


def _cut(at: float, pulse: Pulse) -> Span:
    slack = _slack(at, pulse)
    return Span("a cut", at - slack, at + slack, at - slack, most=(SENDERS + URGENT_SENDERS) * WORKERS)


def _lost(loss: Loss, away: Sequence[tuple[float, float]], pulse: Pulse) -> Span:
    usual = loss.at - LEASE_S - _unsettled(loss.at, pulse)
    since, slack = _unsettled_since(usual, loss.at, away), _slack(loss.at, pulse)
    return Span("a lost lease", since, loss.at + slack, since, LARGEST_JOB, loss.notification_id)


def _unsettled_since(since: float, until: float, away: Sequence[tuple[float, float]]) -> float:
    """With every absence of the database that reaches into it, and those that reach into that one."""
    for began, ended in sorted(away, reverse=True):
        if began <= until and ended >= since:
            since = min(since, began)
    return since


def _unsettled(at: float, pulse: Pulse) -> float:
    return BATCH_WAIT_S + SETTLE_S + STEPS * _slow(at, pulse)


def _slack(at: float, pulse: Pulse) -> float:
    return SLACK_S + _slow(at, pulse)


def _slow(at: float, pulse: Pulse) -> float:
    return pulse.worst(at - NEAR_S, at + SLACK_S)
