"""The send policy of a notification: throttle, quiet hours, frequency cap, variants and failure limit.

The policy is fixed when the notification is accepted, and stored with the notification as JSON. In the urgent lane only
its local time and category apply, so that no throttle, quiet hours or cap delays an alert.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gateway.domain.json_object import JsonObject
from gateway.domain.schedule import QuietHours

# Number of buckets into which the recipients of a notification are hashed. A range of buckets is a share of the
# audience.
BUCKETS = 10_000

# Slowest throttle: about one message in three hours.
MIN_PER_SECOND = 0.0001
# Longest window of a frequency cap.
MAX_CAP_WINDOW = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class Throttle:
    """A limit of the sending rate: messages per second, or the minimum time over which to `spread` all messages."""

    per_second: float | None = None
    spread: timedelta | None = None

    def rate(self, targets: int) -> float:
        """Return the limit in messages per second for a number of recipients."""
        limits = [self.per_second] if self.per_second else []
        if self.spread:
            limits.append(max(targets, 1) / self.spread.total_seconds())
        return min(limits)


@dataclass(frozen=True, slots=True)
class FrequencyCap:
    """At most `limit` notifications of a category per user within `window`."""

    limit: int
    window: timedelta


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of the content.

    `content` replaces fields of the notification's content. `weight` is the variant's share, relative to the others.
    """

    name: str
    weight: float
    content: JsonObject


@dataclass(frozen=True, slots=True)
class WinnerSelection:
    """A variant test: a `sample` of the audience (a share) gets the variants, and the rest gets the winning variant.

    The winner is the variant with the most clicks when the time `after` has passed.
    """

    sample: float
    after: timedelta


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """Pause the notification when more than `share` of its deliveries failed.

    The share is checked only after at least `after` deliveries have been accepted or have failed.
    """

    share: float
    after: int

    def is_exceeded(self, accepted: int, failed: int) -> bool:
        """Return whether the counts exceed the limit."""
        return accepted + failed >= self.after and failed > self.share * (accepted + failed)


@dataclass(frozen=True, slots=True)
class SendPolicy:
    """The send policy of one notification. By default nothing is limited.

    `local_at` (naive): each device gets the message at this time in its time zone. `category`: the category whose
    opt-outs and cap apply.
    """

    local_at: datetime | None = None
    category: str | None = None
    throttle: Throttle | None = None
    quiet_hours: QuietHours | None = None
    cap: FrequencyCap | None = None
    variants: tuple[Variant, ...] = ()
    winner: WinnerSelection | None = None
    pause_when: FailureLimit | None = None

    def variant_for(self, bucket: int, winner: int | None) -> int:
        """Return the index of the variant for a bucket; buckets outside the sample get `winner`."""
        sample = BUCKETS if self.winner is None else sample_size(self.winner.sample)
        if bucket >= sample:
            assert winner is not None  # noqa: S101 - decided before any bucket outside the sample is sent to
            return winner
        at, total = 0.0, sum(variant.weight for variant in self.variants)
        for index, variant in enumerate(self.variants):
            at += variant.weight / total * sample
            if bucket < at:
                return index
        return len(self.variants) - 1

    def for_urgent_lane(self) -> "SendPolicy":
        """Return the part of the policy that applies in the urgent lane."""
        return SendPolicy(local_at=self.local_at, category=self.category)

    def to_json(self) -> JsonObject:
        """Return the policy as JSON, for storage."""
        values: dict[str, Any] = {}
        if self.local_at:
            values["local_at"] = self.local_at.isoformat()
        if self.category:
            values["category"] = self.category
        if self.throttle:
            spread = self.throttle.spread
            values["throttle"] = {
                "per_second": self.throttle.per_second,
                "spread": None if spread is None else spread.total_seconds(),
            }
        if self.quiet_hours:
            values["quiet_hours"] = self.quiet_hours.to_json()
        if self.cap:
            values["cap"] = {"limit": self.cap.limit, "window": self.cap.window.total_seconds()}
        if self.variants:
            values["variants"] = [{"name": v.name, "weight": v.weight, "content": v.content} for v in self.variants]
        if self.winner:
            values["winner"] = {"sample": self.winner.sample, "after": self.winner.after.total_seconds()}
        if self.pause_when:
            values["pause_when"] = {"share": self.pause_when.share, "after": self.pause_when.after}
        return values

    @classmethod
    def from_json(cls, values: JsonObject) -> "SendPolicy":
        """Return the policy from the result of `to_json`."""
        throttle, cap, winner = values.get("throttle"), values.get("cap"), values.get("winner")
        return cls(
            local_at=datetime.fromisoformat(values["local_at"]) if "local_at" in values else None,
            category=values.get("category"),
            throttle=throttle and Throttle(throttle["per_second"], _seconds(throttle["spread"])),
            quiet_hours=QuietHours.from_json(values["quiet_hours"]) if "quiet_hours" in values else None,
            # Notifications stored before the field was renamed have `most`.
            cap=cap and FrequencyCap(cap["limit"] if "limit" in cap else cap["most"], timedelta(seconds=cap["window"])),
            variants=tuple(Variant(**variant) for variant in values.get("variants", ())),
            winner=winner and WinnerSelection(winner["sample"], timedelta(seconds=winner["after"])),
            pause_when=FailureLimit(**values["pause_when"]) if "pause_when" in values else None,
        )


DEFAULT_POLICY = SendPolicy()


def sample_size(share: float) -> int:
    """Return the number of buckets in a sample; the buckets below this number belong to it."""
    return max(1, min(BUCKETS, round(share * BUCKETS)))


def _seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)
