"""An alert's area as an audience: mended, covered, cut at the antimeridian, and taken from another."""

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


def made(*areas: Area) -> Any:
    """The filter, held to what filters may say."""
    found, _ = area_filter(areas)
    if found is not None:
        audience.parse(found)
    return found


def inside(found: Any, lon: float, lat: float) -> bool:
    leaves = found.get("any", [found])
    return any("within" in leaf and shape(leaf["within"]).covers(Point(lon, lat)) for leaf in leaves)


def test_an_open_ring_is_closed() -> None:
    assert inside(made(Area(polygons=[[SQUARE[:-1]]])), 16.5, 48.5)


def test_a_ring_that_crosses_itself_covers_what_it_goes_around() -> None:
    found = made(Area(polygons=[[[(0, 0), (2, 2), (2, 0), (0, 2)]]]))
    assert inside(found, 1.8, 1.0)
    assert inside(found, 0.2, 1.0)
    assert not inside(found, 1.0, 0.2)


@pytest.mark.parametrize(
    "ring",
    [
        [(179, 50), (-179, 50), (-179, 52), (179, 52)],
        [(179, 50), (181, 50), (181, 52), (179, 52)],
        [(-181, 50), (-179, 50), (-179, 52), (-181, 52)],
    ],
)
def test_a_polygon_over_the_antimeridian_is_on_both_sides_of_it(ring: list[tuple[float, float]]) -> None:
    found = made(Area(polygons=[[ring]]))
    assert inside(found, 179.5, 51)
    assert inside(found, -179.5, 51)
    assert not inside(found, 0, 51)
    assert not inside(found, 178.5, 51)


def test_a_polygon_around_a_pole_holds_the_pole() -> None:
    found = made(Area(polygons=[[[(0, 70), (90, 70), (180, 70), (-90, 70)]]]))
    assert inside(found, 45, 89.9)
    assert inside(found, -135, 75)
    assert not inside(found, 45, 60)


def test_holes_are_left_out() -> None:
    found = made(Area(polygons=[[SQUARE]], holes=[[(16.4, 48.4), (16.6, 48.4), (16.6, 48.6), (16.4, 48.6)]]))
    assert not inside(found, 16.5, 48.5)
    assert inside(found, 16.2, 48.2)


def test_what_encloses_nothing_is_told_and_left_out() -> None:
    found, ignored = area_filter([Area(polygons=[[[(0, 0), (1, 1)]], [SQUARE]])])
    assert inside(found, 16.5, 48.5)
    assert ignored == ["a polygon of 2 positions: it encloses nothing"]
    nowhere, ignored = area_filter([Area(polygons=[[[(0, 95), (1, 95), (1, 96)]]], circles=[(0, 99, 5)])])
    assert nowhere is None
    assert len(ignored) == 2


def test_a_coast_of_too_many_vertices_is_simplified_and_leaves_nobody_out() -> None:
    noise = random.Random(7)  # noqa: S311 - a coast, not a secret
    coast = [
        (10 + r * math.cos(a), 50 + r * math.sin(a))
        for a, r in ((2 * math.pi * n / 60_000, 3 + noise.random() / 500) for n in range(60_000))
    ]
    found = made(Area(polygons=[[coast]]))
    made_of = shape(found["within"])
    assert len(made_of.geoms[0].exterior.coords) <= MAX_VERTICES
    whole = Polygon(coast).buffer(0)
    assert whole.difference(made_of).area < 1e-6
    assert made_of.area < whole.area * 1.01


def test_circles_are_in_metres_and_one_of_no_radius_is_a_place() -> None:
    found = audience.parse(made(Area(circles=[(16.37, 48.2, 5000), (1, 2, 0)])))
    assert found == audience.AnyOf((Near(48.2, 16.37, 5000.0), Near(2.0, 1.0, 1.0)))


