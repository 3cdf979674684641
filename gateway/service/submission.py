"""Accept a notification: check it whole, then write it and its first job in one transaction.

The front doors (direct, campaign, alert) differ only in the `Draft` they make. What is accepted
here will be delivered or accounted for.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urljoin
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.errors import Conflict, Fault, Invalid, NotFound, PayloadTooLarge
from gateway.domain.notification import (
    LONGEST_TTL,
    Delivery,
    Kind,
    Lane,
    Notification,
    Progress,
    Status,
    Urgency,
    expiry,
)
from gateway.push.encryption import MAX_PAYLOAD
from gateway.queue import postgres as queue
from gateway.records import applications, notifications, signals
from gateway.service import segments
from gateway.service.context import Context
from gateway.service.messages import Message

FARTHEST_START = timedelta(days=366)


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
    details: dict[str, Any] = field(default_factory=dict)


async def submit(conn: AsyncConnection, context: Context, application_id: UUID, draft: Draft) -> Notification:
    """Write the notification and its plan job on the caller's transaction.

    Raises Invalid with every fault, PayloadTooLarge when no device could receive it.
    """
    notification = await _accepted(conn, application_id, draft)
    notification.content["url"] = await _landing(conn, context, notification)
    size = Message(context, notification).size
    if size > MAX_PAYLOAD:
        raise PayloadTooLarge(size, MAX_PAYLOAD)
    await notifications.add(conn, notification)
    await queue.enqueue_plan(conn, notification)
    return notification


async def cancel(conn: AsyncConnection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> None:
    """Send no more of it. What is queued ends in the log as `cancelled`; what is in flight ends as it ends.

    Cancelling twice is the same as once. Raises NotFound, and Conflict when it was done already.
    """
    [*found] = await notifications.load(conn, [id_], lock=True)
    if not found or found[0].application_id != application_id or kind not in (None, found[0].kind):
        raise NotFound(f"there is no notification {ids.show(ids.NOTIFICATION, id_)}")
    match found[0].status:
        case Status.CANCELLED:
            return
        case Status.DONE:
            raise Conflict("it is done: everything has been sent already")
        case Status.SCHEDULED:
            await notifications.cancel(conn, id_, finished=True)
        case Status.SENDING:
            await notifications.cancel(conn, id_, finished=False)
    await queue.withdraw(conn, id_)
    await signals.send(conn, signals.CONTROL, str(id_))


async def show(
    conn: AsyncConnection, application_id: UUID, id_: UUID, kind: Kind | None = None
) -> tuple[Notification, Progress]:
    """Raises NotFound, also for one of another kind or application."""
    found = await notifications.get(conn, application_id, id_)
    if found is None or kind not in (None, found[0].kind):
        raise NotFound(f"there is no {kind or 'notification'} {ids.show(ids.NOTIFICATION, id_)}")
    return found


async def _landing(conn: AsyncConnection, context: Context, notification: Notification) -> str:
    """Where a click leads: Declarative Web Push requires an absolute URL. A path is the application's own."""
    url = str(notification.content.get("url") or "/")
    if not url.startswith("/"):
        return url
    home = await applications.home(conn, notification.application_id) or context.public_url
    if home is None:
        raise Invalid([Fault("/content/url", "must be absolute, since the application has no allowed origin")])
    return urljoin(home, url)


async def _accepted(conn: AsyncConnection, application_id: UUID, draft: Draft) -> Notification:
    now = datetime.now(UTC)
    defaults = DEFAULTS[draft.kind]
    faults: list[Fault] = []
    try:
        await segments.read(conn, application_id, draft.audience)
    except Invalid as error:
        faults += error.faults

    lane = defaults.lane if draft.lane is None else draft.lane
    if lane not in defaults.lanes:
        allowed = ", ".join(allowed.label for allowed in defaults.lanes)
        faults.append(Fault("/delivery/lane", f"{lane.label} is not for {draft.kind} notifications, only {allowed}"))
    ttl = defaults.ttl if draft.ttl is None else draft.ttl
    if ttl > LONGEST_TTL:
        faults.append(Fault("/delivery/ttl", f"must be at most {int(LONGEST_TTL.total_seconds())} seconds (28 days)"))
    start_at = now if draft.start_at is None else max(draft.start_at, now)
    if start_at > now + FARTHEST_START:
        faults.append(Fault("/schedule/at", f"must be within {FARTHEST_START.days} days from now"))
    expires_at = expiry(start_at, ttl) if draft.expires_at is None else draft.expires_at
    if expires_at <= start_at:
        faults.append(Fault("/delivery/expires_at", "must be later than now and than the scheduled start"))
    elif expires_at > start_at + LONGEST_TTL:
        faults.append(Fault("/delivery/expires_at", "must be within 28 days after the start"))
    if faults:
        raise Invalid(faults)

    return Notification(
        id=ids.new_id(),
        application_id=application_id,
        kind=draft.kind,
        name=draft.name,
        status=Status.SCHEDULED,
        day=None,
        content=draft.content,
        audience=draft.audience,
        delivery=Delivery(
            lane=lane,
            urgency=defaults.urgency if draft.urgency is None else draft.urgency,
            ttl=ttl,
            expires_at=expires_at,
            collapse_key=draft.collapse_key,
        ),
        details=draft.details,
        start_at=start_at,
        created_at=now,
    )
