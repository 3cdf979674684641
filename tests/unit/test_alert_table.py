"""Severity, urgency and certainty say how an alert travels, unless the application says otherwise."""

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


def part(
    severity: str = "Unknown", urgency: str = "Unknown", certainty: str = "Unknown", event: str = "Storm"
) -> AlertInfo:
    words = (LocalizedText("en", event),)
    return AlertInfo(words, None, Severity(severity), AlertUrgency(urgency), Certainty(certainty))


@pytest.mark.parametrize(
    ("severity", "urgency", "certainty", "lane", "travels", "hours"),
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
def test_the_table_says_how_an_alert_travels(
    severity: str, urgency: str, certainty: str, lane: Lane, travels: Urgency, hours: int
) -> None:
    assert route_alert(part(severity, urgency, certainty)) == AlertRouting(lane, travels, timedelta(hours=hours))


@pytest.mark.parametrize("severity", Severity)
@pytest.mark.parametrize("urgency", AlertUrgency)
@pytest.mark.parametrize("certainty", Certainty)
def test_no_alert_travels_in_the_bulk_lane(severity: str, urgency: str, certainty: str) -> None:
    way = route_alert(part(severity, urgency, certainty))
    assert way is not None
    assert way.lane < Lane.BULK


def test_an_applications_first_rule_that_fits_comes_before_the_table_and_fills_its_gaps_from_it() -> None:
    rules = [
        AlertRule(AlertMatcher(severity=(Severity.MINOR,)), tell=False),
        AlertRule(AlertMatcher(event=("storm",)), lane=Lane.NORMAL, ttl=timedelta(minutes=5)),
        AlertRule(AlertMatcher(), lane=Lane.URGENT),
    ]
    assert route_alert(part("Minor"), rules) is None
    assert route_alert(part("Extreme"), rules) == AlertRouting(Lane.NORMAL, Urgency.HIGH, timedelta(minutes=5))
    assert route_alert(part("Unknown", event="Flood"), rules) == AlertRouting(
        Lane.URGENT, Urgency.NORMAL, timedelta(hours=12)
    )
