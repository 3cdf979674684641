"""The inbox of a device: the notifications that were sent to it.

The inbox is a view of the delivery log. The payloads that were sent are not stored. For each request the content is
rendered again, in the current language of the device and with its current attributes.
"""

from collections.abc import Sequence
from typing import Any

from gateway.domain import ids
from gateway.domain.device import Device
from gateway.domain.errors import TemplateFailed, ValidationError
from gateway.domain.json_object import JsonObject
from gateway.domain.page import Page
from gateway.records import applications, notifications
from gateway.records.delivery_log import inbox
from gateway.records.postgres.engine import Connection, Row
from gateway.records.recipients import load_template_context
from gateway.service import views
from gateway.service.context import Context
from gateway.service.notifications.rendering import NotificationRenderer


async def list_items(
    conn: Connection,
    context: Context,
    device: Device,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> Page[views.InboxItem]:
    """Return a page of items before or after a log position.

    The newest item comes first, except with `after`: then the oldest does.
    """
    page = await inbox.list_page_of_device(
        conn, device.application_id, device.id, before=before, after=after, limit=limit
    )
    return Page(await to_views(conn, context, device, page.items) if page.items else [], page.next_after)


async def to_views(
    conn: Connection, context: Context, device: Device, rows: Sequence[Row[Any]]
) -> list[views.InboxItem]:
    """Return deliveries as views of inbox items.

    Rows are inbox entries (with `settled_at`, `read_at` and `position`), or deliveries that the live channel offers to
    an open page (with `created_at`). Both have `notification_id` and `variant`. The content of an item is None if it
    can no longer be rendered.
    """
    notifications_by_id = {
        notification.id: notification
        for notification in await notifications.load(conn, [row.notification_id for row in rows])
    }
    template_context = (await load_template_context(conn, [device.id])).get(device.id, {})
    default_origin = await applications.get_default_origin(conn, device.application_id) or context.public_url
    items: list[views.InboxItem] = []
    for row in rows:
        notification = notifications_by_id[row.notification_id]
        try:
            renderer = NotificationRenderer(context.keyring, context.public_url, notification, default_origin)
            content: JsonObject | None = renderer.render_content(device.client.locale, template_context, row.variant)
        except (TemplateFailed, ValidationError):
            content = None
        columns = row._mapping
        items.append(
            {
                "id": ids.format_id(ids.DELIVERY, notification.id, device.id),
                "notification_id": ids.format_id(ids.NOTIFICATION, notification.id),
                "kind": notification.kind,
                "content": None if content is None else content | {"tag": notification.tag_for(content)},
                "sent_at": columns.get("settled_at") or columns["created_at"],
                "expires_at": notification.delivery.expires_at,
                "read_at": columns.get("read_at"),
                "position": columns.get("position"),  # type: ignore[typeddict-item]  # an offer has no position
            }
        )
    return items
