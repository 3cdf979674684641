"""An alert's area as an audience filter: repair of outlines, the antimeridian, simplification, and subtraction."""

import math
import random
from typing import Any

import pytest
from shapely import MultiPolygon, Point, Polygon
from shapely.geometry import shape

from gateway.alerting.areas import Area, area_filter, subtract, zone_codes
from gateway.domain import audience
from gateway.domain.audience import MAX_VERTICES, Near, Within, Zones

SQUARE = [(16.0, 48.0), (17.0, 48.0), (17.0, 49.0), (16.0, 49.0), (16.0, 48.0)]


def build_filter(*areas: Area) -> Any:
    """Return the filter of the areas, after checking that it is a valid audience."""
    filter_, _ = area_filter(areas)
    if filter_ is not None:
        audience.parse(filter_)
    return filter_


def covers(filter_: Any, lon: float, lat: float) -> bool:
    """Return whether a filter's polygons contain a position."""
    leaves = filter_.get("any", [filter_])
    return any("within" in leaf and shape(leaf["within"]).covers(Point(lon, lat)) for leaf in leaves)


def test_open_ring_is_closed() -> None:
    """The first position is appended to a ring that does not end with it, as GeoJSON requires."""
    assert covers(build_filter(Area(polygons=[[SQUARE[:-1]]])), 16.5, 48.5)


def test_self_crossing_ring_covers_what_it_encloses() -> None:
    """A ring in the shape of a bow tie becomes two triangles."""
    result = build_filter(Area(polygons=[[[(0, 0), (2, 2), (2, 0), (0, 2)]]]))
    assert covers(result, 1.8, 1.0)
    assert covers(result, 0.2, 1.0)
    assert not covers(result, 1.0, 0.2)


@pytest.mark.parametrize(
    "ring",
    [
        [(179, 50), (-179, 50), (-179, 52), (179, 52)],
        [(179, 50), (181, 50), (181, 52), (179, 52)],
        [(-181, 50), (-179, 50), (-179, 52), (-181, 52)],
    ],
)
def test_polygon_over_the_antimeridian_is_split(ring: list[tuple[float, float]]) -> None:
    """Both halves are covered, whichever way the longitudes are written."""
    result = build_filter(Area(polygons=[[ring]]))
    assert covers(result, 179.5, 51)
    assert covers(result, -179.5, 51)
    assert not covers(result, 0, 51)
    assert not covers(result, 178.5, 51)


def test_polygon_around_a_pole_contains_the_pole() -> None:
    """The ring passes through all longitudes at 70 degrees north, so it encloses the north pole."""
    result = build_filter(Area(polygons=[[[(0, 70), (90, 70), (180, 70), (-90, 70)]]]))
    assert covers(result, 45, 89.9)
    assert covers(result, -135, 75)
    assert not covers(result, 45, 60)


def test_holes_are_excluded() -> None:
    """A position in a hole is not covered."""
    result = build_filter(Area(polygons=[[SQUARE]], holes=[[(16.4, 48.4), (16.6, 48.4), (16.6, 48.6), (16.4, 48.6)]]))
    assert not covers(result, 16.5, 48.5)
    assert covers(result, 16.2, 48.2)


def test_degenerate_polygon_is_reported_and_ignored() -> None:
    """The filter has the other polygons; an area without any valid shape has no filter."""
    result, ignored = area_filter([Area(polygons=[[[(0, 0), (1, 1)]], [SQUARE]])])
    assert covers(result, 16.5, 48.5)
    assert ignored == ["a polygon of 2 positions: it encloses no area"]
    filter_, ignored = area_filter([Area(polygons=[[[(0, 95), (1, 95), (1, 96)]]], circles=[(0, 99, 5)])])
    assert filter_ is None
    assert len(ignored) == 2


def test_too_many_vertices_are_simplified_to_a_superset() -> None:
    """The simplified area contains the original area and is at most 1 % larger."""
    rng = random.Random(7)  # noqa: S311 - not a secret
    coast = [
        (10 + radius * math.cos(angle), 50 + radius * math.sin(angle))
        for angle, radius in ((2 * math.pi * n / 60_000, 3 + rng.random() / 500) for n in range(60_000))
    ]
    result = build_filter(Area(polygons=[[coast]]))
    simplified = shape(result["within"])
    assert len(simplified.geoms[0].exterior.coords) <= MAX_VERTICES
    original = Polygon(coast).buffer(0)
    assert original.difference(simplified).area < 1e-6
    assert simplified.area < original.area * 1.01


def test_circle_of_no_radius_becomes_one_metre() -> None:
    """A radius of 0 becomes 1 m, because a filter needs a positive radius."""
    result = audience.parse(build_filter(Area(circles=[(16.37, 48.2, 5000), (1, 2, 0)])))
    assert result == audience.AnyOf((Near(48.2, 16.37, 5000.0), Near(2.0, 1.0, 1.0)))


