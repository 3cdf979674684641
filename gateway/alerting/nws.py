"""Read alerts as the US National Weather Service gives them: GeoJSON Features and FeatureCollections.

Their properties are CAP's elements by other names (api.weather.gov, https://www.weather.gov/documentation/services-web-api).
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, TypeVar

from gateway.alerting import vtec
from gateway.alerting.areas import Area, filter_of
from gateway.alerting.text import (
    MAX_EVENT_LENGTH,
    MAX_IDENTIFIER_LENGTH,
    MAX_IGNORED,
    MAX_REFERENCES,
    Refused,
    kept,
    meaning,
    moment,
    prose,
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

MAX_FEATURES = 5000

E = TypeVar("E", bound=StrEnum)


def read(value: object) -> list[AlertMessage | Refused]:
    """Every alert of a Feature or FeatureCollection, the oldest first. Raises MalformedBody for anything else."""
    match value:
        case {"type": "Feature"}:
            features = [value]
        case {"type": "FeatureCollection", "features": list(features)}:
            pass
        case _:
            raise MalformedBody("the document is neither a GeoJSON Feature nor a FeatureCollection (RFC 7946)")
    if len(features) > MAX_FEATURES:
        raise MalformedBody(f"the document holds {len(features)} features; at most {MAX_FEATURES} are read")
    found = [_read(feature) for feature in features]
    return sorted(found, key=lambda one: str(one.sent) if isinstance(one, AlertMessage) else "")


def _read(feature: object) -> AlertMessage | Refused:
    if not isinstance(feature, dict) or not isinstance(properties := feature.get("properties"), dict):
        return Refused(None, ("it is not a Feature with properties",))
    reasons: list[str] = []
    ignored: list[str] = []
    identifier = _text(properties, "id") or _text(properties, "identifier")
    if not 0 < len(identifier) <= MAX_IDENTIFIER_LENGTH:
        reasons.append(f"properties.id must have 1 to {MAX_IDENTIFIER_LENGTH} characters")
    sent = moment(_text(properties, "sent"))
    if sent is None:
        reasons.append("properties.sent must be a time with an offset")
    if not (event := prose(_text(properties, "event"))):
        reasons.append("properties.event is missing")
    status = _word(AlertStatus, properties, "status")
    if status is None:
        reasons.append(f"properties.status must be one of {', '.join(AlertStatus)}")
    said = _word(MessageType, properties, "messageType")
    if said is None:
        reasons.append(f"properties.messageType must be one of {', '.join(MessageType)} to be told")
    if (scope := _text(properties, "scope") or "Public") != "Public":
        reasons.append(f"scope is {scope[:60]!r}: only what is Public may be told to everyone")
    if reasons or status is None or said is None or event is None:
        return Refused(identifier or None, tuple(reasons))
    part = _part(feature, properties, event, ignored)
    references = tuple(dict.fromkeys(_references(properties)))[:MAX_REFERENCES]
    parameters = properties.get("parameters")
    events = vtec.read(_texts(parameters.get("VTEC")) if isinstance(parameters, dict) else ())
    return AlertMessage(
        identifier=identifier,
        message_type=meaning(said, events, references, [part]),
        parts=(part,),
        sender=_text(properties, "sender")[:500] or None,
        sent=sent,
        status=status,
        references=references,
        event_keys=events.tracks,
        ignored=tuple(ignored[:MAX_IGNORED]),
        details={
            name: text[:1000]
            for name in ("areaDesc", "category", "senderName", "effective", "onset", "ends", "note")
            if (text := _text(properties, name))
        },
    )


def _part(feature: dict[str, Any], properties: dict[str, Any], event: str, ignored: list[str]) -> AlertInfo:
    area = Area(polygons=list(_polygons(feature.get("geometry"), ignored)))
    geocode = properties.get("geocode")
    if isinstance(geocode, dict):
        area.codes = [(str(name), code) for name, codes in geocode.items() for code in _texts(codes)]
    # Where geocode says nothing, the zones' addresses end in their codes.
    zones = _texts(properties.get("affectedZones"))
    area.codes += [("UGC", zone.rpartition("/")[2]) for zone in zones]
    where, unusable = filter_of([area])
    ignored += unusable
    expires = moment(_text(properties, "expires"))
    if expires is None and _text(properties, "expires"):
        ignored.append("expires: not a time with an offset")
    web = _text(properties, "web")
    return AlertInfo(
        texts=(
            LocalizedText(
                language=_text(properties, "language") or "en-US",
                event=event[:MAX_EVENT_LENGTH],
                headline=prose(_text(properties, "headline")),
                description=prose(_text(properties, "description")),
                instruction=prose(_text(properties, "instruction")),
                url=web if web.startswith(("https://", "http://")) and urls.fault_of(web) is None else None,
            ),
        ),
        area=where,
        severity=_word(Severity, properties, "severity") or Severity.UNKNOWN,
        urgency=_word(AlertUrgency, properties, "urgency") or AlertUrgency.UNKNOWN,
        certainty=_word(Certainty, properties, "certainty") or Certainty.UNKNOWN,
        expires=expires,
        all_clear=_text(properties, "response") == "AllClear",
    )


def _polygons(geometry: object, ignored: list[str]) -> Iterator[list[list[tuple[float, float]]]]:
    match geometry:
        case None:
            return
        case {"type": "Polygon", "coordinates": list(rings)}:
            several = [rings]
        case {"type": "MultiPolygon", "coordinates": list(several)}:
            pass
        case _:
            ignored.append("a geometry that is neither a Polygon nor a MultiPolygon")
            return
    for rings in several:
        try:
            yield [[(float(lon), float(lat)) for lon, lat, *_ in ring] for ring in rings]
        except (TypeError, ValueError, OverflowError):
            ignored.append("a polygon whose positions are not [longitude, latitude]")


def _references(properties: dict[str, Any]) -> Iterator[str]:
    found = properties.get("references")
    for reference in found if isinstance(found, list) else ():
        identifier = _text(reference if isinstance(reference, dict) else {"identifier": reference}, "identifier")
        if 0 < len(identifier) <= MAX_IDENTIFIER_LENGTH:
            yield identifier


def _texts(value: object) -> list[str]:
    return [kept(item) for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _text(properties: dict[str, Any], name: str) -> str:
    value = properties.get(name)
    return kept(value).strip() if isinstance(value, str) else ""


def _word(words: type[E], properties: dict[str, Any], name: str) -> E | None:
    text = _text(properties, name).lower()
    return next((word for word in words if word.lower() == text), None)
