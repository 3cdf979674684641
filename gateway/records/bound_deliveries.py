"""The valid users of devices, and the users for whom deliveries were planned.

A notification is bound to persons if its audience selects users, or if its content uses data of the user. Planning such
a notification stores the user of each of its devices, and a delivery is sent only while the device still has this user.
Planning other notifications stores no users.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, any_, bindparam, case, delete, exists, insert, literal, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.schema import applications, bound_deliveries, devices, notifications

_b = bound_deliveries.c


def has_valid_user() -> ColumnElement[bool]:
    """Return the condition that the user of a device is valid: proven, or of an application that requires no proof."""
    requires_proof = exists().where(applications.c.id == devices.c.application_id, applications.c.identity_enforced)
    return or_(devices.c.user_proven, ~requires_proof)


def valid_user_id() -> ColumnElement[str | None]:
    """Return the SQL expression for the user id of a device, which is NULL if the user is not valid."""
    return case((devices.c.user_id.is_not(None) & has_valid_user(), devices.c.user_id))


# Prepared once: the statement runs for every job of a notification that is bound to persons.
_OTHER_USERS = (
    select(_b.device_id, _b.user_id)
    .join(devices, devices.c.id == _b.device_id)
    .where(
        _b.notification_id == bindparam("notification"),
        _b.device_id == any_(bindparam("device_ids", type_=ARRAY(PG_UUID))),
        valid_user_id().is_distinct_from(_b.user_id),
    )
)


def insert_from(plan: CTE, notification_id: UUID) -> CTE:
    """Return the CTE that stores the users of planned devices; `plan` has their rows (id, user_id)."""
    users = select(literal(notification_id, PG_UUID), plan.c.id, plan.c.user_id).where(plan.c.user_id.is_not(None))
    return insert(bound_deliveries).from_select(["notification_id", "device_id", "user_id"], users).cte("bound")


async def find_other_users(conn: AsyncConnection, notification_id: UUID, device_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the planned users, by device id, of the devices that now have another user or no user."""
    rows = await conn.execute(_OTHER_USERS, {"notification": notification_id, "device_ids": list(device_ids)})
    return {row.device_id: row.user_id for row in rows}


async def prune(conn: AsyncConnection) -> int:
    """Delete the planned users of notifications that have ended or were deleted; return the number deleted."""
    pending = exists().where(notifications.c.id == _b.notification_id, notifications.c.finished_at.is_(None))
    return (await conn.execute(delete(bound_deliveries).where(~pending))).rowcount


async def replace_user(conn: AsyncConnection, application_id: UUID, user_id: str, pseudonym: str) -> None:
    """Replace a planned user by a pseudonym, so that later users of the devices do not receive the deliveries."""
    of_application = select(notifications.c.id).where(notifications.c.application_id == application_id)
    owned = (_b.user_id == user_id, _b.notification_id.in_(of_application))
    await conn.execute(update(bound_deliveries).where(*owned).values(user_id=pseudonym))
