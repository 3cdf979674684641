"""Rules for errors and limits on messages, which a test or user sets. A seed makes the errors reproducible.

Whether a rule applies is computed from a hash of the seed, the rule and the endpoint's token instead of a random
generator, so the arrival order of concurrent requests does not matter.
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
    """A rule by which the simulator returns an error, delays or resets. The first rule that applies decides.

    Attributes:
        status: response status; None continues normally. A 2xx accepts the message without delivering it, as Apple may
            do for a removed subscription. 507 is ntfy's (UnifiedPush) for an endpoint without a connected subscriber.
        vendor: restricts the rule to this vendor.
        endpoint: restricts the rule to this endpoint.
        share: share of requests affected, 0 to 1.
        per: `endpoint` always selects the same endpoints, `try` decides again for every request.
        times: how often the rule applies to each endpoint; None for no limit.
        reason: the vendor's error text, if not the usual one. Mozilla: an errno, and optionally its message. FCM: an
            HTML page for UnauthorizedRegistration and MismatchSenderId.
        retry_after: seconds, or an HTTP date.
        delay_ms: delay before the response.
        reset: reset the connection instead of responding.
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


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Limit:
    """A limit on the messages of one sender: a bucket of `messages`, refilled within `window_s`.

    Attributes:
        messages: messages that are accepted at once after a pause.
        window_s: seconds in which the bucket is refilled, evenly.
        vendor: restricts the limit to this vendor.
        site: restricts the limit to the site with this VAPID public key (base64url); every site has its own bucket.
        per: `site` has a bucket for each VAPID key, `service` one for all of them.
        status: response status beyond the limit.
        retry_after: seconds in the Retry-After of the response, if any.
    """

    messages: Annotated[int, Field(ge=1)]
    window_s: Annotated[float, Field(gt=0)] = 60
    vendor: Vendor | None = None
    site: str | None = None
    per: Literal["site", "service"] = "site"
    status: Annotated[int, Field(ge=400, le=599)] = 429
    retry_after: Annotated[int, Field(ge=0)] | None = None


# Chrome's limit on a site that it judges disruptive (developer.chrome.com/blog/web-push-rate-limits).
SITE_LIMIT = Limit(vendor=Vendor.FCM, messages=1000)

# The errors in a demo: some subscriptions are gone, and every other error ends with a retry.
DEMO = (
    Rule(status=410, share=0.02),
    Rule(status=429, vendor=Vendor.FCM, share=0.03, per="try", retry_after=2),
    Rule(status=429, vendor=Vendor.APPLE, share=0.03, per="try", retry_after=2),
    Rule(status=406, vendor=Vendor.WNS, share=0.03, per="try", retry_after=2),
    Rule(status=503, share=0.02, per="try", retry_after=2),
    Rule(share=0.03, per="try", delay_ms=400),
)


class Behaviour:
    """The active rules and limits, and how often each rule has applied to each endpoint."""

    def __init__(self, rules: Sequence[Rule] = (), seed: int = 0, limits: Sequence[Limit] = ()) -> None:
        """Create the behaviour with these rules and limits."""
        self.rules = tuple(rules)
        self.seed = seed
        self.limits = tuple(limits)
        # (messages left, monotonic time at which they were left) of each bucket.
        self._buckets: dict[tuple[int, Vendor, str], tuple[float, float]] = {}
        self._request_counts: Counter[str] = Counter()
        self._rule_counts: Counter[tuple[int, str]] = Counter()

    def select_rule(self, vendor: Vendor, endpoint: str, token: str) -> Rule | None:
        """Return the rule that applies to a request, or None, and count the request and the rule."""
        if not self.rules:
            return None
        self._request_counts[token] += 1
        for index, rule in enumerate(self.rules):
            if rule.vendor not in (None, vendor) or rule.endpoint not in (None, endpoint):
                continue
            if rule.times is not None and self._rule_counts[index, token] >= rule.times:
                continue
            if rule.share < 1 and self._draw_share(index, rule, token) >= rule.share:
                continue
            if rule.times is not None:
                self._rule_counts[index, token] += 1
            return rule
        return None

    def find_exceeded_limit(self, vendor: Vendor, site: str, now: float) -> Limit | None:
        """Count a message of a site; return the limit that it exceeds, or None when it is accepted."""
        for index, limit in enumerate(self.limits):
            if limit.vendor not in (None, vendor) or limit.site not in (None, site):
                continue
            bucket = (index, vendor, site if limit.per == "site" else "")
            left, at = self._buckets.get(bucket, (limit.messages, now))
            left = min(limit.messages, left + (now - at) * limit.messages / limit.window_s)
            if left < 1:
                return limit
            self._buckets[bucket] = (left - 1, now)
        return None

    def _draw_share(self, index: int, rule: Rule, token: str) -> float:
        number = self._request_counts[token] if rule.per == "try" else 0
        digest = blake2b(f"{self.seed}/{index}/{number}/{token}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64
