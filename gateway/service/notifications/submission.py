"""Accept a notification: check it whole, then write it and its first job in one transaction.

The front doors (direct, campaign, alert) differ only in the `Draft` they make. What is accepted
here will be delivered or accounted for.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from gateway import tracing
from gateway.domain import clock, ids
from gateway.domain.errors import FieldError, ValidationError, pointer_step
from gateway.domain.notification import (
    MAX_TTL,
    DeliveryOptions,
    Kind,
    Lane,
    Notification,
    Status,
    Templating,
    Urgency,
    compute_expiry,
)
from gateway.domain.schedule import earliest_instant, latest_instant
from gateway.domain.send_policy import DEFAULT_POLICY, SendPolicy
from gateway.records import applications, jobs, notifications
from gateway.records.postgres.engine import Connection
from gateway.service.audience import categories, segments
from gateway.service.context import Context
from gateway.service.notifications import templates
from gateway.service.notifications.rendering import NotificationRenderer

MAX_START = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Defaults:
    lane: Lane
    urgency: Urgency
    ttl: timedelta
    lanes: tuple[Lane, ...]
    """The lanes a caller may ask for. A campaign may not overtake an alert."""


DEFAULTS = {
    Kind.DIRECT: Defaults(Lane.NORMAL, Urgency.NORMAL, timedelta(days=1), (Lane.URGENT, Lane.NORMAL, Lane.BULK)),
    Kind.CAMPAIGN: Defaults(Lane.BULK, Urgency.NORMAL, timedelta(days=3), (Lane.NORMAL, Lane.BULK)),
    Kind.EVENT: Defaults(Lane.NORMAL, Urgency.NORMAL, timedelta(days=1), (Lane.URGENT, Lane.NORMAL, Lane.BULK)),
    Kind.REMINDER: Defaults(Lane.NORMAL, Urgency.NORMAL, timedelta(days=1), (Lane.NORMAL, Lane.BULK)),
    Kind.ALERT: Defaults(Lane.URGENT, Urgency.HIGH, timedelta(hours=1), (Lane.URGENT, Lane.NORMAL)),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """What a front door asks for; None leaves it to the kind's defaults. `start_at` None is now."""

    kind: Kind
    content: dict[str, Any]
    audience: Any
    name: str | None = None
    lane: Lane | None = None
    urgency: Urgency | None = None
    ttl: timedelta | None = None
    expires_at: datetime | None = None
    collapse_key: str | None = None
    start_at: datetime | None = None
    steering: SendPolicy = DEFAULT_POLICY
    templating: Templating | None = None
    reminder_id: UUID | None = None
    details: dict[str, Any] = field(default_factory=dict)


async def submit(conn: Connection, context: Context, application_id: UUID, draft: Draft) -> Notification:
    """Write the notification and its plan job on the caller's transaction.

    Raises Invalid with every fault, PayloadTooLarge when no device could receive it.
    """
    notification = await prepare(conn, context, application_id, draft)
    await save(conn, [notification])
    return notification


async def prepare(conn: Connection, context: Context, application_id: UUID, draft: Draft) -> Notification:
    """The notification, checked and not yet written. Raises as `submit` does."""
    # Of its own, since addresses in it are completed below; a reminder uses its draft again.
    notification = await _accepted(conn, application_id, deepcopy(draft))
    if notification.templating is not None:
        templates.check_templates(notification.content)
        for index, variant in enumerate(notification.policy.variants):
            templates.check_templates(variant.content, f"/variants/{index}/content")
    home = await applications.get_default_origin(conn, application_id) or context.public_url
    notification.content.setdefault("url", "/")
    _land(notification.content, home, "/content")
    for index, variant in enumerate(notification.policy.variants):
        _land(variant.content, home, f"/variants/{index}/content")
    NotificationRenderer(context.keyring, context.public_url, notification, home).check_size()
    return notification


async def save(conn: Connection, prepared: Sequence[Notification]) -> None:
    """Write notifications and their plan jobs."""
    await notifications.add(conn, prepared)
    await jobs.enqueue_plans(conn, prepared)


