"""Read CAP 1.0, 1.1 and 1.2 (OASIS Common Alerting Protocol), bare or inside a feed or an EDXL envelope.

Issuers differ in how well they keep to the schema: what a warning can be told without is told about and not insisted
on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import TypeVar
from xml.etree.ElementTree import Element

from gateway.alerting import vtec
from gateway.alerting.areas import Area, Ring, filter_of
from gateway.alerting.text import (
    LANGUAGE,
    MAX_EVENT_LENGTH,
    MAX_IDENTIFIER_LENGTH,
    MAX_IGNORED,
    MAX_REFERENCES,
    Refused,
    meaning,
    moment,
    prose,
)
from gateway.alerting.xml import children, local, parsed, split, text_of, whole
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
DEFAULT_LANGUAGE = "en-US"
"""What an `info` without one is in (CAP 1.2 section 3.2.2)."""
MAX_INFOS = 500
HOLE = "EXCLUDE_POLYGON"
"""The geocode by which Deutscher Wetterdienst cuts holes into its polygons."""

E = TypeVar("E", bound=StrEnum)


def read(raw: bytes) -> list[AlertMessage | Refused]:
    """Every alert in the document, the oldest first. Raises MalformedBody when there is none to be read."""
    root = parsed(raw)
    if not (found := alerts_in(root)):
        raise MalformedBody(f"the document holds no CAP alert; its root element is {local(root)[:60]!r}")
    return found


def alerts_in(root: Element) -> list[AlertMessage | Refused]:
    """Every alert at or below an element, the oldest first."""
    found = [_read(element) for element in _alerts(root)]
    return sorted(found, key=lambda one: str(one.sent) if isinstance(one, AlertMessage) else "")


def _alerts(element: Element) -> Iterator[Element]:
    namespace, name = split(element)
    if name == "alert" and namespace in NAMESPACES:
        yield element
        return
    for child in element:
        yield from _alerts(child)


def _pairs(element: Element, name: str) -> list[tuple[str, str]]:
    """(valueName, value) of every child of that name. CAP 1.0 wrote `name=value`."""
    pairs = []
    for child in children(element, name):
        if len(child):
            pairs.append((text_of(child, "valueName"), text_of(child, "value")))
        else:
            first, _, second = (child.text or "").partition("=")
            pairs.append((first.strip(), second.strip()))
    return pairs


def _read(alert: Element) -> AlertMessage | Refused:
    reasons: list[str] = []
    ignored: list[str] = []
    identifier = text_of(alert, "identifier")
    if not 0 < len(identifier) <= MAX_IDENTIFIER_LENGTH:
        reasons.append(f"identifier must have 1 to {MAX_IDENTIFIER_LENGTH} characters")
    sent = moment(text_of(alert, "sent"))
    if sent is None:
        reasons.append("sent must be a time with an offset")
    if (scope := text_of(alert, "scope")) != "Public":
        reasons.append(f"scope is {scope[:60]!r}: only what is Public may be told to everyone")
    status = _word(AlertStatus, text_of(alert, "status"))
    if status is None:
        reasons.append(f"status must be one of {', '.join(AlertStatus)}")
    said = _word(MessageType, text_of(alert, "msgType"))
    if said is None:
        reasons.append(f"msgType must be one of {', '.join(MessageType)} to be told")
    parts = _parts(alert, ignored)
    if not parts and said is not MessageType.CANCEL:
        reasons.append("there is no info that says what to tell")
    if reasons or status is None or said is None:
        return Refused(identifier or None, tuple(reasons))
    references = tuple(dict.fromkeys(_references(text_of(alert, "references"))))[:MAX_REFERENCES]
    codes = [value for info in children(alert, "info") for name, value in _pairs(info, "parameter") if name == "VTEC"]
    events = vtec.read(codes)
    return AlertMessage(
        identifier=identifier,
        message_type=meaning(said, events, references, parts),
        parts=parts,
        sender=text_of(alert, "sender")[:500] or None,
        sent=sent,
        status=status,
        references=references,
        event_keys=events.tracks,
        ignored=tuple(ignored[:MAX_IGNORED]),
        details=_details(alert),
    )


def _references(text: str) -> Iterator[str]:
    """The identifiers of `sender,identifier,sent` triples, which white space separates."""
    for triple in text.split():
        _, _, rest = triple.partition(",")
        identifier = rest.rpartition(",")[0] or rest or triple
        if len(identifier) <= MAX_IDENTIFIER_LENGTH:
            yield identifier


def _details(alert: Element) -> dict[str, str]:
    info = next(iter(children(alert, "info")), None)
    said = {"incidents": text_of(alert, "incidents"), "note": text_of(alert, "note")}
    if info is not None:
        said |= {name: text_of(info, name) for name in ("category", "senderName", "effective", "onset", "contact")}
        area = next(iter(children(info, "area")), None)
        said["areaDesc"] = "" if area is None else text_of(area, "areaDesc")
    return {name: value[:1000] for name, value in said.items() if value}


@dataclass(slots=True)
class _Info:
    """One `info` block: one language of a part. `told` is what the languages of one part have in common."""

    part: AlertInfo
    told: tuple[object, ...]


def _parts(alert: Element, ignored: list[str]) -> tuple[AlertInfo, ...]:
    """The `info` blocks, those that say the same in different languages put together.

    Two of one language say different things. With several of each, those that agree in area, urgency and expiry belong
    together.
    """
    gathered: list[_Info] = []
    infos = list(islice(children(alert, "info"), MAX_INFOS + 1))
    if len(infos) > MAX_INFOS:
        ignored.append(f"all but {MAX_INFOS} info blocks")
    for info in (_info(element, ignored) for element in infos[:MAX_INFOS]):
        [words] = info.part.texts
        mates = [one for one in gathered if words.language not in {spoken.language for spoken in one.part.texts}]
        mate = next((one for one in mates if one.told == info.told), mates[0] if mates else None)
        if mate is None:
            gathered.append(info)
        else:
            area = mate.part.area or info.part.area
            both = mate.part.all_clear and info.part.all_clear
            mate.part = replace(mate.part, texts=(*mate.part.texts, words), area=area, all_clear=both)
    return tuple(info.part for info in gathered)


def _info(info: Element, ignored: list[str]) -> _Info:
    language = (text_of(info, "language") or DEFAULT_LANGUAGE).replace("_", "-")
    if not LANGUAGE.fullmatch(language):
        ignored.append(f"language {language[:60]!r}: not a language tag")
        language = DEFAULT_LANGUAGE
    expires = moment(text_of(info, "expires"))
    if expires is None and text_of(info, "expires"):
        ignored.append("expires: not a time with an offset")
    event = prose(text_of(info, "event")) or prose(text_of(info, "headline")) or "Alert"
    words = LocalizedText(
        language=language,
        event=event[:MAX_EVENT_LENGTH],
        headline=prose(text_of(info, "headline")),
        description=prose(text_of(info, "description")),
        instruction=prose(text_of(info, "instruction")),
        url=_url(text_of(info, "web")),
    )
    areas = [_area(element, ignored) for element in children(info, "area")]
    where, unusable = filter_of(areas)
    ignored += (detail for detail in unusable if detail not in ignored)
    urgency = _scale(AlertUrgency, info, "urgency", ignored)
    part = AlertInfo(
        texts=(words,),
        area=where,
        severity=_scale(Severity, info, "severity", ignored),
        urgency=urgency,
        certainty=_scale(Certainty, info, "certainty", ignored),
        expires=expires,
        all_clear="AllClear" in map(whole, children(info, "responseType")),
    )
    return _Info(part, (where, part.severity, urgency, part.certainty, expires))


def _url(text: str) -> str | None:
    return text if text.startswith(("https://", "http://")) and urls.fault_of(text) is None else None


def _word(words: type[E], text: str) -> E | None:
    return next((word for word in words if word.lower() == text.lower()), None)


def _scale(words: type[E], info: Element, name: str, ignored: list[str]) -> E:
    """One of the scale's words, `Unknown` for any other. CAP 1.0 said `Very Likely` for `Likely`."""
    text = text_of(info, name).removeprefix("Very ")
    found = _word(words, text)
    if found is None:
        detail = f"{name} {text[:60]!r}: not one of {', '.join(words)}, taken for Unknown"
        ignored += [detail] if detail not in ignored else []
    return found or words("Unknown")


