"""Rate limits: token buckets in this process's memory.

The headers follow draft-ietf-httpapi-ratelimit-headers. Each process counts separately, so a client may send as many
requests to each of several processes.
"""

import math
import time
from collections.abc import Callable, Hashable

from gateway.domain.bounded_cache import put
from gateway.domain.errors import RateLimited

# Maximum number of buckets in memory, per instance of `TokenBuckets`.
MAX_BUCKETS = 100_000


class TokenBuckets:
    """Token buckets, one for each key (a client address, an API key or a device).

    A full bucket has the tokens of one minute, so a client may send this number of requests at once. A key only uses
    the tokens of its own bucket.
    """

    def __init__(self, name: str, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create buckets that refill with `per_minute` tokens a minute; response headers contain `name`."""
        self._name = name
        self._capacity = float(per_minute)
        self._policy = {"RateLimit-Policy": f'"{name}";q={per_minute};w=60'}
        self._clock = clock
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def __len__(self) -> int:
        """Return the number of stored buckets."""
        return len(self._buckets)

    def acquire(self, key: Hashable) -> dict[str, str]:
        """Take a token from the key's bucket.

        Returns:
            The RateLimit headers of the response.

        Raises:
            RateLimited: the bucket is empty.
        """
        now = self._clock()
        tokens, updated_at = self._buckets.get(key, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - updated_at) * self._capacity / 60)
        acquired = tokens >= 1
        # If there are MAX_BUCKETS, evicts the least recently used bucket, which is full or almost full again.
        put(self._buckets, key, (tokens - acquired, now), MAX_BUCKETS)
        if not acquired:
            wait = math.ceil((1 - tokens) * 60 / self._capacity)
            headers = self._policy | {"RateLimit": f'"{self._name}";r=0;t={wait}', "Retry-After": str(wait)}
            raise RateLimited(f"at most {self._capacity:.0f} requests a minute; try again in {wait} s", headers)
        return self._policy | {"RateLimit": f'"{self._name}";r={int(tokens - 1)};t=60'}

    def refund(self, key: Hashable) -> None:
        """Put back a token that was taken from the key's bucket."""
        if (bucket := self._buckets.get(key)) is not None:
            self._buckets[key] = (min(self._capacity, bucket[0] + 1), bucket[1])
