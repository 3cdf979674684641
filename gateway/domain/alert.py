"""An alert in the words of CAP 1.2 (OASIS), whichever door it came in by.

A message says one or more things, its `parts`; each is said in one or more languages and holds in one area. How
urgent a part is to be told follows from its severity, urgency and certainty by the table below.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from gateway.domain.notification import Lane, Urgency


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


class MessageType(StrEnum):
    """What a message does to those it refers to: nothing, replace them, or end them."""

    ALERT = "Alert"
    UPDATE = "Update"
    CANCEL = "Cancel"


@dataclass(frozen=True, slots=True)
class LocalizedText:
    """What one language says. `language` is a tag (RFC 5646)."""

    language: str | None
    event: str
    headline: str | None = None
    description: str | None = None
    instruction: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class AlertInfo:
    """One thing that is said, in each of its languages, the issuer's own first.

    `area` is an audience filter of geometry and zones, None when nothing of it can be matched. `over`: it says that
    the danger is past.
    """

    texts: tuple[LocalizedText, ...]
    area: dict[str, Any] | None
    severity: Severity = Severity.UNKNOWN
    urgency: AlertUrgency = AlertUrgency.UNKNOWN
    certainty: Certainty = Certainty.UNKNOWN
    expires: datetime | None = None
    all_clear: bool = False


@dataclass(frozen=True, slots=True)
class AlertMessage:
    """`references`: identifiers of the messages it replaces or ends.

    `tracks`: keys of the events it is about, where its issuer numbers them; they tie messages without references.
    `ignored`: what of it cannot be used, in words. `details`: what else it says, kept and shown.
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
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AlertRouting:
    """How a part is told; `ttl` when it does not say `expires`."""

    lane: Lane
    urgency: Urgency
    ttl: timedelta


URGENT = AlertRouting(Lane.URGENT, Urgency.HIGH, timedelta(hours=1))
PROMPT = AlertRouting(Lane.NORMAL, Urgency.HIGH, timedelta(hours=6))
ROUTINE = AlertRouting(Lane.NORMAL, Urgency.NORMAL, timedelta(hours=12))


@dataclass(frozen=True, slots=True)
class AlertMatcher:
    """Which parts are meant. What is left empty fits everything; an event is compared whatever its case."""

    severity: tuple[Severity, ...] = ()
    urgency: tuple[AlertUrgency, ...] = ()
    certainty: tuple[Certainty, ...] = ()
    event: tuple[str, ...] = ()

    def matches(self, part: AlertInfo) -> bool:
        events = {name.casefold() for name in self.event}
        return (
            part.severity in (self.severity or Severity)
            and part.urgency in (self.urgency or AlertUrgency)
            and part.certainty in (self.certainty or Certainty)
            and (not events or any(words.event.casefold() in events for words in part.texts))
        )


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
"""The first that fits counts."""


@dataclass(frozen=True, slots=True)
class AlertRule:
    """What an application says of some alerts. None leaves it to the table; `tell` False sends nothing."""

    when: AlertMatcher
    tell: bool = True
    lane: Lane | None = None
    urgency: Urgency | None = None
    ttl: timedelta | None = None


def route_alert(part: AlertInfo, rules: Sequence[AlertRule] = ()) -> AlertRouting | None:
    """How to tell a part, by the first of the application's rules that fits and the table; None: not at all."""
    way = next(way for when, way in DEFAULT_ROUTES if when.matches(part))
    rule = next((rule for rule in rules if rule.when.matches(part)), None)
    if rule is None:
        return way
    if not rule.tell:
        return None
    return AlertRouting(
        way.lane if rule.lane is None else rule.lane,
        way.urgency if rule.urgency is None else rule.urgency,
        way.ttl if rule.ttl is None else rule.ttl,
    )