def _area(element: Element, ignored: list[str]) -> Area:
    area = Area()
    for polygon in children(element, "polygon"):
        if text := whole(polygon):
            ring = _ring(text, ignored)
            area.polygons += [[ring]] if ring else []
    for circle in children(element, "circle"):
        centre, _, radius = whole(circle).partition(" ")
        place = _place(centre)
        km = _number(radius)
        if place is None or km is None:
            ignored.append(f"a circle {whole(circle)[:60]!r}: not `lat,lon radius`")
        else:
            area.circles.append((*place, km * 1000))
    for name, value in _pairs(element, "geocode"):
        if name != HOLE:
            area.codes.append((name, value))
        elif ring := _ring(value, ignored):
            area.holes.append(ring)
    return area


def _ring(text: str, ignored: list[str]) -> Ring:
    """From `lat,lon lat,lon ...`; without the positions that are none."""
    places = [(token, _place(token)) for token in text.split()]
    unread = [token for token, place in places if place is None]
    if unread:
        ignored.append(
            f"{len(unread)} of {len(places)} positions of a polygon, such as {unread[0][:60]!r}: not `lat,lon`"
        )
    return [place for _, place in places if place is not None]


def _place(text: str) -> tuple[float, float] | None:
    """(longitude, latitude) from `lat,lon`."""
    lat, comma, lon = text.strip().strip(",").partition(",")
    north, east = _number(lat), _number(lon)
    return (east, north) if comma and north is not None and east is not None else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None
