"""What sending needs to know of devices and keys, loaded a whole job at a time."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Integer, Text, any_, bindparam, cast, func, literal, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.delivery import UNAUTHORIZED_STATUSES
from gateway.domain.job import Job
from gateway.domain.job_payload import Recipient, SigningKey
from gateway.domain.notification import Notification
from gateway.domain.send_policy import BUCKETS
from gateway.records.postgres.schema import applications, attempts, devices, vapid_keys

MASK = 2**62 - 1
_ALWAYS = ("id", "endpoint", "host", "p256dh", "auth", "vapid_key_id", "status", "user_id")
_SEVERAL = any_(bindparam("several", type_=postgresql.ARRAY(postgresql.UUID)))
# These run for every job, and SQLAlchemy takes longer to make them than to run them: so they are made once.
_TARGETS = select(
    *(devices.c[name] for name in _ALWAYS), func.coalesce(devices.c.live_until > func.now(), False)
).where(devices.c.id == _SEVERAL)
_SIGNING_KEYS = (
    select(vapid_keys.c.id, vapid_keys.c.private_key, applications.c.subject)
    .join(applications)
    .where(vapid_keys.c.id == _SEVERAL)
)


async def load_recipients(conn: AsyncConnection, notification: Notification, job: Job) -> list[Recipient]:
    """The job's devices that still exist, in no particular order, each with what this notification asks of it."""
    d, steering = devices.c, notification.policy
    asked: dict[str, ColumnElement[Any]] = {}
    if steering.quiet_hours is not None:
        asked["timezone"] = d.timezone
    if steering.category is not None:
        asked["muted"] = d.muted
    if steering.variants:
        asked["bucket"] = compute_bucket(notification.id)
    if notification.is_localized:
        asked["locale"] = d.locale
    if job.attempts:
        asked["refusals"] = _refusals(job)
    query = _TARGETS.add_columns(*asked.values()) if asked else _TARGETS
    rows = await conn.execute(query, {"several": list(job.device_ids)})
    if not asked:
        return [Recipient(*row) for row in rows]
    always = len(_ALWAYS) + 1
    return [Recipient(*row[:always], **dict(zip(asked, row[always:], strict=True))) for row in rows]


def _refusals(job: Job) -> ColumnElement[int]:
    query = select(func.count()).where(
        attempts.c.day == job.day,
        attempts.c.notification_id == job.notification_id,
        attempts.c.device_id == devices.c.id,
        attempts.c.status.in_(UNAUTHORIZED_STATUSES),
    )
    return query.scalar_subquery()


def compute_bucket(notification_id: UUID) -> ColumnElement[int]:
    """The same for all devices of a user, and another for every notification."""
    seed = int.from_bytes(notification_id.bytes[8:], "big", signed=True)
    person = func.coalesce(devices.c.user_id, cast(devices.c.id, Text))
    hashed = func.hashtextextended(person, cast(literal(seed), BigInteger)).op("&")(cast(literal(MASK), BigInteger))
    return cast(hashed % BUCKETS, Integer)


async def load_template_context(conn: AsyncConnection, device_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """What templates may say of each device and its user, as `user` and `device`."""
    d = devices.c
    query = select(d.id, d.user_id, d.platform, d.browser, d.locale, d.timezone, d.app_version, d.topics, d.attributes)
    found = {}
    for row in await conn.execute(query.where(d.id.in_(device_ids))):
        device = {name: getattr(row, name) for name in ("platform", "browser", "locale", "timezone", "app_version")}
        device |= {"id": ids.format_id(ids.DEVICE, row.id), "topics": row.topics, "attributes": row.attributes}
        found[row.id] = {"user": {"id": row.user_id, "attributes": row.attributes}, "device": device}
    return found


async def load_signing_keys(conn: AsyncConnection, key_ids: Sequence[UUID]) -> list[SigningKey]:
    return [SigningKey(*row) for row in await conn.execute(_SIGNING_KEYS, {"several": list(key_ids)})]
