"""Remember only so much: a dict whose oldest entry makes way for the newest."""

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def put(kept: dict[K, V], key: K, value: V, most: int) -> V:
    """Set it as the newest of `most` entries."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]
    return value
