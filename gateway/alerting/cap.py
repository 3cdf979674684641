"""Read CAP 1.0, 1.1 and 1.2 (OASIS Common Alerting Protocol), bare, in a feed, or in an EDXL envelope.

Issuers deviate from the schema: a fault in something that a warning can be sent without is reported, not refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import TypeVar
from xml.etree.ElementTree import Element

from gateway.alerting import vtec
from gateway.alerting.areas import Area, Ring, area_filter
from gateway.alerting.text import (
    LANGUAGE,
    MAX_EVENT_LENGTH,
    MAX_IDENTIFIER_LENGTH,
    MAX_IGNORED,
    MAX_REFERENCES,
    RefusedAlert,
    effective_type,
    parse_time,
    plain_text,
)
from gateway.alerting.xml import children, local_name, own_text, parse, split_name, text_of
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

NAMESPACES = {f"urn:oasis:names:tc:emergency:cap:{version}" for version in ("1.0", "1.1", "1.2")}
# The language of an `info` block that names none (CAP 1.2 section 3.2.2).
DEFAULT_LANGUAGE = "en-US"
MAX_INFOS = 500
# The geocode with which Deutscher Wetterdienst excludes holes from its polygons.
HOLE = "EXCLUDE_POLYGON"

E = TypeVar("E", bound=StrEnum)


def read(raw: bytes) -> list[AlertMessage | RefusedAlert]:
    """Read every alert of a document, oldest first.

    Raises:
        MalformedBody: the document has no CAP alert.
    """
    root = parse(raw)
    if not (alerts := alerts_in(root)):
        raise MalformedBody(f"the document has no CAP alert; its root element is {local_name(root)[:60]!r}")
    return alerts


def alerts_in(root: Element) -> list[AlertMessage | RefusedAlert]:
    """Read every alert at or below an element, oldest first."""
    alerts = [_read_alert(element) for element in _alert_elements(root)]
    return sorted(alerts, key=lambda alert: str(alert.sent) if isinstance(alert, AlertMessage) else "")


def _alert_elements(element: Element) -> Iterator[Element]:
    namespace, name = split_name(element)
    if name == "alert" and namespace in NAMESPACES:
        yield element
        return
    for child in element:
        yield from _alert_elements(child)


def _pairs(element: Element, name: str) -> list[tuple[str, str]]:
    """Return (valueName, value) of every child of a name. CAP 1.0 writes `name=value`."""
    pairs = []
    for child in children(element, name):
        if len(child):
            pairs.append((text_of(child, "valueName"), text_of(child, "value")))
        else:
            first, _, second = (child.text or "").partition("=")
            pairs.append((first.strip(), second.strip()))
    return pairs


def _read_alert(alert: Element) -> AlertMessage | RefusedAlert:
    reasons: list[str] = []
    ignored: list[str] = []
    identifier = text_of(alert, "identifier")
    if not 0 < len(identifier) <= MAX_IDENTIFIER_LENGTH:
        reasons.append(f"identifier must have 1 to {MAX_IDENTIFIER_LENGTH} characters")
    sent = parse_time(text_of(alert, "sent"))
    if sent is None:
        reasons.append("sent must be a time with an offset")
    if (scope := text_of(alert, "scope")) != "Public":
        reasons.append(f"scope is {scope[:60]!r}: only Public alerts are sent")
    status = _word(AlertStatus, text_of(alert, "status"))
    if status is None:
        reasons.append(f"status must be one of {', '.join(AlertStatus)}")
    declared = _word(MessageType, text_of(alert, "msgType"))
    if declared is None:
        reasons.append(f"msgType must be one of {', '.join(MessageType)}")
    parts = _read_infos(alert, ignored)
    if not parts and declared is not MessageType.CANCEL:
        reasons.append("there is no info block")
    if reasons or status is None or declared is None:
        return RefusedAlert(identifier or None, tuple(reasons))
    references = tuple(dict.fromkeys(_references(text_of(alert, "references"))))[:MAX_REFERENCES]
    codes = [value for info in children(alert, "info") for name, value in _pairs(info, "parameter") if name == "VTEC"]
    events = vtec.read(codes)
    return AlertMessage(
        identifier=identifier,
        message_type=effective_type(declared, events, references, parts),
        infos=parts,
        sender=text_of(alert, "sender")[:500] or None,
        sent=sent,
        status=status,
        references=references,
        event_keys=events.event_keys,
        ignored=tuple(ignored[:MAX_IGNORED]),
        details=_details(alert),
    )


def _references(text: str) -> Iterator[str]:
    """Yield the identifiers of `sender,identifier,sent` triples separated by white space."""
    for triple in text.split():
        _, _, rest = triple.partition(",")
        identifier = rest.rpartition(",")[0] or rest or triple
        if len(identifier) <= MAX_IDENTIFIER_LENGTH:
            yield identifier


def _details(alert: Element) -> dict[str, str]:
    info = next(iter(children(alert, "info")), None)
    details = {"incidents": text_of(alert, "incidents"), "note": text_of(alert, "note")}
    if info is not None:
        details |= {name: text_of(info, name) for name in ("category", "senderName", "effective", "onset", "contact")}
        area = next(iter(children(info, "area")), None)
        details["areaDesc"] = "" if area is None else text_of(area, "areaDesc")
    return {name: value[:1000] for name, value in details.items() if value}


@dataclass(slots=True)
class _InfoBlock:
    """One `info` block: one language of an AlertInfo. `common` is what its translations have in common."""

    info: AlertInfo
    common: tuple[object, ...]


def _read_infos(alert: Element, ignored: list[str]) -> tuple[AlertInfo, ...]:
    """Read the `info` blocks and merge those that are translations of each other.

    Two blocks of one language are different infos. Of several blocks in each language, those that agree in area,
    urgency and expiry are merged.
    """
    merged: list[_InfoBlock] = []
    elements = list(islice(children(alert, "info"), MAX_INFOS + 1))
    if len(elements) > MAX_INFOS:
        ignored.append(f"all but {MAX_INFOS} info blocks")
    for block in (_read_info(element, ignored) for element in elements[:MAX_INFOS]):
        [text] = block.info.texts
        candidates = [other for other in merged if text.language not in {t.language for t in other.info.texts}]
        match = next(
            (other for other in candidates if other.common == block.common), candidates[0] if candidates else None
        )
        if match is None:
            merged.append(block)
        else:
            area = match.info.area or block.info.area
            all_clear = match.info.all_clear and block.info.all_clear
            match.info = replace(match.info, texts=(*match.info.texts, text), area=area, all_clear=all_clear)
    return tuple(block.info for block in merged)


def _read_info(info: Element, ignored: list[str]) -> _InfoBlock:
    language = (text_of(info, "language") or DEFAULT_LANGUAGE).replace("_", "-")
    if not LANGUAGE.fullmatch(language):
        ignored.append(f"language {language[:60]!r}: not a language tag")
        language = DEFAULT_LANGUAGE
    expires = parse_time(text_of(info, "expires"))
    if expires is None and text_of(info, "expires"):
        ignored.append("expires: not a time with an offset")
    event = plain_text(text_of(info, "event")) or plain_text(text_of(info, "headline")) or "Alert"
    text = LocalizedText(
        language=language,
        event=event[:MAX_EVENT_LENGTH],
        headline=plain_text(text_of(info, "headline")),
        description=plain_text(text_of(info, "description")),
        instruction=plain_text(text_of(info, "instruction")),
        url=_url(text_of(info, "web")),
    )
    areas = [_read_area(element, ignored) for element in children(info, "area")]
    audience, unusable = area_filter(areas)
    ignored += (detail for detail in unusable if detail not in ignored)
    urgency = _scale(AlertUrgency, info, "urgency", ignored)
    result = AlertInfo(
        texts=(text,),
        area=audience,
        severity=_scale(Severity, info, "severity", ignored),
        urgency=urgency,
        certainty=_scale(Certainty, info, "certainty", ignored),
        expires=expires,
        all_clear="AllClear" in map(own_text, children(info, "responseType")),
    )
    return _InfoBlock(result, (audience, result.severity, urgency, result.certainty, expires))


def _url(text: str) -> str | None:
    return text if text.startswith(("https://", "http://")) and urls.find_url_error(text) is None else None


def _word(vocabulary: type[E], text: str) -> E | None:
    return next((word for word in vocabulary if word.lower() == text.lower()), None)


def _scale(vocabulary: type[E], info: Element, name: str, ignored: list[str]) -> E:
    """Return a word of a scale, `Unknown` for any other text. CAP 1.0 has `Very Likely` for `Likely`."""
    text = text_of(info, name).removeprefix("Very ")
    word = _word(vocabulary, text)
    if word is None:
        detail = f"{name} {text[:60]!r}: not one of {', '.join(vocabulary)}; read as Unknown"
        ignored += [detail] if detail not in ignored else []
    return word or vocabulary("Unknown")


def _read_area(element: Element, ignored: list[str]) -> Area:
    area = Area()
    for polygon in children(element, "polygon"):
        if text := own_text(polygon):
            ring = _ring(text, ignored)
            area.polygons += [[ring]] if ring else []
    for circle in children(element, "circle"):
        centre, _, radius = own_text(circle).partition(" ")
        position = _position(centre)
        km = _number(radius)
        if position is None or km is None:
            ignored.append(f"a circle {own_text(circle)[:60]!r}: not `lat,lon radius`")
        else:
            area.circles.append((*position, km * 1000))
    for name, value in _pairs(element, "geocode"):
        if name != HOLE:
            area.codes.append((name, value))
        elif ring := _ring(value, ignored):
            area.holes.append(ring)
    return area


def _ring(text: str, ignored: list[str]) -> Ring:
    """Read a ring from `lat,lon lat,lon ...`, leaving out tokens that are no position."""
    positions = [(token, _position(token)) for token in text.split()]
    unread = [token for token, position in positions if position is None]
    if unread:
        ignored.append(
            f"{len(unread)} of {len(positions)} positions of a polygon, such as {unread[0][:60]!r}: not `lat,lon`"
        )
    return [position for _, position in positions if position is not None]


def _position(text: str) -> tuple[float, float] | None:
    """Return (longitude, latitude) of `lat,lon`."""
    lat, comma, lon = text.strip().strip(",").partition(",")
    north, east = _number(lat), _number(lon)
    return (east, north) if comma and north is not None and east is not None else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None