def _land(content: dict[str, Any], home: str | None, pointer: str) -> None:
    """Where a click leads: Declarative Web Push requires an absolute URL. A path is the application's own."""
    url = content.get("url")
    if isinstance(url, str) and url.startswith("/"):
        if home is None:
            raise ValidationError(
                [FieldError(f"{pointer}/url", "must be absolute, since the application has no allowed origin")]
            )
        parts = urlsplit(home)
        content["url"] = f"{parts.scheme}://{parts.netloc}{url}"
    for locale, said in (content.get("locales") or {}).items():
        _land(said, home, f"{pointer}/locales{pointer_step(locale)}")


async def _accepted(conn: Connection, application_id: UUID, draft: Draft) -> Notification:
    now = clock.now()
    defaults = DEFAULTS[draft.kind]
    faults: list[FieldError] = []
    try:
        await segments.resolve_audience(conn, application_id, draft.audience)
    except ValidationError as error:
        faults += error.errors

    lane = defaults.lane if draft.lane is None else draft.lane
    if lane not in defaults.lanes:
        allowed = ", ".join(allowed.label for allowed in defaults.lanes)
        faults.append(
            FieldError("/delivery/lane", f"{lane.label} is not for {draft.kind} notifications, only {allowed}")
        )
    ttl = defaults.ttl if draft.ttl is None else draft.ttl
    if ttl > MAX_TTL:
        faults.append(FieldError("/delivery/ttl", f"must be at most {int(MAX_TTL.total_seconds())} seconds (28 days)"))
    start_at = last_start = now if draft.start_at is None else max(draft.start_at, now)
    if (local_at := draft.steering.local_at) is not None:
        start_at, last_start = max(earliest_instant(local_at), now), max(latest_instant(local_at), now)
    if last_start > now + MAX_START and draft.reminder_id is None:
        faults.append(FieldError("/schedule/at", f"must be within {MAX_START.days} days from now"))
    expires_at = compute_expiry(last_start, ttl) if draft.expires_at is None else draft.expires_at
    if expires_at <= start_at:
        faults.append(FieldError("/delivery/expires_at", "must be later than now and than the scheduled start"))
    elif expires_at > last_start + MAX_TTL:
        faults.append(FieldError("/delivery/expires_at", "must be within 28 days after the start"))
    try:
        steering = await _steering(conn, application_id, draft.steering, lane, expires_at - start_at)
    except ValidationError as error:
        faults += error.errors
    if faults:
        raise ValidationError(faults)

    return Notification(
        id=ids.new_id(),
        application_id=application_id,
        kind=draft.kind,
        name=draft.name,
        status=Status.SCHEDULED,
        day=None,
        content=draft.content,
        audience=draft.audience,
        delivery=DeliveryOptions(
            lane=lane,
            urgency=defaults.urgency if draft.urgency is None else draft.urgency,
            ttl=ttl,
            expires_at=expires_at,
            collapse_key=draft.collapse_key,
        ),
        details=draft.details,
        start_at=start_at,
        created_at=now,
        policy=steering,
        templating=draft.templating,
        reminder_id=draft.reminder_id,
        occurrence=None if draft.reminder_id is None else start_at,
        trace=tracing.current_traceparent(),
    )


async def _steering(
    conn: Connection, application_id: UUID, asked: SendPolicy, lane: Lane, life: timedelta
) -> SendPolicy:
    """What was asked for, and what its category adds. Raises Invalid."""
    faults: list[FieldError] = []
    if asked.category is not None:
        rules = await categories.find_rules(conn, application_id, asked.category)
        if rules is None:
            faults.append(FieldError("/category", f"there is no category {asked.category!r}"))
        else:
            quiet_hours, cap = rules
            asked = replace(asked, quiet_hours=asked.quiet_hours or quiet_hours, cap=cap)
    too_long = "is longer than the notification lives; give it a longer ttl"
    if asked.throttle is not None and asked.throttle.spread is not None and asked.throttle.spread > life:
        faults.append(FieldError("/throttle/spread", too_long))
    if asked.winner is not None:
        if not asked.variants:
            faults.append(FieldError("/winner", "needs variants"))
        if asked.winner.after >= life:
            faults.append(FieldError("/winner/after", too_long))
    names = [variant.name for variant in asked.variants]
    for index, name in enumerate(names):
        if name in names[:index]:
            faults.append(FieldError(f"/variants/{index}/name", f"{name!r} is given twice"))
    if faults:
        raise ValidationError(faults)
    return asked.for_urgent_lane() if lane is Lane.URGENT else asked
