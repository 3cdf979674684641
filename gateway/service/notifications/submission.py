"""Accept notifications: check a draft completely, then store the notification and its plan job in one transaction.

A worker replaces the plan job by send jobs for the recipients when the notification starts. Direct notifications,
campaigns, alerts, reminders and triggers (`Kind.EVENT`) differ only in the `Draft` that they submit. The delivery log
gets a result for every recipient of an accepted notification.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from gateway import tracing
from gateway.content.templates import ParsedTexts, check_templates
from gateway.domain import clock, ids
from gateway.domain.errors import FieldError, ValidationError, pointer_step
from gateway.domain.json_object import JsonObject
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
from gateway.service.notifications.templates import ContentSource

# Maximum time from now to the scheduled start of a notification.
MAX_START_DELAY = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Defaults:
    """The default delivery options of a kind of notification.

    `lanes` are the lanes that a request may choose: for example, a campaign must not overtake alerts.
    """

    lane: Lane
    urgency: Urgency
    ttl: timedelta
    lanes: tuple[Lane, ...]


# The default delivery options of each kind.
DEFAULTS = {
    Kind.DIRECT: Defaults(Lane.NORMAL, Urgency.NORMAL, timedelta(days=1), (Lane.URGENT, Lane.NORMAL, Lane.BULK)),
    Kind.CAMPAIGN: Defaults(Lane.BULK, Urgency.NORMAL, timedelta(days=3), (Lane.NORMAL, Lane.BULK)),
    Kind.EVENT: Defaults(Lane.NORMAL, Urgency.NORMAL, timedelta(days=1), (Lane.URGENT, Lane.NORMAL, Lane.BULK)),
    Kind.REMINDER: Defaults(Lane.NORMAL, Urgency.NORMAL, timedelta(days=1), (Lane.NORMAL, Lane.BULK)),
    Kind.ALERT: Defaults(Lane.URGENT, Urgency.HIGH, timedelta(hours=1), (Lane.URGENT, Lane.NORMAL)),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A notification to submit. None stands for the default of the kind; for `start_at` it stands for now.

    `details` describes the alert or event for which the notification is sent.
    """

    kind: Kind
    content: JsonObject
    audience: Any
    name: str | None = None
    lane: Lane | None = None
    urgency: Urgency | None = None
    ttl: timedelta | None = None
    expires_at: datetime | None = None
    collapse_key: str | None = None
    start_at: datetime | None = None
    policy: SendPolicy = DEFAULT_POLICY
    templating: Templating | None = None
    reminder_id: UUID | None = None
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotificationRequest:
    """A request of a client to send a notification.

    It has the fields of `Draft`, but its content may refer to a saved template. `event` is the value of the template
    variable `event`.
    """

    kind: Kind
    content: ContentSource
    audience: Any
    event: JsonObject | None = None
    name: str | None = None
    lane: Lane | None = None
    urgency: Urgency | None = None
    ttl: timedelta | None = None
    expires_at: datetime | None = None
    collapse_key: str | None = None
    start_at: datetime | None = None
    policy: SendPolicy = DEFAULT_POLICY


async def resolve(conn: Connection, application_id: UUID, request: NotificationRequest) -> Draft:
    """Return the draft of a request, with the content of the template that the request refers to.

    Raises:
        ValidationError: the template does not exist.
    """
    resolved = await templates.resolve_content(conn, application_id, request.content)
    contents = {"content": resolved.content, "variants": [variant.content for variant in request.policy.variants]}
    return Draft(
        kind=request.kind,
        content=resolved.content,
        audience=request.audience,
        name=request.name,
        lane=request.lane,
        urgency=request.urgency,
        ttl=request.ttl,
        expires_at=request.expires_at,
        collapse_key=request.collapse_key,
        start_at=request.start_at,
        policy=request.policy,
        templating=templates.templating_of(contents, resolved.strict, request.event),
    )


async def submit_request(
    conn: Connection, context: Context, application_id: UUID, request: NotificationRequest
) -> Notification:
    """Resolve the content of a request and submit it, in the transaction of the caller.

    Raises:
        ValidationError: the request is not valid; the error lists every field.
        PayloadTooLarge: the content is too large for a push message.
    """
    return await submit(conn, context, application_id, await resolve(conn, application_id, request))


async def submit(conn: Connection, context: Context, application_id: UUID, draft: Draft) -> Notification:
    """Check a draft, and store the notification and its plan job in the transaction of the caller.

    Raises:
        ValidationError: the draft is not valid; the error lists every field.
        PayloadTooLarge: the content is too large for a push message.
    """
    notification = await prepare(conn, context, application_id, draft)
    await save(conn, [notification])
    return notification


async def prepare(conn: Connection, context: Context, application_id: UUID, draft: Draft) -> Notification:
    """Check a draft and return the notification without storing it. Raises the errors of `submit`."""
    # A copy: URLs are made absolute below, and the caller may use the draft again.
    notification = await _build(conn, application_id, deepcopy(draft))
    if notification.templating is not None:
        parsed = ParsedTexts()
        check_templates(notification.content, parsed=parsed)
        for index, variant in enumerate(notification.policy.variants):
            check_templates(variant.content, f"/variants/{index}/content", parsed)
    default_origin = await applications.get_default_origin(conn, application_id) or context.public_url
    notification.content.setdefault("url", "/")
    _make_url_absolute(notification.content, default_origin, "/content")
    for index, variant in enumerate(notification.policy.variants):
        _make_url_absolute(variant.content, default_origin, f"/variants/{index}/content")
    NotificationRenderer(context.keyring, context.public_url, notification, default_origin).check_size()
    return notification