def test_zone_has_codes_with_and_without_the_scheme() -> None:
    """900 codes give 1,800 zone values, which are split into zone filters of allowed length."""
    assert zone_codes("UGC", "TXC201") == ["TXC201", "UGC:TXC201"]
    assert zone_codes("emma_id", " NO123 ") == ["NO123", "EMMA_ID:NO123"]
    assert zone_codes("http://www.iso.org/iso/country_codes.html", "AU-NSW") == ["AU-NSW"]
    assert zone_codes("AREA", "two words") == []
    codes = [("WARNCELLID", str(code)) for code in range(900)]
    result = audience.parse(build_filter(Area(codes=codes)))
    assert isinstance(result, audience.AnyOf)
    assert sum(len(leaf.codes) for leaf in result.filters if isinstance(leaf, Zones)) == 1800


def test_subtract_removes_polygons_and_zones() -> None:
    """The remainder does not contain the subtracted polygons and zones; an area minus itself is None."""
    total = build_filter(Area(polygons=[[SQUARE]], codes=[("UGC", "A"), ("UGC", "B")], circles=[(1, 2, 3)]))
    east = build_filter(Area(polygons=[[[(16.5, 48), (17, 48), (17, 49), (16.5, 49)]]], codes=[("UGC", "B")]))
    remainder = subtract(total, east)
    audience.parse(remainder)
    assert covers(remainder, 16.2, 48.5)
    assert not covers(remainder, 16.8, 48.5)
    assert remainder is not None
    assert {"zone": ["A", "UGC:A"]} in remainder["any"]
    assert subtract(total, total) is None
    assert subtract({"zone": ["A", "B"]}, {"zone": ["A"]}) == {"zone": ["B"]}
    assert subtract({"everyone": True}, total) is None


def test_overlapping_polygons_are_merged() -> None:
    """The merged outlines are a valid multipolygon, whose polygons do not overlap."""
    result = audience.parse(
        build_filter(Area(polygons=[[SQUARE]]), Area(polygons=[[SQUARE], [[(16.5, 48.5), (18, 48), (18, 50)]]]))
    )
    assert isinstance(result, Within)
    assert MultiPolygon([Polygon(rings[0], rings[1:]) for rings in result.polygons]).is_valid


def bars(count: int, *, level: bool) -> list[list[tuple[float, float]]]:
    """Return `count` parallel bars between 0 and 80 degrees, horizontal (`level`) or vertical."""
    width = 80 / count / 2
    upright = [
        [(2 * n * width, 0.0), ((2 * n + 1) * width, 0.0), ((2 * n + 1) * width, 80.0), (2 * n * width, 80.0)]
        for n in range(count)
    ]
    return [[(lat, lon) for lon, lat in bar] for bar in upright] if level else upright


def zigzag(count: int) -> list[tuple[float, float]]:
    """Return `count` random positions, which form a ring that crosses itself often."""
    rng = random.Random(1)  # noqa: S311 - not a secret
    return [(rng.uniform(0, 80), rng.uniform(0, 80)) for _ in range(count)]


@pytest.mark.parametrize(
    "area",
    [
        Area(polygons=[[bar] for bar in bars(400, level=True) + bars(400, level=False)]),
        Area(polygons=[[bar] for bar in bars(400, level=True)], holes=[*bars(400, level=False)]),
        Area(polygons=[[zigzag(10_000)]]),
        Area(polygons=[[zigzag(100_001)]]),
    ],
    ids=["a grid of bars", "bars with bars cut out", "a zigzag", "100,001 positions"],
)
def test_tangled_outlines_are_replaced_by_their_hull(area: Area) -> None:
    """The repair of outlines with so many crossings would take hours; their convex hull covers them."""
    result, ignored = area_filter([area])
    audience.parse(result)
    assert covers(result, 40.01, 40.01)
    assert not covers(result, -5, 40)
    assert "replaced by their convex hull" in ignored[0]


def test_adjacent_outlines_are_not_tangled() -> None:
    """Outlines that share edges, as those of neighbouring counties do, are not replaced by their hull."""
    step = 0.5
    corners = [(lon * step, lat * step) for lon in range(60) for lat in range(60)]
    squares = [[(x, y), (x + step, y), (x + step, y + step), (x, y + step)] for x, y in corners]
    result, ignored = area_filter([Area(polygons=[[square] for square in squares])])
    assert (covers(result, 15.2, 15.2), covers(result, 31, 15), ignored) == (True, False, [])


def test_tangled_subtraction_returns_the_whole_area() -> None:
    """An exact subtraction would occupy a worker for hours, so nothing is subtracted and too many people are warned."""
    first, second = (
        {"within": {"type": "MultiPolygon", "coordinates": [[[*bar, bar[0]]] for bar in bars(100, level=level)]}}
        for level in (True, False)
    )
    assert subtract(first, second) == first
