"""The area of an alert as an audience filter.

Issuers publish polygons that cross themselves, are not closed or cross the antimeridian. A warning is not refused for
that: what encloses something is mended, what does not is left out and told. What mending costs grows with the
crossings, of which a few kilobytes can hold enough for hours; so they are counted first, and of a tangle the hull is
taken.
"""

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

MAX_CIRCLES = 100
MAX_CROSSINGS = 2_000
"""Of the outlines of one message. What issuers publish has none, or the few of a slip of the pen."""
MAX_POSITIONS = 100_000
AT_ONCE = 16
"""Edges looked at before the crossings are counted again: each may cross all others."""
SLIVER = 1e-8
"""Square degrees, about 100 m2: less than this is left over where two outlines of the same thing differ."""
WORLD = box(-180, -90, 180, 90)
MAX_LONGITUDE = 540.0
"""Some issuers count on past 180 degrees instead of crossing the antimeridian."""
MAX_EDGE_LENGTH = 90.0
"""Degrees: a filter's edge of more than 180 would be taken for the short way around the Earth."""
GRID = 1e-6
"""Degrees: about 0.1 m, and what Postgres can tell apart."""
FINEST = 0.0005
"""Degrees, about 50 m: how far a simplified outline may first lie outside the original."""

_NAME = re.compile(r"[A-Z0-9_-]{1,32}")

Ring = Sequence[tuple[float, float]]
"""(longitude, latitude) vertices; whether it is closed does not matter."""


@dataclass(slots=True)
class Area:
    """What a message says of one area. Whoever is in any of the polygons, circles or zones is meant."""

    polygons: list[Sequence[Ring]] = field(default_factory=list)
    """Each an outer ring and its holes."""
    holes: list[Ring] = field(default_factory=list)
    """Left out of all its polygons."""
    circles: list[tuple[float, float, float]] = field(default_factory=list)
    """(longitude, latitude, radius in metres)"""
    codes: list[tuple[str, str]] = field(default_factory=list)
    """(name of the code, value), such as (UGC, TXC201)"""


def filter_of(areas: Iterable[Area]) -> tuple[dict[str, Any] | None, list[str]]:
    """(whoever is in one of the areas, what of them cannot be used). None when nothing can."""
    areas = list(areas)
    ignored: list[str] = []
    shapes: list[BaseGeometry] = []
    outlines = [ring for area in areas for rings in (*area.polygons, area.holes) for ring in rings]
    if _is_tangled(outlines):
        ignored.append(
            f"the outlines: more than {MAX_POSITIONS} positions or {MAX_CROSSINGS} crossings; their hull is taken"
        )
        around = Area(polygons=[[_hull(outlines)]])
        areas = [around, *(replace(area, polygons=[], holes=[]) for area in areas)]
    for area in areas:
        shape = union_all([_shape(rings, ignored) for rings in area.polygons])
        shapes.append(shape.difference(union_all([_shape([hole], ignored) for hole in area.holes])))
    circles = []
    for lon, lat, radius_m in dict.fromkeys(circle for area in areas for circle in area.circles):
        if not (abs(lon) <= 180 and abs(lat) <= 90 and radius_m >= 0):
            ignored.append(f"a circle around {lat:g},{lon:g}: not a place on Earth with a radius")
        else:
            # A circle of no radius is a place: whoever is there is meant.
            circles.append({"near": {"lat": lat, "lon": lon, "radius_m": min(max(radius_m, 1.0), MAX_RADIUS_M)}})
    if len(circles) > MAX_CIRCLES:
        ignored.append(f"all but {MAX_CIRCLES} of {len(circles)} circles")
    codes = [code for area in areas for pair in area.codes for code in zone_codes(*pair)]
    return _any(union_all(shapes), circles[:MAX_CIRCLES], codes), ignored


def remaining(area: dict[str, Any], without: dict[str, Any]) -> dict[str, Any] | None:
    """What is left of an area when another is taken from it; None when nothing is. Both as `filter_of` makes them.

    All of it is when their outlines cross too often for telling: rather one warning too many.
    """
    whole, less = _Read(area), _Read(without)
    if _is_tangled([*whole.outlines, *less.outlines]):
        return area
    circles = [circle for circle in whole.circles if circle not in less.circles]
    codes = [code for code in whole.codes if code not in set(less.codes)]
    left = whole.shape().difference(less.shape())
    return _any(left if left.area > SLIVER else Polygon(), circles, codes)


class _Read:
    """An area's filter taken apart again."""

    def __init__(self, area: dict[str, Any]) -> None:
        leaves = area.get("any", [area])
        polygons = [rings for leaf in leaves if "within" in leaf for rings in _rings(leaf["within"])]
        self.outlines: list[Ring] = [ring for rings in polygons for ring in rings]
        self._polygons = polygons
        self.circles = [leaf for leaf in leaves if "near" in leaf]
        self.codes = [code for leaf in leaves if "zone" in leaf for code in leaf["zone"]]

    def shape(self) -> BaseGeometry:
        return union_all([Polygon(rings[0], rings[1:]) for rings in self._polygons])


