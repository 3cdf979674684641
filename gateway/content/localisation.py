"""One content in several languages: `locales` holds what differs from the content's own, by language tag.

A device that speaks de-AT is shown what `de-AT` says, else what `de` says, else the content's own, field by field
(RFC 4647 section 3.4, lookup).
"""

from collections.abc import Mapping
from typing import Any


def layers(content: Mapping[str, Any], locale: str | None) -> tuple[str, ...]:
    """The keys of `locales` that apply, the least specific first: devices with the same ones are shown the same."""
    known = {key.lower().replace("_", "-"): key for key in content.get("locales") or {}}
    if not known or not locale:
        return ()
    parts = locale.lower().replace("_", "-").split("-")
    ranges = ("-".join(parts[:length]) for length in range(1, len(parts) + 1))
    return tuple(known[range_] for range_ in ranges if range_ in known)


def localised(content: Mapping[str, Any], applying: tuple[str, ...]) -> dict[str, Any]:
    """The content as those layers make it, without `locales`."""
    merged = {name: value for name, value in content.items() if name != "locales"}
    for key in applying:
        merged |= content["locales"][key]
    return merged


def every(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The layers of every locale the content has, and of none."""
    return [(), *(layers(content, key) for key in content.get("locales") or {})]
