"""Keys of a simulated device, and decryption by RFC 8291.

The private key is stored as its scalar, and a key object is created only to decrypt a message. So thousands of devices
are created in a fraction of a second, and the state file can contain keys as text.
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
    """The device cannot decrypt the body."""


@lru_cache(maxsize=256)
def load_point(octets: bytes) -> ec.EllipticCurvePublicKey:
    """Load an uncompressed P-256 point of 65 octets (X9.62).

    Raises:
        ValueError: not a point on the curve.
    """
    if len(octets) != _POINT:
        raise ValueError(f"a P-256 point has {_POINT} octets, not {len(octets)}")
    return ec.EllipticCurvePublicKey.from_encoded_point(CURVE, octets)


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """Keys of a device: private `scalar`, public point `p256dh` (65 octets), secret `auth` (16 octets)."""

    scalar: int
    p256dh: bytes
    auth: bytes

    @classmethod
    def generate(cls) -> "DeviceKeys":
        """Generate new keys."""
        scalar = secrets.randbelow(_ORDER - 1) + 1
        public = ec.derive_private_key(scalar, CURVE).public_key()
        return cls(scalar, public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), secrets.token_bytes(16))

    def decrypt(self, body: bytes) -> bytes:
        """Return the plain text of an aes128gcm body (RFC 8188 section 2, RFC 8291 section 3.4).

        A push message is one record (RFC 8291 section 4), so a body with more than one record is rejected.

        Raises:
            Undecryptable: the body is malformed, or encrypted for other keys.
        """
        if len(body) < _HEADER + 1 + _TAG:
            raise Undecryptable(f"{len(body)} octets are too few for an aes128gcm message")
        salt, record_size = body[:_SALT], int.from_bytes(body[_SALT : _SALT + _RECORD_SIZE])
        sender, ciphertext = body[_HEADER - _POINT : _HEADER], body[_HEADER:]
        if body[_HEADER - _POINT - 1] != _POINT:
            raise Undecryptable("the key id is not a P-256 point")
        if len(ciphertext) > record_size:
            raise Undecryptable(f"{len(ciphertext)} octets do not fit one record of {record_size}")
        try:
            shared = ec.derive_private_key(self.scalar, CURVE).exchange(ec.ECDH(), load_point(sender))
        except ValueError as error:
            raise Undecryptable("the sender's key is not a P-256 point") from error
        ikm = _hkdf(self.auth, shared, b"WebPush: info\0" + self.p256dh + sender, 32)
        cipher = AESGCM(_hkdf(salt, ikm, b"Content-Encoding: aes128gcm\0", 16))
        try:
            padded = cipher.decrypt(_hkdf(salt, ikm, b"Content-Encoding: nonce\0", 12), ciphertext, None)
        except InvalidTag as error:
            raise Undecryptable("not encrypted for this device's keys") from error
        payload = padded.rstrip(b"\0")
        if not payload.endswith(b"\x02"):
            raise Undecryptable("the padding does not end the last record")
        return payload[:-1]


def _hkdf(salt: bytes, key: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)
