"""VAPID: application server keys, the subject, and one signed header per push service (RFC 8292).

A header is signed once and used for hours. Apple asks for at most one signature an hour, and signing costs more than
the rest of a request. py_vapid builds and signs the token. `check_subject` replaces the check of `sub` in py_vapid,
which accepts `mailto:a@localhost` and rejects `https://x.y/`.
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

# RFC 8292 section 2 allows 24 hours; 12 leaves room for clock skew.
TOKEN_LIFETIME = timedelta(hours=12)
# A token is not used in its last hour. Nor is it used after the clock was set back by more than an hour, because its
# lifetime would then be longer than TOKEN_LIFETIME.
RENEW_BEFORE = timedelta(hours=1)
MAX_CACHED_HEADERS = 10_000

_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=^_`{|}~-]{1,64}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_PRIVATE_NAMES = {"local", "localhost", "localdomain", "invalid", "internal"}


@dataclass(frozen=True, slots=True)
class VapidKey:
    """An application server's P-256 key pair. `public_key` is the uncompressed point of 65 octets."""

    private: EllipticCurvePrivateKey = field(repr=False, compare=False)
    public_key: bytes

    @classmethod
    def from_private_key(cls, private: EllipticCurvePrivateKey) -> Self:
        """Derive the public key."""
        return cls(private, private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    @classmethod
    def generate(cls) -> Self:
        """Generate a new key pair."""
        return cls.from_private_key(generate_private_key(SECP256R1()))

    @classmethod
    def from_private_bytes(cls, scalar: bytes) -> Self:
        """Load a key from its private scalar, 32 octets big-endian.

        Raises:
            ValueError: not a P-256 private key.
        """
        if len(scalar) != 32:
            raise ValueError(f"a P-256 private key is 32 octets; this is {len(scalar)}")
        return cls.from_private_key(derive_private_key(int.from_bytes(scalar, "big"), SECP256R1()))

    def private_bytes(self) -> bytes:
        """Return the private scalar, 32 octets big-endian: a secret, stored only encrypted."""
        return self.private.private_numbers().private_value.to_bytes(32, "big")

    @property
    def public_text(self) -> str:
        """Return the public key as base64url without padding.

        It is the browser's `applicationServerKey`, and `k` in the header.
        """
        return encode_base64url(self.public_key)


class VapidSigner:
    """Cache of signed `Authorization` headers, one for each (key, subject, origin)."""

    def __init__(self) -> None:
        """Start with an empty cache."""
        self._headers: dict[tuple[bytes, str, str], tuple[str, float, float]] = {}

    def authorization_header(self, key: VapidKey, subject: str, origin: str, now: float) -> str:
        """Return `vapid t=...,k=...` for the origin of a push service.

        Args:
            key: the application's key.
            subject: must have passed `check_subject`.
            origin: such as `https://fcm.googleapis.com`.
            now: Unix time in seconds.
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
    """Return the error of a VAPID subject (`sub`), or None if it is valid.

    Apple rejects every message whose subject is not a mail address or URL at a public domain.
    """
    if len(subject) > 255:
        return "must be at most 255 characters"
    if subject.startswith("mailto:"):
        mailbox, at, domain = subject.removeprefix("mailto:").rpartition("@")
        if not at or not _MAILBOX.fullmatch(mailbox) or ".." in f".{mailbox}.":
            return "must be mailto: and exactly one mail address"
        return _domain_error(domain)
    if subject.startswith("https://"):
        if not subject.isascii() or not subject.isprintable() or " " in subject:
            return "must be a URL in plain ASCII without spaces"
        try:
            parts = urlsplit(subject)
            _ = parts.port
        except ValueError:
            return "is not a well-formed https: URL"
        if parts.username is not None:
            return "must not contain a user name"
        return _domain_error(parts.hostname or "")
    return "must begin with mailto: or https://, such as mailto:ops@example.com"


def _domain_error(domain: str) -> str | None:
    labels = domain.split(".")
    if labels[-1].lower() in _PRIVATE_NAMES:
        return f"must be reachable from outside: {labels[-1]} is a private name"
    if len(labels) < 2 or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        return "must name a real domain, such as example.com"
    return None
