"""Secrets: what is kept sealed in the database, and tokens that carry their own proof.

Everything derives from one master key (HKDF-SHA256, RFC 5869), a key of its own for every purpose. Tokens of devices
and receipts are not stored anywhere: they name what they are for and are proven by a MAC.

Other master keys only read: they open what they once sealed and know their tokens again, so that the master key can be
replaced beside running processes. What is sealed begins with the id of its key, by which `rotation` finds what is left.
"""

import contextlib
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

from gateway.domain.errors import OperatorError

MIN_MASTER_KEY_LENGTH = 32  # octets
KEY_ID = 4  # octets
NONCE = 12  # octets, SP 800-38D section 8.2.2
TAG = 16  # octets of HMAC-SHA256 that prove a device token
# Half of it proves a receipt token, which travels in every message; forging one gains a false 'displayed'.
RECEIPT_TAG = 12
RECEIPT_OCTETS = 37  # notification, device, expiry, variant
NO_VARIANT = 255


class DecryptionFailed(OperatorError):
    """What is stored was sealed with another master key, or was changed."""


class _MasterKey:
    def __init__(self, octets: bytes) -> None:
        """Raises ValueError for a master key that is too short to be one."""
        if len(octets) < MIN_MASTER_KEY_LENGTH:
            raise ValueError(f"the master key must have at least {MIN_MASTER_KEY_LENGTH} octets")

        @cache
        def derived(purpose: str) -> bytes:
            return HKDF(SHA256(), 32, b"webpush-gateway", purpose.encode()).derive(octets)

        self.derived = derived
        self.id = derived("key id")[:KEY_ID]
        self.receipts = derived("receipt token")

    def device_tag(self, device: bytes) -> bytes:
        return hmac.digest(self.derived("device token"), device, "sha256")[:TAG]

    def receipt_tag(self, said: bytes) -> bytes:
        # Keyed BLAKE2b (RFC 7693) is a MAC at a third of HMAC's cost, and this one is made for every message.
        return hashlib.blake2b(said, key=self.receipts, digest_size=RECEIPT_TAG).digest()


class Keyring:
    def __init__(self, master_key: bytes, *others: bytes) -> None:
        """Raises ValueError for a master key that is too short to be one."""
        self._own = _MasterKey(master_key)
        self._all = (self._own, *(_MasterKey(other) for other in others))

    @property
    def key_id(self) -> bytes:
        """What all begins with that this vault seals."""
        return self._own.id

    def seal(self, data: bytes, purpose: str) -> bytes:
        """Encrypt for the database (AES-256-GCM). Only the same purpose opens it again."""
        nonce = os.urandom(NONCE)
        return self._own.id + nonce + _cipher(self._own, purpose).encrypt(nonce, data, None)

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Raises Unsealable."""
        named = [(key, sealed[KEY_ID:]) for key in self._all if key.id == sealed[:KEY_ID]]
        nameless = [(key, sealed) for key in self._all]  # as it was sealed before keys had ids
        for key, rest in named + nameless:
            with contextlib.suppress(InvalidTag, ValueError):
                return _cipher(key, purpose).decrypt(rest[:NONCE], rest[NONCE:], None)
        raise DecryptionFailed("the master key does not open what is stored; was it changed?")

    def device_token(self, device_id: UUID) -> str:
        """`dt_...`, valid for as long as the device exists."""
        return f"dt_{_text(device_id.bytes + self._own.device_tag(device_id.bytes))}"

    def device_of(self, token: str) -> UUID | None:
        """The device a token is for, None when we did not make it."""
        octets = _octets(token.removeprefix("dt_"))
        if not token.startswith("dt_") or octets is None or len(octets) != 16 + TAG:
            return None
        named, tag = octets[:16], octets[16:]
        ours = any(hmac.compare_digest(tag, key.device_tag(named)) for key in self._all)
        return UUID(bytes=named) if ours else None

    def receipt_token(self, notification_id: UUID, device_id: UUID, variant: int | None, expires: int) -> str:
        """66 characters that let their holder report on this one delivery. `expires` is Unix time."""
        carried = NO_VARIANT if variant is None else variant
        said = notification_id.bytes + device_id.bytes + expires.to_bytes(4, "big") + bytes((carried,))
        return _text(said + self._own.receipt_tag(said))

    def receipt_of(self, token: str, now: int) -> tuple[UUID, UUID, int | None] | None:
        """(notification, device, variant), None when we did not make it or its time is over."""
        octets = _octets(token)
        if octets is None or len(octets) != RECEIPT_OCTETS + RECEIPT_TAG:
            return None
        said, tag = octets[:RECEIPT_OCTETS], octets[RECEIPT_OCTETS:]
        ours = any(hmac.compare_digest(tag, key.receipt_tag(said)) for key in self._all)
        if not ours or int.from_bytes(said[32:36], "big") < now:
            return None
        variant = None if said[36] == NO_VARIANT else said[36]
        return UUID(bytes=said[:16]), UUID(bytes=said[16:32]), variant


def new_key(prefix: str) -> str:
    """A fresh API key such as `sk_...`: 256 random bits."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(key: str) -> bytes:
    """What is stored of a key. It has 256 random bits, so that nothing slower than SHA-256 is called for."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _cipher(key: _MasterKey, purpose: str) -> AESGCM:
    return AESGCM(key.derived(f"seal {purpose}"))


def _text(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def _octets(text: str) -> bytes | None:
    try:
        octets = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return octets if _text(octets) == text else None