def _rings(geometry: dict[str, Any]) -> list[Any]:
    coordinates: list[Any] = geometry["coordinates"]
    return coordinates if geometry["type"] == "MultiPolygon" else [coordinates]


def _any(shape: BaseGeometry, circles: list[dict[str, Any]], codes: list[str]) -> dict[str, Any] | None:
    leaves: list[dict[str, Any]] = []
    if polygons := _polygons(shape):
        leaves.append({"within": {"type": "MultiPolygon", "coordinates": polygons}})
    leaves += circles
    codes = list(dict.fromkeys(codes))
    leaves += ({"zone": codes[at : at + MAX_VALUES]} for at in range(0, len(codes), MAX_VALUES))
    if not leaves:
        return None
    return leaves[0] if len(leaves) == 1 else {"any": leaves}


def zone_codes(name: str, value: str) -> list[str]:
    """What a device may call a zone: by its code alone, or by `NAME:code` where two codes may be confused."""
    name, value = name.strip().upper(), value.strip()
    spoken = [value, f"{name}:{value}"] if _NAME.fullmatch(name) else [value]
    return [code for code in spoken if ZONE_CODE.fullmatch(code)]


def _is_tangled(outlines: Iterable[Ring]) -> bool:
    """Whether joining these takes longer than a warning may."""
    sound = [ring for ring in outlines if len(ring) > 2 and _is_on_earth(ring)]
    edges = [edge for ring in sound for edge in pairwise([*ring, ring[0]])]
    if len(edges) > MAX_POSITIONS:
        return True
    lines = [LineString(edge) for edge in edges]
    tree, crossings = STRtree(lines), 0
    for start in range(0, len(lines), AT_ONCE):
        # Each crossing is met from both of its edges; meeting at an end or lying on one another is none.
        crossings += tree.query(lines[start : start + AT_ONCE], predicate="crosses").shape[1]
        if crossings > 2 * MAX_CROSSINGS:
            return True
    return False


def _hull(outlines: Iterable[Ring]) -> Ring:
    """Around all of them; empty when they enclose nothing."""
    places = [(lon, lat) for ring in outlines for lon, lat in ring if abs(lon) <= 180 and abs(lat) <= 90]
    hull = MultiPoint(places).convex_hull
    return [(lon, lat) for lon, lat in hull.exterior.coords] if isinstance(hull, Polygon) else []


def _is_on_earth(ring: Ring) -> bool:
    return all(abs(lon) <= MAX_LONGITUDE and abs(lat) <= 90 for lon, lat in ring)


def _shape(rings: Sequence[Ring], ignored: list[str]) -> BaseGeometry:
    """A polygon between the meridians of -180 and 180 degrees; an empty one for what encloses nothing."""
    outer = rings[0] if rings else ()
    if not all(map(_is_on_earth, rings)):
        ignored.append(f"a polygon of {len(outer)} positions: one of them is not a place on Earth")
        return Polygon()
    try:
        made = make_valid(Polygon(_unwound(outer), [_unwound(hole) for hole in rings[1:] if len(hole) > 2]))
    except (GEOSException, ValueError):
        made = Polygon()
    if made.area == 0:
        ignored.append(f"a polygon of {len(outer)} positions: it encloses nothing")
        return Polygon()
    west, _, east, _ = made.bounds
    worlds = range(int((west + 180) // 360), int((east + 180) // 360) + 1)
    cut = (translate(made.intersection(box(360 * n - 180, -90, 360 * n + 180, 90)), -360 * n) for n in worlds)
    return union_all(list(cut))


def _unwound(ring: Ring) -> list[tuple[float, float]]:
    """The ring with longitudes that go on past 180 degrees at the antimeridian, by way of a pole that it encloses."""
    if len(ring) > 1 and ring[0] != ring[-1]:
        ring = [*ring, ring[0]]
    turns = accumulate((round((here[0] - there[0]) / 360) for here, there in pairwise(ring)), initial=0)
    made = [(lon + 360 * turn, lat) for (lon, lat), turn in zip(ring, turns, strict=False)]
    if made and abs(made[-1][0] - made[0][0]) > 180:
        pole = 90.0 if sum(lat for _, lat in made) > 0 else -90.0
        made += [(made[-1][0], pole), (made[0][0], pole)]
    return made


def _polygons(shape: BaseGeometry) -> list[Any]:
    """GeoJSON coordinates of a MultiPolygon that covers the shape and that one filter can hold."""
    found, tolerance = _areal(set_precision(shape, GRID)), FINEST
    while get_num_coordinates(found) > MAX_VERTICES:
        outline = found.buffer(tolerance).simplify(tolerance).intersection(WORLD)
        found, tolerance = _areal(set_precision(outline, GRID)), tolerance * 4
    return [
        [[list(place) for place in ring.coords] for ring in (one.exterior, *one.interiors)]
        for one in _areal(segmentize(found, MAX_EDGE_LENGTH)).geoms
    ]


def _areal(shape: BaseGeometry) -> MultiPolygon:
    """Its polygons, without the lines and points that cutting may leave."""
    parts = getattr(shape, "geoms", [shape])
    return MultiPolygon([part for part in parts if isinstance(part, Polygon) and part.area > 0])