def test_a_zone_is_its_code_alone_or_with_the_name_of_the_code() -> None:
    assert zone_codes("UGC", "TXC201") == ["TXC201", "UGC:TXC201"]
    assert zone_codes("emma_id", " NO123 ") == ["NO123", "EMMA_ID:NO123"]
    assert zone_codes("http://www.iso.org/iso/country_codes.html", "AU-NSW") == ["AU-NSW"]
    assert zone_codes("AREA", "two words") == []
    codes = [("WARNCELLID", str(code)) for code in range(900)]
    found = audience.parse(made(Area(codes=codes)))
    assert isinstance(found, audience.AnyOf)
    assert sum(len(leaf.codes) for leaf in found.of if isinstance(leaf, Zones)) == 1800


def test_what_remains_of_an_area_when_another_is_taken_from_it() -> None:
    whole = made(Area(polygons=[[SQUARE]], codes=[("UGC", "A"), ("UGC", "B")], circles=[(1, 2, 3)]))
    east = made(Area(polygons=[[[(16.5, 48), (17, 48), (17, 49), (16.5, 49)]]], codes=[("UGC", "B")]))
    left = subtract(whole, east)
    audience.parse(left)
    assert inside(left, 16.2, 48.5)
    assert not inside(left, 16.8, 48.5)
    assert left is not None
    assert {"zone": ["A", "UGC:A"]} in left["any"]
    assert subtract(whole, whole) is None
    assert subtract({"zone": ["A", "B"]}, {"zone": ["A"]}) == {"zone": ["B"]}
    assert subtract({"everyone": True}, whole) is None


def test_polygons_that_overlap_are_one() -> None:
    found = audience.parse(
        made(Area(polygons=[[SQUARE]]), Area(polygons=[[SQUARE], [[(16.5, 48.5), (18, 48), (18, 50)]]]))
    )
    assert isinstance(found, Within)
    assert MultiPolygon([Polygon(rings[0], rings[1:]) for rings in found.polygons]).is_valid


def bars(count: int, *, level: bool) -> list[list[tuple[float, float]]]:
    """Lying or standing side by side, from 0 to 80 degrees."""
    width = 80 / count / 2
    standing = [
        [(2 * n * width, 0.0), ((2 * n + 1) * width, 0.0), ((2 * n + 1) * width, 80.0), (2 * n * width, 80.0)]
        for n in range(count)
    ]
    return [[(lat, lon) for lon, lat in bar] for bar in standing] if level else standing


def zigzag(count: int) -> list[tuple[float, float]]:
    there = random.Random(1)  # noqa: S311 - not a secret
    return [(there.uniform(0, 80), there.uniform(0, 80)) for _ in range(count)]


@pytest.mark.parametrize(
    "area",
    [
        Area(polygons=[[bar] for bar in bars(400, level=True) + bars(400, level=False)]),
        Area(polygons=[[bar] for bar in bars(400, level=True)], holes=[*bars(400, level=False)]),
        Area(polygons=[[zigzag(10_000)]]),
        Area(polygons=[[zigzag(100_001)]]),
    ],
    ids=["a grid of bars", "bars with bars cut out", "a zigzag", "more positions than anybody publishes"],
)
def test_of_a_tangle_that_would_take_hours_to_mend_the_hull_is_warned(area: Area) -> None:
    found, ignored = area_filter([area])
    audience.parse(found)
    assert inside(found, 40.01, 40.01)
    assert not inside(found, -5, 40)
    assert "replaced by their convex hull" in ignored[0]


def test_outlines_that_meet_in_every_position_are_no_tangle() -> None:
    """As those of neighbouring counties do."""
    step = 0.5
    places = [(lon * step, lat * step) for lon in range(60) for lat in range(60)]
    squares = [[(x, y), (x + step, y), (x + step, y + step), (x, y + step)] for x, y in places]
    found, ignored = area_filter([Area(polygons=[[square] for square in squares])])
    assert (inside(found, 15.2, 15.2), inside(found, 31, 15), ignored) == (True, False, [])


def test_of_an_area_that_is_tangled_with_another_everything_is_left() -> None:
    """Rather one warning too many than a worker that thinks about it for hours."""
    one, other = (
        {"within": {"type": "MultiPolygon", "coordinates": [[[*bar, bar[0]]] for bar in bars(100, level=level)]}}
        for level in (True, False)
    )
    assert subtract(one, other) == one
