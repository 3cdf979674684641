"""Idempotent requests: a repeated key and request return the stored response and change nothing.

The key is claimed in the transaction that does the work: a request that fails leaves no trace, and a repeated request
waits until the first one has ended.
"""

import json
from typing import Any, NamedTuple
from uuid import UUID

from gateway.domain.errors import IdempotencyMismatch
from gateway.records import idempotency
from gateway.records.postgres.engine import Connection
from gateway.service.access.secrets import Keyring


class StoredResponse(NamedTuple):
    """The response to the first request with a key."""

    status: int
    body: Any


async def begin(conn: Connection, keyring: Keyring, owner: str, key: str, digest: bytes) -> StoredResponse | None:
    """Claim a key; `digest` is the digest of the request.

    Returns:
        The stored response, or None when this is the first request, whose response `store_response` must store.

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
    """Store the response to the first request with a key, encrypted."""
    await idempotency.store_response(conn, owner, key, status, keyring.seal(body, "idempotency"))


async def forget(
    conn: Connection, keyring: Keyring, application_id: UUID, user_id: str, device_ids: list[UUID]
) -> None:
    """Delete the stored responses that name a user, and all responses to these devices.

    A repeated request is then executed again.
    """
    owner, name = str(application_id), json.dumps(user_id, ensure_ascii=False).encode()
    named = [
        row.key
        async for row in idempotency.stream_responses(conn, owner)
        if name in keyring.open(row.answer, "idempotency")
    ]
    await idempotency.delete_keys(conn, owner, named)
    await idempotency.delete_owners(conn, [str(id_) for id_ in device_ids])
