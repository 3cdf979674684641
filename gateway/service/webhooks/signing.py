"""Sign what is sent to webhooks, as Standard Webhooks 1.0 has it (standardwebhooks.com).

HMAC-SHA256 over message id, time and body, so that a receiver can tell our messages from others', and refuse those
that were recorded and sent again. While a secret is being replaced, each in force makes a signature of its own.
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

PREFIX = "whsec_"
OCTETS = 32  # the specification asks for 24 to 64
PURPOSE = "webhook secrets"
MAX_SECRETS = 5


@dataclass(frozen=True, slots=True)
class Secret:
    """`text` is what the receiver was told, `whsec_` and base64. `until` None: the one in force from now on."""

    text: str = field(repr=False)
    until: datetime | None = None


def new_secret() -> str:
    return PREFIX + b64encode(secrets.token_bytes(OCTETS)).decode()


def rotated(held: Sequence[Secret], fresh: str, keep_old: timedelta, now: datetime) -> list[Secret]:
    """The fresh one first; those before it stay in force for `keep_old` at the most."""
    end = now + keep_old
    old = [Secret(one.text, end if one.until is None else min(one.until, end)) for one in held]
    return [Secret(fresh), *(one for one in old if one.until is not None and one.until > now)][:MAX_SECRETS]


def headers(held: Sequence[Secret], message_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """The three headers of a message that is sent now."""
    timestamp = str(int(now.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [_sign(one.text, signed) for one in held if one.until is None or one.until > now]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


def seal(held: Sequence[Secret], vault: Keyring) -> bytes:
    said = [{"secret": one.text, "until": one.until and one.until.isoformat()} for one in held]
    return vault.seal(json.dumps(said).encode(), PURPOSE)


def unseal(sealed: bytes, vault: Keyring) -> list[Secret]:
    """Raises Unsealable."""
    return [
        Secret(one["secret"], one["until"] and datetime.fromisoformat(one["until"]).astimezone(UTC))
        for one in json.loads(vault.open(sealed, PURPOSE))
    ]


def _sign(secret: str, signed: bytes) -> str:
    key = b64decode(secret.removeprefix(PREFIX))
    return "v1," + b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
