"""Ingest alerts: turn the messages of warning authorities into notifications.

An alert message consists of info blocks, each with an area. Messages that refer to each other form a chain, whose
notifications have the same tag. For each info block of a message in the chain, the database stores the area in which
the block is still in effect. An Update or a Cancel reduces these areas, and cancels queued notifications.

The recipients of a cancellation are selected from the delivery log: devices that received a warning, received no
cancellation since, and are outside every area in which the alert is still in effect.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, cast
from uuid import UUID

from gateway.alerting.areas import subtract
from gateway.domain import clock, ids
from gateway.domain.alert import (
    PROMPT,
    AlertInfo,
    AlertMatcher,
    AlertMessage,
    AlertRouting,
    AlertRule,
    AlertStatus,
    LocalizedText,
    MessageType,
    route_alert,
)
from gateway.domain.errors import FieldError, ValidationError
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import MAX_TTL, Kind, Lane, Notification, Status, Urgency
from gateway.domain.send_policy import SendPolicy
from gateway.records import alerts as records
from gateway.records import applications, notifications
from gateway.records.alerts import AlertPart, StoredAlert
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.alerts.content import alert_content, cancellation_content
from gateway.service.audience import segments
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.submission import Draft, submit

# Alerts whose status is not Actual (exercises and tests) are sent only to devices that subscribe to this topic.
TEST_TOPIC = "test-alerts"

# Authorities split an update of many areas into several messages, seconds apart. Cancellations are delayed by this
# time, so that all these messages arrive first.
CANCELLATION_DELAY = timedelta(seconds=5)

# Number of latest messages in a chain whose recipients are computed message by message. Older messages are treated as
# one, to bound the size of the audience.
MAX_STAGES = 40

# Maximum length of the tag and the name of a notification.
MAX_TAG_LENGTH = 255
# Audiences of all devices and of none.
EVERYWHERE = {"everyone": True}
NOBODY = {"not": EVERYWHERE}


class IngestOutcome(StrEnum):
    """The result of ingesting an alert.

    `repeated` is an alert that was ingested before. `superseded` is an alert whose update was ingested before it.
    `suppressed` is an alert that a rule of the application excludes.
    """

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    SUPERSEDED = "superseded"
    SUPPRESSED = "suppressed"


class IngestResult(NamedTuple):
    """The result of ingesting an alert. In `notification_ids` the warnings precede the cancellations."""

    outcome: IngestOutcome
    notification_ids: tuple[UUID, ...] = ()
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Options of an ingestion: an audience that restricts the recipients, a category, the URL that a click opens."""

    audience: Any = None
    category: str | None = None
    url: str | None = None


# Options that restrict nothing.
DEFAULT_OPTIONS = IngestOptions()


async def ingest(
    conn: Connection,
    context: Context,
    application_id: UUID,
    message: AlertMessage,
    options: IngestOptions = DEFAULT_OPTIONS,
) -> IngestResult:
    """Notify the devices in the area of an alert, and cancel the alerts that it replaces or ends.

    A message with the identifier of a stored one is a repetition of it, unless it is a later Update or Cancel.

    Raises:
        ValidationError: the alert cannot be sent; the error lists every field.
    """
    now, id_ = clock.now(), ids.new_id()
    await records.lock_alerts(conn, application_id)
    message = replace(message, identifier=message.identifier or f"urn:uuid:{id_}")
    identifier = str(message.identifier)
    if stored := await records.find_by_identifier(conn, application_id, identifier):
        if not _is_later_change(message, stored[0]):
            return IngestResult(IngestOutcome.REPEATED, tuple(_all_ids(stored[0])))
        message = replace(message, references=(*message.references, identifier))
    references = message.references if message.message_type is not MessageType.ALERT else ()
    event_keys = message.event_keys if message.message_type is not MessageType.ALERT and not references else ()
    chain = await records.load_chains(conn, application_id, references, event_keys)
    affected = (
        _find_affected(chain, message)
        if references
        else [stored for stored in chain if {*stored.event_keys} & {*event_keys}]
    )
    new_alert = StoredAlert(
        id=id_,
        chain=affected[-1].chain if affected else id_,
        tag=affected[-1].tag if affected else [*references, identifier][0][:MAX_TAG_LENGTH],
        identifier=identifier,
        message_type=message.message_type,
        sent=message.sent,
        refers_to=references,
        event_keys=message.event_keys,
        parts=[],
        expires_at=now,
        created_at=now,
    )
    successor = None if stored else await records.find_successor(conn, application_id, identifier)
    if successor is not None:
        await records.add(conn, application_id, new_alert)
        return IngestResult(IngestOutcome.SUPERSEDED, detail=f"{successor.identifier} has replaced it already")

    stored_rules, stored_audience = await applications.get_alert_settings(conn, application_id)
    rules = [_read_rule(rule) for rule in stored_rules]
    options = replace(options, audience=stored_audience if options.audience is None else options.audience)
    drafts = _build_drafts(message, new_alert, options, rules, now)
    ends_everywhere = message.message_type is MessageType.UPDATE and bool(references)
    remainders = await _end_alerts(conn, affected, None if ends_everywhere else [info.area for info in message.infos])
    notification_ids = []
    for part, draft in zip(new_alert.parts, drafts, strict=True):
        if draft is not None:
            notification = await submit(conn, context, application_id, draft)
            new_alert.expires_at = max(new_alert.expires_at, notification.delivery.expires_at)
            part.notified_by.append(notification.id)
            notification_ids.append(notification.id)
    for part, draft in remainders:
        part.notified_by.append((await submit(conn, context, application_id, draft)).id)
    if message.message_type is not MessageType.ALERT:
        notification_ids += await _submit_cancellations(conn, context, application_id, message, chain, new_alert, now)
    for alert in affected:
        await records.save_parts(conn, alert)
    await records.add(conn, application_id, new_alert)
    suppressed = message.message_type is MessageType.ALERT and not notification_ids
    return (
        IngestResult(IngestOutcome.SUPPRESSED, detail="a rule of the application suppresses the alert")
        if suppressed
        else _accept(notification_ids)
    )


