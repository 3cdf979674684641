"""List, change and remove registered devices."""

from uuid import UUID

from gateway.domain.device import Device, DeviceChange, Location
from gateway.domain.errors import ValidationError
from gateway.domain.page import Page
from gateway.records import devices
from gateway.records.devices import DeviceFilters as DeviceFilters
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.audience import registration
from gateway.service.context import Context


async def list_page(
    conn: Connection, application_id: UUID, filters: DeviceFilters, *, before: UUID | None, limit: int
) -> Page[views.Device]:
    """Return a page of devices, newest first; `before` is the last id of the previous page."""
    page = await devices.list_page(conn, application_id, filters, before=before, limit=limit)
    return Page([registration.to_view(device) for device in page.items], page.next_after)


async def change(
    conn: Connection, context: Context, device: Device, changed: DeviceChange, *, user_proven: bool = False
) -> None:
    """Change fields of a device.

    If the user of the device changes, the topics and attributes of the former user are removed. `user_proven`: the user
    id in `changed` is proven, or the application's back end sent it.

    Raises:
        ValidationError: the merged attributes are too large.
    """
    if (patch := changed.get("attributes")) is not None:
        current = await devices.lock_attributes(conn, device.id)
        merged = {name: value for name, value in {**current, **patch}.items() if value is not None}
        error = registration.find_attributes_error(merged, context.max_attributes)
        # A device that exceeds the limit, because it was stored under a larger one, may still remove attributes.
        if error is not None and registration.measure_attributes(merged) > registration.measure_attributes(current):
            raise ValidationError([error])
    await devices.change(conn, device.id, changed, user_proven=user_proven)


async def set_location(conn: Connection, device: Device, location: Location | None) -> None:
    """Store the location of a device; None removes it."""
    await devices.set_location(conn, device.id, location)


async def remove(conn: Connection, device: Device) -> None:
    """Unregister a device."""
    await devices.remove(conn, device.id)


async def unsubscribe(conn: Connection, device: Device, topic: str) -> None:
    """Remove a topic from a device."""
    await devices.unsubscribe(conn, device.id, topic)


async def list_topics(conn: Connection, application_id: UUID, *, after: str | None, limit: int) -> list[views.Topic]:
    """Return a page of topics in order of name, each with its number of active devices.

    `after` is the last topic of the previous page.
    """
    rows = await devices.list_topics(conn, application_id, after=after, limit=limit)
    return [{"topic": topic, "devices": count} for topic, count in rows]