async def save(conn: Connection, prepared: Sequence[Notification]) -> None:
    """Store checked notifications and their plan jobs."""
    await notifications.add(conn, prepared)
    await jobs.enqueue_plans(conn, prepared)


def _make_url_absolute(content: JsonObject, default_origin: str | None, pointer: str) -> None:
    """Make the `url` of the content absolute, and the `url` of each entry in its `locales`.

    A path is resolved against the default origin. Declarative Web Push requires absolute URLs.
    """
    url = content.get("url")
    if isinstance(url, str) and url.startswith("/"):
        if default_origin is None:
            raise ValidationError(
                [FieldError(f"{pointer}/url", "must be absolute, because the application has no allowed origin")]
            )
        parts = urlsplit(default_origin)
        content["url"] = f"{parts.scheme}://{parts.netloc}{url}"
    for locale, localized in (content.get("locales") or {}).items():
        _make_url_absolute(localized, default_origin, f"{pointer}/locales{pointer_step(locale)}")


async def _build(conn: Connection, application_id: UUID, draft: Draft) -> Notification:
    """Check all fields of a draft except the templates and the size of the content; return the notification.

    Raises:
        ValidationError: the draft is not valid; the error lists every field.
    """
    now = clock.now()
    defaults = DEFAULTS[draft.kind]
    errors: list[FieldError] = []
    try:
        await segments.resolve_audience(conn, application_id, draft.audience)
    except ValidationError as error:
        errors += error.errors

    lane = defaults.lane if draft.lane is None else draft.lane
    if lane not in defaults.lanes:
        allowed = ", ".join(allowed.label for allowed in defaults.lanes)
        errors.append(
            FieldError("/delivery/lane", f"must be one of {allowed} for {draft.kind} notifications, not {lane.label}")
        )
    ttl = defaults.ttl if draft.ttl is None else draft.ttl
    if ttl > MAX_TTL:
        errors.append(FieldError("/delivery/ttl", f"must be at most {int(MAX_TTL.total_seconds())} seconds (28 days)"))
    start_at = last_start = now if draft.start_at is None else max(draft.start_at, now)
    # A local time arrives at different instants: `start_at` in the first time zone, `last_start` in the last one.
    if (local_at := draft.policy.local_at) is not None:
        start_at, last_start = max(earliest_instant(local_at), now), max(latest_instant(local_at), now)
    if last_start > now + MAX_START_DELAY and draft.reminder_id is None:
        errors.append(FieldError("/schedule/at", f"must be within {MAX_START_DELAY.days} days from now"))
    expires_at = compute_expiry(last_start, ttl) if draft.expires_at is None else draft.expires_at
    if expires_at <= start_at:
        errors.append(FieldError("/delivery/expires_at", "must be later than now and than the scheduled start"))
    elif expires_at > last_start + MAX_TTL:
        errors.append(FieldError("/delivery/expires_at", "must be within 28 days after the start"))
    try:
        policy = await _resolve_policy(conn, application_id, draft.policy, lane, expires_at - start_at)
    except ValidationError as error:
        errors += error.errors
    if errors:
        raise ValidationError(errors)

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
        policy=policy,
        templating=draft.templating,
        reminder_id=draft.reminder_id,
        occurrence=None if draft.reminder_id is None else start_at,
        trace=tracing.current_traceparent(),
    )


async def _resolve_policy(
    conn: Connection, application_id: UUID, policy: SendPolicy, lane: Lane, lifetime: timedelta
) -> SendPolicy:
    """Check a send policy, and add the quiet hours and the frequency cap of its category.

    In the urgent lane, only the local start time and the category of the policy apply.
    """
    errors: list[FieldError] = []
    if policy.category is not None:
        rules = await categories.find_rules(conn, application_id, policy.category)
        if rules is None:
            errors.append(FieldError("/category", f"there is no category {policy.category!r}"))
        else:
            quiet_hours, cap = rules
            policy = replace(policy, quiet_hours=policy.quiet_hours or quiet_hours, cap=cap)
    too_long = "exceeds the lifetime of the notification; use a longer ttl"
    if policy.throttle is not None and policy.throttle.spread is not None and policy.throttle.spread > lifetime:
        errors.append(FieldError("/throttle/spread", too_long))
    rate = None if policy.throttle is None else policy.throttle.per_second
    if rate is not None and rate * lifetime.total_seconds() < 1:
        errors.append(FieldError("/throttle/per_second", "allows no message within the lifetime of the notification"))
    if policy.winner is not None:
        if not policy.variants:
            errors.append(FieldError("/winner", "needs variants"))
        if policy.winner.after >= lifetime:
            errors.append(FieldError("/winner/after", too_long))
    names = [variant.name for variant in policy.variants]
    for index, name in enumerate(names):
        if name in names[:index]:
            errors.append(FieldError(f"/variants/{index}/name", f"{name!r} is given twice"))
    if errors:
        raise ValidationError(errors)
    return policy.for_urgent_lane() if lane is Lane.URGENT else policy
