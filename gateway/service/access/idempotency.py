"""Idempotent requests: repeating a request with the same idempotency key returns the stored response.

A key belongs to the credential that sent it, so a web page cannot use the keys of the application's back end. The key
is claimed in the transaction of the request itself. So a request that fails leaves its key unused, and a repeated
request waits until the first one has ended.
"""

import json
from typing import Any, NamedTuple
from uuid import UUID

from gateway.domain.errors import IdempotencyMismatch
from gateway.records import idempotency
from gateway.records.postgres.engine import Connection
from gateway.service.access.secrets import Keyring


class StoredResponse(NamedTuple):
    """The response to the first request with an idempotency key."""

    status: int
    body: Any


async def begin(conn: Connection, keyring: Keyring, owner: str, key: str, digest: bytes) -> StoredResponse | None:
    """Claim an idempotency key for a request; `digest` is the digest of the request.

    Returns:
        None for the first request with the key; pass its response to `store_response`. Otherwise the stored response.

    Raises:
        IdempotencyMismatch: the key was used with another request.
    """
    row = await idempotency.claim(conn, owner, key, digest)
    if row is None:
        return None
    if row.request_digest != digest:
        raise IdempotencyMismatch("this Idempotency-Key was used with another request within the last 24 hours")
    return StoredResponse(row.status, json.loads(keyring.open(row.answer, "idempotency")))


async def store_response(conn: Connection, keyring: Keyring, owner: str, key: str, status: int, body: bytes) -> None:
    """Encrypt and store the response to the first request with an idempotency key."""
    await idempotency.store_response(conn, owner, key, status, keyring.seal(body, "idempotency"))


async def erase_user(
    conn: Connection, keyring: Keyring, application_id: UUID, user_id: str, device_ids: list[UUID]
) -> None:
    """Delete the stored responses that contain a user id, and all responses to requests of these devices.

    Their idempotency keys are deleted too, so a repeated request is executed again.
    """
    encoded_user_id = json.dumps(user_id, ensure_ascii=False).encode()
    keys = [
        (row.owner, row.key)
        async for row in idempotency.stream_responses(conn, application_id)
        if encoded_user_id in keyring.open(row.answer, "idempotency")
    ]
    await idempotency.delete_keys(conn, keys)
    await idempotency.delete_owners(conn, [str(id_) for id_ in device_ids])
