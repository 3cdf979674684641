"""Read marks of a device's inbox."""

from uuid import UUID

from gateway.domain import ids
from gateway.domain.device import Device
from gateway.domain.errors import NotFound
from gateway.records.delivery_log import inbox
from gateway.records.postgres.engine import Connection

# The largest log position.
MAX_POSITION = 2**63 - 1


async def newest_position(conn: Connection, application_id: UUID, device_id: UUID) -> int:
    """Return the log position of the newest item; 0 for an empty inbox."""
    return await inbox.last_position(conn, application_id, device_id)


async def count_unread(conn: Connection, device: Device) -> tuple[int, int]:
    """Return the number of unread items, and the position of the newest item."""
    return await inbox.count_unread(conn, device.application_id, device.id)


async def mark_read(conn: Connection, device: Device, *, upto: int) -> int:
    """Mark all items up to a position as read, and return how many were unread."""
    return await inbox.mark_read(conn, device.application_id, device.id, upto=upto)


async def mark_delivery_read(conn: Connection, device: Device, delivery_id: str) -> None:
    """Mark one item as read, by its public delivery id.

    Raises:
        NotFound: the inbox has no such delivery.
    """
    parsed = ids.parse_delivery(delivery_id)
    if (
        parsed is None
        or parsed[1] != device.id
        or not await inbox.contains(conn, device.application_id, device.id, parsed[0])
    ):
        raise NotFound("there is no such delivery in this inbox")
    await inbox.mark_read(conn, device.application_id, device.id, upto=MAX_POSITION, notification_id=parsed[0])
