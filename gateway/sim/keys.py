"""A simulated device's keys, and the receiving side of RFC 8291.

The private key is kept as its scalar and becomes a key object only when a message is read: 2,000 devices
are then made in a fraction of a second, and a state file holds them as text.
"""

import secrets
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CURVE = ec.SECP256R1()
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SALT, _RECORD_SIZE, _POINT, _TAG = 16, 4, 65, 16
_HEADER = _SALT + _RECORD_SIZE + 1 + _POINT


class Undecryptable(ValueError):
    """The body is not a message that this device can read."""


@lru_cache(maxsize=256)
def load_point(octets: bytes) -> ec.EllipticCurvePublicKey:
    """A P-256 point of 65 octets, uncompressed (X9.62); raises ValueError when it is not on the curve."""
    if len(octets) != _POINT:
        raise ValueError(f"a P-256 point has {_POINT} octets, not {len(octets)}")
    return ec.EllipticCurvePublicKey.from_encoded_point(CURVE, octets)


@dataclass(frozen=True, slots=True)
class Keys:
    """`scalar` is the private key, `p256dh` its point (65 octets), `auth` the shared secret (16 octets)."""

    scalar: int
    p256dh: bytes
    auth: bytes

    @classmethod
    def generate(cls) -> "Keys":
        scalar = secrets.randbelow(_ORDER - 1) + 1
        public = ec.derive_private_key(scalar, CURVE).public_key()
        return cls(scalar, public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), secrets.token_bytes(16))

    def decrypt(self, body: bytes) -> bytes:
        """The plain text of an aes128gcm body (RFC 8188 section 2, RFC 8291 section 3.4); raises Undecryptable.

        A push message is one record (RFC 8291 section 4), so one that spans several is refused.
        """
        if len(body) < _HEADER + 1 + _TAG:
            raise Undecryptable(f"{len(body)} octets are too few for an aes128gcm message")
        salt, record_size = body[:_SALT], int.from_bytes(body[_SALT : _SALT + _RECORD_SIZE])
        sender, sealed = body[_HEADER - _POINT : _HEADER], body[_HEADER:]
        if body[_HEADER - _POINT - 1] != _POINT:
            raise Undecryptable("the key id is not a P-256 point")
        if len(sealed) > record_size:
            raise Undecryptable(f"{len(sealed)} octets do not fit one record of {record_size}")
        try:
            shared = ec.derive_private_key(self.scalar, CURVE).exchange(ec.ECDH(), load_point(sender))
        except ValueError as error:
            raise Undecryptable("the sender's key is not a P-256 point") from error
        keying = _hkdf(self.auth, shared, b"WebPush: info\0" + self.p256dh + sender, 32)
        cipher = AESGCM(_hkdf(salt, keying, b"Content-Encoding: aes128gcm\0", 16))
        try:
            padded = cipher.decrypt(_hkdf(salt, keying, b"Content-Encoding: nonce\0", 12), sealed, None)
        except InvalidTag as error:
            raise Undecryptable("it was not encrypted for this device's keys") from error
        payload = padded.rstrip(b"\0")
        if not payload.endswith(b"\x02"):
            raise Undecryptable("the padding does not end the last record")
        return payload[:-1]


def _hkdf(salt: bytes, key: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)
