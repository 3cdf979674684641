"""What callers are shown of notifications and deliveries, in API.md's words."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.errors import NotFound
from gateway.domain.notification import Notification, Progress
from gateway.push.endpoints import vendor
from gateway.records import log
from gateway.records.audiences import reachable
from gateway.records.schema import devices
from gateway.service import segments

SAMPLE = 10


def notification(shown: Notification, progress: Progress) -> dict[str, Any]:
    delivery = shown.delivery
    return {
        "id": ids.show(ids.NOTIFICATION, shown.id),
        "kind": shown.kind,
        "name": shown.name,
        "status": shown.status,
        "content": shown.content,
        "audience": shown.audience,
        "delivery": {
            "lane": delivery.lane.label,
            "urgency": delivery.urgency,
            "ttl": int(delivery.ttl.total_seconds()),
            "expires_at": delivery.expires_at,
            "collapse_key": delivery.collapse_key,
        },
        "details": shown.details,
        "created_at": shown.created_at,
        "start_at": shown.start_at,
        "finished_at": shown.finished_at,
        "progress": {
            "targets": progress.targets,
            "pending": progress.pending,
            **{name.value: getattr(progress, name.value) for name in OutcomeName},
            "retries": progress.retries,
            "displayed": progress.displayed,
            "clicked": progress.clicked,
            "dismissed": progress.dismissed,
        },
    }


def delivery(entry: log.Entry) -> dict[str, Any]:
    row, told = entry.row, entry.receipts
    clicked = told.get("clicked")
    return {
        "id": ids.show(ids.DELIVERY, row.notification_id, row.device_id),
        "notification_id": ids.show(ids.NOTIFICATION, row.notification_id),
        "device_id": ids.show(ids.DEVICE, row.device_id),
        "user_id": row.user_id,
        "host": row.host,
        "push_service": vendor(row.host) if row.host else None,
        "outcome": row.outcome,
        "status": row.status,
        "cause": row.cause or "the push service accepted it",
        "attempts": row.attempts,
        "attempted_at": row.attempted_at,
        "duration_ms": row.duration_ms,
        "settled_at": row.settled_at,
        "displayed_at": _told_at(told.get("displayed")),
        "clicked_at": _told_at(clicked),
        "dismissed_at": _told_at(told.get("dismissed")),
        "action": clicked.action if clicked else None,
    }


async def one_delivery(
    conn: AsyncConnection, application_id: UUID, notification_id: UUID, device_id: UUID
) -> dict[str, Any]:
    """One delivery with every attempt, also while it is still being tried. Raises NotFound."""
    entry, tried = await log.one(conn, application_id, notification_id, device_id)
    if entry is None and not tried:
        raise NotFound("there is no such delivery, or nothing has been tried for it yet")
    attempts = [
        {
            "number": row.number,
            "at": row.at,
            "duration_ms": row.duration_ms,
            "status": row.status,
            "cause": row.cause,
            "retry_at": row.retry_at,
            "next": "tried again at retry_at",
        }
        for row in tried
    ]
    if entry is None:
        return {
            "id": ids.show(ids.DELIVERY, notification_id, device_id),
            "notification_id": ids.show(ids.NOTIFICATION, notification_id),
            "device_id": ids.show(ids.DEVICE, device_id),
            "outcome": "pending",
            "cause": tried[-1].cause,
            "attempts": attempts,
        }
    shown = delivery(entry)
    row = entry.row
    # The last attempt is in the delivery's own row, unless its time ran out or it was cancelled while it waited.
    if row.attempted_at is not None:
        attempts.append(
            {
                "number": row.attempts,
                "at": row.attempted_at,
                "duration_ms": row.duration_ms,
                "status": row.status,
                "cause": shown["cause"],
                "retry_at": None,
                "next": _CONSEQUENCES[OutcomeName(row.outcome)],
            }
        )
    return shown | {"attempts": attempts, "message": row.message, "granted_ttl": row.granted_ttl}


async def preview(conn: AsyncConnection, application_id: UUID, filter_: Any) -> dict[str, Any]:
    """Who an audience would reach now: counts of devices and known users, and a few of them. Raises Invalid."""
    who = reachable(application_id, await segments.read(conn, application_id, filter_))
    counts = select(func.count(), func.count(devices.c.user_id.distinct())).where(who)
    count, users = (await conn.execute(counts)).one()
    some = select(devices.c.id, devices.c.user_id, devices.c.platform, devices.c.browser).where(who).limit(SAMPLE)
    sample = [
        {"id": ids.show(ids.DEVICE, row.id), "user_id": row.user_id, "platform": row.platform, "browser": row.browser}
        for row in await conn.execute(some)
    ]
    return {"devices": count, "users": users, "sample": sample}


_CONSEQUENCES = {
    OutcomeName.ACCEPTED: "the push service holds it for the browser",
    OutcomeName.GONE: "the device is not sent to again",
    OutcomeName.REJECTED: "not tried again",
    OutcomeName.EXPIRED: "not tried again: its time has run out",
    OutcomeName.CANCELLED: "not tried again: the notification was cancelled",
}


def _told_at(receipt: log.Receipt | None) -> datetime | None:
    return None if receipt is None else receipt.at
