"""Who has a page open that takes its notifications itself, and what was handed to such pages."""

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
# Made once: it runs for every job.
_HANDED = select(_w.device_id, _w.created_at, _w.acked_at).where(
    _w.notification_id == bindparam("notification"), _w.device_id == any_(bindparam("several", type_=ARRAY(PG_UUID)))
)


async def claim_device(conn: AsyncConnection, device_id: UUID, duration: timedelta) -> None:
    """Its notifications go to the open page instead of the push service, for so long."""
    held = update(devices).where(devices.c.id == device_id)
    await conn.execute(held.values(live_until=func.now() + duration))


async def release(conn: AsyncConnection, device_id: UUID) -> None:
    await conn.execute(update(devices).where(devices.c.id == device_id).values(live_until=None))


async def load_handoffs(
    conn: AsyncConnection, notification_id: UUID, device_ids: Collection[UUID]
) -> dict[UUID, tuple[datetime, datetime | None]]:
    """(when it was handed over, when the page said that it has it) by device."""
    asked = {"notification": notification_id, "several": list(device_ids)}
    return {row.device_id: (row.created_at, row.acked_at) for row in await conn.execute(_HANDED, asked)}


async def offer_to_page(
    conn: AsyncConnection, application_id: UUID, notification_id: UUID, deliveries: Sequence[tuple[UUID, int | None]]
) -> None:
    """`several` are (device, variant). Their pages are told when the transaction commits."""
    rows = [
        {"notification_id": notification_id, "device_id": id_, "application_id": application_id, "variant": variant}
        for id_, variant in deliveries
    ]
    await conn.execute(insert(live_handoffs).on_conflict_do_nothing(), rows)
    for id_, _ in deliveries:
        await notifier.notify(conn, notifier.LIVE, f"{application_id} {id_}")


async def list_unacknowledged(conn: AsyncConnection, device_id: UUID) -> Sequence[Row[Any]]:
    """What the device's page has not said that it has, in order."""
    query = select(live_handoffs).where(_w.device_id == device_id, _w.acked_at.is_(None))
    found: Sequence[Row[Any]] = (await conn.execute(query.order_by(_w.created_at, _w.notification_id))).all()
    return found


async def acknowledge(conn: AsyncConnection, notification_id: UUID, device_id: UUID) -> None:
    these = (_w.notification_id == notification_id, _w.device_id == device_id, _w.acked_at.is_(None))
    await conn.execute(update(live_handoffs).where(*these).values(acked_at=func.now()))


async def prune(conn: AsyncConnection, before: datetime) -> int:
    return (await conn.execute(delete(live_handoffs).where(_w.created_at < before))).rowcount
