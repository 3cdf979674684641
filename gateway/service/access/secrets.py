"""Encrypt secrets for the database, and issue tokens that can be verified without the database.

A key for each purpose is derived from the master key (HKDF-SHA256, RFC 5869). Device tokens and receipt tokens are not
stored: a token contains the ids that it stands for, and a message authentication code (MAC) over them.

Retired master keys decrypt ciphertexts and verify tokens that they produced earlier, and produce no new ones. So the
master key can be replaced while processes run. A ciphertext begins with the id of its master key. The key rotation
uses this id to find the ciphertexts of retired keys.
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
# Octets of the MAC in a receipt token. The MAC is short because every push message contains a receipt token, and a
# forged token can do no more than report a false receipt.
RECEIPT_TAG_LENGTH = 12
RECEIPT_FIELDS_LENGTH = 37  # octets of notification id, device id, expiry and variant
NO_VARIANT = 255  # the variant number in the receipt token of a notification without variants


class DecryptionFailed(OperatorError):
    """The ciphertext was encrypted with an unknown master key, or was modified."""


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
        self.receipt_key = derived("receipt token")

    def device_tag(self, device: bytes) -> bytes:
        return hmac.digest(self.derived("device token"), device, "sha256")[:DEVICE_TAG_LENGTH]

    def receipt_tag(self, fields: bytes) -> bytes:
        # Every message needs a tag, and keyed BLAKE2b (RFC 7693) takes a third of the time of an HMAC.
        return hashlib.blake2b(fields, key=self.receipt_key, digest_size=RECEIPT_TAG_LENGTH).digest()


class Keyring:
    """The current master key, which encrypts and issues tokens, and retired ones, which only decrypt and verify."""

    def __init__(self, master_key: bytes, *retired: bytes) -> None:
        """Create a keyring from the current master key and the retired ones.

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
        """Encrypt data for the database (AES-256-GCM). `open` needs the same purpose."""
        nonce = os.urandom(NONCE_LENGTH)
        return self._current.id + nonce + _cipher(self._current, purpose).encrypt(nonce, data, None)

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Decrypt a ciphertext that `seal` returned for the same purpose.

        Raises:
            DecryptionFailed: no key of the keyring decrypts the ciphertext.
        """
        candidates = [(key, sealed[KEY_ID_LENGTH:]) for key in self._all if key.id == sealed[:KEY_ID_LENGTH]]
        candidates += [(key, sealed) for key in self._all]  # early versions wrote ciphertexts without a key id
        for key, ciphertext in candidates:
            with contextlib.suppress(InvalidTag, ValueError):
                return _cipher(key, purpose).decrypt(ciphertext[:NONCE_LENGTH], ciphertext[NONCE_LENGTH:], None)
        raise DecryptionFailed("the master key does not decrypt a stored secret; check whether the key was changed")

    def issue_device_token(self, device_id: UUID) -> str:
        """Issue a device token (`dt_...`). It does not expire; the caller checks that the device exists."""
        return f"dt_{_encode_base64url(device_id.bytes + self._current.device_tag(device_id.bytes))}"

    def verify_device_token(self, token: str) -> UUID | None:
        """Return the device id of a device token, or None if the token is not valid."""
        octets = _decode_base64url(token.removeprefix("dt_"))
        if not token.startswith("dt_") or octets is None or len(octets) != 16 + DEVICE_TAG_LENGTH:
            return None
        device_id, tag = octets[:16], octets[16:]
        is_valid = any(hmac.compare_digest(tag, key.device_tag(device_id)) for key in self._all)
        return UUID(bytes=device_id) if is_valid else None

    def issue_receipt_token(self, notification_id: UUID, device_id: UUID, variant: int | None, expires: int) -> str:
        """Issue a receipt token (66 characters) for one delivery. `expires` is a Unix time."""
        number = NO_VARIANT if variant is None else variant
        fields = notification_id.bytes + device_id.bytes + expires.to_bytes(4, "big") + bytes((number,))
        return _encode_base64url(fields + self._current.receipt_tag(fields))

    def verify_receipt_token(self, token: str, now: int) -> tuple[UUID, UUID, int | None] | None:
        """Return (notification id, device id, variant) of a receipt token, or None if it is invalid or has expired."""
        octets = _decode_base64url(token)
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
    """Return the digest of an API key. The database stores the digest instead of the key.

    The key has 256 random bits, so a plain SHA-256 is sufficient.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _cipher(key: _MasterKey, purpose: str) -> AESGCM:
    return AESGCM(key.derived(f"seal {purpose}"))


def _encode_base64url(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def _decode_base64url(text: str) -> bytes | None:
    """Return the octets, or None if the text is not what `_encode_base64url` returns for them."""
    try:
        octets = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return octets if _encode_base64url(octets) == text else None
