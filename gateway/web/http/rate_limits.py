"""Limits on how often something may be asked for: token buckets in this process's memory.

Told as draft-ietf-httpapi-ratelimit-headers has it. With several processes each counts for itself, so that a limit is
for each of them.
"""

import math
import time
from collections.abc import Callable, Hashable

from gateway.domain.bounded_cache import put
from gateway.domain.errors import RateLimited

MAX_TRACKED = 100_000


class TokenBuckets:
    """`per_minute` requests a minute for each key, and as many at once."""

    def __init__(self, name: str, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._most = float(per_minute)
        self._policy = {"RateLimit-Policy": f'"{name}";q={per_minute};w=60'}
        self._clock = clock
        self._left: dict[Hashable, tuple[float, float]] = {}

    def acquire(self, key: Hashable) -> dict[str, str]:
        """The headers that tell what is left. Raises RateLimited."""
        now = self._clock()
        left, at = self._left.get(key, (self._most, now))
        left = min(self._most, left + (now - at) * self._most / 60)
        taken = left >= 1
        # The longest unused makes way: it is full again, or as good as.
        put(self._left, key, (left - taken, now), MAX_TRACKED)
        if not taken:
            wait = math.ceil((1 - left) * 60 / self._most)
            headers = self._policy | {"RateLimit": f'"{self._name}";r=0;t={wait}', "Retry-After": str(wait)}
            raise RateLimited(f"at most {self._most:.0f} requests a minute; try again in {wait} s", headers)
        return self._policy | {"RateLimit": f'"{self._name}";r={int(left - 1)};t=60'}
