"""The live channel delivers notifications to open pages.

In the mode `additional` a page follows its inbox, and every notification is sent by Web Push as well. In the mode
`exclusive` each notification is offered to the page first, and Web Push delivers it when the page does not acknowledge
it in time. Acknowledged offers are logged like other deliveries. A crash of page, server or worker loses nothing.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gateway.domain import ids
from gateway.domain.delivery import Accepted, Deferred
from gateway.domain.device import Device
from gateway.domain.errors import Unauthenticated
from gateway.domain.job_payload import Recipient
from gateway.domain.notification import Notification, Status
from gateway.records import devices
from gateway.records import live_handoffs as records
from gateway.records.delivery_log import inbox as inbox_records
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.context import Context
from gateway.service.inbox import inbox
from gateway.service.inbox.inbox_notifier import InboxNotifier

# Time for an open page to acknowledge an offer before Web Push is used.
ACK_TIMEOUT = timedelta(seconds=5)
# A page counts as open for the lease; its server renews the lease at this interval.
LEASE, RENEW_S = timedelta(seconds=45), 20.0
PAGE_SIZE = 50
POLL_INTERVAL_S = 20.0

Message = dict[str, Any]


async def decide(
    conn: Connection,
    notification: Notification,
    recipients: Sequence[Recipient],
    now: datetime,
) -> Mapping[UUID, Deferred | Accepted]:
    """Offer a notification to the open pages of devices.

    Returns:
        For each device with an offer `Accepted` when the page has acknowledged it, `Deferred` while it still may.
    """
    if notification.status is not Status.SENDING or not recipients:
        return {}
    handoffs = await records.load_handoffs(conn, notification.id, [recipient.device_id for recipient in recipients])
    new_offers = [recipient for recipient in recipients if recipient.live and recipient.device_id not in handoffs]
    if new_offers:
        offers = [(recipient.device_id, notification.variant_for(recipient.bucket)) for recipient in new_offers]
        await records.offer_to_page(conn, notification.application_id, notification.id, offers)
    outcomes: dict[UUID, Deferred | Accepted] = {
        recipient.device_id: Deferred(now + ACK_TIMEOUT) for recipient in new_offers
    }
    for device_id, (since, acknowledged_at) in handoffs.items():
        if acknowledged_at is not None:
            outcomes[device_id] = Accepted(cause="acknowledged by the open page over the live channel")
        elif since + ACK_TIMEOUT > now:
            outcomes[device_id] = Deferred(since + ACK_TIMEOUT)
    return outcomes


async def follow(
    context: Context, inbox_notifier: InboxNotifier, device: Device, after: int, *, exclusive: bool
) -> AsyncGenerator[Message, None]:
    """Yield the messages for an open page, endlessly: `{"type": "notification", ...}` and its position in the inbox.

    Messages are sent before more are read, so none pile up in memory for a slow page.

    Raises:
        Unauthenticated: the device was unregistered.
    """
    offered_ids: set[str] = set()
    with inbox_notifier.watch(device.application_id, device.id) as subscription:
        while True:
            if exclusive:
                for item in await _list_offers(context, device):
                    if item["id"] not in offered_ids:
                        offered_ids.add(item["id"])
                        yield {"type": "notification", **item}
            async with context.engine.connect() as conn:
                if await devices.get_application_id(conn, device.id) is None:
                    raise Unauthenticated("the device is unregistered")
                items = await inbox.items(conn, context, device, after=after, limit=PAGE_SIZE)
            for item in items:
                after = item["position"]
                if item["id"] in offered_ids:
                    offered_ids.discard(item["id"])
                    yield {"type": "position", "position": after}
                else:
                    yield {"type": "notification", **item}
            if len(items) < PAGE_SIZE:
                await subscription.wait(POLL_INTERVAL_S)


async def _list_offers(context: Context, device: Device) -> list[views.InboxItem]:
    async with context.engine.connect() as conn:
        rows = await records.list_unacknowledged(conn, device.id)
        return await inbox.to_views(conn, context, device, rows) if rows else []


async def last_position(context: Context, device: Device) -> int:
    """Return the current position, where a page starts that has missed nothing."""
    async with context.engine.connect() as conn:
        return await inbox_records.last_position(conn, device.application_id, device.id)


async def acknowledge(context: Context, device: Device, delivery_id: str) -> None:
    """Record that a page has displayed a delivery; deliveries of other devices are ignored."""
    delivery = ids.parse_delivery(delivery_id)
    if delivery is not None and delivery[1] == device.id:
        async with context.engine.begin() as conn:
            await records.acknowledge(conn, *delivery)


async def claim(context: Context, device: Device) -> None:
    """Start or renew the lease of an open page."""
    async with context.engine.begin() as conn:
        await records.claim_device(conn, device.id, LEASE)


async def release(context: Context, device: Device) -> None:
    """End the lease of a closed page."""
    async with context.engine.begin() as conn:
        await records.release(conn, device.id)
