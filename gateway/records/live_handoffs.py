"""Devices with an open page that receives their notifications, and the deliveries offered to such pages."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, any_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres import notifier
from gateway.records.postgres.schema import devices, live_handoffs

_w = live_handoffs.c
# Prepared once: it runs for every job.
_HANDOFFS = select(_w.device_id, _w.created_at, _w.acked_at).where(
    _w.notification_id == bindparam("notification"), _w.device_id == any_(bindparam("device_ids", type_=ARRAY(PG_UUID)))
)


async def claim_device(conn: AsyncConnection, device_id: UUID, duration: timedelta) -> None:
    """Send the notifications of a device to its open page instead of the push service, for `duration`."""
    statement = update(devices).where(devices.c.id == device_id)
    await conn.execute(statement.values(live_until=func.now() + duration))


async def release(conn: AsyncConnection, device_id: UUID) -> None:
    """Send the notifications of a device to the push service again."""
    await conn.execute(update(devices).where(devices.c.id == device_id).values(live_until=None))


async def load_handoffs(
    conn: AsyncConnection, notification_id: UUID, device_ids: Collection[UUID]
) -> dict[UUID, tuple[datetime, datetime | None]]:
    """Return (when the delivery was offered, when the page acknowledged it or None) by device."""
    values = {"notification": notification_id, "device_ids": list(device_ids)}
    return {row.device_id: (row.created_at, row.acked_at) for row in await conn.execute(_HANDOFFS, values)}


async def offer_to_page(
    conn: AsyncConnection, application_id: UUID, notification_id: UUID, deliveries: Sequence[tuple[UUID, int | None]]
) -> None:
    """Offer deliveries, as (device, variant), to the open pages of their devices when the transaction commits."""
    rows = [
        {"notification_id": notification_id, "device_id": id_, "application_id": application_id, "variant": variant}
        for id_, variant in deliveries
    ]
    await conn.execute(insert(live_handoffs).on_conflict_do_nothing(), rows)
    for id_, _ in deliveries:
        await notifier.notify(conn, notifier.LIVE, f"{application_id} {id_}")


async def list_unacknowledged(conn: AsyncConnection, device_id: UUID) -> Sequence[Row[Any]]:
    """Return the deliveries that the page of a device has not acknowledged, in order."""
    query = select(live_handoffs).where(_w.device_id == device_id, _w.acked_at.is_(None))
    rows: Sequence[Row[Any]] = (await conn.execute(query.order_by(_w.created_at, _w.notification_id))).all()
    return rows


async def acknowledge(conn: AsyncConnection, notification_id: UUID, device_id: UUID) -> None:
    """Record that the page of a device received a delivery."""
    pending = (_w.notification_id == notification_id, _w.device_id == device_id, _w.acked_at.is_(None))
    await conn.execute(update(live_handoffs).where(*pending).values(acked_at=func.now()))


async def prune(conn: AsyncConnection, before: datetime) -> int:
    """Delete offers older than `before`; return the number deleted."""
    return (await conn.execute(delete(live_handoffs).where(_w.created_at < before))).rowcount
