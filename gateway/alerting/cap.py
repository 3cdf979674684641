"""Read CAP 1.0, 1.1 and 1.2 (OASIS Common Alerting Protocol): alone, in a feed, or in an EDXL envelope.

Issuers deviate from the schema. An alert is refused only if it lacks something without which it cannot be sent; other
errors are reported with the alert.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import TypeVar
from xml.etree.ElementTree import Element

from gateway.alerting import vtec
from gateway.alerting.areas import Area, CrossingBudget, Extent, Ring, area_filter
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
from gateway.alerting.xml import child_text, children, local_name, own_text, parse, split_name
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
# The name of the geocode in which Deutscher Wetterdienst publishes the holes of its polygons.
HOLE_GEOCODE = "EXCLUDE_POLYGON"

E = TypeVar("E", bound=StrEnum)


def read(raw: bytes) -> list[AlertMessage | RefusedAlert]:
    """Read every alert of a document, oldest first.

    Raises:
        MalformedBody: the document has no CAP alert.
    """
    root = parse(raw)
    if not (alerts := read_element(root)):
        raise MalformedBody(f"the document has no CAP alert; its root element is {local_name(root)[:60]!r}")
    return alerts


def read_element(root: Element) -> list[AlertMessage | RefusedAlert]:
    """Read every alert at or below an element, oldest first."""
    budget = CrossingBudget()
    alerts = [_read_alert(element, budget) for element in _alert_elements(root)]
    return sorted(alerts, key=lambda alert: str(alert.sent) if isinstance(alert, AlertMessage) else "")


def _alert_elements(element: Element) -> Iterator[Element]:
    namespace, name = split_name(element)
    if name == "alert" and namespace in NAMESPACES:
        yield element
        return
    for child in element:
        yield from _alert_elements(child)


def _pairs(element: Element, name: str) -> list[tuple[str, str]]:
    """Return (valueName, value) of every child element with this name.

    CAP 1.1 and 1.2 have two elements for these; CAP 1.0 has the text `name=value`.
    """
    pairs = []
    for child in children(element, name):
        if len(child):
            pairs.append((child_text(child, "valueName"), child_text(child, "value")))
        else:
            first, _, second = (child.text or "").partition("=")
            pairs.append((first.strip(), second.strip()))
    return pairs


def _read_alert(alert: Element, budget: CrossingBudget) -> AlertMessage | RefusedAlert:
    reasons: list[str] = []
    ignored: list[str] = []
    identifier = child_text(alert, "identifier")
    if not 0 < len(identifier) <= MAX_IDENTIFIER_LENGTH:
        reasons.append(f"identifier must have 1 to {MAX_IDENTIFIER_LENGTH} characters")
    sent = parse_time(child_text(alert, "sent"))
    if sent is None:
        reasons.append("sent must be a time with an offset")
    if (scope := child_text(alert, "scope")) != "Public":
        reasons.append(f"scope is {scope[:60]!r}: only Public alerts are sent")
    status = _parse_enum(AlertStatus, child_text(alert, "status"))
    if status is None:
        reasons.append(f"status must be one of {', '.join(AlertStatus)}")
    declared = _parse_enum(MessageType, child_text(alert, "msgType"))
    if declared is None:
        reasons.append(f"msgType must be one of {', '.join(MessageType)}")
    infos = _read_infos(alert, ignored, budget)
    if not infos and declared is not MessageType.CANCEL:
        reasons.append("there is no info block")
    if reasons or status is None or declared is None:
        return RefusedAlert(identifier or None, tuple(reasons))
    references = tuple(dict.fromkeys(_references(child_text(alert, "references"))))[:MAX_REFERENCES]
    codes = [value for info in children(alert, "info") for name, value in _pairs(info, "parameter") if name == "VTEC"]
    events = vtec.read(codes)
    return AlertMessage(
        identifier=identifier,
        message_type=effective_type(declared, events, references, infos),
        infos=infos,
        sender=child_text(alert, "sender")[:500] or None,
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
    details = {"incidents": child_text(alert, "incidents"), "note": child_text(alert, "note")}
    if info is not None:
        details |= {
            name: child_text(info, name) for name in ("category", "senderName", "effective", "onset", "contact")
        }
        area = next(iter(children(info, "area")), None)
        details["areaDesc"] = "" if area is None else child_text(area, "areaDesc")
    return {name: value[:1000] for name, value in details.items() if value}


@dataclass(slots=True)
class _InfoBlock:
    """One `info` block: one language of an AlertInfo.

    `area_key` identifies its area, and is None without a usable area. `levels` are equal in all translations.
    """

    info: AlertInfo
    area_key: object
    levels: tuple[object, ...]

    @property
    def languages(self) -> set[str | None]:
        return {text.language for text in self.info.texts}


def _read_infos(alert: Element, ignored: list[str], budget: CrossingBudget) -> tuple[AlertInfo, ...]:
    """Read the `info` blocks and merge those that are translations of each other.

    Two blocks in the same language are different infos, and so are two blocks with different areas. Of the infos with
    the area of a block and without its language, the block is merged into the first one with equal `levels` (severity,
    urgency, certainty, expiry), or else into the first. A block without an area translates the first info.
    """
    merged: list[_InfoBlock] = []
    elements = list(islice(children(alert, "info"), MAX_INFOS + 1))
    if len(elements) > MAX_INFOS:
        ignored.append(f"all but {MAX_INFOS} info blocks")
    for block in (_read_info(element, ignored, budget) for element in elements[:MAX_INFOS]):
        [text] = block.info.texts
        candidates = [
            other
            for other in merged
            if text.language not in other.languages
            and (block.area_key == other.area_key or None in (block.area_key, other.area_key))
        ]
        match = next(
            (other for other in candidates if (other.area_key, other.levels) == (block.area_key, block.levels)),
            next(
                (other for other in candidates if other.levels == block.levels), candidates[0] if candidates else None
            ),
        )
        if match is None:
            merged.append(block)
        else:
            area = match.info.area or block.info.area
            all_clear = match.info.all_clear and block.info.all_clear
            match.info = replace(match.info, texts=(*match.info.texts, text), area=area, all_clear=all_clear)
            match.area_key = match.area_key or block.area_key
    return tuple(block.info for block in merged)


def _read_info(info: Element, ignored: list[str], budget: CrossingBudget) -> _InfoBlock:
    language = (child_text(info, "language") or DEFAULT_LANGUAGE).replace("_", "-")
    if not LANGUAGE.fullmatch(language):
        ignored.append(f"language {language[:60]!r}: not a language tag")
        language = DEFAULT_LANGUAGE
    expires = parse_time(child_text(info, "expires"))
    if expires is None and child_text(info, "expires"):
        ignored.append("expires: not a time with an offset")
    event = plain_text(child_text(info, "event")) or plain_text(child_text(info, "headline")) or "Alert"
    text = LocalizedText(
        language=language,
        event=event[:MAX_EVENT_LENGTH],
        headline=plain_text(child_text(info, "headline")),
        description=plain_text(child_text(info, "description")),
        instruction=plain_text(child_text(info, "instruction")),
        url=_url(child_text(info, "web")),
    )
    areas = [_read_area(element, ignored) for element in children(info, "area")]
    audience, unusable = area_filter(areas, budget)
    ignored += (detail for detail in unusable if detail not in ignored)
    urgency = _read_level(AlertUrgency, info, "urgency", ignored)
    result = AlertInfo(
        texts=(text,),
        area=audience,
        severity=_read_level(Severity, info, "severity", ignored),
        urgency=urgency,
        certainty=_read_level(Certainty, info, "certainty", ignored),
        expires=expires,
        all_clear="AllClear" in map(own_text, children(info, "responseType")),
    )
    area_key = None if audience is None else Extent(audience).key
    return _InfoBlock(result, area_key, (result.severity, urgency, result.certainty, expires))


def _url(text: str) -> str | None:
    return text if text.startswith(("https://", "http://")) and urls.find_url_error(text) is None else None


def _parse_enum(enum: type[E], text: str) -> E | None:
    return next((member for member in enum if member.lower() == text.lower()), None)


def _read_level(enum: type[E], info: Element, name: str, ignored: list[str]) -> E:
    """Return the severity, urgency or certainty of a block; `Unknown` for a text that is not in the enum.

    CAP 1.0 has `Very Likely` for `Likely`.
    """
    text = child_text(info, name).removeprefix("Very ")
    level = _parse_enum(enum, text)
    if level is None:
        detail = f"{name} {text[:60]!r}: not one of {', '.join(enum)}; read as Unknown"
        ignored += [detail] if detail not in ignored else []
    return level or enum("Unknown")


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
        if name != HOLE_GEOCODE:
            area.codes.append((name, value))
        elif ring := _ring(value, ignored):
            area.holes.append(ring)
    return area


def _ring(text: str, ignored: list[str]) -> Ring:
    """Read a ring from `lat,lon lat,lon ...`, without the tokens that are not positions."""
    positions = [(token, _position(token)) for token in text.split()]
    invalid = [token for token, position in positions if position is None]
    if invalid:
        ignored.append(
            f"{len(invalid)} of {len(positions)} positions of a polygon, such as {invalid[0][:60]!r}: not `lat,lon`"
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
