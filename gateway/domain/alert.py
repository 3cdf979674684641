"""Alerts as CAP 1.2 (OASIS) defines them. Alerts in other formats are converted to these types.

A message has one or more `info` blocks. Each describes one event for one area, in one or more languages. The lane,
urgency and TTL of an info block follow from its severity, urgency and certainty by `DEFAULT_ROUTES`; an application's
rules override them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Lane, Urgency


class Severity(StrEnum):
    """CAP 1.2, `info.severity`."""

    EXTREME = "Extreme"
    SEVERE = "Severe"
    MODERATE = "Moderate"
    MINOR = "Minor"
    UNKNOWN = "Unknown"


class AlertUrgency(StrEnum):
    """CAP 1.2, `info.urgency`."""

    IMMEDIATE = "Immediate"
    EXPECTED = "Expected"
    FUTURE = "Future"
    PAST = "Past"
    UNKNOWN = "Unknown"


class Certainty(StrEnum):
    """CAP 1.2, `info.certainty`."""

    OBSERVED = "Observed"
    LIKELY = "Likely"
    POSSIBLE = "Possible"
    UNLIKELY = "Unlikely"
    UNKNOWN = "Unknown"


class AlertStatus(StrEnum):
    """CAP 1.2, `alert.status`."""

    ACTUAL = "Actual"
    EXERCISE = "Exercise"
    SYSTEM = "System"
    TEST = "Test"
    DRAFT = "Draft"


class MessageType(StrEnum):
    """CAP 1.2, `alert.msgType`: a new alert, or an update or a cancellation of the alerts that it references."""

    ALERT = "Alert"
    UPDATE = "Update"
    CANCEL = "Cancel"


@dataclass(frozen=True, slots=True)
class LocalizedText:
    """The texts of an info block in one language. `language` is a tag (RFC 5646)."""

    language: str | None
    event: str
    headline: str | None = None
    description: str | None = None
    instruction: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class AlertInfo:
    """An `info` block: one event for one area.

    `texts` has one entry per language, the issuer's main language first. `area` is an audience filter made of polygons,
    circles and zone codes, or None when the block has none that can be used. `all_clear` marks the end of the danger
    (responseType AllClear).
    """

    texts: tuple[LocalizedText, ...]
    area: JsonObject | None
    severity: Severity = Severity.UNKNOWN
    urgency: AlertUrgency = AlertUrgency.UNKNOWN
    certainty: Certainty = Certainty.UNKNOWN
    expires: datetime | None = None
    all_clear: bool = False


@dataclass(frozen=True, slots=True)
class AlertMessage:
    """An alert message.

    `references` are the identifiers of the messages that it updates or cancels. `event_keys` identify the events that
    the message is about, where the issuer numbers its events (VTEC). They connect messages about one event that have no
    references. `ignored` describes the parts of the message that could not be used. `details` holds further fields,
    stored for display.
    """

    identifier: str | None
    message_type: MessageType
    infos: tuple[AlertInfo, ...]
    sender: str | None = None
    sent: datetime | None = None
    status: AlertStatus = AlertStatus.ACTUAL
    references: tuple[str, ...] = ()
    event_keys: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AlertRouting:
    """How an info block is sent. `ttl` applies to a block without `expires`."""

    lane: Lane
    urgency: Urgency
    ttl: timedelta


# The routes of the default table, from the most to the least urgent.
URGENT = AlertRouting(Lane.URGENT, Urgency.HIGH, timedelta(hours=1))
PROMPT = AlertRouting(Lane.NORMAL, Urgency.HIGH, timedelta(hours=6))
ROUTINE = AlertRouting(Lane.NORMAL, Urgency.NORMAL, timedelta(hours=12))


@dataclass(frozen=True, slots=True)
class AlertMatcher:
    """A predicate over info blocks. An empty field matches everything; event names are compared case-insensitively."""

    severity: tuple[Severity, ...] = ()
    urgency: tuple[AlertUrgency, ...] = ()
    certainty: tuple[Certainty, ...] = ()
    event: tuple[str, ...] = ()

    def matches(self, info: AlertInfo) -> bool:
        """Return whether all fields match the info block."""
        events = {name.casefold() for name in self.event}
        return (
            info.severity in (self.severity or Severity)
            and info.urgency in (self.urgency or AlertUrgency)
            and info.certainty in (self.certainty or Certainty)
            and (not events or any(text.event.casefold() in events for text in info.texts))
        )


# (matcher, route): the first matcher that matches an info block decides its route.
DEFAULT_ROUTES = (
    (AlertMatcher(urgency=(AlertUrgency.PAST,)), ROUTINE),
    (AlertMatcher(certainty=(Certainty.UNLIKELY,)), ROUTINE),
    (AlertMatcher(urgency=(AlertUrgency.FUTURE,), certainty=(Certainty.POSSIBLE,)), PROMPT),
    (AlertMatcher(severity=(Severity.EXTREME, Severity.SEVERE)), URGENT),
    (AlertMatcher(urgency=(AlertUrgency.IMMEDIATE,)), URGENT),
    (AlertMatcher(severity=(Severity.MODERATE,)), PROMPT),
    (AlertMatcher(urgency=(AlertUrgency.EXPECTED,)), PROMPT),
    (AlertMatcher(), ROUTINE),
)


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An application's rule for the alerts that match `when`.

    With `tell` False the alerts are not sent. `lane`, `urgency` and `ttl` replace those of the default route, unless
    they are None.
    """

    when: AlertMatcher
    tell: bool = True
    lane: Lane | None = None
    urgency: Urgency | None = None
    ttl: timedelta | None = None


def route_alert(info: AlertInfo, rules: Sequence[AlertRule] = ()) -> AlertRouting | None:
    """Return how to send an info block, or None if a rule suppresses it.

    The first matching rule replaces fields of the route that follows from `DEFAULT_ROUTES`.
    """
    default = next(route for matcher, route in DEFAULT_ROUTES if matcher.matches(info))
    rule = next((rule for rule in rules if rule.when.matches(info)), None)
    if rule is None:
        return default
    if not rule.tell:
        return None
    return AlertRouting(
        default.lane if rule.lane is None else rule.lane,
        default.urgency if rule.urgency is None else rule.urgency,
        default.ttl if rule.ttl is None else rule.ttl,
    )
