"""Deliveries through an open page of the web application instead of the push service.

While a page has claimed its device, workers offer the device's deliveries to the page, which acknowledges them.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, any_, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.bound_deliveries import valid_user_id
from gateway.records.postgres import notifier
from gateway.records.postgres.schema import devices, live_handoffs

_h = live_handoffs.c
# Prepared once: the statement runs for every job.
_HANDOFFS = select(_h.device_id, _h.created_at, _h.acked_at).where(
    _h.notification_id == bindparam("notification"), _h.device_id == any_(bindparam("device_ids", type_=ARRAY(PG_UUID)))
)


async def claim_device(conn: AsyncConnection, device_id: UUID, duration: timedelta) -> None:
    """Have the notifications of a device offered to its open page instead of the push service, for `duration`."""
    statement = update(devices).where(devices.c.id == device_id)
    await conn.execute(statement.values(live_until=func.now() + duration))


async def release(conn: AsyncConnection, device_id: UUID) -> None:
    """Have the notifications of a device sent to the push service again."""
    await conn.execute(update(devices).where(devices.c.id == device_id).values(live_until=None))


async def load_handoffs(
    conn: AsyncConnection, notification_id: UUID, device_ids: Collection[UUID]
) -> dict[UUID, tuple[datetime, datetime | None]]:
    """Return the times of a notification's offered deliveries by device.

    The first time is that of the offer. The second is that of the page's acknowledgement, or None.
    """
    values = {"notification": notification_id, "device_ids": list(device_ids)}
    return {row.device_id: (row.created_at, row.acked_at) for row in await conn.execute(_HANDOFFS, values)}


async def offer_to_page(
    conn: AsyncConnection,
    application_id: UUID,
    notification_id: UUID,
    deliveries: Sequence[tuple[UUID, int | None, str | None]],
) -> None:
    """Offer deliveries to the open pages of their devices when the transaction commits.

    `deliveries` has (device id, index of the variant or None, user id or None). A delivery with a user id is offered
    only while the device has this user.
    """
    offer = {"notification_id": notification_id, "application_id": application_id}
    rows = [{**offer, "device_id": id_, "variant": variant, "user_id": user} for id_, variant, user in deliveries]
    await conn.execute(insert(live_handoffs).on_conflict_do_nothing(), rows)
    for id_, _, _ in deliveries:
        await notifier.notify(conn, notifier.LIVE, f"{application_id} {id_}")


async def list_unacknowledged(conn: AsyncConnection, device_id: UUID) -> Sequence[Row[Any]]:
    """Return the deliveries that the page of a device has not acknowledged, oldest first.

    Deliveries for another user than the present one of the device are left out.
    """
    query = (
        select(live_handoffs)
        .join(devices, devices.c.id == _h.device_id)
        .where(
            _h.device_id == device_id,
            _h.acked_at.is_(None),
            or_(_h.user_id.is_(None), _h.user_id == valid_user_id()),
        )
    )
    rows: Sequence[Row[Any]] = (await conn.execute(query.order_by(_h.created_at, _h.notification_id))).all()
    return rows


async def acknowledge(conn: AsyncConnection, notification_id: UUID, device_id: UUID) -> None:
    """Record that the page of a device received a delivery."""
    pending = (_h.notification_id == notification_id, _h.device_id == device_id, _h.acked_at.is_(None))
    await conn.execute(update(live_handoffs).where(*pending).values(acked_at=func.now()))


async def prune(conn: AsyncConnection, before: datetime) -> int:
    """Delete offers older than `before`; return the number deleted."""
    return (await conn.execute(delete(live_handoffs).where(_h.created_at < before))).rowcount
