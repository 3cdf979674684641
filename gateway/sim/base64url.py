"""Base64url without padding, as the Web Push RFCs encode octets."""

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)


def encode(octets: bytes) -> str:
    """Encode without padding."""
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Decode text with or without padding.

    Raises:
        ValueError: a character outside the alphabet, which the standard library would skip.
    """
    if not _ALPHABET.fullmatch(text):
        raise ValueError("not base64url")
    text = text.rstrip("=")
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url") from error
