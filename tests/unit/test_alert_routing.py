"""The routing of an alert follows its severity, urgency and certainty, or a rule of the application."""

from datetime import timedelta

import pytest

from gateway.domain.alert import (
    AlertInfo,
    AlertMatcher,
    AlertRouting,
    AlertRule,
    AlertUrgency,
    Certainty,
    LocalizedText,
    Severity,
    route_alert,
)
from gateway.domain.notification import Lane, Urgency


def build_info(
    severity: str = "Unknown", urgency: str = "Unknown", certainty: str = "Unknown", event: str = "Storm"
) -> AlertInfo:
    """Return an alert info with these CAP values."""
    texts = (LocalizedText("en", event),)
    return AlertInfo(texts, None, Severity(severity), AlertUrgency(urgency), Certainty(certainty))


@pytest.mark.parametrize(
    ("severity", "urgency", "certainty", "lane", "push_urgency", "hours"),
    [
        ("Extreme", "Expected", "Likely", Lane.URGENT, Urgency.HIGH, 1),
        ("Severe", "Unknown", "Unknown", Lane.URGENT, Urgency.HIGH, 1),
        ("Minor", "Immediate", "Observed", Lane.URGENT, Urgency.HIGH, 1),
        ("Extreme", "Future", "Possible", Lane.NORMAL, Urgency.HIGH, 6),
        ("Moderate", "Future", "Likely", Lane.NORMAL, Urgency.HIGH, 6),
        ("Minor", "Expected", "Likely", Lane.NORMAL, Urgency.HIGH, 6),
        ("Minor", "Future", "Likely", Lane.NORMAL, Urgency.NORMAL, 12),
        ("Unknown", "Unknown", "Unknown", Lane.NORMAL, Urgency.NORMAL, 12),
        ("Extreme", "Past", "Observed", Lane.NORMAL, Urgency.NORMAL, 12),
        ("Extreme", "Immediate", "Unlikely", Lane.NORMAL, Urgency.NORMAL, 12),
    ],
)
def test_routing_follows_severity_urgency_and_certainty(
    severity: str, urgency: str, certainty: str, lane: Lane, push_urgency: Urgency, hours: int
) -> None:
    """They determine the lane, the push urgency and the TTL of an alert that no rule matches."""
    assert route_alert(build_info(severity, urgency, certainty)) == AlertRouting(
        lane, push_urgency, timedelta(hours=hours)
    )


@pytest.mark.parametrize("severity", Severity)
@pytest.mark.parametrize("urgency", AlertUrgency)
@pytest.mark.parametrize("certainty", Certainty)
def test_no_alert_is_in_the_bulk_lane(severity: str, urgency: str, certainty: str) -> None:
    """Every combination of severity, urgency and certainty has the urgent or the normal lane."""
    routing = route_alert(build_info(severity, urgency, certainty))
    assert routing is not None
    assert routing.lane < Lane.BULK


def test_first_matching_rule_overrides_the_routing() -> None:
    """A rule replaces only the default values that it sets; a rule with `tell=False` suppresses the alert."""
    rules = [
        AlertRule(AlertMatcher(severity=(Severity.MINOR,)), tell=False),
        AlertRule(AlertMatcher(event=("storm",)), lane=Lane.NORMAL, ttl=timedelta(minutes=5)),
        AlertRule(AlertMatcher(), lane=Lane.URGENT),
    ]
    assert route_alert(build_info("Minor"), rules) is None
    assert route_alert(build_info("Extreme"), rules) == AlertRouting(Lane.NORMAL, Urgency.HIGH, timedelta(minutes=5))
    assert route_alert(build_info("Unknown", event="Flood"), rules) == AlertRouting(
        Lane.URGENT, Urgency.NORMAL, timedelta(hours=12)
    )
