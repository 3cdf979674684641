"""A device's inbox: what was sent to it, as it would be shown now.

It is the log seen from the device. No copy is kept of what each device was sent: the words are rendered when they are
asked for, in the device's language and with what is known of it by then.
"""

from collections.abc import Sequence
from typing import Any

from gateway.domain import ids
from gateway.domain.device import Device
from gateway.domain.errors import TemplateFailed, ValidationError
from gateway.records import applications, notifications
from gateway.records.delivery_log import inbox
from gateway.records.postgres.engine import Connection, Row
from gateway.records.recipients import load_template_context
from gateway.service.context import Context
from gateway.service.notifications.rendering import NotificationRenderer


async def items(
    conn: Connection,
    context: Context,
    device: Device,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """Newest first, below the position `before`; or the oldest first of what comes after a position."""
    rows = await inbox.list_page_of_device(
        conn, device.application_id, device.id, before=before, after=after, limit=limit
    )
    return await shown(conn, context, device, rows) if rows else []


async def shown(conn: Connection, context: Context, device: Device, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """`rows` have notification_id and variant, and when there is one a settled_at, a read_at and a position."""
    found = {one.id: one for one in await notifications.load(conn, [row.notification_id for row in rows])}
    known = (await load_template_context(conn, [device.id])).get(device.id, {})
    home = await applications.get_default_origin(conn, device.application_id) or context.public_url
    made = []
    for row in rows:
        notification = found[row.notification_id]
        try:
            messages = NotificationRenderer(context.keyring, context.public_url, notification, home)
            content: dict[str, Any] | None = messages.rendered(device.client.locale, known, row.variant)
        except (TemplateFailed, ValidationError):
            content = None
        said = row._mapping
        made.append(
            {
                "id": ids.format_id(ids.DELIVERY, notification.id, device.id),
                "notification_id": ids.format_id(ids.NOTIFICATION, notification.id),
                "kind": notification.kind,
                "content": None if content is None else content | {"tag": notification.tag_for(content)},
                "sent_at": said.get("settled_at") or said["created_at"],
                "expires_at": notification.delivery.expires_at,
                "read_at": said.get("read_at"),
                "position": said.get("position"),
            }
        )
    return made
