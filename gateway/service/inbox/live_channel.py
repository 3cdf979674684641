"""The live channel: deliver notifications to open pages of a web application.

In the mode `additional`, a page receives the new items of its inbox, and every notification is also sent by Web Push.
In the mode `exclusive`, each notification is offered to the page first. It is sent by Web Push if the page does not
acknowledge the offer in time. An acknowledged offer is logged like any other delivery. No notification is lost when a
page, a server or a worker crashes.
"""

from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from gateway.domain import ids
from gateway.domain.database_work import LIVE
from gateway.domain.delivery import Accepted, Deferred
from gateway.domain.device import Device
from gateway.domain.errors import Unauthenticated
from gateway.domain.job_payload import Recipient
from gateway.domain.json_object import JsonObject
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
# A device's page counts as open until its lease expires. The server that has the page's connection renews the lease at
# this interval.
LEASE, RENEW_S = timedelta(seconds=45), 20.0
# Maximum number of inbox items read at once.
PAGE_SIZE = 50
# The inbox is read at least this often.
POLL_INTERVAL_S = 20.0

# A message of the live channel to a page, as JSON.
Message = JsonObject


async def offer_to_pages(
    conn: Connection,
    notification: Notification,
    recipients: Sequence[Recipient],
    now: datetime,
    withdrawn: Container[UUID] = (),
) -> Mapping[UUID, Deferred | Accepted]:
    """Offer a notification to the open pages of devices.

    Args:
        conn: the transaction that loads the job.
        notification: the notification.
        recipients: the devices of the job.
        now: the current time.
        withdrawn: the ids of devices to which the notification must not be offered any more. Only acknowledgements that
            they have sent already count.

    Returns:
        By id of each device with an offer: `Accepted` if the page has acknowledged the offer, `Deferred` while the page
        may still do so. Other devices are left out; their messages are sent by Web Push.
    """
    if notification.status is not Status.SENDING or not recipients:
        return {}
    earlier_offers = await records.load_handoffs(
        conn, notification.id, [recipient.device_id for recipient in recipients]
    )
    new_offers = [
        recipient
        for recipient in recipients
        if recipient.live and recipient.device_id not in earlier_offers and recipient.device_id not in withdrawn
    ]
    if new_offers:
        is_bound = notification.person_bound
        offers = [
            (recipient.device_id, notification.variant_for(recipient.bucket), recipient.user_id if is_bound else None)
            for recipient in new_offers
        ]
        await records.offer_to_page(conn, notification.application_id, notification.id, offers)
    outcomes: dict[UUID, Deferred | Accepted] = {
        recipient.device_id: Deferred(now + ACK_TIMEOUT) for recipient in new_offers
    }
    for device_id, (offered_at, acknowledged_at) in earlier_offers.items():
        if acknowledged_at is not None:
            outcomes[device_id] = Accepted(cause="acknowledged by the open page over the live channel")
        elif offered_at + ACK_TIMEOUT > now and device_id not in withdrawn:
            outcomes[device_id] = Deferred(offered_at + ACK_TIMEOUT)
    return outcomes


async def follow(
    context: Context, inbox_notifier: InboxNotifier, device: Device, after: int, *, exclusive: bool
) -> AsyncGenerator[Message, None]:
    """Yield the messages for an open page, without end.

    A message is `{"type": "notification", ...}` with an inbox item, or `{"type": "position", ...}` with the position of
    an item that the page has received before as an offer. `after` is the position of the page in the inbox.

    New items are read only after the page has taken the previous ones, so none accumulate in memory for a slow page.

    Raises:
        Unauthenticated: the device was unregistered.
    """
    offered_ids: set[str] = set()
    with inbox_notifier.subscribe(device.application_id, device.id) as subscription:
        while True:
            if exclusive:
                for item in await _list_offers(context, device):
                    if item["id"] not in offered_ids:
                        offered_ids.add(item["id"])
                        yield {"type": "notification", **item}
            async with context.connections.share(LIVE, device.application_id).connect() as conn:
                if await devices.get_application_id(conn, device.id) is None:
                    raise Unauthenticated("the device is unregistered")
                page = await inbox.list_items(conn, context, device, after=after, limit=PAGE_SIZE)
            for item in page.items:
                after = item["position"]
                if item["id"] in offered_ids:
                    offered_ids.discard(item["id"])
                    yield {"type": "position", "position": after}
                else:
                    yield {"type": "notification", **item}
            if page.next_after is None:
                await subscription.wait(POLL_INTERVAL_S)


async def _list_offers(context: Context, device: Device) -> list[views.InboxItem]:
    async with context.connections.share(LIVE, device.application_id).connect() as conn:
        rows = await records.list_unacknowledged(conn, device.id)
        return await inbox.to_views(conn, context, device, rows) if rows else []


async def last_position(context: Context, device: Device) -> int:
    """Return the position of the newest inbox item, from which a newly opened page continues."""
    async with context.connections.share(LIVE, device.application_id).connect() as conn:
        return await inbox_records.last_position(conn, device.application_id, device.id)


async def acknowledge(context: Context, device: Device, delivery_id: str) -> None:
    """Record that a page has received a delivery. Ignores deliveries to other devices."""
    delivery = ids.parse_delivery(delivery_id)
    if delivery is not None and delivery[1] == device.id:
        async with context.connections.share(LIVE, device.application_id).begin() as conn:
            await records.acknowledge(conn, *delivery)


async def claim(context: Context, device: Device) -> None:
    """Start or renew the lease of a device's open page."""
    async with context.connections.share(LIVE, device.application_id).begin() as conn:
        await records.claim_device(conn, device.id, LEASE)


async def release(context: Context, device: Device) -> None:
    """End the lease of a device's page, because it was closed."""
    async with context.connections.share(LIVE, device.application_id).begin() as conn:
        await records.release(conn, device.id)
