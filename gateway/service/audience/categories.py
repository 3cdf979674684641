"""Categories: what kind of message a notification is to those who get it, and the rules of that kind.

A category may cap how often one person hears of it and have quiet hours of its own, and every device may opt out of
it. Its rules are fixed in a notification when that is accepted; opting out counts up to the last moment.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select

from gateway.domain import ids
from gateway.domain.device import Device
from gateway.domain.errors import FieldError, ValidationError
from gateway.domain.schedule import QuietHours
from gateway.domain.send_policy import FrequencyCap
from gateway.records import devices
from gateway.records.postgres import named_resources
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import categories as table


async def create(conn: Connection, application_id: UUID, values: dict[str, Any]) -> dict[str, Any]:
    """`values` by column. Raises Conflict."""
    return to_json(await named_resources.add(conn, table, application_id=application_id, **values))


async def change(conn: Connection, application_id: UUID, id_: UUID, values: dict[str, Any]) -> dict[str, Any]:
    """Raises NotFound."""
    await named_resources.find(conn, table, application_id, id_)
    return to_json(await named_resources.change(conn, table, id_, **values))


async def remove(conn: Connection, application_id: UUID, id_: UUID) -> None:
    """Raises NotFound."""
    await named_resources.find(conn, table, application_id, id_)
    await named_resources.remove(conn, table, id_)


async def get(conn: Connection, application_id: UUID, id_: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    return to_json(await named_resources.find(conn, table, application_id, id_))


async def by_name(conn: Connection, application_id: UUID, name: str) -> Row[Any] | None:
    found = select(table).where(table.c.application_id == application_id, table.c.name == name)
    return (await conn.execute(found)).first()


def rules(row: Row[Any]) -> tuple[QuietHours | None, FrequencyCap | None]:
    quiet_hours = None if row.quiet_hours is None else QuietHours.from_json(row.quiet_hours)
    cap = None if row.cap_most is None else FrequencyCap(row.cap_most, timedelta(seconds=row.cap_window_s))
    return quiet_hours, cap


async def list_page(
    conn: Connection, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    return [
        to_json(row) for row in await named_resources.list_page(conn, table, application_id, before=before, limit=limit)
    ]


def to_json(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": ids.format_id(ids.CATEGORY, row.id),
        "name": row.name,
        "title": row.title,
        "description": row.description,
        "cap": None if row.cap_most is None else {"most": row.cap_most, "window": row.cap_window_s},
        "quiet_hours": row.quiet_hours,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


async def preferences(conn: Connection, device: Device) -> list[dict[str, Any]]:
    """What a device may choose among, and what it has chosen."""
    query = select(table).where(table.c.application_id == device.application_id).order_by(table.c.name)
    return [
        {
            "category": row.name,
            "title": row.title,
            "description": row.description,
            "enabled": row.name not in device.muted,
        }
        for row in await conn.execute(query)
    ]


async def prefer(conn: Connection, device: Device, wanted: Mapping[str, bool]) -> None:
    """Opt in to some categories and out of others; what is not named stays. Raises Invalid."""
    known = set(await _names(conn, device.application_id))
    if unknown := [name for name in wanted if name not in known]:
        raise ValidationError([FieldError(f"/categories/{name}", "there is no such category") for name in unknown])
    muted = (set(device.muted) - wanted.keys()) | {name for name, enabled in wanted.items() if not enabled}
    await devices.change(conn, device.id, {"muted": sorted(muted)})


async def _names(conn: Connection, application_id: UUID) -> Sequence[str]:
    return (await conn.execute(select(table.c.name).where(table.c.application_id == application_id))).scalars().all()
