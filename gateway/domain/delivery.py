"""Deliveries, attempts and their outcomes.

A delivery is one notification to one device; an attempt is one POST to the device's push service. A response of a push
service is always an outcome of this module, never an exception. `Retry` and `Deferred` are not final. Each delivery
gets exactly one final outcome, which the delivery log records.
"""

from collections.abc import Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

# Statuses by which a push service refuses the VAPID key or token.
UNAUTHORIZED_STATUSES = (401, 403)


class OutcomeName(StrEnum):
    """The final outcomes, by their names in the delivery log, the statistics and the API."""

    ACCEPTED = "accepted"
    GONE = "gone"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The push service accepted the message (201); the device has not yet displayed it.

    `message` is the message's URL (header Location). `ttl` is the number of seconds for which the push service stores
    the message. `cause` says who accepted the message if it was not a push service, such as an open page.
    """

    message: str | None = None
    ttl: int | None = None
    cause: str = ""
    name = OutcomeName.ACCEPTED


@dataclass(frozen=True, slots=True)
class Gone:
    """The subscription no longer exists; the device receives no more messages."""

    cause: str
    name = OutcomeName.GONE


@dataclass(frozen=True, slots=True)
class Rejected:
    """The message cannot be delivered. `quarantine`: the device must subscribe again before it receives messages."""

    cause: str
    quarantine: bool = False
    name = OutcomeName.REJECTED


@dataclass(frozen=True, slots=True)
class Expired:
    """The notification expired before a push service accepted the message."""

    cause: str
    name = OutcomeName.EXPIRED


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The notification was cancelled before the message was sent."""

    cause: str
    name = OutcomeName.CANCELLED


@dataclass(frozen=True, slots=True)
class Skipped:
    """The message was not sent: its user has opted out or reached a frequency cap, or no longer has the device."""

    cause: str
    name = OutcomeName.SKIPPED


@dataclass(frozen=True, slots=True)
class Deferred:
    """The message must wait: for the end of quiet hours, for the acknowledgement of an open page, or for its host."""

    until: datetime
    name = "deferred"


@dataclass(frozen=True, slots=True)
class Retry:
    """A transient failure. `after` is the push service's Retry-After; without it, the back-off is the delay.

    `slow_down`: the push service throttles the gateway. `unauthorized`: the push service refuses the VAPID key; the
    reason is more likely a wrong configuration than this device.
    """

    cause: str
    after: timedelta | None = None
    slow_down: bool = False
    unauthorized: bool = False
    name = "retry"


Final = Accepted | Gone | Rejected | Expired | Cancelled | Skipped
Outcome = Final | Retry | Deferred


class Attempt(NamedTuple):
    """A POST after which the delivery is retried. The last POST of a delivery is recorded in the DeliveryResult."""

    device_id: UUID
    number: int
    at: datetime
    duration_ms: int
    status: int | None
    cause: str
    retry_at: datetime


class DeliveryResult(NamedTuple):
    """The final result of one delivery.

    `attempts` counts the POSTs; `status` is the last HTTP status, if any. `variant` is the index of the variant that
    was sent.
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
    """The results of some deliveries of one job.

    `requeued` maps (due time, POSTs so far) to the devices to which the message is sent again at that time. `retries`
    is the number of devices that are requeued after a failed POST; the other requeued devices are deferred.
    `newly_accepted` are the devices for which a push service accepted a message for the first time, and `reaccepted`
    those for which it does so again after it had refused the VAPID key.
    """

    settled: list[DeliveryResult] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    requeued: dict[tuple[datetime, int], list[UUID]] = field(default_factory=dict)
    retries: int = 0
    newly_accepted: list[UUID] = field(default_factory=list)
    reaccepted: list[UUID] = field(default_factory=list)

    def refused_devices(self) -> list[UUID]:
        """Return the devices for which a push service refused the VAPID key without naming a key mismatch."""
        return [
            *(attempt.device_id for attempt in self.attempts if attempt.status in UNAUTHORIZED_STATUSES),
            *(
                result.device_id
                for result in self.settled
                if result.status in UNAUTHORIZED_STATUSES and isinstance(result.outcome, Expired)
            ),
        ]

    def count_devices(self) -> int:
        """Return the number of devices in the batch."""
        return len(self.settled) + sum(map(len, self.requeued.values()))

    def device_ids(self) -> set[UUID]:
        """Return the ids of the devices in the batch."""
        return {result.device_id for result in self.settled}.union(*self.requeued.values())

    def for_devices(self, device_ids: Set[UUID]) -> "ResultBatch":
        """Return the results of these devices only."""
        if self.device_ids() <= device_ids:
            return self
        requeued = {when: [id_ for id_ in ids if id_ in device_ids] for when, ids in self.requeued.items()}
        attempts = [attempt for attempt in self.attempts if attempt.device_id in device_ids]
        return ResultBatch(
            [result for result in self.settled if result.device_id in device_ids],
            attempts,
            {when: ids for when, ids in requeued.items() if ids},
            min(self.retries, len(attempts)),
            [id_ for id_ in self.newly_accepted if id_ in device_ids],
            [id_ for id_ in self.reaccepted if id_ in device_ids],
        )
