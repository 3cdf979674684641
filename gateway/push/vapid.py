"""Say who is sending: VAPID keys, the subject, and one signed header per push service (RFC 8292).

A header is signed once and used for hours, because Apple asks for at most one signature an hour and because
signing costs more than everything else about a request. py_vapid builds and signs the token; its check
of `sub` is replaced by ours, for it takes `mailto:a@localhost` and refuses `https://x.y/`.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02

from gateway.domain.bounded_cache import put
from gateway.push.encryption import encode_base64url

# RFC 8292 section 2 allows 24 hours; 12 leaves room for clocks that disagree.
TOKEN_LIFETIME = timedelta(hours=12)
# No token is used to its last minute, nor after the clock was set back so far that it would seem too long-lived.
RENEW_BEFORE = timedelta(hours=1)
MAX_CACHED_HEADERS = 10_000

_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=^_`{|}~-]{1,64}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NOWHERE = {"local", "localhost", "localdomain", "invalid", "internal"}


@dataclass(frozen=True, slots=True)
class VapidKey:
    """An application server's key pair on P-256. `public_key` is the uncompressed point of 65 octets."""

    private: EllipticCurvePrivateKey = field(repr=False, compare=False)
    public_key: bytes

    @classmethod
    def of(cls, private: EllipticCurvePrivateKey) -> Self:
        return cls(private, private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    @classmethod
    def generate(cls) -> Self:
        return cls.of(generate_private_key(SECP256R1()))

    @classmethod
    def from_private_bytes(cls, scalar: bytes) -> Self:
        """From the private scalar, 32 octets big-endian. Raises ValueError when it is not one of P-256."""
        if len(scalar) != 32:
            raise ValueError(f"a P-256 private key is 32 octets; this is {len(scalar)}")
        return cls.of(derive_private_key(int.from_bytes(scalar, "big"), SECP256R1()))

    def private_bytes(self) -> bytes:
        """The private scalar, 32 octets big-endian: a secret, stored encrypted only."""
        return self.private.private_numbers().private_value.to_bytes(32, "big")

    @property
    def public_text(self) -> str:
        """base64url without padding: the browser's `applicationServerKey`, and `k` in the header."""
        return encode_base64url(self.public_key)


class VapidSigner:
    """The `Authorization` headers in use, one for each (key, subject, origin)."""

    def __init__(self) -> None:
        self._headers: dict[tuple[bytes, str, str], tuple[str, float, float]] = {}

    def header(self, key: VapidKey, subject: str, origin: str, now: float) -> str:
        """`vapid t=...,k=...` for a push service's origin, such as `https://fcm.googleapis.com`.

        `now` is Unix time in seconds. `subject` must have passed `check_subject`.
        """
        cached = self._headers.get((key.public_key, subject, origin))
        if cached is not None and cached[1] <= now < cached[2]:
            return cached[0]
        return self._sign(key, subject, origin, now)

    def _sign(self, key: VapidKey, subject: str, origin: str, now: float) -> str:
        expires = int(now + TOKEN_LIFETIME.total_seconds())
        signer = Vapid02(key.private, conf={"no-strict": True})
        header: str = signer.sign({"aud": origin, "exp": expires, "sub": subject})["Authorization"]
        margin = RENEW_BEFORE.total_seconds()
        signed = (header, now - margin, expires - margin)
        put(self._headers, (key.public_key, subject, origin), signed, MAX_CACHED_HEADERS)
        return header


def check_subject(subject: str) -> str | None:
    """What is wrong with a VAPID `sub`, or None. Apple refuses every message whose `sub` is not a real address."""
    if len(subject) > 255:
        return "must be at most 255 characters"
    if subject.startswith("mailto:"):
        mailbox, at, domain = subject.removeprefix("mailto:").rpartition("@")
        if not at or not _MAILBOX.fullmatch(mailbox) or ".." in f".{mailbox}.":
            return "must be mailto: and one mail address, with nothing before or after it"
        return _domain_fault(domain)
    if subject.startswith("https://"):
        if not subject.isascii() or not subject.isprintable() or " " in subject:
            return "must be an address in plain ASCII without spaces"
        try:
            parts = urlsplit(subject)
            _ = parts.port
        except ValueError:
            return "is not a well-formed https: address"
        if parts.username is not None:
            return "must not carry a user name"
        return _domain_fault(parts.hostname or "")
    return "must begin with mailto: or https://, such as mailto:ops@example.com"


def _domain_fault(domain: str) -> str | None:
    labels = domain.split(".")
    if labels[-1].lower() in _NOWHERE:
        return f"must be reachable from outside: {labels[-1]} is a private name"
    if len(labels) < 2 or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        return "must name a real domain, such as example.com"
    return None
