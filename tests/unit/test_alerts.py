"""An alert becomes a notification: lane, urgency, TTL, audience, text; every fault to its place."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.domain.errors import Invalid
from gateway.domain.notification import LONGEST_TTL, Kind, Lane, Urgency
from gateway.service.alerts import (
    LONGEST_BODY,
    LONGEST_TITLE,
    TEST_TOPIC,
    Alert,
    AlertStatus,
    AlertUrgency,
    Certainty,
    Severity,
    draft,
    travel,
)

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
AREA = {"type": "Polygon", "coordinates": [[[10, 55], [20, 55], [20, 60], [10, 60], [10, 55]]]}
STORM = Alert("Storm", severity=Severity.SEVERE, urgency=AlertUrgency.EXPECTED, area=AREA)


def faults(alert: Alert) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        draft(alert, NOW)
    return {fault.pointer: fault.detail for fault in refused.value.faults}


@pytest.mark.parametrize(
    ("severity", "urgency", "lane", "travels", "ttl"),
    [
        ("Extreme", "Expected", Lane.URGENT, Urgency.HIGH, timedelta(hours=1)),
        ("Severe", "Unknown", Lane.URGENT, Urgency.HIGH, timedelta(hours=1)),
        ("Minor", "Immediate", Lane.URGENT, Urgency.HIGH, timedelta(hours=1)),
        ("Unknown", "Immediate", Lane.URGENT, Urgency.HIGH, timedelta(hours=1)),
        ("Moderate", "Future", Lane.NORMAL, Urgency.HIGH, timedelta(hours=6)),
        ("Minor", "Expected", Lane.NORMAL, Urgency.HIGH, timedelta(hours=6)),
        ("Minor", "Future", Lane.NORMAL, Urgency.NORMAL, timedelta(hours=12)),
        ("Unknown", "Unknown", Lane.NORMAL, Urgency.NORMAL, timedelta(hours=12)),
        ("Extreme", "Past", Lane.NORMAL, Urgency.NORMAL, timedelta(hours=12)),
    ],
)
def test_severity_and_urgency_say_how_it_travels(
    severity: str, urgency: str, lane: Lane, travels: Urgency, ttl: timedelta
) -> None:
    made = draft(replace(STORM, severity=Severity(severity), urgency=AlertUrgency(urgency)), NOW)
    assert (made.kind, made.lane, made.urgency, made.ttl) == (Kind.ALERT, lane, travels, ttl)
    assert made.expires_at is None


@pytest.mark.parametrize("severity", Severity)
@pytest.mark.parametrize("urgency", AlertUrgency)
def test_no_alert_travels_in_the_bulk_lane(severity: Severity, urgency: AlertUrgency) -> None:
    assert travel(severity, urgency).lane < Lane.BULK


def test_the_ttl_never_outlives_expires() -> None:
    made = draft(replace(STORM, expires=NOW + timedelta(minutes=20)), NOW)
    assert (made.ttl, made.expires_at) == (timedelta(minutes=20), NOW + timedelta(minutes=20))


def test_an_alert_for_longer_than_push_services_hold_messages_is_held_that_long() -> None:
    made = draft(replace(STORM, expires=NOW + timedelta(days=90)), NOW)
    assert (made.ttl, made.expires_at) == (LONGEST_TTL, NOW + LONGEST_TTL)


def test_the_area_is_the_audience_and_another_narrows_it() -> None:
    assert draft(STORM, NOW).audience == {"within": AREA}
    coast = {"topic": "coast"}
    assert draft(replace(STORM, area=None, audience=coast), NOW).audience == coast
    assert draft(replace(STORM, audience=coast), NOW).audience == {"all": [{"within": AREA}, coast]}


@pytest.mark.parametrize("status", [AlertStatus.TEST, AlertStatus.EXERCISE, AlertStatus.DRAFT])
def test_a_test_reaches_only_those_who_asked_for_tests_and_says_so(status: AlertStatus) -> None:
    made = draft(replace(STORM, status=status), NOW)
    assert made.audience == {"all": [{"within": AREA}, {"topic": TEST_TOPIC}]}
    assert made.content["title"] == f"[{status}] Storm"


def test_the_headline_is_the_title_and_what_to_do_comes_after_what_happens() -> None:
    told = replace(STORM, headline="Storm at the coast", description=" Waves of 9 m. ", instruction="Stay away.")
    made = draft(told, NOW)
    assert made.name == made.content["title"] == "Storm at the coast"
    assert made.content["body"] == "Waves of 9 m.\n\nStay away."
    assert draft(STORM, NOW).content["title"] == "Storm"
    assert draft(STORM, NOW).content["body"] == ""


def test_long_texts_are_cut_with_an_ellipsis() -> None:
    content = draft(replace(STORM, headline="x" * 500, description="y" * 5000), NOW).content
    assert (len(content["title"]), len(content["body"])) == (LONGEST_TITLE, LONGEST_BODY)
    assert content["title"].endswith("…")


def test_an_urgent_alert_stays_on_the_screen_and_updates_of_it_replace_it() -> None:
    content = draft(replace(STORM, identifier="smhi-7", url="/storm"), NOW).content
    assert (content["require_interaction"], content["tag"], content["url"]) == (True, "smhi-7", "/storm")
    calm = draft(replace(STORM, severity=Severity.MINOR, urgency=AlertUrgency.FUTURE), NOW).content
    assert calm["require_interaction"] is False
    assert "tag" not in calm


def test_what_was_said_is_kept_with_it() -> None:
    told = replace(
        STORM, certainty=Certainty.LIKELY, identifier="smhi-7", details={"sent": "2026-07-01", "onset": None}
    )
    assert draft(told, NOW).details == {
        "event": "Storm",
        "severity": "Severe",
        "urgency": "Expected",
        "certainty": "Likely",
        "status": "Actual",
        "identifier": "smhi-7",
        "sent": "2026-07-01",
    }


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"area": None}, "/area"),
        ({"area": {"type": "Point", "coordinates": [1, 2]}}, "/area"),
        ({"area": {"type": "Polygon", "coordinates": [[[1, 2]]]}}, "/area/coordinates/0"),
        ({"area": {**AREA, "crs": "x"}}, "/area/crs"),
        ({"audience": {"topic": "!"}}, "/audience/topic"),
        ({"audience": {"all": [{"near": {}}]}}, "/audience/all/0/near/lat"),
        ({"audience": "everyone"}, "/audience"),
        ({"expires": NOW}, "/expires"),
    ],
)
def test_a_fault_is_named_where_the_sender_finds_it(wrong: dict[str, Any], pointer: str) -> None:
    assert pointer in faults(replace(STORM, **wrong))


def test_every_fault_is_told_at_once() -> None:
    wrong = replace(STORM, area=1, audience={"topic": 1}, expires=NOW - timedelta(hours=1))
    assert faults(wrong).keys() == {"/area", "/audience/topic", "/expires"}
