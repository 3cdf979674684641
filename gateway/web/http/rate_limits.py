"""Rate limits: token buckets in this process's memory.

The headers follow draft-ietf-httpapi-ratelimit-headers. Each process counts separately, so a client may send as many
requests to each of several processes.
"""

import math
import time
from collections.abc import Callable, Hashable

from gateway.domain.bounded_cache import put
from gateway.domain.errors import RateLimited
from gateway.web.http.client_address import site_of

# Maximum number of buckets in memory, per instance of `TokenBuckets`.
MAX_BUCKETS = 100_000
# The number of households (/56) whose tokens all households of an IPv6 site (/48) may use together.
HOUSEHOLDS_OF_SITE = 8


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


class AddressBuckets:
    """Token buckets of client addresses, as `ClientAddressResolver` returns them.

    There is one bucket for each IPv4 address, for each /56 network of IPv6, and for each /48 network. So a client that
    changes its address within its network uses the bucket of this network.
    """

    def __init__(self, name: str, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create buckets that refill with `per_minute` tokens a minute; response headers contain `name`."""
        self._networks = TokenBuckets(name, per_minute, clock)
        self._sites = TokenBuckets(name, per_minute * HOUSEHOLDS_OF_SITE, clock)

    def acquire(self, address: str) -> dict[str, str]:
        """Take a token from the bucket of the address, and of its site; see `TokenBuckets.acquire`."""
        headers = self._networks.acquire(address)
        if (site := site_of(address)) != address:
            self._sites.acquire(site)
        return headers

    def refund(self, address: str) -> None:
        """Put back the tokens that `acquire` has taken."""
        self._networks.refund(address)
        if (site := site_of(address)) != address:
            self._sites.refund(site)


class SharedBuckets:
    """Rate limits whose requests client addresses share: one limit for each key (a publishable key or an application).

    A request is admitted if the sum of the recent requests with its key, and of the recent requests from its address
    with this key, is below the limit. So each of n busy addresses gets 1 / (n + 1) of the limit, and as much is left
    for a further address. The weight of a request decreases with its age. All addresses of an IPv6 site count as one
    address.
    """

    def __init__(self, name: str, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create limits of `per_minute` requests with one key; response headers contain `name`."""
        self._name = name
        self._capacity = float(per_minute)
        self._clock = clock
        self._policy = {"RateLimit-Policy": f'"{name}";q={per_minute};w=60'}
        self._recent: dict[Hashable, tuple[float, float]] = {}

    def acquire(self, key: Hashable, address: str) -> dict[str, str]:
        """Admit a request with the key from an address.

        Returns:
            The RateLimit headers of the response.

        Raises:
            RateLimited: the address has used up its share.
        """
        excess = self._count(key) + self._count((key, site_of(address))) - self._capacity
        if excess < 0:
            self._add(key, address, 1)
            return self._policy | {"RateLimit": f'"{self._name}";r={max(0, int(-excess / 2 - 1))};t=60'}
        wait = max(1, math.ceil(60 * math.log1p(excess / self._capacity)))
        headers = self._policy | {"RateLimit": f'"{self._name}";r=0;t={wait}', "Retry-After": str(wait)}
        raise RateLimited(f"all addresses together have {self._capacity:.0f} a minute; try again in {wait} s", headers)

    def refund(self, key: Hashable, address: str) -> None:
        """Do not count a request that was admitted."""
        self._add(key, address, -1)

    def _add(self, key: Hashable, address: str, requests: int) -> None:
        now = self._clock()
        for counted in (key, (key, site_of(address))):
            put(self._recent, counted, (max(0.0, self._count(counted) + requests), now), MAX_BUCKETS)

    def _count(self, counted: Hashable) -> float:
        """Return the weighted number of recent requests. The weight of a request that is a minute old is 1 / e."""
        count, updated_at = self._recent.get(counted, (0.0, 0.0))
        return count * math.exp((updated_at - self._clock()) / 60)
