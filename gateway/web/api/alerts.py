"""Alerts, in the words of CAP 1.2: what a weather office says overtakes everything.

An alert is JSON of ours, a CAP document or GeoJSON as api.weather.gov gives it. Documents may hold many alerts, each
of which is taken or refused for itself.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.alerting import cap, nws
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
from gateway.domain.errors import Conflict, FieldError, ValidationError
from gateway.domain.notification import Urgency
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.alerts import ingestion
from gateway.service.alerts.documents import REFUSED, ingest_all
from gateway.service.alerts.ingestion import IngestOptions, IngestOutcome, ingest
from gateway.service.context import Context
from gateway.service.notifications import representations
from gateway.web.http.parsing import Address, Body, Moment, Zone, example, read_body, read_json
from gateway.web.http.routing import MediaType, Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import MAX_TTL_S, Audience, Category, Label

routes = Routes("alerts")

MAX_DOCUMENT_OCTETS = 8 << 20
"""Octets. What is in force in the whole of the United States has been 5 MB, one office's detailed outlines 2 MB."""

Prose = Annotated[str, StringConstraints(max_length=20_000)]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class NewAlert(Body):
    """Whoever is in `area` or `zones`, and in `audience`, is told; at least one of them is needed."""

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
        Field(description=f"All but Actual reach only devices with the topic `{ingestion.TEST_TOPIC}`."),
    ] = AlertStatus.ACTUAL
    message_type: Annotated[
        MessageType,
        Field(description="An Update replaces what it refers to, a Cancel ends it; where, its area or zones may say."),
    ] = MessageType.ALERT
    identifier: Annotated[
        Identifier | None, Field(description="The same one twice is one alert. Made up when left out.")
    ] = None
    references: Annotated[
        list[Identifier], Field(max_length=1000, description="Identifiers of what an Update or a Cancel is about.")
    ] = Field(default_factory=list)
    sent: Moment | None = None
    effective: Moment | None = None
    onset: Moment | None = None
    expires: Annotated[Moment | None, Field(description="Nothing is sent or held after this.")] = None
    ends: Moment | None = None
    area: Annotated[Any, Field(description="A GeoJSON Polygon or MultiPolygon (RFC 7946).")] = None
    zones: Annotated[list[Zone], Field(max_length=1000, description="Codes of named areas, such as TXC201.")] = Field(
        default_factory=list
    )
    audience: Audience | None = None
    category: Category | None = None
    url: Address | None = None

    def message(self) -> AlertMessage:
        """Raises Invalid with every fault of what the model cannot check."""
        faults = [
            *_faults("/area", {"within": self.area}, "/within", asked=self.area is not None),
            *_faults("/audience", self.audience, "", asked=self.audience is not None),
        ]
        if self.message_type is not MessageType.ALERT and not self.references:
            faults.append(FieldError("/references", f"is empty: an {self.message_type} says what it is about"))
        if faults:
            raise ValidationError(faults)
        where = [{"within": self.area}] if self.area is not None else []
        where += [{"zone": list(self.zones)}] if self.zones else []
        words = LocalizedText(None, self.event, self.headline, self.description, self.instruction, self.url)
        part = AlertInfo(
            texts=(words,),
            area=({"any": where} if len(where) > 1 else where[0]) if where else None,
            severity=self.severity,
            urgency=self.urgency,
            certainty=self.certainty,
            expires=self.expires,
        )
        said = {"effective": self.effective, "onset": self.onset, "ends": self.ends}
        return AlertMessage(
            identifier=self.identifier,
            message_type=self.message_type,
            infos=(part,),
            sent=self.sent,
            status=self.status,
            references=tuple(self.references),
            details={name: moment.isoformat() for name, moment in said.items() if moment is not None},
        )

    def door(self) -> IngestOptions:
        return IngestOptions(self.audience, self.category, self.url)


class AlertMatcherModel(Body):
    """Which alerts are meant; what is left out fits all. An event's name is compared whatever its case."""

    severity: Annotated[list[Severity], Field(max_length=10)] | None = None
    urgency: Annotated[list[AlertUrgency], Field(max_length=10)] | None = None
    certainty: Annotated[list[Certainty], Field(max_length=10)] | None = None
    event: Annotated[list[Label], Field(max_length=200)] | None = None


class AlertRule(Body):
    """How some alerts are told. What is left out is as the gateway's own table has it."""

    when: AlertMatcherModel
    tell: Annotated[bool, Field(description="False: they are not sent.")] = True
    lane: Literal["urgent", "normal"] | None = None
    urgency: Annotated[Urgency | None, Field(description="The Urgency header (RFC 8030).")] = None
    ttl: Annotated[
        int | None, Field(ge=0, le=MAX_TTL_S, description="Seconds, for those that do not say when they expire.")
    ] = None


