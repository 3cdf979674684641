"""The recipients of a job, with their VAPID keys and template variables."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Integer, Text, any_, bindparam, case, cast, func, literal, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.delivery import UNAUTHORIZED_STATUSES
from gateway.domain.job import Job
from gateway.domain.job_payload import Recipient, SigningKey
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Notification
from gateway.domain.send_policy import BUCKETS
from gateway.records.bound_deliveries import valid_user_id
from gateway.records.postgres.schema import applications, attempts, devices, vapid_keys

# Mask of the lower 62 bits of a 64-bit hash, so that the result is not negative.
HASH_MASK = 2**62 - 1
_COLUMNS = ("id", "endpoint", "host", "p256dh", "auth", "vapid_key_id", "status")
_IDS = any_(bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID)))
# Prepared once: these statements run for every job, and building one takes longer than running it.
_RECIPIENTS = select(
    *(devices.c[name] for name in _COLUMNS),
    valid_user_id(),
    func.coalesce(devices.c.live_until > func.now(), False),
    devices.c.accepted_at.is_not(None),
    devices.c.refused_since,
).where(devices.c.id == _IDS)
_SIGNING_KEYS = (
    select(vapid_keys.c.id, vapid_keys.c.private_key, applications.c.subject)
    .join(applications)
    .where(vapid_keys.c.id == _IDS)
)


async def load_recipients(conn: AsyncConnection, notification: Notification, job: Job) -> list[Recipient]:
    """Return the devices of a job that still exist, in any order, with the columns that the notification needs."""
    d, policy = devices.c, notification.policy
    extra: dict[str, ColumnElement[Any]] = {}
    if policy.quiet_hours is not None:
        extra["timezone"] = d.timezone
    if policy.category is not None:
        extra["muted"] = d.muted
    if policy.variants:
        extra["bucket"] = compute_bucket(notification.id)
    if notification.is_localized:
        extra["locale"] = d.locale
    if job.attempts:
        extra["refusals"] = _refusals(job)
    query = _RECIPIENTS.add_columns(*extra.values()) if extra else _RECIPIENTS
    rows = await conn.execute(query, {"ids": list(job.device_ids)})
    if not extra:
        return [Recipient(*row) for row in rows]
    common_count = len(_COLUMNS) + 4  # _RECIPIENTS selects four more columns
    return [Recipient(*row[:common_count], **dict(zip(extra, row[common_count:], strict=True))) for row in rows]


def _refusals(job: Job) -> ColumnElement[int]:
    """Return the column that counts how often a push service has refused the VAPID credentials of a delivery."""
    query = select(func.count()).where(
        attempts.c.day == job.day,
        attempts.c.notification_id == job.notification_id,
        attempts.c.device_id == devices.c.id,
        attempts.c.status.in_(UNAUTHORIZED_STATUSES),
    )
    return query.scalar_subquery()


def compute_bucket(notification_id: UUID) -> ColumnElement[int]:
    """Return the SQL expression for the A/B test bucket of a device.

    All devices of a user have the same bucket. Each notification assigns the users to other buckets.
    """
    seed = int.from_bytes(notification_id.bytes[8:], "big", signed=True)
    person = func.coalesce(devices.c.user_id, cast(devices.c.id, Text))
    hashed = func.hashtextextended(person, cast(literal(seed), BigInteger)).op("&")(
        cast(literal(HASH_MASK), BigInteger)
    )
    return cast(hashed % BUCKETS, Integer)


async def load_template_context(conn: AsyncConnection, device_ids: Sequence[UUID]) -> dict[UUID, JsonObject]:
    """Return the template variables `user` and `device` of each device.

    A device whose user has signed out has no attributes here: the stored ones belong to the former user.
    """
    d = devices.c
    attributes = case((d.former_user_id.is_(None), d.attributes), else_=literal({}, postgresql.JSONB))
    details = ("platform", "browser", "locale", "timezone", "app_version")
    query = select(
        d.id, valid_user_id().label("user_id"), attributes.label("attributes"), d.topics, *(d[name] for name in details)
    )
    contexts = {}
    for row in await conn.execute(query.where(d.id.in_(device_ids))):
        device = {name: getattr(row, name) for name in details}
        device |= {"id": ids.format_id(ids.DEVICE, row.id), "topics": row.topics, "attributes": row.attributes}
        contexts[row.id] = {"user": {"id": row.user_id, "attributes": row.attributes}, "device": device}
    return contexts


async def load_signing_keys(conn: AsyncConnection, key_ids: Sequence[UUID]) -> list[SigningKey]:
    """Return the VAPID keys with these ids, and the subjects of their applications."""
    return [SigningKey(*row) for row in await conn.execute(_SIGNING_KEYS, {"ids": list(key_ids)})]
