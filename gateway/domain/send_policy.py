"""How a notification is steered: who is left out, when and how fast it goes, in which variants, when it stops.

All of it is fixed when the notification is accepted and kept with it as JSON. A notification in the urgent lane is
never steered: no throttle, no quiet hours and no cap holds back an alert.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gateway.domain.schedule import QuietHours

BUCKETS = 10_000
"""Every person falls into one of them, anew for every notification: what a share of an audience is made of."""

MAX_CAP_WINDOW = timedelta(days=31)
"""As far back as a cap looks."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """At most so many messages a second; `spread` is the time that all of it shall take at the least."""

    per_second: float | None = None
    spread: timedelta | None = None

    def rate(self, targets: int) -> float:
        """Messages per second, once it is known how many there are."""
        limits = [self.per_second] if self.per_second else []
        if self.spread:
            limits.append(max(targets, 1) / self.spread.total_seconds())
        return min(limits)


@dataclass(frozen=True, slots=True)
class FrequencyCap:
    """No more than `most` notifications of a category to one person within `window`."""

    limit: int
    window: timedelta


@dataclass(frozen=True, slots=True)
class Variant:
    """`content` replaces what it names of the notification's own. `weight` is its share, relative to the others'."""

    name: str
    weight: float
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WinnerSelection:
    """The variants go to a `sample` (share of the audience); after `after`, the one most clicked goes to the rest."""

    sample: float
    after: timedelta


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """Pause when more than `share` of what has ended was not accepted, once `after` deliveries have."""

    share: float
    after: int

    def is_exceeded(self, accepted: int, failed: int) -> bool:
        return accepted + failed >= self.after and failed > self.share * (accepted + failed)


@dataclass(frozen=True, slots=True)
class SendPolicy:
    """`local_at` (naive): each device gets it when its own clock shows this. `timezone`: as the schedule named it.

    `category`: what kind of message it is to those who get it, who may have opted out of it.
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
        """Which variant (its index) the people of a bucket get; `winner` goes to those outside the sample."""
        reach = BUCKETS if self.winner is None else sample_size(self.winner.sample)
        if bucket >= reach:
            assert winner is not None  # noqa: S101 - decided before the first of the rest is sent
            return winner
        at, total = 0.0, sum(variant.weight for variant in self.variants)
        for index, variant in enumerate(self.variants):
            at += variant.weight / total * reach
            if bucket < at:
                return index
        return len(self.variants) - 1

    def for_urgent_lane(self) -> "SendPolicy":
        """What is left of it in the urgent lane."""
        return SendPolicy(local_at=self.local_at, category=self.category)

    def to_json(self) -> dict[str, Any]:
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
            values["cap"] = {"most": self.cap.limit, "window": self.cap.window.total_seconds()}
        if self.variants:
            values["variants"] = [{"name": v.name, "weight": v.weight, "content": v.content} for v in self.variants]
        if self.winner:
            values["winner"] = {"sample": self.winner.sample, "after": self.winner.after.total_seconds()}
        if self.pause_when:
            values["pause_when"] = {"share": self.pause_when.share, "after": self.pause_when.after}
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SendPolicy":
        throttle, cap, winner = values.get("throttle"), values.get("cap"), values.get("winner")
        return cls(
            local_at=datetime.fromisoformat(values["local_at"]) if "local_at" in values else None,
            category=values.get("category"),
            throttle=throttle and Throttle(throttle["per_second"], _seconds(throttle["spread"])),
            quiet_hours=QuietHours.from_json(values["quiet_hours"]) if "quiet_hours" in values else None,
            cap=cap and FrequencyCap(cap["most"], timedelta(seconds=cap["window"])),
            variants=tuple(Variant(**variant) for variant in values.get("variants", ())),
            winner=winner and WinnerSelection(winner["sample"], timedelta(seconds=winner["after"])),
            pause_when=FailureLimit(**values["pause_when"]) if "pause_when" in values else None,
        )


DEFAULT_POLICY = SendPolicy()


def sample_size(share: float) -> int:
    """The buckets below this are the sample."""
    return max(1, min(BUCKETS, round(share * BUCKETS)))


def _seconds(said: float | None) -> timedelta | None:
    return None if said is None else timedelta(seconds=said)
