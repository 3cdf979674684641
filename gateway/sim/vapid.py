"""Verification of VAPID (RFC 8292) as a push service does it, independent of the gateway's signing code.

Senders reuse one header for hours. So the result of a verification is cached, and for a known header only the expiry
and the subscription's key are checked.
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

# RFC 8292 section 2: a token must expire within 24 hours.
MAX_LIFETIME_S = 86_400
_MAX_CACHED = 1000
_ES256 = ec.ECDSA(hashes.SHA256())
_REAL_SUBJECT = re.compile(
    r"(?:mailto:[^@\s<>]+@|https://)(?![^/]*\.(?:local|localhost|invalid)(?:[:/]|$))[^\s/@.]+(?:\.[^\s/@.]+)+(?:/\S*)?"
)


class Token(NamedTuple):
    """A verified header: the sender's key, and its expiry as Unix time."""

    key: bytes
    expires_at: float


class VapidVerifier:
    """VAPID checks of one push service.

    `origin` is the only accepted audience; `clock` returns Unix time in seconds.
    """

    def __init__(self, origin: str, clock: Callable[[], float], *, checks_subject: bool) -> None:
        """Start with an empty cache."""
        self._origin = origin
        self._clock = clock
        self._checks_subject = checks_subject
        self._verified_tokens: dict[str, Token] = {}

    def find_fault(self, authorization: str | None, subscription_key: bytes | None) -> SimFault | None:
        """Return the error of an Authorization header, or None.

        `subscription_key` is the VAPID key (65 octets) that the subscription was created with, if any.
        """
        if authorization is None:
            return None if subscription_key is None else SimFault.NO_VAPID
        token = self._verified_tokens.get(authorization)
        if token is None:
            parsed = self._parse(authorization)
            if isinstance(parsed, SimFault):
                return parsed
            if len(self._verified_tokens) >= _MAX_CACHED:
                self._verified_tokens.clear()
            token = self._verified_tokens[authorization] = parsed
        if token.expires_at <= self._clock():
            return SimFault.BAD_EXPIRY
        if subscription_key is not None and token.key != subscription_key:
            return SimFault.WRONG_KEY
        return None

    def site_of(self, authorization: str | None) -> str:
        """Return the VAPID public key (base64url) of a verified header; "" without a header."""
        token = self._verified_tokens.get(authorization or "")
        return "" if token is None else base64url.encode(token.key)

    def _parse(self, authorization: str) -> Token | SimFault:
        scheme, _, parameters = authorization.partition(" ")
        if scheme.lower() != "vapid":
            return SimFault.BAD_VAPID
        try:
            parameters_by_name = dict(part.strip().split("=", 1) for part in parameters.split(","))
            key = base64url.decode(parameters_by_name["k"].strip('"'))
            header, claims = _verify_jwt(parameters_by_name["t"].strip('"'), key)
        except (KeyError, ValueError, InvalidSignature):
            return SimFault.BAD_VAPID
        if not isinstance(header, dict) or header.get("alg") != "ES256" or not isinstance(claims, dict):
            return SimFault.BAD_VAPID
        if claims.get("aud") != self._origin:
            return SimFault.BAD_AUDIENCE
        expires_at = claims.get("exp")
        if not isinstance(expires_at, int | float) or isinstance(expires_at, bool):
            return SimFault.BAD_EXPIRY
        if expires_at > self._clock() + MAX_LIFETIME_S:
            return SimFault.BAD_EXPIRY
        if self._checks_subject and not _REAL_SUBJECT.fullmatch(str(claims.get("sub", ""))):
            return SimFault.BAD_SUBJECT
        return Token(key, expires_at)


def _verify_jwt(token: str, key: bytes) -> tuple[object, object]:
    """Return header and claims of a JWT signed with ES256 (RFC 7515, RFC 7518 section 3.4)."""
    header, claims, signature = token.split(".")
    octets = base64url.decode(signature)
    if len(octets) != 64:
        raise ValueError("an ES256 signature has 64 octets")
    der = encode_dss_signature(int.from_bytes(octets[:32]), int.from_bytes(octets[32:]))
    load_point(key).verify(der, f"{header}.{claims}".encode(), _ES256)
    return json.loads(base64url.decode(header)), json.loads(base64url.decode(claims))
