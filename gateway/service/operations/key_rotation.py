"""Rotate the master key: re-encrypt, with the current key, all secrets that a retired key has encrypted.

During the rotation, running processes decrypt with both keys. Rows are replaced in small batches, each in its own
transaction. A first pass skips rows that other transactions have locked; a second pass waits for them, row by row. Each
ciphertext contains the id of its key, so an interrupted rotation continues where it stopped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.records.postgres import encrypted_columns
from gateway.records.postgres.encrypted_columns import Column
from gateway.records.postgres.engine import Connection, Engine
from gateway.records.postgres.schema import applications, idempotency_keys, vapid_keys, webhooks
from gateway.service.access.secrets import DecryptionFailed, Keyring
from gateway.service.webhooks import signing

# Number of rows that are replaced in one transaction.
BATCH = 100


class SecretKind(NamedTuple):
    """A kind of secrets: its column, and the purpose with which the keyring encrypts it."""

    name: str
    column: Column[Any]
    purpose: str


# The kinds of secrets that do not expire.
PERMANENT_KINDS = (
    SecretKind("vapid keys", vapid_keys.c.private_key, "vapid"),
    SecretKind("identity secrets", applications.c.identity_secret, "identity"),
    SecretKind("webhook secrets", webhooks.c.secrets, signing.PURPOSE),
)
# All kinds, including stored responses, which expire after a day.
KINDS = (*PERMANENT_KINDS, SecretKind("first answers", idempotency_keys.c.answer, "idempotency"))


class RotationProgress(NamedTuple):
    """The number of secrets of a kind, and the number of those that a retired key has encrypted."""

    total: int
    remaining: int


async def check(conn: Connection, keyring: Keyring) -> None:
    """Check that the keyring has the retired key that stored secrets need.

    For each permanent kind, decrypts one secret that the current key has not encrypted.

    Raises:
        DecryptionFailed: no key of the keyring decrypts the secret.
    """
    for kind in PERMANENT_KINDS:
        secret = await encrypted_columns.find_foreign(conn, kind.column, keyring.key_id)
        if secret is not None:
            keyring.open(secret, kind.purpose)


async def get_progress(conn: Connection, keyring: Keyring) -> dict[str, RotationProgress]:
    """Return the progress of the rotation for each kind of secrets, by name."""
    return {
        kind.name: RotationProgress(*await encrypted_columns.count_ciphertexts(conn, kind.column, keyring.key_id))
        for kind in KINDS
    }


async def rotate(engine: Engine, keyring: Keyring, on_batch: Callable[[str, int], None]) -> None:
    """Re-encrypt all secrets that a retired key has encrypted. Secrets that no key decrypts are not changed.

    Args:
        engine: the database.
        keyring: the current key and the retired ones.
        on_batch: is called after each batch with the name of the kind and the number of replaced secrets.
    """
    for kind in KINDS:
        await _rotate_kind(engine, keyring, kind, on_batch, batch_size=BATCH, wait=False)
        await _rotate_kind(engine, keyring, kind, on_batch, batch_size=1, wait=True)


async def _rotate_kind(
    engine: Engine,
    keyring: Keyring,
    kind: SecretKind,
    on_batch: Callable[[str, int], None],
    *,
    batch_size: int,
    wait: bool,
) -> None:
    """Re-encrypt the secrets of one kind, batch by batch; `wait` waits for locked rows instead of skipping them."""
    after: encrypted_columns.PrimaryKey | None = None
    while True:
        async with engine.begin() as conn:
            rows = await encrypted_columns.lock_foreign(
                conn, kind.column, keyring.key_id, after=after, limit=batch_size, wait=wait
            )
            if not rows:
                return
            after = tuple(rows[-1][:-1])
            replacements: list[tuple[encrypted_columns.PrimaryKey, bytes]] = [
                (tuple(row[:-1]), secret) for row in rows if (secret := _reencrypt(keyring, row[-1], kind.purpose))
            ]
            if replacements:
                await encrypted_columns.replace_ciphertexts(conn, kind.column, replacements)
        on_batch(kind.name, len(replacements))


def _reencrypt(keyring: Keyring, ciphertext: bytes, purpose: str) -> bytes | None:
    try:
        return keyring.seal(keyring.open(ciphertext, purpose), purpose)
    except DecryptionFailed:
        return None
