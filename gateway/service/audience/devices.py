"""List, change and remove registered devices."""

from typing import NamedTuple
from uuid import UUID

from gateway.domain.device import Device, DeviceChange, Location
from gateway.records import devices
from gateway.records.devices import DeviceFilters as DeviceFilters
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.audience import registration


class DevicePage(NamedTuple):
    """One page of devices, and the id of its last device, from which the next page starts."""

    items: list[views.Device]
    last_id: UUID | None


async def list_page(
    conn: Connection, application_id: UUID, filters: DeviceFilters, *, before: UUID | None, limit: int
) -> DevicePage:
    """Return a page of devices, newest first; `before` is the last id of the previous page."""
    rows = await devices.list_page(conn, application_id, filters, before=before, limit=limit)
    return DevicePage([registration.to_view(device) for device in rows], rows[-1].id if rows else None)


async def change(conn: Connection, device: Device, changed: DeviceChange) -> None:
    """Change fields of a device."""
    await devices.change(conn, device.id, changed)


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
