"""The alert's front door: what a weather office says becomes a notification like any other.

Severity and urgency set the lane, the Urgency header and the TTL by the table below; the TTL never outlives `expires`.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from gateway.domain import audience
from gateway.domain.errors import Fault, Invalid
from gateway.domain.notification import LONGEST_TTL, Kind, Lane, Urgency
from gateway.domain.steering import Steering
from gateway.service.submission import Draft

TEST_TOPIC = "test-alerts"
"""Devices opt in to Test, Exercise and Draft alerts by subscribing to this topic."""

LONGEST_TITLE = 200
LONGEST_BODY = 1000  # characters; Android shows fewer, and Mozilla's Android bridge takes about 3,070 octets in all


class Severity(StrEnum):
    EXTREME = "Extreme"
    SEVERE = "Severe"
    MODERATE = "Moderate"
    MINOR = "Minor"
    UNKNOWN = "Unknown"


class AlertUrgency(StrEnum):
    IMMEDIATE = "Immediate"
    EXPECTED = "Expected"
    FUTURE = "Future"
    PAST = "Past"
    UNKNOWN = "Unknown"


class Certainty(StrEnum):
    OBSERVED = "Observed"
    LIKELY = "Likely"
    POSSIBLE = "Possible"
    UNLIKELY = "Unlikely"
    UNKNOWN = "Unknown"


class AlertStatus(StrEnum):
    ACTUAL = "Actual"
    EXERCISE = "Exercise"
    SYSTEM = "System"
    TEST = "Test"
    DRAFT = "Draft"


@dataclass(frozen=True, slots=True)
class Travel:
    lane: Lane
    urgency: Urgency
    ttl: timedelta
    """When the alert does not say `expires`."""


URGENT = Travel(Lane.URGENT, Urgency.HIGH, timedelta(hours=1))
SOON = Travel(Lane.NORMAL, Urgency.HIGH, timedelta(hours=6))
CALM = Travel(Lane.NORMAL, Urgency.NORMAL, timedelta(hours=12))


def travel(severity: Severity, urgency: AlertUrgency) -> Travel:
    """Extreme or severe, or to be acted on at once: urgent. Moderate or expected soon: wakes the phone. Else calm."""
    if urgency is AlertUrgency.PAST:
        return CALM
    if severity in (Severity.EXTREME, Severity.SEVERE) or urgency is AlertUrgency.IMMEDIATE:
        return URGENT
    if severity is Severity.MODERATE or urgency is AlertUrgency.EXPECTED:
        return SOON
    return CALM


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as API.md gives it, in CAP 1.2's words. `area` is a GeoJSON polygon, `audience` narrows it further."""

    event: str
    headline: str | None = None
    description: str | None = None
    instruction: str | None = None
    severity: Severity = Severity.UNKNOWN
    urgency: AlertUrgency = AlertUrgency.UNKNOWN
    certainty: Certainty = Certainty.UNKNOWN
    status: AlertStatus = AlertStatus.ACTUAL
    identifier: str | None = None
    expires: datetime | None = None
    area: Any = None
    audience: Any = None
    category: str | None = None
    url: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """What was said beside this (sent, effective, onset, ends): kept and shown, not acted on."""


def draft(alert: Alert, now: datetime) -> Draft:
    """The notification that tells the alert. Raises Invalid with every fault of area, audience and expiry."""
    faults: list[Fault] = []
    if alert.area is None and alert.audience is None:
        faults.append(Fault("/area", "is missing: an alert needs an area, an audience, or both"))
    who: list[Any] = []
    for name, value, wrapped in (
        ("area", alert.area, {"within": alert.area}),
        ("audience", alert.audience, alert.audience),
    ):
        if value is None:
            continue
        who.append(wrapped)
        try:
            audience.parse(wrapped, "")
        except Invalid as error:
            inside = "/within" if name == "area" else ""
            faults += [Fault(f"/{name}{fault.pointer.removeprefix(inside)}", fault.detail) for fault in error.faults]
    if alert.expires is not None and alert.expires <= now:
        faults.append(Fault("/expires", "is past: the alert is over"))
    if faults:
        raise Invalid(faults)
    if alert.status in (AlertStatus.TEST, AlertStatus.EXERCISE, AlertStatus.DRAFT):
        who.append({"topic": TEST_TOPIC})

    way = travel(alert.severity, alert.urgency)
    expires_at = None if alert.expires is None else min(alert.expires, now + LONGEST_TTL)
    return Draft(
        kind=Kind.ALERT,
        name=alert.headline or alert.event,
        content=_content(alert, way),
        audience=who[0] if len(who) == 1 else {"all": who},
        lane=way.lane,
        urgency=way.urgency,
        ttl=way.ttl if expires_at is None else expires_at - now,
        expires_at=expires_at,
        steering=Steering(category=alert.category),
        details=_said(alert),
    )


def _content(alert: Alert, way: Travel) -> dict[str, Any]:
    text = "\n\n".join(part.strip() for part in (alert.description, alert.instruction) if part and part.strip())
    title = alert.headline or alert.event
    if alert.status is not AlertStatus.ACTUAL:
        title = f"[{alert.status}] {title}"
    content: dict[str, Any] = {
        "title": _shortened(title, LONGEST_TITLE),
        "body": _shortened(text, LONGEST_BODY),
        "require_interaction": way.lane is Lane.URGENT,
        "data": {"alert": {"event": alert.event, "severity": alert.severity, "urgency": alert.urgency}},
    }
    if alert.identifier:
        content["tag"] = alert.identifier
    if alert.url:
        content["url"] = alert.url
    return content


def _said(alert: Alert) -> dict[str, Any]:
    said = {
        "event": alert.event,
        "severity": alert.severity,
        "urgency": alert.urgency,
        "certainty": alert.certainty,
        "status": alert.status,
        "identifier": alert.identifier,
    }
    return {name: value for name, value in (said | alert.details).items() if value is not None}


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
