"""Read alerts of the US National Weather Service: GeoJSON Features and FeatureCollections.

Their properties are the elements of CAP, some under other names (api.weather.gov,
https://www.weather.gov/documentation/services-web-api).
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeVar

from gateway.alerting import vtec
from gateway.alerting.areas import Area, CrossingBudget, area_filter
from gateway.alerting.text import (
    MAX_EVENT_LENGTH,
    MAX_IDENTIFIER_LENGTH,
    MAX_IGNORED,
    MAX_REFERENCES,
    RefusedAlert,
    effective_type,
    parse_time,
    plain_text,
    strip_unstorable,
)
from gateway.domain import urls
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
from gateway.domain.errors import MalformedBody
from gateway.domain.json_object import JsonObject

MAX_FEATURES = 5000

E = TypeVar("E", bound=StrEnum)


def read(value: object) -> list[AlertMessage | RefusedAlert]:
    """Read every alert of a Feature or FeatureCollection, oldest first.

    Raises:
        MalformedBody: the value is neither, or has too many features.
    """
    match value:
        case {"type": "Feature"}:
            features = [value]
        case {"type": "FeatureCollection", "features": list(features)}:
            pass
        case _:
            raise MalformedBody("the document is neither a GeoJSON Feature nor a FeatureCollection (RFC 7946)")
    if len(features) > MAX_FEATURES:
        raise MalformedBody(f"the document holds {len(features)} features; at most {MAX_FEATURES} are read")
    # All features share one limit on the crossings of their outlines, since crossings make an area slow to compute.
    budget = CrossingBudget()
    alerts = [_read_feature(feature, budget) for feature in features]
    return sorted(alerts, key=lambda alert: str(alert.sent) if isinstance(alert, AlertMessage) else "")


def _read_feature(feature: object, budget: CrossingBudget) -> AlertMessage | RefusedAlert:
    if not isinstance(feature, dict) or not isinstance(properties := feature.get("properties"), dict):
        return RefusedAlert(None, ("the item is not a Feature with properties",))
    reasons: list[str] = []
    ignored: list[str] = []
    identifier = _text(properties, "id") or _text(properties, "identifier")
    if not 0 < len(identifier) <= MAX_IDENTIFIER_LENGTH:
        reasons.append(f"properties.id must have 1 to {MAX_IDENTIFIER_LENGTH} characters")
    sent = parse_time(_text(properties, "sent"))
    if sent is None:
        reasons.append("properties.sent must be a time with an offset")
    if not (event := plain_text(_text(properties, "event"))):
        reasons.append("properties.event is missing")
    status = _parse_enum(AlertStatus, properties, "status")
    if status is None:
        reasons.append(f"properties.status must be one of {', '.join(AlertStatus)}")
    declared = _parse_enum(MessageType, properties, "messageType")
    if declared is None:
        reasons.append(f"properties.messageType must be one of {', '.join(MessageType)}")
    if (scope := _text(properties, "scope") or "Public") != "Public":
        reasons.append(f"scope is {scope[:60]!r}: only Public alerts are sent")
    if reasons or status is None or declared is None or event is None:
        return RefusedAlert(identifier or None, tuple(reasons))
    info = _read_info(feature, properties, event, ignored, budget)
    references = tuple(dict.fromkeys(_references(properties)))[:MAX_REFERENCES]
    parameters = properties.get("parameters")
    vtec_events = vtec.read(_texts(parameters.get("VTEC")) if isinstance(parameters, dict) else ())
    return AlertMessage(
        identifier=identifier,
        message_type=effective_type(declared, vtec_events, references, [info]),
        infos=(info,),
        sender=_text(properties, "sender")[:500] or None,
        sent=sent,
        status=status,
        references=references,
        event_keys=vtec_events.event_keys,
        ignored=tuple(ignored[:MAX_IGNORED]),
        details={
            name: text[:1000]
            for name in ("areaDesc", "category", "senderName", "effective", "onset", "ends", "note")
            if (text := _text(properties, name))
        },
    )


def _read_info(
    feature: JsonObject, properties: JsonObject, event: str, ignored: list[str], budget: CrossingBudget
) -> AlertInfo:
    area = Area(polygons=list(_polygons(feature.get("geometry"), ignored)))
    geocode = properties.get("geocode")
    if isinstance(geocode, dict):
        area.codes = [(str(name), code) for name, codes in geocode.items() for code in _texts(codes)]
    # The URL of an affected zone ends in the zone's code. Some features have these URLs and no geocode.
    zones = _texts(properties.get("affectedZones"))
    area.codes += [("UGC", zone.rpartition("/")[2]) for zone in zones]
    audience, unusable = area_filter([area], budget)
    ignored += unusable
    expires = parse_time(_text(properties, "expires"))
    if expires is None and _text(properties, "expires"):
        ignored.append("expires: not a time with an offset")
    web = _text(properties, "web")
    return AlertInfo(
        texts=(
            LocalizedText(
                language=_text(properties, "language") or "en-US",
                event=event[:MAX_EVENT_LENGTH],
                headline=plain_text(_text(properties, "headline")),
                description=plain_text(_text(properties, "description")),
                instruction=plain_text(_text(properties, "instruction")),
                url=web if web.startswith(("https://", "http://")) and urls.find_url_error(web) is None else None,
            ),
        ),
        area=audience,
        severity=_parse_enum(Severity, properties, "severity") or Severity.UNKNOWN,
        urgency=_parse_enum(AlertUrgency, properties, "urgency") or AlertUrgency.UNKNOWN,
        certainty=_parse_enum(Certainty, properties, "certainty") or Certainty.UNKNOWN,
        expires=expires,
        all_clear=_text(properties, "response") == "AllClear",
    )


def _polygons(geometry: object, ignored: list[str]) -> Iterator[list[list[tuple[float, float]]]]:
    match geometry:
        case None:
            return
        case {"type": "Polygon", "coordinates": list(rings)}:
            polygons = [rings]
        case {"type": "MultiPolygon", "coordinates": list(polygons)}:
            pass
        case _:
            ignored.append("a geometry that is neither a Polygon nor a MultiPolygon")
            return
    for rings in polygons:
        try:
            yield [[(float(lon), float(lat)) for lon, lat, *_ in ring] for ring in rings]
        except (TypeError, ValueError, OverflowError):
            ignored.append("a polygon whose positions are not [longitude, latitude]")


def _references(properties: JsonObject) -> Iterator[str]:
    references = properties.get("references")
    for reference in references if isinstance(references, list) else ():
        identifier = _text(reference if isinstance(reference, dict) else {"identifier": reference}, "identifier")
        if 0 < len(identifier) <= MAX_IDENTIFIER_LENGTH:
            yield identifier


def _texts(value: object) -> list[str]:
    return [strip_unstorable(item) for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _text(properties: JsonObject, name: str) -> str:
    value = properties.get(name)
    return strip_unstorable(value).strip() if isinstance(value, str) else ""


def _parse_enum(enum: type[E], properties: JsonObject, name: str) -> E | None:
    text = _text(properties, name).lower()
    return next((member for member in enum if member.lower() == text), None)
