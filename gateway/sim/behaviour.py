"""Misbehave on purpose, and the same way every time.

Whether a rule hits is drawn from a hash of the seed, the rule and the endpoint's token, never from a running
generator: the order in which a concurrent sender's requests happen to arrive changes nothing.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from gateway.sim.profiles import Vendor


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Rule:
    """One way to misbehave; of several rules the first that hits decides.

    vendor, endpoint: whom it concerns; None is everyone.
    share: how many it hits, 0 to 1; drawn `per` endpoint (always the same ones) or afresh per try.
    times: only so many tries of each endpoint, then it no longer applies; None is for ever.
    status: what is answered; None goes on as usual. 2xx takes the message and never delivers it, as Apple
        may for a removed subscription.
    reason: the vendor's word for it (Mozilla: errno) where not its usual one.
    retry_after: seconds, or an HTTP date as text.
    delay_ms: how long it thinks first. reset: the connection is torn down and nothing is answered.
    """

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    vendor: Vendor | None = None
    endpoint: str | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    per: Literal["endpoint", "try"] = "endpoint"
    times: Annotated[int, Field(ge=1)] | None = None
    reason: str | None = None
    retry_after: Annotated[int, Field(ge=0)] | str | None = None
    delay_ms: Annotated[int, Field(ge=0)] = 0
    reset: bool = False


DEMO = (
    Rule(status=410, share=0.02),
    Rule(status=429, vendor=Vendor.FCM, share=0.03, per="try", retry_after=2),
    Rule(status=429, vendor=Vendor.APPLE, share=0.03, per="try", retry_after=2),
    Rule(status=406, vendor=Vendor.WNS, share=0.03, per="try", retry_after=2),
    Rule(status=503, share=0.02, per="try", retry_after=2),
    Rule(share=0.03, per="try", delay_ms=400),
)
"""A bad day: some subscriptions gone for good, the rest of the faults gone at the next try."""


class Behaviour:
    """The rules in force, and how often each has hit each endpoint."""

    def __init__(self, rules: Sequence[Rule] = (), seed: int = 0) -> None:
        self.rules = tuple(rules)
        self.seed = seed
        self._tries: Counter[str] = Counter()
        self._hits: Counter[tuple[int, str]] = Counter()

    def next(self, vendor: Vendor, endpoint: str, token: str) -> Rule | None:
        """The rule that decides this try, None when it goes as usual."""
        if not self.rules:
            return None
        self._tries[token] += 1
        for index, rule in enumerate(self.rules):
            if rule.vendor not in (None, vendor) or rule.endpoint not in (None, endpoint):
                continue
            if rule.times is not None and self._hits[index, token] >= rule.times:
                continue
            if rule.share < 1 and self._draw(index, rule, token) >= rule.share:
                continue
            if rule.times is not None:
                self._hits[index, token] += 1
            return rule
        return None

    def _draw(self, index: int, rule: Rule, token: str) -> float:
        number = self._tries[token] if rule.per == "try" else 0
        digest = blake2b(f"{self.seed}/{index}/{number}/{token}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64
