"""The live channel: notifications for pages that are open.

A page that wants its notifications beside Web Push follows its inbox, which is the log. A page that wants them instead
is handed each one before the push service is: what it does not take within a moment goes by Web Push after all, and
what it takes is accounted for like any other. Who dies in between, page, node or worker, loses nothing.
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
from gateway.service.context import Context
from gateway.service.inbox import inbox
from gateway.service.inbox.inbox_notifier import InboxNotifier

PATIENCE = timedelta(seconds=5)
"""How long an open page may take before Web Push is used after all."""
LEASE, RENEW_S = timedelta(seconds=45), 20.0
"""How long a page counts as open once nobody renews it, and how often its node does."""
PAGE = 50
LOOK_S = 20.0

Message = dict[str, Any]


async def decide(
    conn: Connection,
    notification: Notification,
    targets: Sequence[Recipient],
    now: datetime,
) -> Mapping[UUID, Deferred | Accepted]:
    """Those whose open page has it, or has a moment left to take it; what a page is to have is handed to it."""
    if notification.status is not Status.SENDING or not targets:
        return {}
    handed = await records.load_handoffs(conn, notification.id, [target.device_id for target in targets])
    fresh = [target for target in targets if target.live and target.device_id not in handed]
    if fresh:
        several = [(target.device_id, notification.variant_for(target.bucket)) for target in fresh]
        await records.offer_to_page(conn, notification.application_id, notification.id, several)
    verdicts: dict[UUID, Deferred | Accepted] = {target.device_id: Deferred(now + PATIENCE) for target in fresh}
    for device_id, (since, taken_at) in handed.items():
        if taken_at is not None:
            verdicts[device_id] = Accepted(cause="taken by the open page over the live channel")
        elif since + PATIENCE > now:
            verdicts[device_id] = Deferred(since + PATIENCE)
    return verdicts


async def follow(
    context: Context, mailroom: InboxNotifier, device: Device, after: int, *, exclusive: bool
) -> AsyncGenerator[Message, None]:
    """What an open page is told, for ever: `{"type": "notification", ...}` and how far it has come.

    What is read is sent before more is read: nothing piles up behind a page that is slow. Raises Unauthenticated once
    the device is unregistered.
    """
    told: set[str] = set()
    with mailroom.watch(device.application_id, device.id) as watch:
        while True:
            if exclusive:
                for item in await _handed(context, device):
                    if item["id"] not in told:
                        told.add(item["id"])
                        yield {"type": "notification", **item}
            async with context.engine.connect() as conn:
                if await devices.get_application_id(conn, device.id) is None:
                    raise Unauthenticated("the device is unregistered")
                items = await inbox.items(conn, context, device, after=after, limit=PAGE)
            for item in items:
                after = item["position"]
                if item["id"] in told:
                    told.discard(item["id"])
                    yield {"type": "position", "position": after}
                else:
                    yield {"type": "notification", **item}
            if len(items) < PAGE:
                await watch.wait(LOOK_S)


async def _handed(context: Context, device: Device) -> list[dict[str, Any]]:
    async with context.engine.connect() as conn:
        waiting = await records.list_unacknowledged(conn, device.id)
        return await inbox.shown(conn, context, device, waiting) if waiting else []


async def newest(context: Context, device: Device) -> int:
    """The position that a page begins at when it has missed nothing."""
    async with context.engine.connect() as conn:
        return await inbox_records.last_position(conn, device.application_id, device.id)


async def acknowledge(context: Context, device: Device, delivery_id: str) -> None:
    """The page has it. What is not this device's is passed over."""
    named = ids.parse_delivery(delivery_id)
    if named is not None and named[1] == device.id:
        async with context.engine.begin() as conn:
            await records.acknowledge(conn, *named)


async def claim(context: Context, device: Device) -> None:
    async with context.engine.begin() as conn:
        await records.claim_device(conn, device.id, LEASE)


async def release(context: Context, device: Device) -> None:
    async with context.engine.begin() as conn:
        await records.release(conn, device.id)
