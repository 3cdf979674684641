"""Applications, their API keys and their VAPID keys."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import LargeBinary, Row, any_, bindparam, delete, insert, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.json_object import JsonObject
from gateway.records.postgres.schema import api_keys, applications, vapid_keys


class ApiKey(NamedTuple):
    """An API key with its scopes. `allowed_origins` are the web origins of its application."""

    id: UUID
    application_id: UUID
    scopes: list[str]
    allowed_origins: list[str]


class RegistrationContext(NamedTuple):
    """The columns of an application that registering a device needs.

    `identity_secret` is the encrypted secret that proves user ids, None when proofs are not required. `vapid_keys` has
    (id, public key of 65 bytes) of every VAPID key, newest first.
    """

    identity_secret: bytes | None
    vapid_keys: list[tuple[UUID, bytes]]


# Prepared once: building and compiling these statements costs more than running them, and some run for every request.
_KEYS_BY_DIGEST = (
    select(
        api_keys.c.digest, api_keys.c.id, api_keys.c.application_id, api_keys.c.scopes, applications.c.allowed_origins
    )
    .join(applications)
    .where(api_keys.c.digest == any_(bindparam("digests", type_=ARRAY(LargeBinary))))
)
_REGISTRATION_CONTEXTS = (
    select(applications.c.id, applications.c.identity_secret, vapid_keys.c.id, vapid_keys.c.public_key)
    .join(vapid_keys)
    .where(applications.c.id == any_(bindparam("ids", type_=ARRAY(PG_UUID))))
    .order_by(vapid_keys.c.id.desc())
)


async def add(conn: AsyncConnection, id_: UUID, name: str, subject: str, allowed_origins: Sequence[str]) -> None:
    """Insert an application."""
    values = {"id": id_, "name": name, "subject": subject, "allowed_origins": list(allowed_origins)}
    await conn.execute(insert(applications).values(**values))


async def get(conn: AsyncConnection, id_: UUID) -> Row[Any] | None:
    """Return an application, or None."""
    return (await conn.execute(select(applications).where(applications.c.id == id_))).first()


async def list_by_creation(conn: AsyncConnection, *, after: UUID | None = None, limit: int) -> Sequence[Row[Any]]:
    """Return a page of applications, oldest first; `after` is the last id of the previous page."""
    query = select(applications).order_by(applications.c.id).limit(limit)
    if after is not None:
        query = query.where(applications.c.id > after)
    return (await conn.execute(query)).all()


async def change(conn: AsyncConnection, id_: UUID, values: Mapping[str, object]) -> None:
    """Update columns of an application."""
    await conn.execute(update(applications).where(applications.c.id == id_).values(**values))


async def get_default_origin(conn: AsyncConnection, id_: UUID) -> str | None:
    """Return the first allowed web origin of an application. Relative URLs are resolved against it."""
    first = select(applications.c.allowed_origins[1]).where(applications.c.id == id_)
    origin: str | None = (await conn.execute(first)).scalar()
    return origin


async def get_allowed_origins(conn: AsyncConnection, id_: UUID) -> list[str]:
    """Return the allowed web origins of an application."""
    query = select(applications.c.allowed_origins).where(applications.c.id == id_)
    return list((await conn.execute(query)).scalar_one())


async def get_alert_settings(conn: AsyncConnection, id_: UUID) -> tuple[list[JsonObject], Any]:
    """Return the alert rules of an application, and the audience of its alerts, None if it has none."""
    row = (
        await conn.execute(
            select(applications.c.alert_rules, applications.c.alert_audience).where(applications.c.id == id_)
        )
    ).one()
    return row.alert_rules, row.alert_audience


async def add_key(
    conn: AsyncConnection, id_: UUID, application_id: UUID, name: str, scopes: Sequence[str], digest: bytes, hint: str
) -> Row[Any]:
    """Insert an API key and return its row.

    `digest` is the SHA-256 of the key's token. `hint` is the token's prefix and last characters, by which people
    recognise the key.
    """
    values = {"id": id_, "application_id": application_id, "name": name, "scopes": list(scopes)}
    statement = insert(api_keys).values(**values, digest=digest, hint=hint).returning(api_keys)
    row: Row[Any] = (await conn.execute(statement)).one()
    return row


async def list_keys(conn: AsyncConnection, application_id: UUID) -> Sequence[Row[Any]]:
    """Return the API keys of an application, oldest first."""
    query = select(api_keys).where(api_keys.c.application_id == application_id).order_by(api_keys.c.id)
    return (await conn.execute(query)).all()


async def remove_key(conn: AsyncConnection, application_id: UUID, key_id: UUID) -> bool:
    """Delete an API key; return whether it existed."""
    removal = delete(api_keys).where(api_keys.c.application_id == application_id, api_keys.c.id == key_id)
    return (await conn.execute(removal)).rowcount == 1


async def has_key(conn: AsyncConnection, key_id: UUID) -> bool:
    """Return whether an API key exists."""
    rows = await conn.execute(select(api_keys.c.id).where(api_keys.c.id == key_id))
    return rows.first() is not None


async def find_keys(conn: AsyncConnection, digests: Sequence[bytes]) -> dict[bytes, ApiKey]:
    """Return the existing API keys by the digests of their tokens."""
    rows = await conn.execute(_KEYS_BY_DIGEST, {"digests": list(digests)})
    return {digest: ApiKey(*values) for digest, *values in rows}


async def load_registration_contexts(conn: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, RegistrationContext]:
    """Return the registration contexts of the existing applications by id."""
    contexts: dict[UUID, RegistrationContext] = {}
    for id_, secret, key_id, public_key in await conn.execute(_REGISTRATION_CONTEXTS, {"ids": list(ids)}):
        contexts.setdefault(id_, RegistrationContext(secret, [])).vapid_keys.append((key_id, public_key))
    return contexts


async def add_vapid_key(
    conn: AsyncConnection, id_: UUID, application_id: UUID, public_key: bytes, private_key: bytes
) -> None:
    """Insert a VAPID key; `private_key` is encrypted."""
    values = {"id": id_, "application_id": application_id, "public_key": public_key, "private_key": private_key}
    await conn.execute(insert(vapid_keys).values(**values))


async def list_vapid_public_keys(
    conn: AsyncConnection, application_ids: Sequence[UUID]
) -> dict[UUID, list[tuple[UUID, bytes]]]:
    """Return (id, public key of 65 bytes) of every VAPID key of each application, newest first."""
    query = select(vapid_keys.c.application_id, vapid_keys.c.id, vapid_keys.c.public_key)
    query = query.where(vapid_keys.c.application_id.in_(application_ids)).order_by(vapid_keys.c.id.desc())
    keys: dict[UUID, list[tuple[UUID, bytes]]] = {}
    for application_id, key_id, public_key in await conn.execute(query):
        keys.setdefault(application_id, []).append((key_id, public_key))
    return keys
