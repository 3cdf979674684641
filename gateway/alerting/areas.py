"""Turn the area of an alert into an audience filter.

Issuers publish polygons that cross themselves, are not closed, or cross the antimeridian. An alert is not refused for
that: a polygon with such an error is repaired, and a polygon that encloses no area is left out and reported. The cost
of a repair grows with the number of crossings, and a document of a few kilobytes can have so many crossings that a
repair takes hours. So the crossings are counted first, and outlines with too many are replaced by their convex hull.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from shapely import (
    LineString,
    MultiPoint,
    MultiPolygon,
    Polygon,
    STRtree,
    box,
    get_num_coordinates,
    make_valid,
    segmentize,
    set_precision,
    union_all,
)
from shapely.affinity import translate
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry

from gateway.domain.audience import MAX_RADIUS_M, MAX_VERTICES
from gateway.domain.comparison import MAX_VALUES
from gateway.domain.device import ZONE_CODE
from gateway.domain.json_object import JsonObject

MAX_CIRCLES = 100
# Maximum crossings and positions of all outlines of one area. Published outlines have no crossings, or a few by
# mistake.
MAX_CROSSINGS = 2_000
# Maximum crossings of the rings of one polygon with themselves and each other, and of those of one document together.
# The repair of 100 takes 10 ms, the repair of 400 half a second.
MAX_POLYGON_CROSSINGS = 100
MAX_DOCUMENT_CROSSINGS = 400
MAX_POSITIONS = 100_000
# Number of edges that are checked for crossings at once. It is small, because each edge may cross all others.
EDGE_BATCH = 16
# Square degrees, about 100 m2. When two outlines of one area are subtracted, a smaller remainder is a rounding error.
MIN_REMAINDER = 1e-8
# Polygons with more vertices are tested for overlap by their bounding rectangles, which bounds the time of a test.
MAX_EXTENT_VERTICES = 1_000
# In metres, a lower bound of the length of a degree of latitude.
MIN_DEGREE_M = 110_000.0
WORLD = box(-180, -90, 180, 90)
# In degrees. Some issuers continue to count past 180 degrees instead of changing the sign at the antimeridian.
MAX_LONGITUDE = 540.0
# In degrees. Longer edges are split: an edge of more than 180 degrees would be read as the short way around the Earth.
MAX_EDGE_LENGTH = 90.0
# In degrees, about 0.1 m: the precision at which Postgres distinguishes points.
GRID = 1e-6
# In degrees, about 50 m: the first tolerance at which an outline is simplified.
MIN_TOLERANCE = 0.0005

_NAME = re.compile(r"[A-Z0-9_-]{1,32}")

# (longitude, latitude) vertices; closed or not.
Ring = Sequence[tuple[float, float]]


@dataclass(slots=True)
class Area:
    """One area of a message: the union of its polygons, circles and zones."""

    # Each polygon is an outer ring and its holes.
    polygons: list[Sequence[Ring]] = field(default_factory=list)
    # Rings that are excluded from every polygon.
    holes: list[Ring] = field(default_factory=list)
    # (longitude, latitude, radius in metres)
    circles: list[tuple[float, float, float]] = field(default_factory=list)
    # (name of the code, value), such as (UGC, TXC201)
    codes: list[tuple[str, str]] = field(default_factory=list)


class CrossingBudget:
    """The crossings within polygons that one document may have: each makes the repair of its polygon longer."""

    def __init__(self) -> None:
        """Begin with MAX_DOCUMENT_CROSSINGS."""
        self._left = MAX_DOCUMENT_CROSSINGS

    def admits(self, polygons: Sequence[Sequence[Ring]]) -> bool:
        """Return whether the polygons of an area can be repaired and joined in bounded time, and charge them."""
        crossings = _count_crossings(polygons, min(MAX_POLYGON_CROSSINGS, self._left))
        if crossings is None:
            return False
        self._left -= crossings
        return True


def area_filter(areas: Iterable[Area], budget: CrossingBudget | None = None) -> tuple[JsonObject | None, list[str]]:
    """Return the audience filter of the union of areas, and a description of each part that it leaves out.

    The filter is None when no part of the areas is usable. `budget` is what the document has left.
    """
    areas = list(areas)
    ignored: list[str] = []
    shapes: list[BaseGeometry] = []
    polygons = [rings for area in areas for rings in (*area.polygons, *([hole] for hole in area.holes))]
    if not (budget or CrossingBudget()).admits(polygons):
        ignored.append(
            f"the outlines: more than {MAX_POSITIONS} positions, {MAX_CROSSINGS} crossings or {MAX_POLYGON_CROSSINGS} "
            "crossings of one polygon; replaced by their convex hull"
        )
        hull = Area(polygons=[[_convex_hull(ring for rings in polygons for ring in rings)]])
        areas = [hull, *(replace(area, polygons=[], holes=[]) for area in areas)]
    for area in areas:
        shape = union_all([_repair(rings, ignored) for rings in area.polygons])
        shapes.append(shape.difference(union_all([_repair([hole], ignored) for hole in area.holes])))
    circles = []
    for lon, lat, radius_m in dict.fromkeys(circle for area in areas for circle in area.circles):
        if not (abs(lon) <= 180 and abs(lat) <= 90 and radius_m >= 0):
            ignored.append(f"a circle around {lat:g},{lon:g}: not a position on Earth with a radius")
        else:
            # Some issuers describe a point by a circle of radius 0. The smallest radius of a filter is 1 m.
            circles.append({"near": {"lat": lat, "lon": lon, "radius_m": min(max(radius_m, 1.0), MAX_RADIUS_M)}})
    if len(circles) > MAX_CIRCLES:
        ignored.append(f"all but {MAX_CIRCLES} of {len(circles)} circles")
    codes = [code for area in areas for pair in area.codes for code in zone_codes(*pair)]
    return _build_filter(union_all(shapes), circles[:MAX_CIRCLES], codes), ignored


def subtract(area: JsonObject, without: JsonObject) -> JsonObject | None:
    """Subtract the area filter `without` from `area`; None when nothing is left. Both come from `area_filter`.

    If the outlines have too many crossings to be subtracted, the whole area is returned: it is better to warn too many
    people than too few.
    """
    minuend, subtrahend = _ParsedFilter(area), _ParsedFilter(without)
    if _count_crossings([*minuend.polygons, *subtrahend.polygons], MAX_POLYGON_CROSSINGS) is None:
        return area
    circles = [circle for circle in minuend.circles if circle not in subtrahend.circles]
    codes = [code for code in minuend.codes if code not in set(subtrahend.codes)]
    difference = minuend.shape().difference(subtrahend.shape())
    return _build_filter(difference if difference.area > MIN_REMAINDER else Polygon(), circles, codes)


def union(areas: Iterable[JsonObject]) -> JsonObject | None:
    """Return an area filter that covers all `areas`; None when there are none. They come from `area_filter`.

    The filter may cover more: outlines with too many crossings are replaced by their convex hull, and circles above the
    maximum number by rectangles.
    """
    parsed = [_ParsedFilter(area) for area in {Extent(area).key: area for area in areas}.values()]
    polygons = [rings for part in parsed for rings in part.polygons]
    shapes: list[BaseGeometry] = []
    if _count_crossings(polygons, MAX_POLYGON_CROSSINGS) is None:
        shapes.append(Polygon(_convex_hull(ring for rings in polygons for ring in rings)))
    else:
        shapes += (part.shape() for part in parsed)
    circles = list({_circle_key(circle): circle for part in parsed for circle in part.circles}.values())
    shapes += map(_cover_circle, circles[MAX_CIRCLES:])
    return _build_filter(union_all(shapes), circles[:MAX_CIRCLES], [code for part in parsed for code in part.codes])


class Extent:
    """An area filter of `area_filter`, prepared for comparisons with others.

    `key` is equal for filters that differ only in the order of their elements. For `overlaps`, circles and polygons of
    more than `MAX_EXTENT_VERTICES` vertices are replaced by rectangles that cover them.
    """

    def __init__(self, area: JsonObject) -> None:
        """Read an area filter."""
        parsed = _ParsedFilter(area)
        polygons = parsed.shape()
        self._codes = frozenset(parsed.codes)
        self.key = (
            polygons.normalize().wkb,
            self._codes,
            frozenset(map(_circle_key, parsed.circles)),
            "everyone" in area,
        )
        is_small = get_num_coordinates(polygons) <= MAX_EXTENT_VERTICES
        self._shape = polygons if is_small else union_all([part.envelope for part in _only_polygons(polygons).geoms])
        self._circles = union_all([*map(_cover_circle, parsed.circles)])

    def overlaps(self, other: "Extent") -> bool:
        """Return whether the areas have a zone or a region in common. Polygons that only touch do not overlap."""
        return (
            not self._codes.isdisjoint(other._codes)
            or self._circles.intersects(other._circles)
            or self._circles.intersects(other._shape)
            or self._shape.intersects(other._circles)
            or self._shape.intersection(other._shape).area > MIN_REMAINDER
        )


def _circle_key(circle: JsonObject) -> tuple[float, float, float]:
    near = circle["near"]
    return near["lat"], near["lon"], near["radius_m"]


def _cover_circle(circle: JsonObject) -> BaseGeometry:
    """Return a rectangle that covers a circle. At a pole or the antimeridian it spans all longitudes."""
    lat, lon, radius_m = _circle_key(circle)
    height = radius_m / MIN_DEGREE_M
    south, north = max(lat - height, -90.0), min(lat + height, 90.0)
    cosine = math.cos(math.radians(max(-south, north)))
    width = height / cosine if cosine > 0.001 else 360.0
    west, east = lon - width, lon + width
    return box(-180, south, 180, north) if west < -180 or east > 180 else box(west, south, east, north)


class _ParsedFilter:
    """The outlines, circles and zone codes of an audience filter that `area_filter` returned."""

    def __init__(self, area: JsonObject) -> None:
        leaves = area.get("any", [area])
        polygons = [rings for leaf in leaves if "within" in leaf for rings in _rings(leaf["within"])]
        self.polygons = polygons
        self.circles = [leaf for leaf in leaves if "near" in leaf]
        self.codes = [code for leaf in leaves if "zone" in leaf for code in leaf["zone"]]

    def shape(self) -> BaseGeometry:
        return union_all([Polygon(rings[0], rings[1:]) for rings in self.polygons])


def _rings(geometry: JsonObject) -> list[Any]:
    coordinates: list[Any] = geometry["coordinates"]
    return coordinates if geometry["type"] == "MultiPolygon" else [coordinates]


def _build_filter(shape: BaseGeometry, circles: list[JsonObject], codes: list[str]) -> JsonObject | None:
    leaves: list[JsonObject] = []
    if polygons := _polygons(shape):
        leaves.append({"within": {"type": "MultiPolygon", "coordinates": polygons}})
    leaves += circles
    codes = list(dict.fromkeys(codes))
    leaves += ({"zone": codes[at : at + MAX_VALUES]} for at in range(0, len(codes), MAX_VALUES))
    if not leaves:
        return None
    return leaves[0] if len(leaves) == 1 else {"any": leaves}


def zone_codes(name: str, value: str) -> list[str]:
    """Return the forms in which a device may have stored a zone: the code alone, and `NAME:code`.

    The second form tells equal codes of different systems apart, for example UGC and SAME.
    """
    name, value = name.strip().upper(), value.strip()
    forms = [value, f"{name}:{value}"] if _NAME.fullmatch(name) else [value]
    return [code for code in forms if ZONE_CODE.fullmatch(code)]


def _count_crossings(polygons: Sequence[Sequence[Ring]], maximum: int) -> int | None:
    """Return the number of crossings within the polygons.

    None when there are more than `maximum`, more than MAX_CROSSINGS between all polygons, or too many positions.
    """
    rings = [
        (number, ring)
        for number, polygon in enumerate(polygons)
        for ring in polygon
        if len(ring) > 2 and _is_on_earth(ring)
    ]
    edges = [(number, edge) for number, ring in rings for edge in pairwise([*ring, ring[0]])]
    if len(edges) > MAX_POSITIONS:
        return None
    lines = [LineString(edge) for _, edge in edges]
    tree, total, within = STRtree(lines), 0, 0
    for start in range(0, len(lines), EDGE_BATCH):
        # The query counts each crossing twice, once for each edge. Edges that meet at an end or overlap do not cross.
        first, second = tree.query(lines[start : start + EDGE_BATCH], predicate="crosses")
        total += len(first)
        if total > 2 * MAX_CROSSINGS:
            return None
        within += sum(edges[start + i][0] == edges[j][0] for i, j in zip(first.tolist(), second.tolist(), strict=True))
        if within > 2 * maximum:
            return None
    return within // 2


def _convex_hull(outlines: Iterable[Ring]) -> Ring:
    """Return the convex hull of all outlines, empty when they enclose no area."""
    positions = [(lon, lat) for ring in outlines for lon, lat in ring if abs(lon) <= 180 and abs(lat) <= 90]
    hull = MultiPoint(positions).convex_hull
    return [(lon, lat) for lon, lat in hull.exterior.coords] if isinstance(hull, Polygon) else []


def _is_on_earth(ring: Ring) -> bool:
    return all(abs(lon) <= MAX_LONGITUDE and abs(lat) <= 90 for lon, lat in ring)


def _repair(rings: Sequence[Ring], ignored: list[str]) -> BaseGeometry:
    """Return a valid polygon, or several, with longitudes from -180 to 180; empty for rings that enclose no area."""
    outer = rings[0] if rings else ()
    if not all(map(_is_on_earth, rings)):
        ignored.append(f"a polygon of {len(outer)} positions: one of them is not on Earth")
        return Polygon()
    try:
        shape = make_valid(Polygon(_unwrap(outer), [_unwrap(hole) for hole in rings[1:] if len(hole) > 2]))
    except (GEOSException, ValueError):
        shape = Polygon()
    if shape.area == 0:
        ignored.append(f"a polygon of {len(outer)} positions: it encloses no area")
        return Polygon()
    west, _, east, _ = shape.bounds
    # Cut the shape at the antimeridian, and move each piece by whole turns to longitudes from -180 to 180.
    turns = range(int((west + 180) // 360), int((east + 180) // 360) + 1)
    pieces = (translate(shape.intersection(box(360 * n - 180, -90, 360 * n + 180, 90)), -360 * n) for n in turns)
    return union_all(list(pieces))


def _unwrap(ring: Ring) -> list[tuple[float, float]]:
    """Return the ring with longitudes that continue past 180 degrees instead of jumping to -180.

    A ring around a pole ends one turn away from its start; it is closed over the pole.
    """
    if len(ring) > 1 and ring[0] != ring[-1]:
        ring = [*ring, ring[0]]
    turns = accumulate((round((start[0] - end[0]) / 360) for start, end in pairwise(ring)), initial=0)
    unwrapped = [(lon + 360 * turn, lat) for (lon, lat), turn in zip(ring, turns, strict=False)]
    if unwrapped and abs(unwrapped[-1][0] - unwrapped[0][0]) > 180:
        pole = 90.0 if sum(lat for _, lat in unwrapped) > 0 else -90.0
        unwrapped += [(unwrapped[-1][0], pole), (unwrapped[0][0], pole)]
    return unwrapped


def _polygons(shape: BaseGeometry) -> list[Any]:
    """Return the coordinates of a GeoJSON MultiPolygon that covers the shape with at most MAX_VERTICES vertices."""
    polygons, tolerance = _only_polygons(set_precision(shape, GRID)), MIN_TOLERANCE
    while get_num_coordinates(polygons) > MAX_VERTICES:
        outline = polygons.buffer(tolerance).simplify(tolerance).intersection(WORLD)
        polygons, tolerance = _only_polygons(set_precision(outline, GRID)), tolerance * 4
    return [
        [[list(position) for position in ring.coords] for ring in (polygon.exterior, *polygon.interiors)]
        for polygon in _only_polygons(segmentize(polygons, MAX_EDGE_LENGTH)).geoms
    ]


def _only_polygons(shape: BaseGeometry) -> MultiPolygon:
    """Return the polygons of a shape, without the lines and points that an intersection may leave."""
    parts = getattr(shape, "geoms", [shape])
    return MultiPolygon([part for part in parts if isinstance(part, Polygon) and part.area > 0])
