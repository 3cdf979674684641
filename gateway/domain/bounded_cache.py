"""Remember only so much: a dict whose oldest entry makes way for the newest."""

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def put(cache: dict[K, V], key: K, value: V, max_entries: int) -> V:
    """Set it as the newest of `most` entries."""
    cache.pop(key, None)
    cache[key] = value
    if len(cache) > max_entries:
        del cache[next(iter(cache))]
    return value
