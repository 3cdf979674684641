"""Alerts, in the words of CAP 1.2: what a weather office says overtakes everything."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gateway.service import alerts
from gateway.service.access import SEND
from gateway.service.alerts import AlertStatus, AlertUrgency, Certainty, Severity
from gateway.web import shapes
from gateway.web.content import Audience, Category, Label
from gateway.web.notifications import accept
from gateway.web.reading import Address, Body, Moment, example
from gateway.web.routes import Answer, Call, Routes

routes = Routes("alerts")

Prose = Annotated[str, StringConstraints(max_length=20_000)]


class NewAlert(Body):
    """Whoever is in `area` and in `audience` is told; at least one of them is needed."""

    model_config = example(
        event="Severe Thunderstorm Warning",
        headline="Severe thunderstorms over Vienna until 18:00",
        instruction="Stay inside, away from windows.",
        severity="Severe",
        urgency="Immediate",
        certainty="Observed",
        area={"type": "Polygon", "coordinates": [[[16, 48], [17, 48], [17, 49], [16, 49], [16, 48]]]},
        url="https://weather.example.org/vienna",
    )

    event: Label
    headline: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None
    description: Prose | None = None
    instruction: Prose | None = None
    severity: Severity = Severity.UNKNOWN
    urgency: AlertUrgency = AlertUrgency.UNKNOWN
    certainty: Certainty = Certainty.UNKNOWN
    status: Annotated[
        AlertStatus,
        Field(description=f"Test, Exercise and Draft reach only devices with the topic `{alerts.TEST_TOPIC}`."),
    ] = AlertStatus.ACTUAL
    message_type: Literal["Alert"] = "Alert"
    identifier: Label | None = None
    sent: Moment | None = None
    effective: Moment | None = None
    onset: Moment | None = None
    expires: Annotated[Moment | None, Field(description="Nothing is sent or held after this.")] = None
    ends: Moment | None = None
    area: Annotated[Any, Field(description="A GeoJSON Polygon or MultiPolygon (RFC 7946).")] = None
    audience: Audience | None = None
    category: Category | None = None
    url: Address | None = None

    def value(self) -> alerts.Alert:
        said = {"sent", "effective", "onset", "ends"}
        return alerts.Alert(
            **{name: getattr(self, name) for name in type(self).model_fields.keys() - said - {"message_type"}},
            details={name: moment.isoformat() for name in sorted(said) if (moment := getattr(self, name)) is not None},
        )


@routes.add("POST", "/v1/alerts", may=(SEND,), body=NewAlert, creates=True, answers={201: shapes.Notification})
async def raise_(call: Call[NewAlert]) -> Answer:
    """Raise an alert. Severity and urgency set lane, Urgency header and TTL, which never outlives `expires`."""
    return await accept(call, alerts.draft(call.body.value(), datetime.now(UTC)))
