"""Ingest alerts: turn the messages of warning authorities into notifications.

An alert message consists of info blocks, each with an area. Messages that refer to each other form a chain, whose
notifications replace each other on a device by their tags. For each info block of a message in the chain, the database
stores the area in which the block is still in effect. An Update or a Cancel reduces these areas, and cancels queued
notifications. The module `chains` decides which blocks a message ends, and which devices receive a cancellation.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, cast
from uuid import UUID

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
from gateway.service.alerts.chains import (
    EVERYWHERE,
    Cancellation,
    all_of,
    assign_tags,
    end_everywhere,
    end_in_areas,
    notified_by,
    plan_cancellations,
)
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

# Maximum length of the tag and the name of a notification.
MAX_TAG_LENGTH = 255
# The audience of no device.
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
    # In a thread: shapely releases the interpreter's lock, and the outlines may have thousands of positions.
    tags = await asyncio.to_thread(assign_tags, chain, affected, message.infos, new_alert.tag)
    drafts = _build_drafts(message, new_alert, tags, options, rules, now)
    replaces_all = message.message_type is MessageType.UPDATE and bool(references)
    ended = end_everywhere(affected) if replaces_all else await asyncio.to_thread(end_in_areas, affected, message.infos)
    remainders = await _cancel_queued(conn, ended)
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
    message: AlertMessage,
    new_alert: StoredAlert,
    tags: Sequence[str],
    options: IngestOptions,
    rules: Sequence[AlertRule],
    now: datetime,
) -> list[Draft | None]:
    """Return the draft of each info block, None for a block that is not sent. Adds a part for each to `new_alert`.

    A block that a rule suppresses is in effect all the same: its area is not told that the alert is over.
    """
    drafts: list[Draft | None] = []
    errors: list[FieldError] = []
    is_cancel = message.message_type is MessageType.CANCEL
    is_update = message.message_type is MessageType.UPDATE
    unexpired = [info for info in message.infos if info.expires is None or info.expires > now]
    if not is_cancel and not unexpired:
        errors.append(FieldError("/expires", "is in the past: the alert has expired"))
    for info, tag in zip(message.infos, tags, strict=True):
        part = AlertPart(tag, events={text.language or "": text.event for text in info.texts})
        new_alert.parts.append(part)
        # The all-clear of an Update is sent as a cancellation. Any other all-clear is sent like a warning.
        if is_cancel or (is_update and info.all_clear) or info not in unexpired:
            drafts.append(None)
            continue
        routing = route_alert(info, rules)
        part.area = part.scope = info.area or (EVERYWHERE if routing else None)
        if routing is None:
            new_alert.expires_at = max(new_alert.expires_at, info.expires or now + PROMPT.ttl)
            drafts.append(None)
        elif info.area is None and options.audience is None:
            errors.append(FieldError("/area", "is missing: an alert needs an area or zones, an audience, or both"))
        else:
            drafts.append(_build_draft(message, info, routing, options, tag, now))
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
        audience=all_of(conditions),
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


async def _cancel_queued(conn: Connection, ended: Sequence[AlertPart]) -> list[tuple[AlertPart, Draft]]:
    """Cancel the queued notifications of parts that have ended somewhere.

    Returns:
        A draft for each cancelled notification whose part is still in effect somewhere. It is sent to the devices in
        the remaining area that the cancelled notification had not reached.
    """
    remainders = []
    for part in ended:
        for notification in await notifications.load(conn, part.notified_by):
            is_cancelled = await lifecycle.cancel_if(conn, notification.application_id, notification.id)
            if is_cancelled and part.area is not None:
                remainders.append((part, _remainder_draft(notification, part)))
    return remainders


def _remainder_draft(notification: Notification, part: AlertPart) -> Draft:
    """Return the draft of a cancelled notification for the devices in `part.area` that it has not reached."""
    delivery = notification.delivery
    return Draft(
        kind=Kind.ALERT,
        name=notification.name,
        content=notification.content,
        audience=all_of([notification.audience, part.area, {"not": notified_by(part.notified_by)}]),
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
    """Submit the cancellations that follow a message. They replace those of earlier messages that have not started."""
    is_update = message.message_type is MessageType.UPDATE
    cancelled_by = [id_ for stored in chain for part in stored.parts for id_ in part.cancelled_by]
    for earlier in await notifications.load(conn, cancelled_by):
        if earlier.status is Status.SCHEDULED:
            await lifecycle.cancel_if(conn, application_id, earlier.id, [Status.SCHEDULED])
    cancellations = await asyncio.to_thread(plan_cancellations, chain, new_alert, now)
    if not cancellations and not is_update:
        cancellations = [Cancellation(new_alert.tag, AlertPart(new_alert.tag), NOBODY)]
    notification_ids = []
    for cancellation in cancellations:
        info = _find_info(message, new_alert, cancellation)
        part_message = replace(message, infos=() if info is None else (info,))
        previous_texts = await _event_texts(conn, cancellation.part)
        content = cancellation_content(part_message, previous_texts, cancellation.tag, left_area=is_update)
        details = {"event": previous_texts[0].event} if previous_texts else {}
        draft = Draft(
            kind=Kind.ALERT,
            name=None if info is None else info.texts[0].headline,
            content=content,
            audience=cancellation.audience,
            lane=PROMPT.lane,
            urgency=PROMPT.urgency,
            ttl=PROMPT.ttl,
            start_at=now + CANCELLATION_DELAY if is_update else None,
            details=details | _details(message, info) | {"withdraws": True},
        )
        notification = await submit(conn, context, application_id, draft)
        notification_ids.append(notification.id)
        part = next((part for part in new_alert.parts if part.tag == cancellation.tag), None)
        if part is None:
            new_alert.parts.append(part := AlertPart(cancellation.tag))
        part.cancelled_by.append(notification.id)
    return notification_ids


def _find_info(message: AlertMessage, new_alert: StoredAlert, cancellation: Cancellation) -> AlertInfo | None:
    """Return the info block with the words for a cancellation: about the part that ends, or about its event.

    The words of an Update are about what continues, so they are used only if the event is the same.
    """
    events = {event.casefold() for event in cancellation.part.events.values()}
    same_tag = [
        info for info, part in zip(message.infos, new_alert.parts, strict=False) if part.tag == cancellation.tag
    ]
    same_event = [info for info in message.infos if events & {text.event.casefold() for text in info.texts}]
    if message.message_type is MessageType.UPDATE:
        same_tag = [info for info in same_tag if info in same_event]
    return next(iter((*same_tag, *same_event)), None)


async def _event_texts(conn: Connection, part: AlertPart) -> list[LocalizedText]:
    """Return the event name of a part in each language, for a part stored without names that of its notification."""
    if part.events:
        return [LocalizedText(language or None, event) for language, event in part.events.items()]
    latest = await notifications.load(conn, part.notified_by[-1:])
    return [LocalizedText(None, str(warning.details.get("event") or warning.name or "Alert")) for warning in latest]
