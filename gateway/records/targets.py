"""What sending needs to know of devices and keys, loaded a whole job at a time."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import any_, cast, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.schema import applications, devices, vapid_keys


class Target(NamedTuple):
    device_id: UUID
    endpoint: str
    host: str
    p256dh: bytes
    auth: bytes
    vapid_key_id: UUID
    status: str
    user_id: str | None


class SigningKey(NamedTuple):
    """`private_key` is sealed."""

    id: UUID
    private_key: bytes
    subject: str


async def load_targets(conn: AsyncConnection, device_ids: Sequence[UUID]) -> list[Target]:
    """The devices that still exist, in no particular order."""
    d = devices.c
    query = select(d.id, d.endpoint, d.host, d.p256dh, d.auth, d.vapid_key_id, d.status, d.user_id)
    rows = await conn.execute(query.where(d.id == any_(cast(list(device_ids), postgresql.ARRAY(postgresql.UUID)))))
    return [Target(*row) for row in rows]


async def load_signing_keys(conn: AsyncConnection, ids: Sequence[UUID]) -> list[SigningKey]:
    query = select(vapid_keys.c.id, vapid_keys.c.private_key, applications.c.subject).join(applications)
    return [SigningKey(*row) for row in await conn.execute(query.where(vapid_keys.c.id.in_(ids)))]
