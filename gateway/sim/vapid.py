"""Verify VAPID (RFC 8292) as a push service does: a second opinion on the gateway's own signatures.

A sender repeats one header for hours, so a header that was found good is remembered with its expiry; only
the clock and the subscription's key are looked at again.
"""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from gateway.sim import base64url
from gateway.sim.keys import load_point
from gateway.sim.profiles import SimFault

MAX_LIFE = 86_400  # seconds; RFC 8292 section 2
_MAX_REMEMBERED = 1000
_ES256 = ec.ECDSA(hashes.SHA256())
_REAL_SUBJECT = re.compile(
    r"(?:mailto:[^@\s<>]+@|https://)(?![^/]*\.(?:local|localhost|invalid)(?:[:/]|$))[^\s/@.]+(?:\.[^\s/@.]+)+(?:/\S*)?"
)


class Token(NamedTuple):
    key: bytes
    expires_at: float


class Verifier:
    """One push service's: `origin` is the only audience it takes; `clock` gives seconds since 1970."""

    def __init__(self, origin: str, clock: Callable[[], float], *, real_subject: bool) -> None:
        self._origin = origin
        self._clock = clock
        self._real_subject = real_subject
        self._good: dict[str, Token] = {}

    def fault(self, authorization: str | None, subscription_key: bytes | None) -> SimFault | None:
        """What is wrong with the Authorization header for a subscription made with this key (65 octets), if it was."""
        if authorization is None:
            return None if subscription_key is None else SimFault.NO_VAPID
        token = self._good.get(authorization)
        if token is None:
            read = self._read(authorization)
            if isinstance(read, SimFault):
                return read
            if len(self._good) >= _MAX_REMEMBERED:
                self._good.clear()
            token = self._good[authorization] = read
        if token.expires_at <= self._clock():
            return SimFault.BAD_EXPIRY
        if subscription_key is not None and token.key != subscription_key:
            return SimFault.WRONG_KEY
        return None

    def _read(self, authorization: str) -> Token | SimFault:
        scheme, _, parameters = authorization.partition(" ")
        if scheme.lower() != "vapid":
            return SimFault.BAD_VAPID
        try:
            named = dict(part.strip().split("=", 1) for part in parameters.split(","))
            key = base64url.decode(named["k"].strip('"'))
            header, claims = _verified(named["t"].strip('"'), key)
        except (KeyError, ValueError, InvalidSignature):
            return SimFault.BAD_VAPID
        if not isinstance(header, dict) or header.get("alg") != "ES256" or not isinstance(claims, dict):
            return SimFault.BAD_VAPID
        if claims.get("aud") != self._origin:
            return SimFault.BAD_AUDIENCE
        expires_at = claims.get("exp")
        if not isinstance(expires_at, int | float) or isinstance(expires_at, bool):
            return SimFault.BAD_EXPIRY
        if expires_at > self._clock() + MAX_LIFE:
            return SimFault.BAD_EXPIRY
        if self._real_subject and not _REAL_SUBJECT.fullmatch(str(claims.get("sub", ""))):
            return SimFault.BAD_SUBJECT
        return Token(key, expires_at)


def _verified(token: str, key: bytes) -> tuple[object, object]:
    """Header and claims of a JWT signed with ES256 (RFC 7515, RFC 7518 section 3.4)."""
    header, claims, signature = token.split(".")
    octets = base64url.decode(signature)
    if len(octets) != 64:
        raise ValueError("an ES256 signature has 64 octets")
    der = encode_dss_signature(int.from_bytes(octets[:32]), int.from_bytes(octets[32:]))
    load_point(key).verify(der, f"{header}.{claims}".encode(), _ES256)
    return json.loads(base64url.decode(header)), json.loads(base64url.decode(claims))
