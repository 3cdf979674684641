"""Encrypt secrets for the database, and issue tokens that carry their own proof.

A key for each purpose is derived from the master key (HKDF-SHA256, RFC 5869). Device tokens and receipt tokens are not
stored: they contain the ids they stand for and a MAC.

Retired master keys only decrypt, and verify the tokens they issued, so that the master key can be replaced while
processes run. A ciphertext begins with the id of its key, by which the key rotation finds what remains.
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
KEY_ID_LENGTH = 4  # octets
NONCE_LENGTH = 12  # octets, SP 800-38D section 8.2.2
DEVICE_TAG_LENGTH = 16  # octets of HMAC-SHA256 in a device token
# Octets of the MAC in a receipt token. It is short, since every message contains the token and a forged one gains no
# more than a false receipt.
RECEIPT_TAG_LENGTH = 12
RECEIPT_FIELDS_LENGTH = 37  # octets of notification, device, expiry, variant
NO_VARIANT = 255


class DecryptionFailed(OperatorError):
    """The ciphertext was made with another master key, or was changed."""


class _MasterKey:
    """A master key and the keys derived from it."""

    def __init__(self, octets: bytes) -> None:
        if len(octets) < MIN_MASTER_KEY_LENGTH:
            raise ValueError(f"the master key must have at least {MIN_MASTER_KEY_LENGTH} octets")

        @cache
        def derived(purpose: str) -> bytes:
            return HKDF(SHA256(), 32, b"webpush-gateway", purpose.encode()).derive(octets)

        self.derived = derived
        self.id = derived("key id")[:KEY_ID_LENGTH]
        self.receipts = derived("receipt token")

    def device_tag(self, device: bytes) -> bytes:
        return hmac.digest(self.derived("device token"), device, "sha256")[:DEVICE_TAG_LENGTH]

    def receipt_tag(self, fields: bytes) -> bytes:
        # Keyed BLAKE2b (RFC 7693) costs a third of an HMAC, and every message needs one.
        return hashlib.blake2b(fields, key=self.receipts, digest_size=RECEIPT_TAG_LENGTH).digest()


class Keyring:
    """The current master key, which encrypts and issues tokens, and the retired ones, which only decrypt and verify."""

    def __init__(self, master_key: bytes, *retired: bytes) -> None:
        """Build a keyring.

        Raises:
            ValueError: a key is shorter than MIN_MASTER_KEY_LENGTH.
        """
        self._current = _MasterKey(master_key)
        self._all = (self._current, *(_MasterKey(key) for key in retired))

    @property
    def key_id(self) -> bytes:
        """The prefix of every ciphertext that this keyring produces."""
        return self._current.id

    def seal(self, data: bytes, purpose: str) -> bytes:
        """Encrypt for the database (AES-256-GCM). Decryption needs the same purpose."""
        nonce = os.urandom(NONCE_LENGTH)
        return self._current.id + nonce + _cipher(self._current, purpose).encrypt(nonce, data, None)

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Decrypt what `seal` returned for the same purpose.

        Raises:
            DecryptionFailed: none of the keys decrypts it.
        """
        candidates = [(key, sealed[KEY_ID_LENGTH:]) for key in self._all if key.id == sealed[:KEY_ID_LENGTH]]
        candidates += [(key, sealed) for key in self._all]  # ciphertexts from before keys had ids
        for key, rest in candidates:
            with contextlib.suppress(InvalidTag, ValueError):
                return _cipher(key, purpose).decrypt(rest[:NONCE_LENGTH], rest[NONCE_LENGTH:], None)
        raise DecryptionFailed("the master key does not decrypt a stored secret; check whether the key was changed")

    def device_token(self, device_id: UUID) -> str:
        """Issue a device token (`dt_...`), valid as long as the device exists."""
        return f"dt_{_text(device_id.bytes + self._current.device_tag(device_id.bytes))}"

    def device_of(self, token: str) -> UUID | None:
        """Return the device of a device token, or None when the token is not valid."""
        octets = _octets(token.removeprefix("dt_"))
        if not token.startswith("dt_") or octets is None or len(octets) != 16 + DEVICE_TAG_LENGTH:
            return None
        device_id, tag = octets[:16], octets[16:]
        is_valid = any(hmac.compare_digest(tag, key.device_tag(device_id)) for key in self._all)
        return UUID(bytes=device_id) if is_valid else None

    def receipt_token(self, notification_id: UUID, device_id: UUID, variant: int | None, expires: int) -> str:
        """Issue a receipt token of 66 characters for one delivery. `expires` is Unix time."""
        number = NO_VARIANT if variant is None else variant
        fields = notification_id.bytes + device_id.bytes + expires.to_bytes(4, "big") + bytes((number,))
        return _text(fields + self._current.receipt_tag(fields))

    def receipt_of(self, token: str, now: int) -> tuple[UUID, UUID, int | None] | None:
        """Return (notification, device, variant) of a receipt token, or None when it is not valid or has expired."""
        octets = _octets(token)
        if octets is None or len(octets) != RECEIPT_FIELDS_LENGTH + RECEIPT_TAG_LENGTH:
            return None
        fields, tag = octets[:RECEIPT_FIELDS_LENGTH], octets[RECEIPT_FIELDS_LENGTH:]
        is_valid = any(hmac.compare_digest(tag, key.receipt_tag(fields)) for key in self._all)
        if not is_valid or int.from_bytes(fields[32:36], "big") < now:
            return None
        variant = None if fields[36] == NO_VARIANT else fields[36]
        return UUID(bytes=fields[:16]), UUID(bytes=fields[16:32]), variant


def new_key(prefix: str) -> str:
    """Return a new API key such as `sk_...`, with 256 random bits."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(key: str) -> bytes:
    """Return the digest by which an API key is stored. The key has 256 random bits, so SHA-256 is sufficient."""
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
