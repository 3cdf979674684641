"""The same key and request give the first answer again, and do nothing again.

The key is claimed in the transaction that does the work: a request that fails leaves no trace, and a second
one that comes while the first still runs waits for its end.
"""

import json
from typing import Any, NamedTuple
from uuid import UUID

from gateway.domain.errors import IdempotencyMismatch
from gateway.records import idempotency
from gateway.records.postgres.engine import Connection
from gateway.service.access.secrets import Keyring


class StoredResponse(NamedTuple):
    """The answer given the first time."""

    status: int
    body: Any


async def begin(conn: Connection, vault: Keyring, owner: str, key: str, digest: bytes) -> StoredResponse | None:
    """None when the work is ours to do: then `keep` its answer. Raises IdempotencyMismatch.

    `digest` is the request's.
    """
    row = await idempotency.claim(conn, owner, key, digest)
    if row is None:
        return None
    if row.request_digest != digest:
        raise IdempotencyMismatch("this Idempotency-Key was used with another request within the last 24 hours")
    return StoredResponse(row.status, json.loads(vault.open(row.answer, "idempotency")))


async def store_response(conn: Connection, vault: Keyring, owner: str, key: str, status: int, body: bytes) -> None:
    await idempotency.store_response(conn, owner, key, status, vault.seal(body, "idempotency"))


async def forget(conn: Connection, vault: Keyring, application_id: UUID, person: str, device_ids: list[UUID]) -> None:
    """Let go of the answers that name a person, and of all to these devices: what is asked again is done again."""
    owner, name = str(application_id), json.dumps(person, ensure_ascii=False).encode()
    named = [
        row.key
        async for row in idempotency.stream_responses(conn, owner)
        if name in vault.open(row.answer, "idempotency")
    ]
    await idempotency.delete_keys(conn, owner, named)
    await idempotency.delete_owners(conn, [str(id_) for id_ in device_ids])
