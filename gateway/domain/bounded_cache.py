"""A bounded cache: a dict whose oldest entry is evicted when it grows beyond its maximum (FIFO)."""

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def put(cache: dict[K, V], key: K, value: V, max_entries: int) -> V:
    """Store the value as the newest entry, evict the oldest beyond `max_entries`, and return the value."""
    cache.pop(key, None)
    cache[key] = value
    if len(cache) > max_entries:
        del cache[next(iter(cache))]
    return value
