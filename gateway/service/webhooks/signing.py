"""Sign the messages to webhooks as specified by Standard Webhooks 1.0 (standardwebhooks.com).

The signature is an HMAC-SHA256 over message id, time and body, so that receivers can reject forged and replayed
messages. While a rotated secret is still valid, a message has a signature for each valid secret.
"""

import hashlib
import hmac
import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from gateway.service.access.secrets import Keyring

# Prefix of the text of a secret.
PREFIX = "whsec_"
SECRET_LENGTH = 32  # octets; the specification asks for 24 to 64
# The purpose for which the keyring encrypts the secrets.
PURPOSE = "webhook secrets"
# Maximum number of valid secrets of a webhook: the current one, and the latest rotated ones.
MAX_SECRETS = 5


@dataclass(frozen=True, slots=True)
class Secret:
    """A signing secret: `whsec_` and base64.

    `until` is the time until which a rotated secret is valid, None for the current secret.
    """

    text: str = field(repr=False)
    until: datetime | None = None


def new_secret() -> str:
    """Return a new secret."""
    return PREFIX + b64encode(secrets.token_bytes(SECRET_LENGTH)).decode()


def rotate(secrets_: Sequence[Secret], new: str, keep_old: timedelta, now: datetime) -> list[Secret]:
    """Return the new secret and the old ones, which stay valid for at most `keep_old`."""
    until = now + keep_old
    old = [Secret(secret.text, until if secret.until is None else min(secret.until, until)) for secret in secrets_]
    return [Secret(new), *(secret for secret in old if secret.until is not None and secret.until > now)][:MAX_SECRETS]


def headers(secrets_: Sequence[Secret], message_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """Return the headers that identify and sign a message."""
    timestamp = str(int(now.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [_sign(secret.text, signed) for secret in secrets_ if secret.until is None or secret.until > now]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


def seal(secrets_: Sequence[Secret], keyring: Keyring) -> bytes:
    """Encrypt secrets for the database."""
    values = [{"secret": secret.text, "until": secret.until and secret.until.isoformat()} for secret in secrets_]
    return keyring.seal(json.dumps(values).encode(), PURPOSE)


def unseal(sealed: bytes, keyring: Keyring) -> list[Secret]:
    """Decrypt secrets.

    Raises:
        DecryptionFailed: no key of the keyring decrypts the secrets.
    """
    return [
        Secret(value["secret"], value["until"] and datetime.fromisoformat(value["until"]).astimezone(UTC))
        for value in json.loads(keyring.open(sealed, PURPOSE))
    ]


def _sign(secret: str, signed: bytes) -> str:
    key = b64decode(secret.removeprefix(PREFIX))
    return "v1," + b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
