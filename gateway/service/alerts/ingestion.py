"""The alert's front door: what a weather office says becomes notifications like any other.

Messages that refer to each other are a chain, shown under one tag. For each thing told the chain knows where it still
holds; an Update or a Cancel changes that and withdraws what is queued. Who is to hear that it is over then follows
from the log: those it was told to, who have not been told otherwise, and who are nowhere where it holds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
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
from gateway.domain.notification import MAX_TTL, Kind, Lane, Notification, Status, Urgency
from gateway.domain.send_policy import SendPolicy
from gateway.records import alerts as records
from gateway.records import applications, notifications
from gateway.records.alerts import AlertPart, StoredAlert
from gateway.records.postgres.engine import Connection
from gateway.service.alerts.content import alert_content, cancellation_content
from gateway.service.audience import segments
from gateway.service.context import Context
from gateway.service.notifications import lifecycle
from gateway.service.notifications.submission import Draft, submit

TEST_TOPIC = "test-alerts"
"""Devices opt in to all but Actual alerts by subscribing to this topic."""

SETTLING = timedelta(seconds=5)
"""Offices send an update of many areas in parts, seconds apart: who is in none of them is known a moment later."""

MAX_STAGES = 40
"""Of a long chain, how many messages are looked at one by one for who was told otherwise since."""

MAX_TAG_LENGTH = 255
EVERYWHERE = {"everyone": True}
NOBODY = {"not": EVERYWHERE}
UNENDED = (Status.SCHEDULED, Status.SENDING, Status.PAUSED)


class IngestOutcome(StrEnum):
    """`superseded`: what replaces it came first. `suppressed`: the application's rules say so."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    SUPERSEDED = "superseded"
    SUPPRESSED = "suppressed"