class AlertSettings(Body):
    """What an application says of all its alerts."""

    model_config = example(
        rules=[{"when": {"severity": ["Minor", "Unknown"]}, "tell": False}], audience={"topic": "weather"}
    )

    rules: Annotated[
        list[AlertRule], Field(max_length=100, description="The first that fits counts, before the gateway's table.")
    ] = Field(default_factory=list)
    audience: Annotated[Audience | None, Field(description="Narrows the alerts that name no audience themselves.")] = (
        None
    )


@dataclass(frozen=True, slots=True)
class Document:
    """What a document held."""

    alerts: Sequence[AlertMessage | RefusedAlert]


async def read_cap(raw: bytes) -> Document:
    """Raises MalformedBody."""
    # Thousands of positions take their time, and others wait meanwhile.
    return Document(await asyncio.to_thread(cap.read, raw))


async def read_nws(raw: bytes) -> Document:
    """Raises MalformedBody."""
    return Document(await asyncio.to_thread(lambda: nws.read(read_json(raw))))


async def read_any(raw: bytes) -> NewAlert | Document:
    """By its looks: XML, GeoJSON, else JSON of ours. Raises MalformedBody and Invalid."""
    if raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" or raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return await read_cap(raw)
    said = read_json(raw)
    if isinstance(said, dict) and said.get("type") in ("Feature", "FeatureCollection"):
        return await read_nws(raw)
    return read_body(NewAlert, raw)


CAP = MediaType(read_cap, MAX_DOCUMENT_OCTETS, "A CAP document (1.0 to 1.2), bare or in an Atom feed or EDXL envelope.")
NWS = MediaType(read_nws, MAX_DOCUMENT_OCTETS, "A GeoJSON Feature or FeatureCollection as api.weather.gov gives it.")


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
    responses={
        200: responses.Notification | responses.AlertIngestion,
        201: responses.Notification | responses.AlertIngestion,
    },
)
async def raise_(call: TransactionalRequest[NewAlert | Document]) -> Response:
    """Raise, update or cancel an alert. The same identifier twice is one alert: the first answer again, with 200.

    Severity, urgency and certainty set lane, Urgency header and TTL, which never outlives `expires`. JSON is
    answered with the notification that tells it; a document with what became of each alert in it.
    """
    if isinstance(call.body, Document):
        items = await ingest_all(call.conn, call.context, call.application_id, call.body.alerts)
        refused = [item for item in items if item["outcome"] == REFUSED]
        if len(refused) == len(items):
            raise ValidationError([FieldError(f"/alerts/{n}", item["detail"] or "") for n, item in enumerate(items)])
        accepted = any(item["outcome"] == IngestOutcome.ACCEPTED for item in items)
        return Response({"items": items}, 201 if accepted else 200)
    status, shown = await take_one(call.conn, call.context, call.application_id, call.body)
    return Response(shown, status, {"Location": f"/v1/alerts/{shown['id']}"})


@routes.add("GET", "/v1/alert-settings", scopes=(READ, MANAGE), responses={200: responses.AlertSettings})
async def settings(call: TransactionalRequest) -> Response:
    """Show how this application's alerts are told."""
    return Response(await ingestion.settings(call.conn, call.application_id))


@routes.add(
    "PUT",
    "/v1/alert-settings",
    scopes=(MANAGE,),
    body=AlertSettings,
    audit="alert-settings.replace",
    responses={200: responses.AlertSettings},
)
async def change_settings(call: TransactionalRequest[AlertSettings]) -> Response:
    """Say how this application's alerts are told, and to whom at most. Alerts that were taken stay as they are."""
    rules = [rule.model_dump(mode="json", exclude_none=True) for rule in call.body.rules]
    return Response(await ingestion.change_settings(call.conn, call.application_id, rules, call.body.audience))


async def take_one(
    conn: AsyncConnection, context: Context, application_id: UUID, alert: NewAlert
) -> tuple[int, responses.Notification]:
    """(201, or 200 for one that was taken before, and the notification that tells it). Raises Invalid and Conflict."""
    taken = await ingest(conn, context, application_id, alert.message(), alert.door())
    if not taken.notification_ids:
        raise Conflict(taken.detail or "the alert tells nobody")
    shown = await representations.one_notification(conn, application_id, taken.notification_ids[0])
    return 201 if taken.outcome is IngestOutcome.ACCEPTED else 200, shown


def _faults(name: str, value: Any, inside: str, *, asked: bool) -> list[FieldError]:
    if not asked:
        return []
    try:
        audience.parse(value, "")
    except ValidationError as error:
        return [FieldError(f"{name}{fault.pointer.removeprefix(inside)}", fault.detail) for fault in error.errors]
    return []
