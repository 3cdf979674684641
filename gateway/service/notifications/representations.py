"""Build the views of notifications, their funnels and deliveries, and the preview of an audience."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from gateway.domain import clock, ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.errors import NotFound
from gateway.domain.notification import Kind, Notification, Progress, Status
from gateway.domain.page import Page
from gateway.domain.schedule import DEVICE_ZONE
from gateway.push.endpoints import vendor_name
from gateway.records import jobs, notifications
from gateway.records.audiences import measure
from gateway.records.delivery_log import reader
from gateway.records.postgres.engine import Connection, Row
from gateway.service import views
from gateway.service.audience import segments
from gateway.service.notifications import lifecycle

# Number of devices in the preview of an audience.
MAX_SAMPLE = 10
# A notification with less than one delivery in this time does not progress, and its end cannot be estimated.
MIN_RATE_WINDOW_S = 300
# Maximum time from now to the estimated end.
MAX_ETA = timedelta(days=366)

# The consequence of each outcome, for the last attempt of a delivery.
_CONSEQUENCES = {
    OutcomeName.ACCEPTED: "the push service stores the message until the browser is online",
    OutcomeName.GONE: "no message is sent to the device again",
    OutcomeName.REJECTED: "not retried",
    OutcomeName.EXPIRED: "not retried: the notification has expired",
    OutcomeName.CANCELLED: "not retried: the notification was cancelled",
    OutcomeName.SKIPPED: "not sent: a send policy excluded the recipient",
}


def notification_view(
    notification: Notification,
    progress: Progress,
    variant_counts: Sequence[Row[Any]] = (),
    last_due: datetime | None = None,
) -> views.Notification:
    """Return the view of a notification.

    Args:
        notification: the notification.
        progress: its delivery counts.
        variant_counts: the delivery counts of its variants, in order; zero if left out.
        last_due: when its last unleased job comes due.
    """
    delivery, policy, now = notification.delivery, notification.policy, clock.now()
    policy_json = policy.to_json()
    return {
        "id": ids.format_id(ids.NOTIFICATION, notification.id),
        "kind": notification.kind,
        "name": notification.name,
        "status": notification.status,
        "content": notification.content,
        "audience": notification.audience,
        "delivery": {
            "lane": delivery.lane.label,
            "urgency": delivery.urgency,
            "ttl": int(delivery.ttl.total_seconds()),
            "expires_at": delivery.expires_at,
            "collapse_key": delivery.collapse_key,
        },
        "details": notification.details,
        "schedule": None if policy.local_at is None else {"at": policy.local_at.isoformat(), "timezone": DEVICE_ZONE},
        "category": policy.category,
        "throttle": policy_json.get("throttle"),
        "quiet_hours": policy_json.get("quiet_hours"),
        "cap": policy_json.get("cap"),
        "winner": policy_json.get("winner"),
        "pause_when": None
        if policy.pause_when is None
        else {"failure_share": policy.pause_when.share, "after": policy.pause_when.after},
        "variants": _variants(notification, variant_counts),
        "auto_paused": notification.auto_paused,
        "created_at": notification.created_at,
        "start_at": notification.start_at,
        "finished_at": notification.finished_at,
        "progress": {
            "targets": progress.targets,
            "pending": progress.pending,
            "accepted": progress.accepted,
            "gone": progress.gone,
            "rejected": progress.rejected,
            "expired": progress.expired,
            "cancelled": progress.cancelled,
            "skipped": progress.skipped,
            "retries": progress.retries,
            "displayed": progress.displayed,
            "clicked": progress.clicked,
            "dismissed": progress.dismissed,
            "per_second": round(progress.current_rate(now), 2) if notification.status is Status.SENDING else 0.0,
            "eta": _eta(notification, progress, last_due, now),
        },
    }


async def list_page(
    conn: Connection,
    application_id: UUID,
    *,
    kind: Kind | None,
    status: Status | None,
    before: UUID | None,
    limit: int,
) -> Page[views.Notification]:
    """Return a page of notifications, newest first; `before` is the last id of the previous page.

    The estimated end of sending (`progress.eta`) ignores jobs that are due later; `get_notification` includes them.
    """
    page = await notifications.list_page(conn, application_id, kind=kind, status=status, before=before, limit=limit)
    counts = await notifications.load_variant_counts(conn, [row.id for row, _ in page.items])
    items = [notification_view(row, progress, counts.get(row.id, ())) for row, progress in page.items]
    return Page(items, page.next_after)


async def get_notification(
    conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None
) -> views.Notification:
    """Return the view of a notification with all counts.

    Raises:
        NotFound: the application has no such notification, or it is of another kind.
    """
    notification, progress = await lifecycle.get(conn, application_id, id_, kind)
    counts = await notifications.load_variant_counts(conn, [id_])
    last_due = await jobs.last_due(conn, id_) if notification.status is Status.SENDING else None
    return notification_view(notification, progress, counts.get(id_, ()), last_due)


async def get_funnel(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> views.Funnel:
    """Return the funnel of a notification: the counts of targets, accepted, displayed and clicked, with their rates.

    Raises:
        NotFound: the application has no such notification, or it is of another kind.
    """
    notification, progress = await lifecycle.get(conn, application_id, id_, kind)
    counts = (await notifications.load_variant_counts(conn, [id_])).get(id_, [])
    clicks = await reader.count_clicks(conn, id_)
    return {
        "targets": progress.targets,
        **_steps(progress),
        "dismissed": progress.dismissed,
        "actions": [{"action": action, "clicked": clicks[action]} for action in sorted(clicks)],
        "variants": [
            {"name": variant.name, "won": notification.winner == number, **_steps(counts[number])}
            for number, variant in enumerate(notification.policy.variants)
        ],
    }


def delivery_view(entry: reader.LogEntry) -> views.Delivery:
    """Return the view of an entry of the delivery log."""
    row, receipts = entry.row, entry.receipts
    clicked = receipts.get("clicked")
    return {
        "id": ids.format_id(ids.DELIVERY, row.notification_id, row.device_id),
        "notification_id": ids.format_id(ids.NOTIFICATION, row.notification_id),
        "device_id": ids.format_id(ids.DEVICE, row.device_id),
        "user_id": row.user_id,
        "host": row.host,
        "push_service": vendor_name(row.host) if row.host else None,
        "outcome": row.outcome,
        "variant": row.variant,
        "status": row.status,
        "cause": row.cause or "the push service accepted it",
        "attempts": row.attempts,
        "attempted_at": row.attempted_at,
        "duration_ms": row.duration_ms,
        "settled_at": row.settled_at,
        "displayed_at": _receipt_time(receipts.get("displayed")),
        "clicked_at": _receipt_time(clicked),
        "dismissed_at": _receipt_time(receipts.get("dismissed")),
        "action": clicked.action if clicked else None,
    }


async def get_delivery(
    conn: Connection, application_id: UUID, notification_id: UUID, device_id: UUID
) -> views.DeliveryDetail:
    """Return the view of a delivery with all its attempts. The delivery may still be waiting for a retry.

    Raises:
        NotFound: there is no such delivery, or it has not been attempted yet.
    """
    entry, retried = await reader.get(conn, application_id, notification_id, device_id)
    if entry is None and not retried:
        raise NotFound("there is no such delivery, or it has not been attempted yet")
    attempts: list[views.Attempt] = [
        {
            "number": row.number,
            "at": row.at,
            "duration_ms": row.duration_ms,
            "status": row.status,
            "cause": row.cause,
            "retry_at": row.retry_at,
            "next": "retried at retry_at",
        }
        for row in retried
    ]
    if entry is None:
        return {
            "id": ids.format_id(ids.DELIVERY, notification_id, device_id),
            "notification_id": ids.format_id(ids.NOTIFICATION, notification_id),
            "device_id": ids.format_id(ids.DEVICE, device_id),
            "outcome": "pending",
            "cause": retried[-1].cause,
            "attempts": attempts,
        }
    delivery, row = delivery_view(entry), entry.row
    # The log entry contains the last attempt. It has none if the notification expired or was cancelled before a retry.
    if row.attempted_at is not None:
        attempts.append(
            {
                "number": row.attempts,
                "at": row.attempted_at,
                "duration_ms": row.duration_ms,
                "status": row.status,
                "cause": delivery["cause"],
                "retry_at": None,
                "next": _CONSEQUENCES[OutcomeName(row.outcome)],
            }
        )
    return {**delivery, "attempts": attempts, "message": row.message, "granted_ttl": row.granted_ttl}


async def preview_audience(conn: Connection, application_id: UUID, audience: Any) -> views.Preview:
    """Count the devices and the users that an audience reaches now, and return a sample of the devices.

    Raises:
        ValidationError: the audience is not valid.
    """
    resolved = await segments.resolve_audience(conn, application_id, audience)
    size = await measure(conn, application_id, resolved, sample_size=MAX_SAMPLE)
    return {
        "devices": size.devices,
        "users": size.users,
        "sample": [
            {
                "id": ids.format_id(ids.DEVICE, row.id),
                "user_id": row.user_id,
                "platform": row.platform,
                "browser": row.browser,
            }
            for row in size.sample
        ],
    }


def encode_json(view: Any) -> bytes:
    """Encode a view as compact JSON with times in UTC."""
    return json.dumps(view, ensure_ascii=False, separators=(",", ":"), default=_encode_time).encode()


def _encode_time(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")


def _variants(notification: Notification, counts: Sequence[Row[Any]]) -> list[views.Variant]:
    return [
        {
            "name": variant.name,
            "weight": variant.weight,
            "content": variant.content,
            "won": notification.winner == number,
            "accepted": counts[number].accepted if counts else 0,
            "gone": counts[number].gone if counts else 0,
            "rejected": counts[number].rejected if counts else 0,
            "expired": counts[number].expired if counts else 0,
            "displayed": counts[number].displayed if counts else 0,
            "clicked": counts[number].clicked if counts else 0,
            "dismissed": counts[number].dismissed if counts else 0,
        }
        for number, variant in enumerate(notification.policy.variants)
    ]


def _steps(counts: Progress | Row[Any]) -> views.Steps:
    """Return the counts and rates of a funnel."""
    accepted, displayed, clicked = counts.accepted, counts.displayed, counts.clicked
    return {
        "accepted": accepted,
        "displayed": displayed,
        "clicked": clicked,
        "display_rate": round(displayed / accepted, 4) if accepted else None,
        "click_rate": round(clicked / displayed, 4) if displayed else None,
    }


def _eta(notification: Notification, progress: Progress, last_due: datetime | None, now: datetime) -> datetime | None:
    """Return the estimated end of sending at the current rate, or None if it cannot be estimated."""
    rate = progress.current_rate(now)
    if notification.status is not Status.SENDING or not progress.pending:
        return None
    if rate * MIN_RATE_WINDOW_S < 1:
        return last_due
    end = now + min(timedelta(seconds=progress.pending / rate), MAX_ETA)
    return end if last_due is None else max(end, last_due)


def _receipt_time(receipt: reader.Receipt | None) -> datetime | None:
    return None if receipt is None else receipt.at
