"""Validates the headers of a POST request (RFC 8030)."""

from collections.abc import Mapping
from typing import NamedTuple

from gateway.sim.profiles import MAX_BODY_OCTETS, Profile, SimFault

URGENCIES = frozenset({"very-low", "low", "normal", "high"})
# aesgcm is the draft that RFC 8188 replaced; browsers still decrypt it.
ENCODINGS = frozenset({"aes128gcm", "aesgcm"})
# RFC 8030 section 5.2: values of 2^31 and more mean no limit.
_MAX_TTL = 2**31


class RequestHeaders(NamedTuple):
    """The validated headers. `ttl` is the requested TTL in seconds."""

    ttl: int
    urgency: str
    topic: str | None


def validate_headers(profile: Profile, headers: Mapping[str, str], size: int) -> RequestHeaders | SimFault:
    """Validate the headers of a request with a body of `size` octets, and return the first error.

    A request with an empty body needs no Content-Encoding.
    """
    if size > MAX_BODY_OCTETS:
        return SimFault.TOO_LARGE
    ttl_text = headers.get("TTL")
    if ttl_text is None:
        return SimFault.NO_TTL
    if not (ttl_text.isascii() and ttl_text.isdecimal()):
        return SimFault.BAD_TTL
    ttl = _MAX_TTL if len(ttl_text) > 10 else min(int(ttl_text), _MAX_TTL)
    topic = headers.get("Topic")
    if topic is not None and not profile.topic.fullmatch(topic):
        return SimFault.BAD_TOPIC
    urgency = headers.get("Urgency", "normal")
    if urgency not in URGENCIES:
        return SimFault.BAD_URGENCY
    if size and headers.get("Content-Encoding") not in ENCODINGS:
        return SimFault.BAD_ENCODING
    if profile.checks_for(SimFault.CACHE_POLICY):
        policy = headers.get("X-WNS-Cache-Policy", "cache")
        if (policy == "no-cache") != (ttl == 0):
            return SimFault.CACHE_POLICY
    return RequestHeaders(ttl, urgency, topic)