def _accept(notification_ids: Sequence[UUID]) -> IngestResult:
    return IngestResult(IngestOutcome.ACCEPTED, tuple(notification_ids))


def _all_ids(stored: StoredAlert) -> Iterator[UUID]:
    for part in stored.parts:
        yield from part.notified_by
    for part in stored.parts:
        yield from part.cancelled_by


def _is_later_change(message: AlertMessage, stored: StoredAlert) -> bool:
    """Return whether a message is a later Update or Cancel of a stored message with the same identifier.

    Some issuers reuse the identifier of the message that they change.
    """
    is_later = message.sent is not None and stored.sent is not None and message.sent > stored.sent
    return is_later and message.message_type is not MessageType.ALERT


def _find_affected(chain: Sequence[StoredAlert], message: AlertMessage) -> list[StoredAlert]:
    """Return the alerts that a message refers to, and the later updates of these alerts.

    Issuers do not always refer to the updates. Messages that were sent at the same time are parts of one update, and do
    not affect each other.
    """
    identifiers = set(message.references)
    while True:
        updates = {
            stored.identifier
            for stored in chain
            if {*stored.refers_to} & identifiers and stored.sent and message.sent and stored.sent < message.sent
        }
        if updates <= identifiers:
            return [stored for stored in chain if stored.identifier in identifiers]
        identifiers |= updates


async def get_settings(conn: Connection, application_id: UUID) -> views.AlertSettings:
    """Return the alert settings of an application."""
    rules, audience = await applications.get_alert_settings(conn, application_id)
    return {"rules": cast("list[views.AlertRule]", rules), "audience": audience}


async def change_settings(
    conn: Connection, application_id: UUID, rules: list[JsonObject], audience: Any
) -> views.AlertSettings:
    """Replace the alert settings. Each rule has the fields when, tell, lane, urgency and ttl.

    Raises:
        ValidationError: the audience is not valid.
    """
    if audience is not None:
        await segments.resolve_audience(conn, application_id, audience)
    await applications.change(conn, application_id, {"alert_rules": rules, "alert_audience": audience})
    return await get_settings(conn, application_id)


def _read_rule(values: JsonObject) -> AlertRule:
    """Return the alert rule that is stored as this JSON object."""
    matcher = AlertMatcher(**{field: tuple(accepted) for field, accepted in values["when"].items()})
    lane, urgency, ttl = values.get("lane"), values.get("urgency"), values.get("ttl")
    return AlertRule(
        matcher,
        tell=values.get("tell", True),
        lane=None if lane is None else Lane.from_label(lane),
        urgency=None if urgency is None else Urgency(urgency),
        ttl=None if ttl is None else timedelta(seconds=ttl),
    )


