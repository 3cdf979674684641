"""Message encryption for one browser and validation of its keys (RFC 8291, RFC 8188).

This code runs once per delivery, so it uses `cryptography` directly: a general Web Push library would take twice the
time. The elliptic curve operations are two thirds of the cost. A test compares the result with http_ece and pywebpush.
"""

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.domain.errors import FieldError, PayloadTooLarge

RECORD_SIZE = 4096
POINT_SIZE = 65
AUTH_SIZE = 16
SALT_SIZE = 16
HEADER_SIZE = SALT_SIZE + 4 + 1 + POINT_SIZE
# Maximum octets of plain text. The header, the padding delimiter and the tag fill the rest of the 4,096 octets.
MAX_PAYLOAD = RECORD_SIZE - HEADER_SIZE - 1 - 16

_CURVE = SECP256R1()
_ECDH = ECDH()
# The record size and the size of the key id, as they stand in the header (RFC 8188 section 2.1).
_SIZES = RECORD_SIZE.to_bytes(4, "big") + bytes([POINT_SIZE])
# RFC 8188 section 2: padding delimiter 2 marks the last record; there is only one.
_LAST_RECORD_DELIMITER = b"\x02"
# The `info` inputs of HKDF. Each result is one block, so the counter octet 1 follows (RFC 5869 section 2.3). In the
# first one, `encrypt` inserts the two public keys before the counter.
_KEY_INFO = b"WebPush: info\0"
_CEK_INFO = b"Content-Encoding: aes128gcm\0\x01"
_NONCE_INFO = b"Content-Encoding: nonce\0\x01"
# Translation tables that XOR each octet with the constants of HMAC (RFC 2104 section 2).
_INNER_PAD = bytes(octet ^ 0x36 for octet in range(256))
_OUTER_PAD = bytes(octet ^ 0x5C for octet in range(256))
_SALTS = (
    block[at : at + SALT_SIZE]
    # One system call per 1,024 salts, because each call releases and reacquires the GIL.
    for block in iter(lambda: os.urandom(SALT_SIZE * 1024), b"")
    for at in range(0, len(block), SALT_SIZE)
)
# P-256 is y² = x³ - 3x + b over the integers modulo p (SP 800-186, section 3.2.1.3). Checking the equation here takes a
# quarter of the time that the library takes, which makes imports of devices faster. A test compares the results.
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")


class SubscriptionKeys(Protocol):
    """The public key and authentication secret of a browser (RFC 8291 section 2)."""

    @property
    def p256dh(self) -> bytes:
        """Return the uncompressed P-256 point, 65 octets."""

    @property
    def auth(self) -> bytes:
        """Return the authentication secret, 16 octets."""


def encrypt(
    payload: bytes,
    subscription: SubscriptionKeys,
    *,
    salt: bytes | None = None,
    ephemeral: EllipticCurvePrivateKey | None = None,
) -> bytes:
    """Encrypt a message for one browser (RFC 8291, aes128gcm).

    The body is an 86-octet header, the payload, 1 octet of padding and a 16-octet tag, so 3,993 octets of payload fill
    the 4,096 that every push service must accept (section 4).

    Args:
        payload: plain text.
        subscription: keys that passed `check_keys`.
        salt: for known-answer tests only; must be fresh for every message.
        ephemeral: for known-answer tests only; must be fresh for every message.

    Raises:
        PayloadTooLarge: the payload is longer than 3,993 octets.
    """
    if len(payload) > MAX_PAYLOAD:
        raise PayloadTooLarge(len(payload), MAX_PAYLOAD)
    if ephemeral is None:
        ephemeral = generate_private_key(_CURVE)
    if salt is None:
        salt = next(_SALTS)
    ua_public = subscription.p256dh
    as_public = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    ecdh_secret = ephemeral.exchange(_ECDH, EllipticCurvePublicKey.from_encoded_point(_CURVE, ua_public))
    ikm = _hmac(_hmac(subscription.auth, ecdh_secret), _KEY_INFO + ua_public + as_public + b"\x01")
    prk = _hmac(salt, ikm)
    cek = _hmac(prk, _CEK_INFO)[:16]
    nonce = _hmac(prk, _NONCE_INFO)[:12]
    return salt + _SIZES + as_public + AESGCM(cek).encrypt(nonce, payload + _LAST_RECORD_DELIMITER, None)


def _hmac(key: bytes, message: bytes) -> bytes:
    """Return HMAC-SHA256 (RFC 2104) for a key of at most 64 octets.

    The function runs five times per message, and takes half the time of the `hmac` module.
    """
    padded = key.ljust(64, b"\0")
    return sha256(padded.translate(_OUTER_PAD) + sha256(padded.translate(_INNER_PAD) + message).digest()).digest()


def check_keys(p256dh: bytes, auth: bytes) -> list[FieldError]:
    """Return all errors of a subscription's keys, with pointers `/p256dh` and `/auth` (RFC 8291 section 2)."""
    errors = []
    if (message := _point_error(p256dh)) is not None:
        errors.append(FieldError("/p256dh", message))
    if len(auth) != AUTH_SIZE:
        errors.append(FieldError("/auth", f"must be {AUTH_SIZE} octets; this is {len(auth)}"))
    return errors


def _point_error(point: bytes) -> str | None:
    if len(point) != POINT_SIZE:
        return f"must be a P-256 point of {POINT_SIZE} octets, uncompressed; this is {len(point)}"
    if point[0] != 4:
        return "must be an uncompressed P-256 point, which begins with the octet 4"
    x, y = int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:], "big")
    if x >= _P or y >= _P or (y * y - (x * x - 3) * x - _B) % _P:
        return "is not a point on the curve P-256"
    return None


def decode_base64url(text: str) -> bytes:
    """Decode base64url text, with or without padding.

    Raises:
        ValueError: the text is not base64url.
    """
    if not _BASE64URL.fullmatch(text):
        raise ValueError("is not base64url text")
    bare = text.rstrip("=")
    if len(bare) % 4 == 1 or (bare != text and len(text) % 4):
        raise ValueError("is not base64url text of a whole number of octets")
    return urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def encode_base64url(octets: bytes) -> str:
    """Encode as base64url without padding, as RFC 8291 and RFC 8292 write keys."""
    return urlsafe_b64encode(octets).rstrip(b"=").decode()
