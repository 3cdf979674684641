"""Encrypt a message for one browser, and check the keys a browser hands over (RFC 8291, RFC 8188).

`cryptography` is used directly because this runs once per delivery: the elliptic curve is two thirds of the
cost, and a general library spends as much again around it. A test holds the result to http_ece and pywebpush.
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
MAX_PAYLOAD = RECORD_SIZE - HEADER_SIZE - 1 - 16
"""3,993 octets of plain text: header, padding delimiter and tag fill the rest of the 4,096."""

_CURVE = SECP256R1()
_ECDH = ECDH()
_SIZES = RECORD_SIZE.to_bytes(4, "big") + bytes([POINT_SIZE])
# RFC 8188 section 2: 2 ends the last record, and ours is the only one.
_LAST_RECORD = b"\x02"
# One HKDF block each (RFC 5869 section 2.3), hence the counter octet 1 at the end.
_KEY_INFO = b"WebPush: info\0"
_CEK_INFO = b"Content-Encoding: aes128gcm\0\x01"
_NONCE_INFO = b"Content-Encoding: nonce\0\x01"
_INNER_PAD = bytes(octet ^ 0x36 for octet in range(256))
_OUTER_PAD = bytes(octet ^ 0x5C for octet in range(256))
_SALTS = (
    drawn[at : at + SALT_SIZE]
    # Drawn many at a time: a system call for each would hand the interpreter's lock to another thread and back.
    for drawn in iter(lambda: os.urandom(SALT_SIZE * 1024), b"")
    for at in range(0, len(drawn), SALT_SIZE)
)
# P-256 is y² = x³ - 3x + b over the integers modulo p (SP 800-186, section 3.2.1.3). Asked this way a point takes a
# quarter of the library's time, which matters to imports; a test holds the answer to the library's.
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")


class Keys(Protocol):
    """A browser's: of a `Subscription`, or of whatever else has them at hand."""

    @property
    def p256dh(self) -> bytes: ...
    @property
    def auth(self) -> bytes: ...


def encrypt(
    payload: bytes,
    subscription: Keys,
    *,
    salt: bytes | None = None,
    ephemeral: EllipticCurvePrivateKey | None = None,
) -> bytes:
    """Encrypt a message so that only this browser can read it (RFC 8291, aes128gcm).

    The body is an 86-octet header, the payload, 1 octet of padding and a 16-octet tag,
    so 3,993 octets of payload fill the 4,096 every push service must accept (section 4).
    Raises PayloadTooLarge above that. The subscription's keys must have passed `check_keys`.
    `salt` and `ephemeral` are for known-answer tests; both must be fresh for every message.
    """
    if len(payload) > MAX_PAYLOAD:
        raise PayloadTooLarge(len(payload), MAX_PAYLOAD)
    if ephemeral is None:
        ephemeral = generate_private_key(_CURVE)
    if salt is None:
        salt = next(_SALTS)
    theirs = subscription.p256dh
    ours = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    shared = ephemeral.exchange(_ECDH, EllipticCurvePublicKey.from_encoded_point(_CURVE, theirs))
    secret = _hmac(_hmac(subscription.auth, shared), _KEY_INFO + theirs + ours + b"\x01")
    prk = _hmac(salt, secret)
    key = _hmac(prk, _CEK_INFO)[:16]
    nonce = _hmac(prk, _NONCE_INFO)[:12]
    return salt + _SIZES + ours + AESGCM(key).encrypt(nonce, payload + _LAST_RECORD, None)


def _hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) for keys of at most 64 octets: half the cost of the library's, five times a message."""
    padded = key.ljust(64, b"\0")
    return sha256(padded.translate(_OUTER_PAD) + sha256(padded.translate(_INNER_PAD) + message).digest()).digest()


def check_keys(p256dh: bytes, auth: bytes) -> list[FieldError]:
    """Every fault of a subscription's keys, with pointers `/p256dh` and `/auth` (RFC 8291 section 2)."""
    faults = []
    if (fault := _point_fault(p256dh)) is not None:
        faults.append(FieldError("/p256dh", fault))
    if len(auth) != AUTH_SIZE:
        faults.append(FieldError("/auth", f"must be {AUTH_SIZE} octets; this is {len(auth)}"))
    return faults


def _point_fault(point: bytes) -> str | None:
    if len(point) != POINT_SIZE:
        return f"must be a P-256 point of {POINT_SIZE} octets, uncompressed; this is {len(point)}"
    if point[0] != 4:
        return "must be an uncompressed P-256 point, which begins with the octet 4"
    x, y = int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:], "big")
    if x >= _P or y >= _P or (y * y - (x * x - 3) * x - _B) % _P:
        return "is not a point on the curve P-256"
    return None


def decode_base64url(text: str) -> bytes:
    """The octets of base64url text, with or without padding. Raises ValueError on anything else."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("is not base64url text")
    bare = text.rstrip("=")
    if len(bare) % 4 == 1 or (bare != text and len(text) % 4):
        raise ValueError("is not base64url text of a whole number of octets")
    return urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def encode_base64url(octets: bytes) -> str:
    """Without padding, as RFC 8291 and RFC 8292 write keys."""
    return urlsafe_b64encode(octets).rstrip(b"=").decode()