class IngestResult(NamedTuple):
    """What an alert came to; the notifications that tell it come before those that take it back from others."""

    outcome: IngestOutcome
    notification_ids: tuple[UUID, ...] = ()
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What is said of an alert beside it: whom else to narrow it to, its category, where a click leads."""

    audience: Any = None
    category: str | None = None
    url: str | None = None


DEFAULT_OPTIONS = IngestOptions()


async def ingest(
    conn: Connection,
    context: Context,
    application_id: UUID,
    message: AlertMessage,
    door: IngestOptions = DEFAULT_OPTIONS,
) -> IngestResult:
    """Tell an alert to whoever is in its area, and take back what it replaces or ends.

    The same identifier twice is one alert. Raises Invalid with every fault when it cannot be told.
    """
    now, id_ = clock.now(), ids.new_id()
    await records.lock_alerts(conn, application_id)
    message = replace(message, identifier=message.identifier or f"urn:uuid:{id_}")
    identifier = str(message.identifier)
    if held := await records.find_by_identifier(conn, application_id, identifier):
        if not _succeeds(message, held[0]):
            return IngestResult(IngestOutcome.REPEATED, tuple(_all_ids(held[0])))
        message = replace(message, references=(*message.references, identifier))
    refers = message.references if message.message_type is not MessageType.ALERT else ()
    tracks = message.event_keys if message.message_type is not MessageType.ALERT and not refers else ()
    chain = await records.load_chains(conn, application_id, refers, tracks)
    affected = _affected(chain, message) if refers else [held for held in chain if {*held.event_keys} & {*tracks}]
    this = StoredAlert(
        id=id_,
        chain=affected[-1].chain if affected else id_,
        tag=affected[-1].tag if affected else [*refers, identifier][0][:MAX_TAG_LENGTH],
        identifier=identifier,
        message_type=message.message_type,
        sent=message.sent,
        refers_to=refers,
        event_keys=message.event_keys,
        parts=[],
        expires_at=now,
        created_at=now,
    )
    replaced = None if held else await records.find_successor(conn, application_id, identifier)
    if replaced is not None:
        await records.add(conn, application_id, this)
        return IngestResult(IngestOutcome.SUPERSEDED, detail=f"{replaced.identifier} has replaced it already")

    kept, narrowed = await applications.get_alert_settings(conn, application_id)
    rules = [_rule(rule) for rule in kept]
    door = replace(door, audience=narrowed if door.audience is None else door.audience)
    drafts = _drafts(message, this, door, rules, now)
    whole = message.message_type is MessageType.UPDATE and bool(refers)
    rest = await _end(conn, affected, None if whole else [part.area for part in message.infos])
    told = []
    for part, draft in zip(this.parts, drafts, strict=True):
        if draft is not None:
            notification = await submit(conn, context, application_id, draft)
            this.expires_at = max(this.expires_at, notification.delivery.expires_at)
            part.notified_by.append(notification.id)
            told.append(notification.id)
    for part, draft in rest:
        part.notified_by.append((await submit(conn, context, application_id, draft)).id)
    if message.message_type is not MessageType.ALERT:
        told += await _take_back(conn, context, application_id, message, chain, this, now)
    for changed in affected:
        await records.save_parts(conn, changed)
    await records.add(conn, application_id, this)
    suppressed = message.message_type is MessageType.ALERT and not told
    return (
        IngestResult(IngestOutcome.SUPPRESSED, detail="the application's rules do not tell it")
        if suppressed
        else _accepted(told)
    )


def _accepted(told: Sequence[UUID]) -> IngestResult:
    return IngestResult(IngestOutcome.ACCEPTED, tuple(told))


def _all_ids(held: StoredAlert) -> Iterator[UUID]:
    for part in held.parts:
        yield from part.notified_by
    for part in held.parts:
        yield from part.cancelled_by


def _succeeds(message: AlertMessage, held: StoredAlert) -> bool:
    """Whether it changes the alert of its own name, as some issuers do, and does not merely repeat it."""
    later = message.sent is not None and held.sent is not None and message.sent > held.sent
    return later and message.message_type is not MessageType.ALERT


def _affected(chain: Sequence[StoredAlert], message: AlertMessage) -> list[StoredAlert]:
    """What it refers to, and what has replaced that since: issuers do not always name all.

    Parts of one update are sent at one time and do not replace each other.
    """
    named = set(message.references)
    while True:
        since = {
            held.identifier
            for held in chain
            if {*held.refers_to} & named and held.sent and message.sent and held.sent < message.sent
        }
        if since <= named:
            return [held for held in chain if held.identifier in named]
        named |= since


async def settings(conn: Connection, application_id: UUID) -> dict[str, Any]:
    rules, audience = await applications.get_alert_settings(conn, application_id)
    return {"rules": rules, "audience": audience}


async def change_settings(
    conn: Connection, application_id: UUID, rules: list[dict[str, Any]], audience: Any
) -> dict[str, Any]:
    """`rules` are {when, tell, lane, urgency, ttl}, `audience` may be None. Raises Invalid."""
    if audience is not None:
        await segments.resolve_audience(conn, application_id, audience)
    await applications.change(conn, application_id, {"alert_rules": rules, "alert_audience": audience})
    return await settings(conn, application_id)


def _rule(said: dict[str, Any]) -> AlertRule:
    when = {name: tuple(values) for name, values in said["when"].items()}
    lane, urgency, ttl = said.get("lane"), said.get("urgency"), said.get("ttl")
    return AlertRule(
        AlertMatcher(**when),
        tell=said.get("tell", True),
        lane=None if lane is None else Lane.from_label(lane),
        urgency=None if urgency is None else Urgency(urgency),
        ttl=None if ttl is None else timedelta(seconds=ttl),
    )


def _drafts(
    message: AlertMessage, this: StoredAlert, door: IngestOptions, rules: Sequence[AlertRule], now: datetime
) -> list[Draft | None]:
    """The notification that tells each part, None for what is not to be told; `this` gets its parts. Raises Invalid."""
    drafts: list[Draft | None] = []
    faults: list[FieldError] = []
    ending = message.message_type is MessageType.CANCEL
    updating = message.message_type is MessageType.UPDATE
    current = [part for part in message.infos if part.expires is None or part.expires > now]
    if not ending and not current:
        faults.append(FieldError("/expires", "is past: the alert is over"))
    for number, part in enumerate(message.infos):
        held = AlertPart(area=None)
        this.parts.append(held)
        way = route_alert(part, rules)
        # An all-clear that refers to nothing is news like any other.
        if ending or (updating and part.all_clear) or part not in current or way is None:
            drafts.append(None)
            continue
        if part.area is None and door.audience is None:
            faults.append(FieldError("/area", "is missing: an alert needs an area or zones, an audience, or both"))
            continue
        held.area = part.area or EVERYWHERE
        drafts.append(_draft(message, part, way, door, _tag(this.tag, number), now))
    if faults:
        raise ValidationError(list(dict.fromkeys(faults)))
    return drafts


def _draft(
    message: AlertMessage, part: AlertInfo, way: AlertRouting, door: IngestOptions, tag: str, now: datetime
) -> Draft:
    who = [condition for condition in (part.area, door.audience) if condition is not None]
    if message.status is not AlertStatus.ACTUAL:
        who.append({"topic": TEST_TOPIC})
    content = alert_content(message, part, way, tag)
    if door.url is not None:
        content["url"] = door.url
    expires_at = None if part.expires is None else min(part.expires, now + MAX_TTL)
    return Draft(
        kind=Kind.ALERT,
        name=(part.texts[0].headline or part.texts[0].event)[:MAX_TAG_LENGTH],
        content=content,
        audience=_all(who),
        lane=way.lane,
        urgency=way.urgency,
        ttl=way.ttl if expires_at is None else expires_at - now,
        expires_at=expires_at,
        steering=SendPolicy(category=door.category),
        details=_details(message, part),
    )


def _details(message: AlertMessage, part: AlertInfo | None) -> dict[str, Any]:
    said: dict[str, Any] = {"status": message.status, "message_type": message.message_type}
    if part is not None:
        said = {
            "event": part.texts[0].event,
            "severity": part.severity,
            "urgency": part.urgency,
            "certainty": part.certainty,
            "languages": [words.language for words in part.texts if words.language],
        } | said
    said |= {"identifier": message.identifier, "references": list(message.references), "sender": message.sender}
    said |= {"sent": message.sent and message.sent.isoformat(), "ignored": list(message.ignored)}
    return {name: value for name, value in (said | message.details).items() if value not in (None, [])}


async def _end(
    conn: Connection, affected: Sequence[StoredAlert], areas: Sequence[dict[str, Any] | None] | None
) -> list[tuple[AlertPart, Draft]]:
    """End alerts in these areas, everywhere when None; what is queued of them is withdrawn.

    Answers with what is still to be told where they hold on, to those who were not reached yet.
    """
    rest = []
    for part in (part for held in affected for part in held.parts if part.area is not None):
        part.area = None if areas is None else _without(part.area, areas)
        for notification in await notifications.load(conn, part.notified_by):
            if notification.status in UNENDED:
                await lifecycle.cancel(conn, notification.application_id, notification.id)
                if part.area is not None:
                    rest.append((part, _remainder(notification, part)))
    return rest


def _without(area: dict[str, Any] | None, areas: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """A message that names no area speaks of all of it."""
    for other in areas or [None]:
        area = None if area is None or other is None else subtract(area, other)
    return area


def _remainder(notification: Notification, part: AlertPart) -> Draft:
    delivery = notification.delivery
    return Draft(
        kind=Kind.ALERT,
        name=notification.name,
        content=notification.content,
        audience=_all([notification.audience, part.area, {"not": _notified(part.notified_by)}]),
        lane=delivery.lane,
        urgency=delivery.urgency,
        ttl=delivery.ttl,
        expires_at=delivery.expires_at,
        steering=SendPolicy(category=notification.policy.category),
        details=notification.details | {"remainder_of": ids.format_id(ids.NOTIFICATION, notification.id)},
    )


async def _take_back(
    conn: Connection,
    context: Context,
    application_id: UUID,
    message: AlertMessage,
    chain: Sequence[StoredAlert],
    this: StoredAlert,
    now: datetime,
) -> list[UUID]:
    """Tell those who were told before, and are nowhere where it holds now, that it is over for them."""
    updates = message.message_type is MessageType.UPDATE
    made = []
    for number in range(max((len(held.parts) for held in (*chain, this)), default=0) or 1):
        stages = [held.parts[number] for held in chain if number < len(held.parts)]
        shown = _shown(stages)
        if shown is None and (updates or number > 0):
            continue
        live = [held for held in (*chain, this) if held.expires_at > now and number < len(held.parts)]
        areas = [area for held in live if (area := held.parts[number].area) is not None]
        # Those who still wait to hear it are asked for anew.
        for stage in stages:
            for waiting in await notifications.load(conn, stage.cancelled_by):
                if waiting.status is Status.SCHEDULED:
                    await lifecycle.cancel(conn, application_id, waiting.id)
        said = replace(message, infos=message.infos[number : number + 1] or message.infos[:1])
        before = await _words(conn, stages)
        draft = Draft(
            kind=Kind.ALERT,
            name=said.infos[0].texts[0].headline if said.infos else None,
            content=cancellation_content(said, before, _tag(this.tag, number), left=updates),
            audience=NOBODY if shown is None else _all([shown, *({"not": area} for area in areas)]),
            lane=PROMPT.lane,
            urgency=PROMPT.urgency,
            ttl=PROMPT.ttl,
            start_at=now + SETTLING if updates else None,
            details=_details(message, said.infos[0] if said.infos else None) | {"withdraws": True},
        )
        notification = await submit(conn, context, application_id, draft)
        made.append(notification.id)
        while number >= len(this.parts):
            this.parts.append(AlertPart(area=None))
        this.parts[number].cancelled_by.append(notification.id)
    return made


def _shown(stages: Sequence[AlertPart]) -> dict[str, Any] | None:
    """Those whose last word on it was that it holds; None when nobody can be."""
    since: list[UUID] = []
    branches: list[dict[str, Any]] = []
    for stage in reversed(stages[-MAX_STAGES:]):
        since = [*since, *stage.cancelled_by]
        if stage.notified_by:
            branches.append(_all([_notified(stage.notified_by), *([{"not": _notified(since)}] if since else [])]))
    if older := [id_ for stage in stages[:-MAX_STAGES] for id_ in stage.notified_by]:
        branches.append(_all([_notified(older), *([{"not": _notified(since)}] if since else [])]))
    if not branches:
        return None
    return branches[0] if len(branches) == 1 else {"any": branches}


def _notified(notification_ids: Sequence[UUID]) -> dict[str, Any]:
    return {"notified": [ids.format_id(ids.NOTIFICATION, id_) for id_ in notification_ids]}


async def _words(conn: Connection, stages: Sequence[AlertPart]) -> list[LocalizedText]:
    """What was told last, by name."""
    told = [id_ for stage in stages for id_ in stage.notified_by]
    found = sorted(await notifications.load(conn, told[-1:]), key=lambda one: one.created_at)
    return [LocalizedText(None, str(one.details.get("event") or one.name or "Alert")) for one in found]


def _tag(tag: str, number: int) -> str:
    return tag if number == 0 else f"{tag[:250]}#{number + 1}"


def _all(conditions: Sequence[Any]) -> Any:
    return conditions[0] if len(conditions) == 1 else {"all": list(conditions)}