def _build_drafts(
    message: AlertMessage, new_alert: StoredAlert, options: IngestOptions, rules: Sequence[AlertRule], now: datetime
) -> list[Draft | None]:
    """Return the draft of each info block, None for a block that is not sent. Adds a part per block to `new_alert`."""
    drafts: list[Draft | None] = []
    errors: list[FieldError] = []
    is_cancel = message.message_type is MessageType.CANCEL
    is_update = message.message_type is MessageType.UPDATE
    unexpired = [info for info in message.infos if info.expires is None or info.expires > now]
    if not is_cancel and not unexpired:
        errors.append(FieldError("/expires", "is in the past: the alert has expired"))
    for number, info in enumerate(message.infos):
        part = AlertPart(area=None)
        new_alert.parts.append(part)
        routing = route_alert(info, rules)
        # The all-clear of an Update is sent as a cancellation. Any other all-clear is sent like a warning.
        if is_cancel or (is_update and info.all_clear) or info not in unexpired or routing is None:
            drafts.append(None)
            continue
        if info.area is None and options.audience is None:
            errors.append(FieldError("/area", "is missing: an alert needs an area or zones, an audience, or both"))
            continue
        part.area = info.area or EVERYWHERE
        drafts.append(_build_draft(message, info, routing, options, _tag(new_alert.tag, number), now))
    if errors:
        raise ValidationError(list(dict.fromkeys(errors)))
    return drafts


def _build_draft(
    message: AlertMessage, info: AlertInfo, routing: AlertRouting, options: IngestOptions, tag: str, now: datetime
) -> Draft:
    """Return the draft of the notification for one info block."""
    conditions = [condition for condition in (info.area, options.audience) if condition is not None]
    if message.status is not AlertStatus.ACTUAL:
        conditions.append({"topic": TEST_TOPIC})
    content = alert_content(message, info, routing, tag)
    if options.url is not None:
        content["url"] = options.url
    expires_at = None if info.expires is None else min(info.expires, now + MAX_TTL)
    return Draft(
        kind=Kind.ALERT,
        name=(info.texts[0].headline or info.texts[0].event)[:MAX_TAG_LENGTH],
        content=content,
        audience=_all_of(conditions),
        lane=routing.lane,
        urgency=routing.urgency,
        ttl=routing.ttl if expires_at is None else expires_at - now,
        expires_at=expires_at,
        policy=SendPolicy(category=options.category),
        details=_details(message, info),
    )


def _details(message: AlertMessage, info: AlertInfo | None) -> JsonObject:
    """Return the fields of an alert that its notification stores as `details`, without empty values."""
    details: JsonObject = {"status": message.status, "message_type": message.message_type}
    if info is not None:
        details = {
            "event": info.texts[0].event,
            "severity": info.severity,
            "urgency": info.urgency,
            "certainty": info.certainty,
            "languages": [text.language for text in info.texts if text.language],
        } | details
    details |= {"identifier": message.identifier, "references": list(message.references), "sender": message.sender}
    details |= {"sent": message.sent and message.sent.isoformat(), "ignored": list(message.ignored)}
    return {name: value for name, value in (details | message.details).items() if value not in (None, [])}


async def _end_alerts(
    conn: Connection, affected: Sequence[StoredAlert], areas: Sequence[JsonObject | None] | None
) -> list[tuple[AlertPart, Draft]]:
    """End alerts in these areas, or everywhere if `areas` is None, and cancel their queued notifications.

    Returns:
        A draft for each cancelled notification whose alert is still in effect somewhere. It is sent to the devices in
        the remaining area that the cancelled notification had not reached.
    """
    remainders = []
    for part in (part for stored in affected for part in stored.parts if part.area is not None):
        # In a thread: shapely releases the interpreter's lock, and the outlines may have thousands of positions.
        part.area = None if areas is None else await asyncio.to_thread(_subtract_areas, part.area, areas)
        for notification in await notifications.load(conn, part.notified_by):
            is_cancelled = await lifecycle.cancel_if(conn, notification.application_id, notification.id)
            if is_cancelled and part.area is not None:
                remainders.append((part, _remainder_draft(notification, part)))
    return remainders


def _subtract_areas(area: JsonObject | None, areas: Sequence[JsonObject | None]) -> JsonObject | None:
    """Subtract areas from an area, and return the rest, None if nothing is left.

    An area of None in `areas`, or an empty `areas`, stands for the whole area.
    """
    for subtracted in areas or [None]:
        area = None if area is None or subtracted is None else subtract(area, subtracted)
    return area


def _remainder_draft(notification: Notification, part: AlertPart) -> Draft:
    """Return the draft of a cancelled notification for the devices in `part.area` that it has not reached."""
    delivery = notification.delivery
    return Draft(
        kind=Kind.ALERT,
        name=notification.name,
        content=notification.content,
        audience=_all_of([notification.audience, part.area, {"not": _notified_by(part.notified_by)}]),
        lane=delivery.lane,
        urgency=delivery.urgency,
        ttl=delivery.ttl,
        expires_at=delivery.expires_at,
        policy=SendPolicy(category=notification.policy.category),
        details=notification.details | {"remainder_of": ids.format_id(ids.NOTIFICATION, notification.id)},
    )


