"""Secrets: what is kept sealed in the database, and tokens that carry their own proof.

Everything derives from one master key (HKDF-SHA256, RFC 5869), a key of its own for every purpose. Tokens of devices
and receipts are not stored anywhere: they name what they are for and are proven by a MAC.
"""

import hashlib
import hmac
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import cache
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SHORTEST_MASTER_KEY = 32  # octets
NONCE = 12  # octets, SP 800-38D section 8.2.2
TAG = 16  # octets of HMAC-SHA256 that prove a device token
# Half of it proves a receipt token, which travels in every message; forging one gains a false 'displayed'.
RECEIPT_TAG = 12
RECEIPT_OCTETS = 37  # notification, device, expiry, variant
NO_VARIANT = 255


class Unsealable(Exception):
    """What is stored was sealed with another master key, or was changed."""


class Vault:
    def __init__(self, master_key: bytes) -> None:
        """Raises ValueError for a master key that is too short to be one."""
        if len(master_key) < SHORTEST_MASTER_KEY:
            raise ValueError(f"the master key must have at least {SHORTEST_MASTER_KEY} octets")

        @cache
        def derived(purpose: str) -> bytes:
            return HKDF(SHA256(), 32, b"webpush-gateway", purpose.encode()).derive(master_key)

        self._derived = derived
        self._receipts = derived("receipt token")

    def seal(self, data: bytes, purpose: str) -> bytes:
        """Encrypt for the database (AES-256-GCM). Only the same purpose opens it again."""
        nonce = os.urandom(NONCE)
        return nonce + AESGCM(self._derived(f"seal {purpose}")).encrypt(nonce, data, None)

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Raises Unsealable."""
        try:
            return AESGCM(self._derived(f"seal {purpose}")).decrypt(sealed[:NONCE], sealed[NONCE:], None)
        except (InvalidTag, ValueError) as error:
            raise Unsealable("the master key does not open what is stored; was it changed?") from error

    def device_token(self, device_id: UUID) -> str:
        """`dt_...`, valid for as long as the device exists."""
        return f"dt_{_text(device_id.bytes + self._device_tag(device_id.bytes))}"

    def device_of(self, token: str) -> UUID | None:
        """The device a token is for, None when we did not make it."""
        octets = _octets(token.removeprefix("dt_"))
        if not token.startswith("dt_") or octets is None or len(octets) != 16 + TAG:
            return None
        named, tag = octets[:16], octets[16:]
        return UUID(bytes=named) if hmac.compare_digest(tag, self._device_tag(named)) else None

    def _device_tag(self, device: bytes) -> bytes:
        return hmac.digest(self._derived("device token"), device, "sha256")[:TAG]

    def receipt_token(self, notification_id: UUID, device_id: UUID, variant: int | None, expires: int) -> str:
        """66 characters that let their holder report on this one delivery. `expires` is Unix time."""
        carried = NO_VARIANT if variant is None else variant
        said = notification_id.bytes + device_id.bytes + expires.to_bytes(4, "big") + bytes((carried,))
        return _text(said + self._receipt_tag(said))

    def receipt_of(self, token: str, now: int) -> tuple[UUID, UUID, int | None] | None:
        """(notification, device, variant), None when we did not make it or its time is over."""
        octets = _octets(token)
        if octets is None or len(octets) != RECEIPT_OCTETS + RECEIPT_TAG:
            return None
        said, tag = octets[:RECEIPT_OCTETS], octets[RECEIPT_OCTETS:]
        if not hmac.compare_digest(tag, self._receipt_tag(said)) or int.from_bytes(said[32:36], "big") < now:
            return None
        variant = None if said[36] == NO_VARIANT else said[36]
        return UUID(bytes=said[:16]), UUID(bytes=said[16:32]), variant

    def _receipt_tag(self, said: bytes) -> bytes:
        # Keyed BLAKE2b (RFC 7693) is a MAC at a third of HMAC's cost, and this one is made for every message.
        return hashlib.blake2b(said, key=self._receipts, digest_size=RECEIPT_TAG).digest()


def new_key(prefix: str) -> str:
    """A fresh API key such as `sk_...`: 256 random bits."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(key: str) -> bytes:
    """What is stored of a key. It has 256 random bits, so that nothing slower than SHA-256 is called for."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _text(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def _octets(text: str) -> bytes | None:
    try:
        octets = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return octets if _text(octets) == text else None
