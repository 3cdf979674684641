"""Choose the language of content. Its field `locales` has the translated fields, by language tag.

A device with the locale de-AT gets each field from `locales["de-AT"]`, else from `locales["de"]`, else from the content
itself (RFC 4647 section 3.4, lookup). The keys of `locales` that apply to a device are called layers.
"""

from collections.abc import Mapping
from typing import Any

from gateway.domain.json_object import JsonObject


def matching_layers(content: Mapping[str, Any], locale: str | None) -> tuple[str, ...]:
    """Return the keys of `locales` that apply to a locale, least specific first.

    Devices with the same keys get the same content.
    """
    keys = {key.lower().replace("_", "-"): key for key in content.get("locales") or {}}
    if not keys or not locale:
        return ()
    parts = locale.lower().replace("_", "-").split("-")
    ranges = ("-".join(parts[:length]) for length in range(1, len(parts) + 1))
    return tuple(keys[range_] for range_ in ranges if range_ in keys)


def localise(content: Mapping[str, Any], keys: tuple[str, ...]) -> JsonObject:
    """Merge the given keys of `locales` into the content and return it without `locales`."""
    merged = {name: value for name, value in content.items() if name != "locales"}
    for key in keys:
        merged |= content["locales"][key]
    return merged


def all_layers(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the layers of a device without a locale, and those of each locale of the content."""
    return [(), *(matching_layers(content, key) for key in content.get("locales") or {})]