async def _submit_cancellations(
    conn: Connection,
    context: Context,
    application_id: UUID,
    message: AlertMessage,
    chain: Sequence[StoredAlert],
    new_alert: StoredAlert,
    now: datetime,
) -> list[UUID]:
    """Submit cancellations to the devices that were warned and are outside every area in which the alert is in effect.

    There is one cancellation for each info block number, since each number has its own tag.
    """
    is_update = message.message_type is MessageType.UPDATE
    notification_ids = []
    for number in range(max((len(stored.parts) for stored in (*chain, new_alert)), default=0) or 1):
        stages = [stored.parts[number] for stored in chain if number < len(stored.parts)]
        warned = _warned_audience(stages)
        if warned is None and (is_update or number > 0):
            continue
        in_effect = [stored for stored in (*chain, new_alert) if stored.expires_at > now and number < len(stored.parts)]
        areas = [area for stored in in_effect if (area := stored.parts[number].area) is not None]
        # The new cancellation replaces earlier cancellations that have not started.
        for stage in stages:
            for id_ in stage.cancelled_by:
                await lifecycle.cancel_if(conn, application_id, id_, [Status.SCHEDULED])
        stage_message = replace(message, infos=message.infos[number : number + 1] or message.infos[:1])
        previous_texts = await _latest_texts(conn, stages)
        draft = Draft(
            kind=Kind.ALERT,
            name=stage_message.infos[0].texts[0].headline if stage_message.infos else None,
            content=cancellation_content(
                stage_message, previous_texts, _tag(new_alert.tag, number), left_area=is_update
            ),
            audience=NOBODY if warned is None else _all_of([warned, *({"not": area} for area in areas)]),
            lane=PROMPT.lane,
            urgency=PROMPT.urgency,
            ttl=PROMPT.ttl,
            start_at=now + CANCELLATION_DELAY if is_update else None,
            details=_details(message, stage_message.infos[0] if stage_message.infos else None) | {"withdraws": True},
        )
        notification = await submit(conn, context, application_id, draft)
        notification_ids.append(notification.id)
        while number >= len(new_alert.parts):
            new_alert.parts.append(AlertPart(area=None))
        new_alert.parts[number].cancelled_by.append(notification.id)
    return notification_ids


def _warned_audience(stages: Sequence[AlertPart]) -> JsonObject | None:
    """Return the audience of the devices whose latest notification is a warning, or None if there was no warning.

    `stages` are the info blocks of one number in the messages of a chain, oldest first. A device is in the audience if
    a stage has notified it, and neither this stage nor a later one has sent it a cancellation.
    """
    cancellations: list[UUID] = []
    branches: list[JsonObject] = []
    for stage in reversed(stages[-MAX_STAGES:]):
        cancellations = [*cancellations, *stage.cancelled_by]
        if stage.notified_by:
            branches.append(_notified_and_not_cancelled(stage.notified_by, cancellations))
    if older := [id_ for stage in stages[:-MAX_STAGES] for id_ in stage.notified_by]:
        branches.append(_notified_and_not_cancelled(older, cancellations))
    if not branches:
        return None
    return branches[0] if len(branches) == 1 else {"any": branches}


def _notified_and_not_cancelled(warnings: Sequence[UUID], cancellations: Sequence[UUID]) -> JsonObject:
    not_cancelled = [{"not": _notified_by(cancellations)}] if cancellations else []
    return cast("JsonObject", _all_of([_notified_by(warnings), *not_cancelled]))


def _notified_by(notification_ids: Sequence[UUID]) -> JsonObject:
    return {"notified": [ids.format_id(ids.NOTIFICATION, id_) for id_ in notification_ids]}


async def _latest_texts(conn: Connection, stages: Sequence[AlertPart]) -> list[LocalizedText]:
    """Return the event name of the latest warning, as a text without a language; an empty list if there is none."""
    notification_ids = [id_ for stage in stages for id_ in stage.notified_by]
    latest = sorted(
        await notifications.load(conn, notification_ids[-1:]), key=lambda notification: notification.created_at
    )
    return [LocalizedText(None, str(warning.details.get("event") or warning.name or "Alert")) for warning in latest]


def _tag(tag: str, number: int) -> str:
    """Return the notification tag of the info block with this number in a chain."""
    return tag if number == 0 else f"{tag[:250]}#{number + 1}"


def _all_of(conditions: Sequence[Any]) -> Any:
    return conditions[0] if len(conditions) == 1 else {"all": list(conditions)}
