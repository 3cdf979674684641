"""Read the headers of one POST as RFC 8030 says, and name the first fault."""

from collections.abc import Mapping
from typing import NamedTuple

from gateway.sim.profiles import MAX_BODY_OCTETS, Profile, SimFault

URGENCIES = frozenset({"very-low", "low", "normal", "high"})
# aesgcm is the draft that RFC 8188 replaced; browsers can still read it.
ENCODINGS = frozenset({"aes128gcm", "aesgcm"})
# RFC 8030 section 5.2: 2^31 means for ever, and more digits mean no more than that.
_FOR_EVER = 2**31


class RequestHeaders(NamedTuple):
    """What the sender wants: `ttl` in seconds, as asked and not yet as granted."""

    ttl: int
    urgency: str
    topic: str | None


def read(profile: Profile, headers: Mapping[str, str], size: int) -> RequestHeaders | SimFault:
    """`size` is the body's, in octets; an empty body (a bare wake-up call) needs no Content-Encoding."""
    if size > MAX_BODY_OCTETS:
        return SimFault.TOO_LARGE
    written = headers.get("TTL")
    if written is None:
        return SimFault.NO_TTL
    if not (written.isascii() and written.isdecimal()):
        return SimFault.BAD_TTL
    ttl = _FOR_EVER if len(written) > 10 else min(int(written), _FOR_EVER)
    topic = headers.get("Topic")
    if topic is not None and not profile.topic.fullmatch(topic):
        return SimFault.BAD_TOPIC
    urgency = headers.get("Urgency", "normal")
    if urgency not in URGENCIES:
        return SimFault.BAD_URGENCY
    if size and headers.get("Content-Encoding") not in ENCODINGS:
        return SimFault.BAD_ENCODING
    if profile.looks_for(SimFault.CACHE_POLICY):
        policy = headers.get("X-WNS-Cache-Policy", "cache")
        if (policy == "no-cache") != (ttl == 0):
            return SimFault.CACHE_POLICY
    return RequestHeaders(ttl, urgency, topic)
