"""Opt-out categories: kinds of notifications that devices can mute.

A category may have a frequency cap, which limits how many of its notifications one user receives, and quiet hours. When
a notification is accepted, it stores a copy of the cap and the quiet hours of its category. Opt-outs are checked later,
before each job of the notification is sent.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from gateway.domain import ids
from gateway.domain.device import Device
from gateway.domain.errors import FieldError, ValidationError
from gateway.domain.schedule import QuietHours
from gateway.domain.send_policy import FrequencyCap
from gateway.records import categories as records
from gateway.records import devices
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import categories as table
from gateway.service import views
from gateway.service.named_resources import NamedResource, map_rows


async def find_rules(
    conn: Connection, application_id: UUID, name: str
) -> tuple[QuietHours | None, FrequencyCap | None] | None:
    """Return the quiet hours and the frequency cap of a category, or None if the category does not exist."""
    row = await records.get_by_name(conn, application_id, name)
    if row is None:
        return None
    quiet_hours = None if row.quiet_hours is None else QuietHours.from_json(row.quiet_hours)
    cap = None if row.cap_most is None else FrequencyCap(row.cap_most, timedelta(seconds=row.cap_window_s))
    return quiet_hours, cap


async def list_preferences(conn: Connection, device: Device) -> list[views.Preference]:
    """Return every category, and whether the device receives its notifications."""
    return [
        {
            "category": row.name,
            "title": row.title,
            "description": row.description,
            "enabled": row.name not in device.muted,
        }
        for row in await records.list_all(conn, device.application_id)
    ]


async def update_preferences(conn: Connection, device: Device, enabled: Mapping[str, bool]) -> None:
    """Opt a device in to categories (True) or out of them (False). Categories missing in `enabled` do not change.

    Raises:
        ValidationError: a category does not exist.
    """
    names = {row.name for row in await records.list_all(conn, device.application_id)}
    if unknown := [name for name in enabled if name not in names]:
        raise ValidationError([FieldError(f"/categories/{name}", "there is no such category") for name in unknown])
    muted = (set(device.muted) - enabled.keys()) | {name for name, is_enabled in enabled.items() if not is_enabled}
    await devices.change(conn, device.id, {"muted": sorted(muted)})


def to_view(row: Row[Any]) -> views.Category:
    """Return the view of a category."""
    return {
        "id": ids.format_id(ids.CATEGORY, row.id),
        "name": row.name,
        "title": row.title,
        "description": row.description,
        "cap": None if row.cap_most is None else {"limit": row.cap_most, "window": row.cap_window_s},
        "quiet_hours": row.quiet_hours,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


_categories = NamedResource(table, map_rows(to_view))
create, update, delete = _categories.create, _categories.update, _categories.delete
get, list_page = _categories.get, _categories.list_page
