"""Deliveries, attempts, and what an attempt may come to.

What a push service may answer is a value here, never an exception. Only `Retry` and `Held` are not final:
exactly one final outcome per device ends up in the log.
"""

from collections.abc import Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

# The answers that refuse our key or token. Others may know of them by the status of an attempt.
UNAUTHORIZED_STATUSES = (401, 403)


class OutcomeName(StrEnum):
    """The final outcomes as the log, the counts and the API name them."""

    ACCEPTED = "accepted"
    GONE = "gone"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The push service took it (201): not 'displayed'. `message` is its Location, `ttl` the granted seconds.

    `cause`: who took it, when it was not the push service.
    """

    message: str | None = None
    ttl: int | None = None
    cause: str = ""
    name = OutcomeName.ACCEPTED


@dataclass(frozen=True, slots=True)
class Gone:
    """The subscription no longer exists; the device is not sent to again."""

    cause: str
    name = OutcomeName.GONE


@dataclass(frozen=True, slots=True)
class Rejected:
    """This message will never be taken. `quarantine`: the device must subscribe anew before it can be sent to."""

    cause: str
    quarantine: bool = False
    name = OutcomeName.REJECTED


@dataclass(frozen=True, slots=True)
class Expired:
    """Its time ran out before a push service took it."""

    cause: str
    name = OutcomeName.EXPIRED


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Withdrawn before it was sent."""

    cause: str
    name = OutcomeName.CANCELLED


@dataclass(frozen=True, slots=True)
class Skipped:
    """Not sent, by a rule its receiver is protected by: an opt-out, a cap."""

    cause: str
    name = OutcomeName.SKIPPED


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not to be sent yet: quiet hours are on, an open page may take it, or its host is in no state to."""

    until: datetime
    name = "held"


@dataclass(frozen=True, slots=True)
class Retry:
    """A passing fault. `after` is the push service's own wish (Retry-After), else our back-off decides.

    `slow_down`: the host asks for less. `unauthorized`: it refuses our key, which is more
    likely our configuration than this device's.
    """

    cause: str
    after: timedelta | None = None
    slow_down: bool = False
    unauthorized: bool = False
    name = "retry"


Final = Accepted | Gone | Rejected | Expired | Cancelled | Skipped
Outcome = Final | Retry | Deferred


class Attempt(NamedTuple):
    """One POST that came to nothing final. The final one is kept in the delivery's own row."""

    device_id: UUID
    number: int
    at: datetime
    duration_ms: int
    status: int | None
    cause: str
    retry_at: datetime


class DeliveryResult(NamedTuple):
    """The end of one delivery. `attempts` counts POSTs made; `status` is the last HTTP status, if any.

    `variant` is the place of the variant it carried in the notification's list.
    """

    device_id: UUID
    user_id: str | None
    host: str
    outcome: Final
    attempts: int
    status: int | None
    attempted_at: datetime | None
    duration_ms: int
    settled_at: datetime
    variant: int | None = None


@dataclass(slots=True)
class ResultBatch:
    """A batch of results of one job: what ended, what is tried again and when, what is still to do."""

    settled: list[DeliveryResult] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    requeued: dict[tuple[datetime, int], list[UUID]] = field(default_factory=dict)
    """(due, POSTs made so far) -> devices."""
    retries: int = 0
    """How many of those `later` are there for a fault; the others are held."""

    def devices(self) -> int:
        return len(self.settled) + sum(map(len, self.requeued.values()))

    def device_ids(self) -> set[UUID]:
        """The devices it is about."""
        return {done.device_id for done in self.settled}.union(*self.requeued.values())

    def for_devices(self, device_ids: Set[UUID]) -> "ResultBatch":
        """What it says of these devices."""
        if self.device_ids() <= device_ids:
            return self
        later = {when: [id_ for id_ in several if id_ in device_ids] for when, several in self.requeued.items()}
        attempts = [attempt for attempt in self.attempts if attempt.device_id in device_ids]
        return ResultBatch(
            [done for done in self.settled if done.device_id in device_ids],
            attempts,
            {when: several for when, several in later.items() if several},
            min(self.retries, len(attempts)),
        )
