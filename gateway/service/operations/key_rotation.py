"""Replace the master key: seal anew, under the key in force, whatever another one sealed.

Beside running processes, which open both: a few rows at a time, each in its own short transaction, and those that
somebody holds at the end, one by one. What is done shows in the rows, so that another run goes on where one ended.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Column

from gateway.records.postgres import encrypted_columns
from gateway.records.postgres.engine import Connection, Engine
from gateway.records.postgres.schema import applications, idempotency_keys, vapid_keys, webhooks
from gateway.service.access.secrets import DecryptionFailed, Keyring
from gateway.service.webhooks import signing

BATCH = 100


class Kind(NamedTuple):
    name: str
    column: Column[Any]
    purpose: str


KEPT = (
    Kind("vapid keys", vapid_keys.c.private_key, "vapid"),
    Kind("identity secrets", applications.c.identity_secret, "identity"),
    Kind("webhook secrets", webhooks.c.secrets, signing.PURPOSE),
)
FOR_A_DAY = (Kind("first answers", idempotency_keys.c.answer, "idempotency"),)
KINDS = KEPT + FOR_A_DAY


class RotationProgress(NamedTuple):
    """`others` of `whole` are sealed with another key than the one in force."""

    whole: int
    others: int


async def check(conn: Connection, vault: Keyring) -> None:
    """Raises Unsealable when something that is kept was sealed with a key that we do not have."""
    for kind in KEPT:
        one = await encrypted_columns.find_foreign(conn, kind.column, vault.key_id)
        if one is not None:
            vault.open(one, kind.purpose)


async def standing(conn: Connection, vault: Keyring) -> dict[str, RotationProgress]:
    """By the name of the kind."""
    return {
        kind.name: RotationProgress(*await encrypted_columns.count(conn, kind.column, vault.key_id)) for kind in KINDS
    }


async def rotate(engine: Engine, vault: Keyring, told: Callable[[str, int], None]) -> None:
    """Seal all anew that another key sealed; `told` of each batch, by kind and size.

    What none of our keys opens stays as it is, for whoever finds the key.
    """
    for kind in KINDS:
        await _pass(engine, vault, kind, told, batch=BATCH, wait=False)
        await _pass(engine, vault, kind, told, batch=1, wait=True)


async def _pass(
    engine: Engine, vault: Keyring, kind: Kind, told: Callable[[str, int], None], *, batch: int, wait: bool
) -> None:
    after: encrypted_columns.PrimaryKey | None = None
    while True:
        async with engine.begin() as conn:
            rows = await encrypted_columns.lock_foreign(
                conn, kind.column, vault.key_id, after=after, limit=batch, wait=wait
            )
            if not rows:
                return
            after = tuple(rows[-1][:-1])
            anew: list[tuple[encrypted_columns.PrimaryKey, bytes]] = [
                (tuple(row[:-1]), fresh) for row in rows if (fresh := _anew(vault, row[-1], kind.purpose))
            ]
            if anew:
                await encrypted_columns.replace(conn, kind.column, anew)
        told(kind.name, len(anew))


def _anew(vault: Keyring, octets: bytes, purpose: str) -> bytes | None:
    try:
        return vault.seal(vault.open(octets, purpose), purpose)
    except DecryptionFailed:
        return None
