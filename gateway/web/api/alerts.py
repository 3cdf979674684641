"""Alerts, in the terms of CAP 1.2. They are sent before all other notifications.

A request contains one alert in the JSON of this API, or a document: CAP, or GeoJSON of api.weather.gov. A document may
contain many alerts. Each of them is accepted or refused individually.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from gateway.alerting import cap
from gateway.alerting.text import RefusedAlert
from gateway.domain import audience
from gateway.domain.alert import (
    AlertInfo,
    AlertMessage,
    AlertStatus,
    AlertUrgency,
    Certainty,
    LocalizedText,
    MessageType,
    Severity,
)
from gateway.domain.database_work import ALERT
from gateway.domain.errors import Conflict, FieldError, ValidationError
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Urgency
from gateway.service import views
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.alerts import ingestion
from gateway.service.alerts.documents import REFUSED, ingest_all, parse
from gateway.service.alerts.ingestion import IngestOptions, IngestOutcome, ingest
from gateway.service.context import Context
from gateway.service.notifications import representations
from gateway.web.http.alert_documents import read_geojson
from gateway.web.http.parsing import Body, Moment, Url, Zone, example
from gateway.web.http.routing import MediaType, Response, Routes, TransactionalRequest
from gateway.web.schemas.notification_requests import MAX_TTL_S, Audience, Category, Label

routes = Routes("alerts")

# Maximum size of a document. A feed of all current alerts in the United States has had 5 MB, and detailed polygons of
# one weather office 2 MB.
MAX_DOCUMENT_OCTETS = 8 << 20

Prose = Annotated[str, StringConstraints(max_length=20_000)]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class NewAlert(Body):
    """An alert to the devices in `area` or `zones`, and in `audience`; at least one of the three is required."""

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
        Field(description=f"Alerts other than Actual reach only devices with the topic `{ingestion.TEST_TOPIC}`."),
    ] = AlertStatus.ACTUAL
    message_type: Annotated[
        MessageType,
        Field(
            description="An Update replaces the referenced alerts, a Cancel ends them, in the given area or everywhere."
        ),
    ] = MessageType.ALERT
    identifier: Annotated[
        Identifier | None,
        Field(description="A second alert with the same identifier is not sent. Generated when omitted."),
    ] = None
    references: Annotated[
        list[Identifier],
        Field(max_length=1000, description="Identifiers of the alerts that an Update or a Cancel refers to."),
    ] = Field(default_factory=list)
    sent: Moment | None = None
    effective: Moment | None = None
    onset: Moment | None = None
    expires: Annotated[Moment | None, Field(description="No message is sent after this time.")] = None
    ends: Moment | None = None
    area: Annotated[Any, Field(description="A GeoJSON Polygon or MultiPolygon (RFC 7946).")] = None
    zones: Annotated[list[Zone], Field(max_length=1000, description="Codes of named areas, such as TXC201.")] = Field(
        default_factory=list
    )
    audience: Audience | None = None
    category: Category | None = None
    url: Url | None = None

    def message(self) -> AlertMessage:
        """Return the alert as a domain value.

        Raises:
            ValidationError: a field is invalid in a way that the model does not check; the error lists all such fields.
        """
        errors = []
        if self.area is not None:
            errors += _audience_errors({"within": self.area}, "/within", "/area")
        if self.audience is not None:
            errors += _audience_errors(self.audience, "", "/audience")
        if self.message_type is not MessageType.ALERT and not self.references:
            errors.append(FieldError("/references", f"is empty; an {self.message_type} must refer to an alert"))
        if errors:
            raise ValidationError(errors)
        areas: list[JsonObject] = [{"within": self.area}] if self.area is not None else []
        areas += [{"zone": list(self.zones)}] if self.zones else []
        text = LocalizedText(None, self.event, self.headline, self.description, self.instruction, self.url)
        info = AlertInfo(
            texts=(text,),
            area=({"any": areas} if len(areas) > 1 else areas[0]) if areas else None,
            severity=self.severity,
            urgency=self.urgency,
            certainty=self.certainty,
            expires=self.expires,
        )
        times = {"effective": self.effective, "onset": self.onset, "ends": self.ends}
        return AlertMessage(
            identifier=self.identifier,
            message_type=self.message_type,
            infos=(info,),
            sent=self.sent,
            status=self.status,
            references=tuple(self.references),
            details={name: time.isoformat() for name, time in times.items() if time is not None},
        )

    def options(self) -> IngestOptions:
        """Return the options of the ingestion."""
        return IngestOptions(self.audience, self.category, self.url)


class AlertMatcherModel(Body):
    """Matches alerts by their fields. An omitted field matches all alerts. Event names are case-insensitive."""

    severity: Annotated[list[Severity], Field(max_length=10)] | None = None
    urgency: Annotated[list[AlertUrgency], Field(max_length=10)] | None = None
    certainty: Annotated[list[Certainty], Field(max_length=10)] | None = None
    event: Annotated[list[Label], Field(max_length=200)] | None = None


class AlertRule(Body):
    """How matching alerts are sent. The default of a field depends on the severity and the urgency of the alert."""

    when: AlertMatcherModel
    tell: Annotated[bool, Field(description="False suppresses matching alerts.")] = True
    lane: Literal["urgent", "normal"] | None = None
    urgency: Annotated[Urgency | None, Field(description="The Urgency header (RFC 8030).")] = None
    ttl: Annotated[
        int | None, Field(ge=0, le=MAX_TTL_S, description="Lifetime in seconds of alerts without `expires`.")
    ] = None


class AlertSettings(Body):
    """How an application sends its alerts."""

    model_config = example(
        rules=[{"when": {"severity": ["Minor", "Unknown"]}, "tell": False}], audience={"topic": "weather"}
    )

    rules: Annotated[
        list[AlertRule],
        Field(max_length=100, description="The first matching rule applies, before the gateway's defaults."),
    ] = Field(default_factory=list)
    audience: Annotated[Audience | None, Field(description="Restricts alerts that have no audience of their own.")] = (
        None
    )


@dataclass(frozen=True, slots=True)
class Document:
    """The alerts of a document. A malformed alert is represented by the reason why it is refused."""

    alerts: Sequence[AlertMessage | RefusedAlert]


async def read_cap(context: Context, application_id: UUID | None, raw: bytes) -> Document:
    """Parse a CAP document; raises MalformedBody."""
    return Document(await parse(context, application_id, cap.read, raw))


async def read_nws(context: Context, application_id: UUID | None, raw: bytes) -> Document:
    """Parse GeoJSON of api.weather.gov; raises MalformedBody."""
    return Document(await parse(context, application_id, read_geojson, raw))


CAP = MediaType(
    read_cap, MAX_DOCUMENT_OCTETS, "A CAP document (1.0 to 1.2), alone or in an Atom feed or EDXL envelope."
)
NWS = MediaType(read_nws, MAX_DOCUMENT_OCTETS, "A GeoJSON Feature or FeatureCollection of api.weather.gov.")


@routes.add(
    "POST",
    "/v1/alerts",
    scopes=(SEND,),
    body=NewAlert,
    media_types={
        "application/cap+xml": CAP,
        "application/xml": CAP,
        "text/xml": CAP,
        "application/atom+xml": CAP,
        "application/geo+json": NWS,
    },
    creates=True,
    conflicts=True,
    work=ALERT,
    responses={
        200: views.Notification | views.AlertIngestion,
        201: views.Notification | views.AlertIngestion,
    },
)
async def ingest_alert(request: TransactionalRequest[NewAlert | Document]) -> Response:
    """Send, update or cancel an alert. A repeated identifier gets the first response again, with status 200.

    Severity, urgency and certainty determine the lane, the Urgency header and the TTL. The TTL ends at `expires` at the
    latest. The response to JSON is the notification of the alert. The response to a document has the outcome of each
    alert.
    """
    if isinstance(request.body, Document):
        items = await ingest_all(request.conn, request.context, request.application_id, request.body.alerts)
        refused = [item for item in items if item["outcome"] == REFUSED]
        if len(refused) == len(items):
            raise ValidationError([FieldError(f"/alerts/{n}", item["detail"] or "") for n, item in enumerate(items)])
        accepted = any(item["outcome"] == IngestOutcome.ACCEPTED for item in items)
        return Response({"items": items}, 201 if accepted else 200)
    result = await ingest(
        request.conn, request.context, request.application_id, request.body.message(), request.body.options()
    )
    if not result.notification_ids:
        raise Conflict(result.detail or "the alert has no recipients")
    view = await representations.get_notification(request.conn, request.application_id, result.notification_ids[0])
    status = 201 if result.outcome is IngestOutcome.ACCEPTED else 200
    return Response(view, status, {"Location": f"/v1/alerts/{view['id']}"})


@routes.add("GET", "/v1/alert-settings", scopes=(READ, MANAGE), responses={200: views.AlertSettings})
async def get_alert_settings(request: TransactionalRequest) -> Response:
    """Get the alert settings of the application."""
    return Response(await ingestion.get_settings(request.conn, request.application_id))


@routes.add(
    "PUT",
    "/v1/alert-settings",
    scopes=(MANAGE,),
    body=AlertSettings,
    audit="alert-settings.replace",
    responses={200: views.AlertSettings},
)
async def replace_alert_settings(request: TransactionalRequest[AlertSettings]) -> Response:
    """Replace the alert settings of the application. They apply to alerts that are accepted from now on."""
    rules = [rule.model_dump(mode="json", exclude_none=True) for rule in request.body.rules]
    return Response(await ingestion.change_settings(request.conn, request.application_id, rules, request.body.audience))


def _audience_errors(value: Any, source: str, pointer: str) -> list[FieldError]:
    """Return the errors of an audience. In their JSON pointers, the prefix `source` is replaced by `pointer`."""
    try:
        audience.parse(value, "")
    except ValidationError as error:
        return [FieldError(f"{pointer}{field.pointer.removeprefix(source)}", field.detail) for field in error.errors]
    return []
