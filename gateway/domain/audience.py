"""An audience: the filter that says who.

`parse` turns JSON into the small tree below and names every fault at once; `gateway.records.audiences`
compiles the tree to SQL. A filter is one object with one leaf or one combinator:

    {"all": [{"topic": "weather"}, {"not": {"attribute": "age", "lt": 18}}]}
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

from gateway.domain import comparison, ids
from gateway.domain.comparison import MAX_VALUES, OPERATORS, Scalar, is_number
from gateway.domain.device import TOPIC_NAME, ZONE_CODE
from gateway.domain.errors import FieldError, ValidationError, pointer_step
from gateway.domain.geometry import find_polygon_error

MAX_DEPTH = 16
MAX_LEAVES = 200
# What a filter may come to with its segments written out.
MAX_RESOLVED_DEPTH = 32
MAX_RESOLVED_LEAVES = 1000
MAX_VERTICES = 10_000
MAX_RADIUS_M = 20_037_508.0  # half the Earth's circumference

Ring = tuple[tuple[float, float], ...]
"""(longitude, latitude) vertices, closed: the last equals the first (RFC 7946 section 3.1.6)."""


@dataclass(frozen=True, slots=True)
class Everyone:
    pass


@dataclass(frozen=True, slots=True)
class Topic:
    name: str


@dataclass(frozen=True, slots=True)
class Zones:
    """In any of the named areas that these codes stand for."""

    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Users:
    user_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Devices:
    device_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Notified:
    """Those that the push service took one of these notifications for."""

    notification_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Detail:
    """A client detail that is one of `values`, upper and lower case alike.

    `name` is locale, timezone, platform or browser. A locale is a language range (RFC 4647 section 3.3.1): `de` is
    `de-AT` too. A browser without a version is every version of it: `Firefox` is `Firefox 140` too.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LastSeen:
    """Registered, refreshed or changed at `after` or later, and before `before`; None does not limit."""

    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Attribute:
    """`operator` is eq, ne, in, lt, lte, gt, gte, exists or contains. A device without the attribute
    matches only `ne` and `exists: false`; ordering compares numbers with numbers and text with text."""

    name: str
    operator: str
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """Inside any of the polygons; each is an outer ring and its holes (RFC 7946), planar degrees."""

    polygons: tuple[tuple[Ring, ...], ...]


