"""JSON representations of notifications and deliveries, as the HTTP API returns them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from gateway.domain import clock, ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.errors import NotFound
from gateway.domain.notification import Kind, Notification, Progress, Status
from gateway.domain.schedule import DEVICE_ZONE
from gateway.push.endpoints import vendor_name
from gateway.records import jobs, notifications
from gateway.records.audiences import match_active, raise_work_mem
from gateway.records.delivery_log import reader
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import devices
from gateway.service.audience import segments
from gateway.service.notifications import lifecycle

SAMPLE = 10
VARIANT_COUNTS = ("accepted", "gone", "rejected", "expired", "displayed", "clicked", "dismissed")
# Slower than one delivery in this time is standing still.
MEASURABLE_S = 300
MAX_ETA = timedelta(days=366)


def notification(
    shown: Notification, progress: Progress, variants: Sequence[Row[Any]] = (), last_due: datetime | None = None
) -> dict[str, Any]:
    """`variants` are their counts, `last_due` is when the last of it that waits comes due."""
    delivery, steering, now = shown.delivery, shown.policy, clock.now()
    said = steering.to_json()
    return {
        "id": ids.format_id(ids.NOTIFICATION, shown.id),
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
        "schedule": None
        if steering.local_at is None
        else {"at": steering.local_at.isoformat(), "timezone": DEVICE_ZONE},
        "category": steering.category,
        "throttle": said.get("throttle"),
        "quiet_hours": said.get("quiet_hours"),
        "cap": said.get("cap"),
        "winner": said.get("winner"),
        "pause_when": None
        if steering.pause_when is None
        else {"failure_share": steering.pause_when.share, "after": steering.pause_when.after},
        "variants": [
            {
                "name": variant.name,
                "weight": variant.weight,
                "content": variant.content,
                "won": shown.winner == number,
                **{name: getattr(variants[number], name) if variants else 0 for name in VARIANT_COUNTS},
            }
            for number, variant in enumerate(steering.variants)
        ],
        "auto_paused": shown.auto_paused,
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
            "per_second": round(progress.current_rate(now), 2) if shown.status is Status.SENDING else 0.0,
            "eta": _eta(shown, progress, last_due, now),
        },
    }


async def one_notification(
    conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None
) -> dict[str, Any]:
    """A notification with all that is known of how it goes. Raises NotFound, also for one of another kind."""
    found, progress = await lifecycle.show(conn, application_id, id_, kind)
    counts = await notifications.load_variant_counts(conn, [id_])
    waiting = await jobs.last_due(conn, id_) if found.status is Status.SENDING else None
    return notification(found, progress, counts.get(id_, ()), waiting)


async def funnel(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> dict[str, Any]:
    """From those it was for to those who clicked, with each step's share of the one before. Raises NotFound."""
    found, progress = await lifecycle.show(conn, application_id, id_, kind)
    counts = (await notifications.load_variant_counts(conn, [id_])).get(id_, [])
    clicked = await reader.count_clicks(conn, id_)
    return {
        "targets": progress.targets,
        **_steps(progress),
        "dismissed": progress.dismissed,
        "actions": [{"action": action, "clicked": clicked[action]} for action in sorted(clicked)],
        "variants": [
            {"name": variant.name, "won": found.winner == number, **_steps(counts[number])}
            for number, variant in enumerate(found.policy.variants)
        ],
    }


def _steps(counts: Any) -> dict[str, Any]:
    accepted, displayed, clicked = counts.accepted, counts.displayed, counts.clicked
    return {
        "accepted": accepted,
        "displayed": displayed,
        "clicked": clicked,
        "display_rate": round(displayed / accepted, 4) if accepted else None,
        "click_rate": round(clicked / displayed, 4) if displayed else None,
    }


def _eta(shown: Notification, progress: Progress, last_due: datetime | None, now: datetime) -> datetime | None:
    """When it will be done, at the rate it goes now; None while nobody can say."""
    rate = progress.current_rate(now)
    if shown.status is not Status.SENDING or not progress.pending:
        return None
    if rate * MEASURABLE_S < 1:
        return last_due
    done = now + min(timedelta(seconds=progress.pending / rate), MAX_ETA)
    return done if last_due is None else max(done, last_due)


def delivery(entry: reader.LogEntry) -> dict[str, Any]:
    row, told = entry.row, entry.receipts
    clicked = told.get("clicked")
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
        "displayed_at": _told_at(told.get("displayed")),
        "clicked_at": _told_at(clicked),
        "dismissed_at": _told_at(told.get("dismissed")),
        "action": clicked.action if clicked else None,
    }


async def one_delivery(
    conn: Connection, application_id: UUID, notification_id: UUID, device_id: UUID
) -> dict[str, Any]:
    """One delivery with every attempt, also while it is still being tried. Raises NotFound."""
    entry, tried = await reader.get(conn, application_id, notification_id, device_id)
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
            "id": ids.format_id(ids.DELIVERY, notification_id, device_id),
            "notification_id": ids.format_id(ids.NOTIFICATION, notification_id),
            "device_id": ids.format_id(ids.DEVICE, device_id),
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


async def preview(conn: Connection, application_id: UUID, filter_: Any) -> dict[str, Any]:
    """Who an audience would reach now: counts of devices and known users, and a few of them. Raises Invalid."""
    await raise_work_mem(conn)
    who = match_active(application_id, await segments.read(conn, application_id, filter_))
    # Sorted by octets: in the order of another collation than C, counting everyone took 1.7 times as long.
    users_of = func.count(devices.c.user_id.collate("C").distinct())
    counts = select(func.count(), users_of).where(who)
    count, users = (await conn.execute(counts)).one()
    some = select(devices.c.id, devices.c.user_id, devices.c.platform, devices.c.browser).where(who).limit(SAMPLE)
    sample = [
        {
            "id": ids.format_id(ids.DEVICE, row.id),
            "user_id": row.user_id,
            "platform": row.platform,
            "browser": row.browser,
        }
        for row in await conn.execute(some)
    ]
    return {"devices": count, "users": users, "sample": sample}


def to_json(value: Any) -> bytes:
    """As it goes out: compact, moments in UTC."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_CONSEQUENCES = {
    OutcomeName.ACCEPTED: "the push service holds it for the browser",
    OutcomeName.GONE: "the device is not sent to again",
    OutcomeName.REJECTED: "not tried again",
    OutcomeName.EXPIRED: "not tried again: its time has run out",
    OutcomeName.CANCELLED: "not tried again: the notification was cancelled",
    OutcomeName.SKIPPED: "not sent: a rule protects who would have received it",
}


def _told_at(receipt: reader.Receipt | None) -> datetime | None:
    return None if receipt is None else receipt.at
