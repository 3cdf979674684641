"""Notifications: what an application submits for sending.

The kinds (direct, campaign, alert, event, reminder) differ only in how a request is validated and in its defaults. How
an accepted notification is sent depends on its lane, urgency, TTL and expiry, not on its kind.
"""

import hashlib
import math
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

from gateway.domain.json_object import JsonObject
from gateway.domain.send_policy import DEFAULT_POLICY, SendPolicy, sample_size

# The maximum TTL of a message. FCM stores a message for 28 days, the shortest of the four vendors' limits.
MAX_TTL = timedelta(days=28)

# Minimum time from start to expiry. A TTL of 0 tells the push service not to store the message; the queue still needs
# time to send it.
MIN_LIFETIME = timedelta(minutes=1)

# Window of the exponential average of the sending rate. With a longer window, the rate would fall too late after a
# pause; with a shorter window, the estimated end of a campaign would jump.
RATE_WINDOW = timedelta(seconds=15)


class Kind(StrEnum):
    """How a notification was submitted."""

    DIRECT = "direct"
    CAMPAIGN = "campaign"
    ALERT = "alert"
    EVENT = "event"
    REMINDER = "reminder"


class Lane(IntEnum):
    """The priority in the queue; lower values are sent first."""

    URGENT = 0
    NORMAL = 1
    BULK = 2

    @property
    def label(self) -> str:
        """The name of the lane in the API, settings and metrics."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> "Lane":
        """Return the lane with this label. Raises KeyError."""
        return cls[label.upper()]


class Urgency(StrEnum):
    """The `Urgency` of a push message (RFC 8030 section 5.3)."""

    VERY_LOW = "very-low"
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class Status(StrEnum):
    """The state of a notification.

    `scheduled` waits for its start or for planning, `sending` has jobs, `paused` may have jobs. `done` and `cancelled`
    are final.
    """

    SCHEDULED = "scheduled"
    SENDING = "sending"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"


UNFINISHED_STATUSES = (Status.SCHEDULED, Status.SENDING, Status.PAUSED)


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How the messages are sent. `ttl` is how long the push service may store them; none is sent after `expires_at`."""

    lane: Lane
    urgency: Urgency
    ttl: timedelta
    expires_at: datetime
    collapse_key: str | None = None


@dataclass(frozen=True, slots=True)
class Templating:
    """Marks content whose texts are templates.

    `strict`: a text that uses an undefined variable fails. `event`: the value of the variable `event`.
    """

    strict: bool = False
    event: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notification:
    """An accepted notification.

    `day` (UTC) is the day on which sending started, None before that; it selects the log partition of the deliveries.
    `winner` is the index of the variant that recipients outside the sample get, None until it is decided. `auto_paused`
    is the reason why the gateway paused the notification by itself; it does so at most once. `templating` is None when
    the texts are not templates. `occurrence` is the due time of a reminder's notification. `trace` is the W3C
    traceparent of the request that submitted the notification, when tracing is on. `person_bound`: each delivery is for
    the user that the device had at planning.
    """

    id: UUID
    application_id: UUID
    kind: Kind
    name: str | None
    status: Status
    day: date | None
    content: JsonObject
    audience: Any
    delivery: DeliveryOptions
    details: JsonObject
    start_at: datetime
    created_at: datetime
    finished_at: datetime | None = None
    policy: SendPolicy = DEFAULT_POLICY
    winner: int | None = None
    auto_paused: str | None = None
    templating: Templating | None = None
    reminder_id: UUID | None = None
    occurrence: datetime | None = None
    trace: str | None = None
    person_bound: bool = False

    @property
    def is_localized(self) -> bool:
        """Whether the content depends on the locale of the device."""
        return "locales" in self.content or any("locales" in variant.content for variant in self.policy.variants)

    def is_blocked_on_winner(self, buckets: Iterable[int]) -> bool:
        """Return whether a recipient in one of the buckets is outside the sample and the winner is not yet decided."""
        winner = self.policy.winner
        if winner is None or self.winner is not None:
            return False
        return any(bucket >= sample_size(winner.sample) for bucket in buckets)

    def variant_for(self, bucket: int) -> int | None:
        """Return the index of the variant for a bucket, None without variants."""
        return self.policy.variant_for(bucket, self.winner) if self.policy.variants else None

    def tag_for(self, content: Mapping[str, Any]) -> str:
        """Return the tag of the displayed notification: the content's tag, or the collapse key, or the id.

        A browser replaces a displayed notification by a new one with the same tag.
        """
        return str(content.get("tag") or self.delivery.collapse_key or self.id)


def push_topic(application_id: UUID, tag: str) -> str:
    """Return the `Topic` header for a tag (RFC 8030 section 5.4).

    The length of 32 base64url characters is the maximum, and Apple refuses lengths of 1 modulo 4.
    """
    digest = hashlib.sha256(f"{application_id}\0{tag}".encode()).digest()
    return urlsafe_b64encode(digest[:24]).decode()


def compute_expiry(start_at: datetime, ttl: timedelta) -> datetime:
    """Return the time after which no message of a notification is sent."""
    return start_at + max(ttl, MIN_LIFETIME)


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of a notification's deliveries.

    Push services report `accepted`; browsers report `displayed`, `clicked` and `dismissed`. `rate` is the number of
    deliveries per second at `rated_at`, averaged over about RATE_WINDOW. `began_at` is when the first delivery settled.
    """

    targets: int = 0
    accepted: int = 0
    gone: int = 0
    rejected: int = 0
    expired: int = 0
    cancelled: int = 0
    skipped: int = 0
    retries: int = 0
    displayed: int = 0
    clicked: int = 0
    dismissed: int = 0
    rate: float = 0.0
    rated_at: datetime | None = None
    began_at: datetime | None = None

    @property
    def failed(self) -> int:
        """Deliveries that ended without acceptance, except cancelled and skipped ones."""
        return self.gone + self.rejected + self.expired

    @property
    def pending(self) -> int:
        """Deliveries without a final outcome."""
        return self.targets - self.accepted - self.failed - self.cancelled - self.skipped

    def current_rate(self, now: datetime) -> float:
        """Return the number of deliveries per second at `now`: the stored rate, decayed since `rated_at`."""
        if self.rated_at is None or self.began_at is None:
            return 0.0
        window = RATE_WINDOW.total_seconds()
        decayed = self.rate * math.exp(-max(0.0, (now - self.rated_at).total_seconds()) / window)
        # Shortly after the start the average covers only a part of its window.
        coverage = 1 - math.exp(-max(1.0, (now - self.began_at).total_seconds()) / window)
        return decayed / coverage