@dataclass(frozen=True, slots=True)
class Near:
    lat: float
    lon: float
    radius_m: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A saved audience by its id, until `resolved` puts that audience in its place."""

    id: UUID
    pointer: str = field(compare=False)
    """Where the filter names it."""


@dataclass(frozen=True, slots=True)
class AllOf:
    of: tuple["Audience", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    of: tuple["Audience", ...]


@dataclass(frozen=True, slots=True)
class Not:
    of: "Audience"


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

DETAILS = {"locale": "-", "timezone": None, "platform": None, "browser": " "}
"""The client details, and what follows a value that stands for longer ones."""


def parse(value: object, pointer: str = "/audience") -> Audience:
    """The tree behind the JSON; raises Invalid with every fault and its pointer."""
    reader = _Reader()
    audience = reader.read(value, pointer, 1)
    if reader.leaves > MAX_LEAVES:
        reader.fault(pointer, f"has {reader.leaves} leaves; at most {MAX_LEAVES} are allowed")
    if reader.faults or audience is None:
        raise ValidationError(reader.faults)
    return audience


def iter_leaves(audience: Audience) -> Iterator[Audience]:
    """The leaves of a filter, in order."""
    match audience:
        case AllOf(of) | AnyOf(of):
            for branch in of:
                yield from iter_leaves(branch)
        case Not(branch):
            yield from iter_leaves(branch)
        case _:
            yield audience


def iter_segments(audience: Audience) -> Iterator[Segment]:
    """The segments a filter names, in order."""
    return (leaf for leaf in iter_leaves(audience) if isinstance(leaf, Segment))


def expand_segments(audience: Audience, definitions: Mapping[UUID, Audience], pointer: str = "/audience") -> Audience:
    """The filter with every segment's own in its place; `saved` has all of them, and no circle.

    Raises Invalid when that comes to more than one query can hold.
    """
    sizes: dict[UUID, tuple[int, int]] = {}

    def size(part: Audience) -> tuple[int, int]:
        """(leaves, levels), without writing it out: segments of segments grow exponentially."""
        match part:
            case AllOf(of) | AnyOf(of):
                sizes_of = [size(branch) for branch in of]
                return sum(leaves for leaves, _ in sizes_of), max(levels for _, levels in sizes_of) + 1
            case Not(of):
                leaves, levels = size(of)
                return leaves, levels + 1
            case Segment(id_):
                if id_ not in sizes:
                    sizes[id_] = size(definitions[id_])
                return sizes[id_]
            case _:
                return 1, 1

    def written_out(part: Audience) -> Audience:
        match part:
            case AllOf(of):
                return AllOf(tuple(map(written_out, of)))
            case AnyOf(of):
                return AnyOf(tuple(map(written_out, of)))
            case Not(of):
                return Not(written_out(of))
            case Segment(id_):
                return written_out(definitions[id_])
            case _:
                return part

    leaves, levels = size(audience)
    if leaves > MAX_RESOLVED_LEAVES or levels > MAX_RESOLVED_DEPTH:
        most = f"at most {MAX_RESOLVED_LEAVES} on {MAX_RESOLVED_DEPTH} levels are allowed"
        raise ValidationError(
            [FieldError(pointer, f"has {leaves} leaves on {levels} levels with its segments; {most}")]
        )
    return written_out(audience)


class _Reader:
    def __init__(self) -> None:
        self.faults: list[FieldError] = []
        self.leaves = 0

    def fault(self, pointer: str, detail: str) -> None:
        """Note a fault; answers None, so that a reader can refuse in one line."""
        self.faults.append(FieldError(pointer, detail))

    def read(self, value: object, at: str, depth: int) -> Audience | None:
        if not isinstance(value, dict):
            return self.fault(at, f"must be an object with one filter, not {_kind(value)}")
        if depth > MAX_DEPTH:
            return self.fault(at, f"is nested deeper than {MAX_DEPTH} levels")
        known = [key for key in value if key in _READERS]
        if len(known) != 1:
            names = ", ".join(_READERS)
            if known:
                return self.fault(at, f"must hold one filter, not {len(known)}: {', '.join(known)}; join them with all")
            return self.fault(at, f"must hold one of {names}" + (f", not {_names(value)}" if value else ""))
        [name] = known
        allowed = {name, *(OPERATORS if name == "attribute" else ())}
        for extra in value.keys() - allowed:
            self.fault(f"{at}{pointer_step(extra)}", f"is not known beside {name}")
        if name not in ("all", "any", "not"):
            self.leaves += 1
        return _READERS[name](self, value, at, depth)

    def everyone(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        if value["everyone"] is not True:
            return self.fault(f"{at}/everyone", "must be true")
        return Everyone()

    def topic(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        name = value["topic"]
        if not isinstance(name, str) or not TOPIC_NAME.fullmatch(name):
            return self.fault(
                f"{at}/topic", "must be 1 to 64 letters, digits or _.:~- and begin with a letter or digit"
            )
        return Topic(name)

    def zones(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        codes = self._texts(value["zone"], f"{at}/zone")
        if codes is None:
            return None
        for index, code in enumerate(codes):
            if not ZONE_CODE.fullmatch(code):
                where = f"{at}/zone/{index}" if isinstance(value["zone"], list) else f"{at}/zone"
                self.fault(where, "must be 1 to 64 letters, digits or _.:/~- and begin with a letter or digit")
        return Zones(codes)

    def users(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        found = self._texts(value["user_id"], f"{at}/user_id")
        return None if found is None else Users(found)

    def devices(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        found = self._ids(ids.DEVICE, value["device_id"], f"{at}/device_id", "is not a device id")
        return None if found is None else Devices(found)

    def notified(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        found = self._ids(ids.NOTIFICATION, value["notified"], f"{at}/notified", "is not a notification's id")
        return None if found is None else Notified(found)

    def segment(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        named, at = value["segment"], f"{at}/segment"
        id_ = ids.parse(ids.SEGMENT, named) if isinstance(named, str) else None
        return self.fault(at, "is not a segment's id; it would begin with seg_") if id_ is None else Segment(id_, at)

    def detail(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        [name] = value.keys() & DETAILS.keys()
        found = self._texts(value[name], f"{at}/{name}")
        return None if found is None else Detail(name, found)

    def last_seen(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        limits, at = value["last_seen"], f"{at}/last_seen"
        if not isinstance(limits, dict) or not limits:
            return self.fault(at, "must be {after} or {before} or both")
        before = len(self.faults)
        for extra in limits.keys() - {"after", "before"}:
            self.fault(f"{at}{pointer_step(extra)}", "is not known here")
        found = {name: _moment(limits[name]) for name in ("after", "before") if name in limits}
        for name, moment in found.items():
            if moment is None:
                self.fault(f"{at}/{name}", "must be a time with an offset, such as 2026-12-01T09:00:00Z")
        return None if len(self.faults) > before else LastSeen(**found)

    def attribute(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        name = value["attribute"]
        if not isinstance(name, str) or not 0 < len(name) <= 100:
            return self.fault(f"{at}/attribute", "must be the attribute's name, 1 to 100 characters")
        compared = comparison.parse(value, at, name)
        if isinstance(compared, list):
            self.faults += compared
            return None
        return Attribute(name, *compared)

    def within(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        polygons = self._polygons(value["within"], f"{at}/within")
        return None if polygons is None else Within(polygons)

    def near(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        near, at = value["near"], f"{at}/near"
        if not isinstance(near, dict):
            return self.fault(at, "must be {lat, lon, radius_m}")
        before = len(self.faults)
        for extra in near.keys() - {"lat", "lon", "radius_m"}:
            self.fault(f"{at}{pointer_step(extra)}", "is not known here")
        for name, low, high in (("lat", -90, 90), ("lon", -180, 180), ("radius_m", 1, MAX_RADIUS_M)):
            number = near.get(name)
            if name not in near:
                self.fault(f"{at}/{name}", "is missing")
            elif not is_number(number) or not low <= number <= high:
                self.fault(f"{at}/{name}", f"must be a number from {low:g} to {high:g}")
        if len(self.faults) > before:
            return None
        return Near(float(near["lat"]), float(near["lon"]), float(near["radius_m"]))

    def all(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        found = self._branches(value["all"], f"{at}/all", depth)
        return None if found is None else AllOf(found)

    def any(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        found = self._branches(value["any"], f"{at}/any", depth)
        return None if found is None else AnyOf(found)

    def negation(self, value: dict[str, Any], at: str, depth: int) -> Audience | None:
        found = self.read(value["not"], f"{at}/not", depth + 1)
        return None if found is None else Not(found)

    def _branches(self, value: object, at: str, depth: int) -> tuple[Audience, ...] | None:
        if not isinstance(value, list) or not value:
            return self.fault(at, "must be a list of at least one filter")
        read = [self.read(item, f"{at}/{index}", depth + 1) for index, item in enumerate(value)]
        return tuple(item for item in read if item is not None)

    def _texts(self, value: object, at: str) -> tuple[str, ...] | None:
        """One text or a list of them."""
        values = value if isinstance(value, list) else [value]
        if not 0 < len(values) <= MAX_VALUES or not all(isinstance(v, str) and 0 < len(v) <= 255 for v in values):
            return self.fault(at, f"must be text of 1 to 255 characters, or a list of 1 to {MAX_VALUES} of them")
        return tuple(values)

    def _ids(self, kind: str, value: object, at: str, otherwise: str) -> tuple[UUID, ...] | None:
        texts = self._texts(value, at)
        if texts is None:
            return None
        found = [ids.parse(kind, text) for text in texts]
        for index, parsed in enumerate(found):
            if parsed is None:
                self.fault(f"{at}/{index}" if isinstance(value, list) else at, otherwise)
        return tuple(id_ for id_ in found if id_ is not None)

    def _polygons(self, value: object, at: str) -> tuple[tuple[Ring, ...], ...] | None:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in ("Polygon", "MultiPolygon") or not isinstance(value, dict):
            return self.fault(at, "must be a GeoJSON Polygon or MultiPolygon (RFC 7946)")
        for extra in value.keys() - {"type", "coordinates", "bbox"}:
            self.fault(f"{at}{pointer_step(extra)}", "is not known here")
        coordinates, at = value.get("coordinates"), f"{at}/coordinates"
        if not isinstance(coordinates, list) or not coordinates:
            return self.fault(at, f"must be the non-empty coordinates of a {kind}")
        several = [(coordinates, at)] if kind == "Polygon" else [(c, f"{at}/{i}") for i, c in enumerate(coordinates)]
        before, vertices, polygons = len(self.faults), 0, []
        for rings, where in several:
            if not isinstance(rings, list) or not rings:
                self.fault(where, "must be a list of rings: the outer one, then its holes")
                continue
            read = [self._ring(ring, f"{where}/{index}") for index, ring in enumerate(rings)]
            sound = tuple(ring for ring in read if ring is not None)
            vertices += sum(map(len, sound))
            if len(sound) == len(rings) and vertices <= MAX_VERTICES:
                if unsound := find_polygon_error(sound):
                    number, words = unsound
                    self.fault(where if number is None else f"{where}/{number}", words)
                polygons.append(sound)
        if vertices > MAX_VERTICES:
            self.fault(at, f"has {vertices} vertices; at most {MAX_VERTICES} are allowed")
        return tuple(polygons) if len(self.faults) == before else None

    def _ring(self, value: object, at: str) -> Ring | None:
        if not isinstance(value, list) or len(value) < 4:
            return self.fault(at, "must be a ring of at least 4 positions, the last equal to the first")
        for index, position in enumerate(value):
            if not isinstance(position, list) or len(position) not in (2, 3) or not all(map(is_number, position)):
                return self.fault(f"{at}/{index}", "must be [longitude, latitude]")
            if not -180 <= position[0] <= 180 or not -90 <= position[1] <= 90:
                return self.fault(
                    f"{at}/{index}", "longitude must be from -180 to 180 and latitude from -90 to 90, in this order"
                )
        if any(180 < abs(here[0] - there[0]) < 360 for here, there in pairwise(value)):
            return self.fault(
                at,
                "has an edge of more than 180 degrees: where it crosses the antimeridian, cut it into two polygons "
                "(RFC 7946 section 3.1.9); where it does not, put a vertex on that edge",
            )
        if value[0][:2] != value[-1][:2]:
            return self.fault(at, "is not closed: the last position must equal the first")
        return tuple((float(p[0]), float(p[1])) for p in value)


_READERS: dict[str, Callable[[_Reader, dict[str, Any], str, int], Audience | None]] = {
    "everyone": _Reader.everyone,
    "topic": _Reader.topic,
    "zone": _Reader.zones,
    "user_id": _Reader.users,
    "device_id": _Reader.devices,
    "notified": _Reader.notified,
    "segment": _Reader.segment,
    "locale": _Reader.detail,
    "timezone": _Reader.detail,
    "platform": _Reader.detail,
    "browser": _Reader.detail,
    "last_seen": _Reader.last_seen,
    "attribute": _Reader.attribute,
    "within": _Reader.within,
    "near": _Reader.near,
    "all": _Reader.all,
    "any": _Reader.any,
    "not": _Reader.negation,
}


def _moment(value: object) -> datetime | None:
    """RFC 3339 with an offset; None when it is not."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None and 1970 <= moment.year <= 9000 else None


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", str: "text", list: "a list", int: "a number", float: "a number"}
    return names.get(type(value), "that")


def _names(keys: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(repr(key)[:60] for key in list(keys)[:5])
