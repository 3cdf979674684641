"""Pages of an application's delivery log."""

from typing import NamedTuple
from uuid import UUID

from gateway.records.delivery_log import reader
from gateway.records.delivery_log.reader import LogFilters as LogFilters
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.notifications import representations


class DeliveryPage(NamedTuple):
    """One page of deliveries, and the log position of the last of them."""

    items: list[views.Delivery]
    last_position: int | None


async def list_page(
    conn: Connection, application_id: UUID, filters: LogFilters, *, before: int | None, limit: int
) -> DeliveryPage:
    """Return a page of completed deliveries, newest first; `before` is the last position of the previous page."""
    entries = await reader.list_page(conn, application_id, filters, before=before, limit=limit)
    items = [representations.delivery_view(entry) for entry in entries]
    return DeliveryPage(items, entries[-1].row.position if entries else None)


async def last_position(conn: Connection, application_id: UUID) -> int:
    """Return the last position in an application's log."""
    return await reader.last_position(conn, application_id)
