"""Audiences: filters that select the recipients of a notification.

`parse` turns JSON into the syntax tree below, or reports all errors; `gateway.records.audiences` compiles the tree to
SQL. A filter is a JSON object with one leaf, such as `topic`, or one combinator: `all`, `any` or `not`.

    {"all": [{"topic": "weather"}, {"not": {"attribute": "age", "lt": 18}}]}
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from gateway.domain import comparison, ids
from gateway.domain.comparison import MAX_VALUES, OPERATORS, Scalar, is_number
from gateway.domain.device import TOPIC_NAME, ZONE_CODE
from gateway.domain.errors import FieldError, ValidationError, pointer_step
from gateway.domain.geometry import find_polygon_error
from gateway.domain.json_object import JsonObject

# Maximum size of a filter in a request.
MAX_DEPTH = 16
MAX_LEAVES = 200
# Maximum size of a filter after its segments are expanded.
MAX_RESOLVED_DEPTH = 32
MAX_RESOLVED_LEAVES = 1000
# Maximum number of values and coordinates in all leaves. Each is a parameter of the query.
MAX_RESOLVED_VALUES = 100_000
# Maximum number of vertices of one `within` filter.
MAX_VERTICES = 10_000
# Maximum radius of a `near` filter: half the Earth's circumference.
MAX_RADIUS_M = 20_037_508.0

# (longitude, latitude) vertices, closed: the last equals the first (RFC 7946 section 3.1.6).
Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Everyone:
    """All devices."""


@dataclass(frozen=True, slots=True)
class Topic:
    """Devices with a topic."""

    name: str


@dataclass(frozen=True, slots=True)
class Zones:
    """Devices in any of the areas with these zone codes."""

    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Users:
    """Devices of these users."""

    user_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices with these ids."""

    device_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Notified:
    """Devices for which the push service accepted one of these notifications."""

    notification_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Detail:
    """Devices of which a client detail equals one of `values`, ignoring case.

    `name` is locale, timezone, platform or browser. A locale is a language range (RFC 4647 section 3.3.1): `de` also
    matches `de-AT`. A browser without a version matches every version: `Firefox` also matches `Firefox 140`.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LastSeen:
    """Devices whose last registration, refresh or change was from `after` until before `before`; None: no limit."""

    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Attribute:
    """Devices of which an attribute matches a comparison (`gateway.domain.comparison`).

    `operator` is eq, ne, in, lt, lte, gt, gte, exists or contains. A device without the attribute matches only `ne` and
    `exists: false`.
    """

    name: str
    operator: str
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """Devices inside any of the polygons. A polygon is its outer ring and then its holes, in degrees (RFC 7946)."""

    polygons: tuple[tuple[Ring, ...], ...]


@dataclass(frozen=True, slots=True)
class Near:
    """Devices within a radius of a point."""

    lat: float
    lon: float
    radius_m: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A reference to a segment, which `expand_segments` replaces by the segment's filter.

    `pointer` is the JSON pointer of the reference in the filter.
    """

    id: UUID
    pointer: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Devices that match all of the filters."""

    filters: tuple["Audience", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Devices that match any of the filters."""

    filters: tuple["Audience", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Devices that do not match the filter."""

    negated: "Audience"


Audience = (
    Everyone
    | Topic
    | Zones
    | Users
    | Devices
    | Notified
    | Segment
    | Detail
    | LastSeen
    | Attribute
    | Within
    | Near
    | AllOf
    | AnyOf
    | Not
)

# The client details, each with a separator or None. With a separator, a value also matches longer texts in which the
# separator follows it: `de` matches `de-AT`.
DETAILS = {"locale": "-", "timezone": None, "platform": None, "browser": " "}


def parse(value: object, pointer: str = "/audience") -> Audience:
    """Parse a filter.

    Raises:
        ValidationError: with every error and its JSON pointer.
    """
    parser = _Parser()
    audience = parser.parse(value, pointer, 1)
    if parser.leaves > MAX_LEAVES:
        parser.reject(pointer, f"has {parser.leaves} leaves; at most {MAX_LEAVES} are allowed")
    if parser.errors or audience is None:
        raise ValidationError(parser.errors)
    return audience


def iter_leaves(audience: Audience) -> Iterator[Audience]:
    """Yield the leaves of a filter in order."""
    match audience:
        case AllOf(filters) | AnyOf(filters):
            for branch in filters:
                yield from iter_leaves(branch)
        case Not(negated):
            yield from iter_leaves(negated)
        case _:
            yield audience


def selects_users(audience: Audience) -> bool:
    """Return whether a filter selects devices by their users. A filter that only excludes users does not."""
    match audience:
        case AllOf(of) | AnyOf(of):
            return any(map(selects_users, of))
        case _:
            return isinstance(audience, Users)


def iter_segments(audience: Audience) -> Iterator[Segment]:
    """Yield the segments of a filter in order."""
    return (leaf for leaf in iter_leaves(audience) if isinstance(leaf, Segment))


class FilterSize(NamedTuple):
    """The size of a filter with its segments expanded; `values` counts texts, numbers and coordinates."""

    leaves: int
    levels: int
    values: int

    def find_error(self) -> str | None:
        """Return why the filter is too large for one query, or None."""
        if self.leaves > MAX_RESOLVED_LEAVES or self.levels > MAX_RESOLVED_DEPTH:
            limit = f"at most {MAX_RESOLVED_LEAVES} on {MAX_RESOLVED_DEPTH} levels are allowed"
            return f"has {self.leaves} leaves on {self.levels} levels with its segments; {limit}"
        if self.values > MAX_RESOLVED_VALUES:
            return f"has {self.values} values with its segments; at most {MAX_RESOLVED_VALUES} are allowed"
        return None


def measure(
    audience: Audience, definitions: Mapping[UUID, Audience], sizes: dict[UUID, FilterSize] | None = None
) -> FilterSize:
    """Return the size of a filter without expanding it: nested segments grow exponentially.

    Args:
        audience: the filter.
        definitions: the filters of all segments in the filter, also in nested segments; they have no cycles.
        sizes: caches the sizes of segments across calls.
    """
    segment_sizes = {} if sizes is None else sizes

    def measure_part(part: Audience) -> FilterSize:
        match part:
            case AllOf(of) | AnyOf(of):
                leaves, levels, values = zip(*map(measure_part, of), strict=True)
                return FilterSize(sum(leaves), max(levels) + 1, sum(values))
            case Not(of):
                inner = measure_part(of)
                return inner._replace(levels=inner.levels + 1)
            case Segment(id_):
                if id_ not in segment_sizes:
                    segment_sizes[id_] = measure_part(definitions[id_])
                return segment_sizes[id_]
            case _:
                return FilterSize(1, 1, _count_values(part))

    return measure_part(audience)


def _count_values(leaf: Audience) -> int:
    match leaf:
        case Zones(items) | Users(items) | Devices(items) | Notified(items) | Detail(_, items):
            return len(items)
        case Attribute(_, _, tuple(items)):
            return len(items)
        case Within(polygons):
            return 2 * sum(len(ring) for polygon in polygons for ring in polygon)
        case _:
            return 1


def expand_segments(audience: Audience, definitions: Mapping[UUID, Audience], pointer: str = "/audience") -> Audience:
    """Replace every segment by its definition.

    Args:
        audience: the filter.
        definitions: the filters of all segments in the filter, also in nested segments; they have no cycles.
        pointer: the JSON pointer of the filter, for errors.

    Raises:
        ValidationError: the result is too large for one query.
    """

    def expand(part: Audience) -> Audience:
        match part:
            case AllOf(filters):
                return AllOf(tuple(map(expand, filters)))
            case AnyOf(filters):
                return AnyOf(tuple(map(expand, filters)))
            case Not(negated):
                return Not(expand(negated))
            case Segment(id_):
                return expand(definitions[id_])
            case _:
                return part

    if (error := measure(audience, definitions).find_error()) is not None:
        raise ValidationError([FieldError(pointer, error)])
    return expand(audience)


class _Parser:
    """Parses a filter, collects its errors and counts its leaves.

    Each kind of filter has a method, listed in `_PARSERS`. `pointer` is the JSON pointer of the value that is parsed.
    """

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self.leaves = 0

    def reject(self, pointer: str, detail: str) -> None:
        """Record an error. Return None, so that a method can end with `return self.reject(...)`."""
        self.errors.append(FieldError(pointer, detail))

    def parse(self, value: object, pointer: str, depth: int) -> Audience | None:
        if not isinstance(value, dict):
            return self.reject(pointer, f"must be an object with one filter, not {_describe_type(value)}")
        if depth > MAX_DEPTH:
            return self.reject(pointer, f"is nested deeper than {MAX_DEPTH} levels")
        filters = [key for key in value if key in _PARSERS]
        if len(filters) != 1:
            names = ", ".join(_PARSERS)
            if filters:
                return self.reject(
                    pointer, f"must contain one filter, not {len(filters)}: {', '.join(filters)}; combine them with all"
                )
            return self.reject(
                pointer, f"must contain one of {names}" + (f", not {_format_keys(value)}" if value else "")
            )
        [name] = filters
        allowed = {name, *(OPERATORS if name == "attribute" else ())}
        for extra in value.keys() - allowed:
            self.reject(f"{pointer}{pointer_step(extra)}", f"is not a field of the filter {name}")
        if name not in ("all", "any", "not"):
            self.leaves += 1
        return _PARSERS[name](self, value, pointer, depth)

    def everyone(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        if value["everyone"] is not True:
            return self.reject(f"{pointer}/everyone", "must be true")
        return Everyone()

    def topic(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        name = value["topic"]
        if not isinstance(name, str) or not TOPIC_NAME.fullmatch(name):
            return self.reject(
                f"{pointer}/topic", "must be 1 to 64 letters, digits or _.:~- and begin with a letter or digit"
            )
        return Topic(name)

    def zones(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        codes = self._texts(value["zone"], f"{pointer}/zone")
        if codes is None:
            return None
        for index, code in enumerate(codes):
            if not ZONE_CODE.fullmatch(code):
                code_pointer = f"{pointer}/zone/{index}" if isinstance(value["zone"], list) else f"{pointer}/zone"
                self.reject(code_pointer, "must be 1 to 64 letters, digits or _.:/~- and begin with a letter or digit")
        return Zones(codes)

    def users(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        user_ids = self._texts(value["user_id"], f"{pointer}/user_id")
        return None if user_ids is None else Users(user_ids)

    def devices(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        device_ids = self._ids(ids.DEVICE, value["device_id"], f"{pointer}/device_id", "is not a device id")
        return None if device_ids is None else Devices(device_ids)

    def notified(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        notification_ids = self._ids(
            ids.NOTIFICATION, value["notified"], f"{pointer}/notified", "is not a notification id"
        )
        return None if notification_ids is None else Notified(notification_ids)

    def segment(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        text, pointer = value["segment"], f"{pointer}/segment"
        id_ = ids.parse(ids.SEGMENT, text) if isinstance(text, str) else None
        return (
            self.reject(pointer, "is not a segment id, which begins with seg_")
            if id_ is None
            else Segment(id_, pointer)
        )

    def detail(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        [name] = value.keys() & DETAILS.keys()
        values = self._texts(value[name], f"{pointer}/{name}")
        return None if values is None else Detail(name, values)

    def last_seen(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        limits, pointer = value["last_seen"], f"{pointer}/last_seen"
        if not isinstance(limits, dict) or not limits:
            return self.reject(pointer, "must be {after} or {before} or both")
        error_count = len(self.errors)
        for extra in limits.keys() - {"after", "before"}:
            self.reject(f"{pointer}{pointer_step(extra)}", "is not a field of last_seen")
        bounds = {name: _parse_time(limits[name]) for name in ("after", "before") if name in limits}
        for name, moment in bounds.items():
            if moment is None:
                self.reject(f"{pointer}/{name}", "must be a time with an offset, such as 2026-12-01T09:00:00Z")
        return None if len(self.errors) > error_count else LastSeen(**bounds)

    def attribute(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        name = value["attribute"]
        if not isinstance(name, str) or not 0 < len(name) <= 100:
            return self.reject(f"{pointer}/attribute", "must be the attribute's name, 1 to 100 characters")
        parsed = comparison.parse(value, pointer, name)
        if isinstance(parsed, list):
            self.errors += parsed
            return None
        return Attribute(name, *parsed)

    def within(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        polygons = self._polygons(value["within"], f"{pointer}/within")
        return None if polygons is None else Within(polygons)

    def near(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        near, pointer = value["near"], f"{pointer}/near"
        if not isinstance(near, dict):
            return self.reject(pointer, "must be {lat, lon, radius_m}")
        error_count = len(self.errors)
        for extra in near.keys() - {"lat", "lon", "radius_m"}:
            self.reject(f"{pointer}{pointer_step(extra)}", "is not a field of near")
        for name, low, high in (("lat", -90, 90), ("lon", -180, 180), ("radius_m", 1, MAX_RADIUS_M)):
            number = near.get(name)
            if name not in near:
                self.reject(f"{pointer}/{name}", "is missing")
            elif not is_number(number) or not low <= number <= high:
                self.reject(f"{pointer}/{name}", f"must be a number from {low:g} to {high:g}")
        if len(self.errors) > error_count:
            return None
        return Near(float(near["lat"]), float(near["lon"]), float(near["radius_m"]))

    def all(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        branches = self._branches(value["all"], f"{pointer}/all", depth)
        return None if branches is None else AllOf(branches)

    def any(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        branches = self._branches(value["any"], f"{pointer}/any", depth)
        return None if branches is None else AnyOf(branches)

    def negation(self, value: JsonObject, pointer: str, depth: int) -> Audience | None:
        branch = self.parse(value["not"], f"{pointer}/not", depth + 1)
        return None if branch is None else Not(branch)

    def _branches(self, value: object, pointer: str, depth: int) -> tuple[Audience, ...] | None:
        if not isinstance(value, list) or not value:
            return self.reject(pointer, "must be a list of at least one filter")
        branches = [self.parse(item, f"{pointer}/{index}", depth + 1) for index, item in enumerate(value)]
        return tuple(branch for branch in branches if branch is not None)

    def _texts(self, value: object, pointer: str) -> tuple[str, ...] | None:
        """Parse a text or a list of texts."""
        values = value if isinstance(value, list) else [value]
        if not 0 < len(values) <= MAX_VALUES or not all(isinstance(v, str) and 0 < len(v) <= 255 for v in values):
            return self.reject(pointer, f"must be text of 1 to 255 characters, or a list of 1 to {MAX_VALUES} of them")
        return tuple(values)

    def _ids(self, kind: str, value: object, pointer: str, detail: str) -> tuple[UUID, ...] | None:
        texts = self._texts(value, pointer)
        if texts is None:
            return None
        parsed_ids = [ids.parse(kind, text) for text in texts]
        for index, parsed in enumerate(parsed_ids):
            if parsed is None:
                self.reject(f"{pointer}/{index}" if isinstance(value, list) else pointer, detail)
        return tuple(id_ for id_ in parsed_ids if id_ is not None)

    def _polygons(self, value: object, pointer: str) -> tuple[tuple[Ring, ...], ...] | None:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in ("Polygon", "MultiPolygon") or not isinstance(value, dict):
            return self.reject(pointer, "must be a GeoJSON Polygon or MultiPolygon (RFC 7946)")
        for extra in value.keys() - {"type", "coordinates", "bbox"}:
            self.reject(f"{pointer}{pointer_step(extra)}", f"is not a member of a GeoJSON {kind}")
        coordinates, pointer = value.get("coordinates"), f"{pointer}/coordinates"
        if not isinstance(coordinates, list) or not coordinates:
            return self.reject(pointer, f"must be the non-empty coordinates of a {kind}")
        if kind == "Polygon":
            located_polygons = [(coordinates, pointer)]
        else:
            located_polygons = [(rings, f"{pointer}/{index}") for index, rings in enumerate(coordinates)]
        error_count, vertices, polygons = len(self.errors), 0, []
        for rings, polygon_pointer in located_polygons:
            if not isinstance(rings, list) or not rings:
                self.reject(polygon_pointer, "must be a list of rings: the outer ring, then its holes")
                continue
            parsed = [self._ring(ring, f"{polygon_pointer}/{index}") for index, ring in enumerate(rings)]
            polygon = tuple(ring for ring in parsed if ring is not None)
            vertices += sum(map(len, polygon))
            if len(polygon) == len(rings) and vertices <= MAX_VERTICES:
                if error := find_polygon_error(polygon):
                    ring_index, detail = error
                    self.reject(polygon_pointer if ring_index is None else f"{polygon_pointer}/{ring_index}", detail)
                polygons.append(polygon)
        if vertices > MAX_VERTICES:
            self.reject(pointer, f"has {vertices} vertices; at most {MAX_VERTICES} are allowed")
        return tuple(polygons) if len(self.errors) == error_count else None

    def _ring(self, value: object, pointer: str) -> Ring | None:
        if not isinstance(value, list) or len(value) < 4:
            return self.reject(pointer, "must be a ring of at least 4 positions, the last equal to the first")
        for index, position in enumerate(value):
            if not isinstance(position, list) or len(position) not in (2, 3) or not all(map(is_number, position)):
                return self.reject(f"{pointer}/{index}", "must be [longitude, latitude]")
            if not -180 <= position[0] <= 180 or not -90 <= position[1] <= 90:
                return self.reject(
                    f"{pointer}/{index}",
                    "longitude must be from -180 to 180 and latitude from -90 to 90, in this order",
                )
        if any(180 < abs(start[0] - end[0]) < 360 for start, end in pairwise(value)):
            return self.reject(
                pointer,
                "has an edge of more than 180 degrees: if the edge crosses the antimeridian, cut the polygon in two "
                "there (RFC 7946 section 3.1.9); if it does not, add a vertex to the edge",
            )
        if value[0][:2] != value[-1][:2]:
            return self.reject(pointer, "is not closed: the last position must equal the first")
        return tuple((float(p[0]), float(p[1])) for p in value)


_PARSERS: dict[str, Callable[[_Parser, JsonObject, str, int], Audience | None]] = {
    "everyone": _Parser.everyone,
    "topic": _Parser.topic,
    "zone": _Parser.zones,
    "user_id": _Parser.users,
    "device_id": _Parser.devices,
    "notified": _Parser.notified,
    "segment": _Parser.segment,
    "locale": _Parser.detail,
    "timezone": _Parser.detail,
    "platform": _Parser.detail,
    "browser": _Parser.detail,
    "last_seen": _Parser.last_seen,
    "attribute": _Parser.attribute,
    "within": _Parser.within,
    "near": _Parser.near,
    "all": _Parser.all,
    "any": _Parser.any,
    "not": _Parser.negation,
}
# The names of all filters.
FILTER_NAMES = tuple(_PARSERS)


def _parse_time(value: object) -> datetime | None:
    """Parse an RFC 3339 time with an offset; None if it is not one."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None and 1970 <= moment.year <= 9000 else None


def _describe_type(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", str: "text", list: "a list", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _format_keys(keys: Sequence[str] | JsonObject) -> str:
    return ", ".join(repr(key)[:60] for key in list(keys)[:5])
