"""A notification: something we were asked to send, whatever door it came in by.

Campaign, alert and direct differ in validation and in the defaults below. After acceptance nothing looks at
the kind again: lane, Urgency, TTL and expiry say all that sending needs.
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

from gateway.domain.send_policy import DEFAULT_POLICY, SendPolicy, sample_size

# FCM holds a message for 28 days, the shortest of the four vendors' limits.
MAX_TTL = timedelta(days=28)

# A TTL of 0 means 'now or never' for the push service, not for our queue: this much is ours.
MIN_LIFETIME = timedelta(minutes=1)


# The rate is an exponential average over this long: steady enough for an ETA, quick enough for a pause.
RATE_WINDOW = timedelta(seconds=15)


class Kind(StrEnum):
    DIRECT = "direct"
    CAMPAIGN = "campaign"
    ALERT = "alert"
    EVENT = "event"
    REMINDER = "reminder"


class Lane(IntEnum):
    """The queue's priorities; lower goes first."""

    URGENT = 0
    NORMAL = 1
    BULK = 2

    @property
    def label(self) -> str:
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> "Lane":
        return cls[label.upper()]


class Urgency(StrEnum):
    """RFC 8030 section 5.3."""

    VERY_LOW = "very-low"
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class Status(StrEnum):
    """`scheduled` waits for its time or the planner, `sending` has jobs, `paused` may have; the others have ended."""

    SCHEDULED = "scheduled"
    SENDING = "sending"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How it travels. `ttl` is how long the push service may hold it; nothing is sent after `expires_at`."""

    lane: Lane
    urgency: Urgency
    ttl: timedelta
    expires_at: datetime
    collapse_key: str | None = None


@dataclass(frozen=True, slots=True)
class Templating:
    """The content's texts are templates. `strict`: an undefined variable fails; `event`: what they see as that."""

    strict: bool = False
    event: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notification:
    """`day` (UTC) is when sending began, None before that; it places the deliveries in the partitioned log.

    `winner` is the variant that those outside the sample get, once it is decided; `auto_paused` says why the
    gateway paused it by itself, which it does once.
    """

    id: UUID
    application_id: UUID
    kind: Kind
    name: str | None
    status: Status
    day: date | None
    content: dict[str, Any]
    audience: Any
    delivery: DeliveryOptions
    details: dict[str, Any]
    start_at: datetime
    created_at: datetime
    finished_at: datetime | None = None
    policy: SendPolicy = DEFAULT_POLICY
    winner: int | None = None
    auto_paused: str | None = None
    templating: Templating | None = None
    """None: the content is to be taken literally."""
    reminder_id: UUID | None = None
    occurrence: datetime | None = None
    """Of a reminder: which of its times this is."""
    trace: str | None = None
    """The W3C traceparent of the request it came by, where traces are on."""

    @property
    def is_localized(self) -> bool:
        """Whether the words depend on the device's locale."""
        return "locales" in self.content or any("locales" in variant.content for variant in self.policy.variants)

    def is_blocked_on_winner(self, buckets: Iterable[int]) -> bool:
        """Whether some of them are outside the sample and the winner is not decided yet."""
        winner = self.policy.winner
        if winner is None or self.winner is not None:
            return False
        return any(bucket >= sample_size(winner.sample) for bucket in buckets)

    def variant_for(self, bucket: int) -> int | None:
        return self.policy.variant_for(bucket, self.winner) if self.policy.variants else None

    def tag_for(self, content: Mapping[str, Any]) -> str:
        """What folds repeats together on the device: its content's own tag, else the collapse key, else the id."""
        return str(content.get("tag") or self.delivery.collapse_key or self.id)


def push_topic(application_id: UUID, tag: str) -> str:
    """The `Topic` header: always 32 base64url characters, since Apple refuses lengths of 1 modulo 4."""
    digest = hashlib.sha256(f"{application_id}\0{tag}".encode()).digest()
    return urlsafe_b64encode(digest[:24]).decode()


def compute_expiry(start_at: datetime, ttl: timedelta) -> datetime:
    return start_at + max(ttl, MIN_LIFETIME)


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of one notification's deliveries. `accepted` is the push service's word; `displayed` the browser's."""

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
    """Deliveries per second as of `rated_at`, over about RATE_WINDOW; `began_at` is when the first ended."""
    rated_at: datetime | None = None
    began_at: datetime | None = None

    @property
    def failed(self) -> int:
        """What has ended otherwise than accepted, and not by anyone's wish."""
        return self.gone + self.rejected + self.expired

    @property
    def pending(self) -> int:
        return self.targets - self.accepted - self.failed - self.cancelled - self.skipped

    def current_rate(self, now: datetime) -> float:
        """How fast deliveries have been ending lately."""
        if self.rated_at is None or self.began_at is None:
            return 0.0
        window = RATE_WINDOW.total_seconds()
        faded = self.rate * math.exp(-max(0.0, (now - self.rated_at).total_seconds()) / window)
        # At the beginning the average has seen only a part of its window.
        seen = 1 - math.exp(-max(1.0, (now - self.began_at).total_seconds()) / window)
        return faded / seen
