"""Identifiers: version 7 UUIDs internally, opaque prefixed strings in the API.

A version 7 UUID (RFC 9562 section 5.7) starts with its time of creation, so new rows go to the end of an index. The
prefix of the string names the kind of resource, so that a reader of a log or a support request recognises the id.
"""

import os
import re
import time
from uuid import UUID

# The prefixes of ids, by kind of resource.
APPLICATION, KEY, DEVICE, NOTIFICATION, DELIVERY = "app", "key", "dev", "ntf", "dlv"
SEGMENT, CATEGORY, TEMPLATE, REMINDER = "seg", "cat", "tpl", "rem"
WEBHOOK, FEED, TRIGGER, EVENT, AUDIT = "whk", "fed", "trg", "evt", "aud"

# The random bits of a version 7 UUID: all but the time, the version and the variant.
_RANDOM_BITS = ~(0xFFFFFFFFFFFF << 80 | 0xF << 76 | 0x3 << 62)


def new_id() -> UUID:
    """Return a new version 7 UUID: 48 bits of Unix time in milliseconds, then 74 random bits."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[UUID]:
    """Return `count` new ids, at half the cost per id of `new_id`."""
    random = os.urandom(16 * count)
    version_7 = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | 0x2 << 62
    return [
        UUID(int=int.from_bytes(random[at : at + 16], "big") & _RANDOM_BITS | version_7)
        for at in range(0, 16 * count, 16)
    ]


def format_id(kind: str, *ids: UUID) -> str:
    """Return an id in the form of the API, such as `dev_0190...`.

    The id of a delivery consists of the ids of its notification and its device.
    """
    if len(ids) == 1:  # the common case, without a join
        return f"{kind}_{ids[0].hex}"
    return f"{kind}_{''.join(i.hex for i in ids)}"


def parse(kind: str, text: str) -> UUID | None:
    """Parse an id of a kind of resource; return None if the text is no id of this kind."""
    match = re.fullmatch(rf"{kind}_([0-9a-f]{{32}})", text)
    return UUID(match[1]) if match else None


def parse_delivery(text: str) -> tuple[UUID, UUID] | None:
    """Parse the id of a delivery into the ids of its notification and device; return None for any other text."""
    match = re.fullmatch(rf"{DELIVERY}_([0-9a-f]{{32}})([0-9a-f]{{32}})", text)
    return (UUID(match[1]), UUID(match[2])) if match else None
