"""Areas in SQL, compared with shapely for polygons and with vectors on a sphere for distances, on random points."""

import math
import random
from typing import Any

import pytest
from shapely import Point, Polygon, union_all
from shapely.geometry import shape
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain.audience import parse
from gateway.records.audiences import EARTH_RADIUS_M, compile_audience
from gateway.records.postgres.schema import devices

POINTS = 1500
CLOSE = 1e-5  # degrees: points this close to an edge may go either way


@pytest.fixture
async def geometry(engine: AsyncEngine) -> "Geometry":
    return Geometry(engine)


class Geometry:
    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def inside(self, audience: Any, points: list[tuple[float, float]]) -> list[bool]:
        """Whether each (longitude, latitude) is in the audience, in one query over devices that last for it alone."""
        async with self.engine.connect() as conn:
            await conn.execute(text("SET LOCAL session_replication_role = replica"))  # no foreign keys for these
            fill = text("""
                INSERT INTO devices (id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id,
                                     user_id, location)
                SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000001', '', n::text::bytea, '', '', '',
                       '00000000-0000-0000-0000-000000000001', n, point(x, y)
                FROM unnest(CAST(:x AS float[]), CAST(:y AS float[])) WITH ORDINALITY AS given (x, y, n)
            """)
            await conn.execute(fill, {"x": [x for x, _ in points], "y": [y for _, y in points]})
            rows = await conn.execute(select(devices.c.user_id).where(compile_audience(parse(audience))))
            matching = {int(row.user_id) - 1 for row in rows}
            await conn.rollback()
        return [number in matching for number in range(len(points))]


def ring(rng: random.Random, lon: float, lat: float, radius: float, corners: int = 9) -> list[list[float]]:
    """Around a centre, in and out: concave as often as not, never crossing itself."""
    corners_ = []
    for corner in range(corners):
        angle, away = 2 * math.pi * corner / corners, radius * rng.uniform(0.4, 1)
        corners_.append([lon + away * math.cos(angle), lat + away * math.sin(angle)])
    return [*corners_, corners_[0]]


@pytest.mark.parametrize("seed", range(6))
async def test_polygon_contains_the_points_shapely_finds(geometry: Geometry, seed: int) -> None:
    """Polygons contain the points that shapely finds in them."""
    rng = random.Random(seed)  # noqa: S311 - the same points every time
    outer = ring(rng, 16, 48, 4, 11)
    hole = ring(rng, 16, 48, 1.2)
    distant = ring(rng, 23, 47, 2)
    overlapping = ring(rng, 18, 49, 3)
    for area in (
        {"type": "Polygon", "coordinates": [outer]},
        {"type": "Polygon", "coordinates": [outer, hole]},
        {"type": "MultiPolygon", "coordinates": [[outer, hole], [distant]]},
        {"type": "MultiPolygon", "coordinates": [[outer, hole], [overlapping], [distant]]},
    ):
        points = [(rng.uniform(11, 26), rng.uniform(43, 53)) for _ in range(POINTS)]
        polygons = area["coordinates"] if area["type"] == "MultiPolygon" else [area["coordinates"]]
        expected = union_all([Polygon(rings[0], rings[1:]) for rings in polygons])
        results = await geometry.inside({"within": area}, points)
        for point, is_in in zip(points, results, strict=True):
            if expected.boundary.distance(Point(point)) > CLOSE:
                assert is_in == expected.contains(Point(point)), (area["type"], point)
        assert 50 < sum(results) < POINTS - 50


@pytest.mark.parametrize("unit", [1, 0.1, 0.01])
async def test_points_level_with_a_corner_match_shapely(geometry: Geometry, unit: float) -> None:
    """With rounded coordinates a ray from the point meets corners and runs along edges."""
    rng = random.Random(f"grid {unit}")  # noqa: S311 - the same points every time
    sides = [-1 + half / 2 for half in range(22)]
    points = [(round(x * unit, 4), round(y * unit, 4)) for x in sides for y in sides]
    checked = 0
    for _ in range(15):
        outer = grid_ring(rng, unit)
        area = {"type": "Polygon", "coordinates": [outer]}
        results = await geometry.inside({"within": area}, points)
        for point, is_in in zip(points, results, strict=True):
            if shape(area).boundary.distance(Point(point)) > CLOSE:
                checked += 1
                assert is_in == shape(area).contains(Point(point)), (outer, point)
    assert checked > 3000


def grid_ring(rng: random.Random, unit: float) -> list[list[float]]:
    """A ring whose corners are whole units from 0 to 8, with level and upright edges among the slanted ones."""
    while True:
        corners = {(rng.randint(0, 8), rng.randint(0, 8)) for _ in range(rng.randint(5, 14))}
        lon, lat = (sum(side) / len(corners) + 0.01 for side in zip(*corners, strict=True))
        around = sorted(corners, key=lambda corner: math.atan2(corner[1] - lat, corner[0] - lon))
        if len(around) >= 4 and Polygon(around).is_valid:
            return [[round(x * unit, 4), round(y * unit, 4)] for x, y in [*around, around[0]]]


async def test_polygon_in_a_hole_is_inside(geometry: Geometry) -> None:
    """A polygon inside the hole of another one counts as inside."""
    box = lambda r: [[-r, -r], [r, -r], [r, r], [-r, r], [-r, -r]]  # noqa: E731 - four numbers
    area = {"type": "MultiPolygon", "coordinates": [[box(3), box(2)], [box(1)]]}
    assert shape(area).is_valid
    results = await geometry.inside({"within": area}, [(0, 0), (1.5, 0), (2.5, 0), (3.5, 0)])
    assert results == [True, False, True, False]


def distance(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Along a great circle, by the angle between vectors: another formula than the one it tests."""
    vectors = []
    for lon, lat in (first, second):
        x, y = math.radians(lon), math.radians(lat)
        vectors.append((math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y)))
    a, b = vectors
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    return EARTH_RADIUS_M * math.atan2(math.hypot(*cross), sum(x * y for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize(
    ("lon", "lat", "radius_m"),
    [
        (16.37, 48.2, 30_000),
        (179.9, -17, 200_000),
        (-179.95, 65, 500_000),
        (180, 0, 1_000_000),
        (-180, 0, 1_000_000),
        (12, 89.5, 300_000),
        (-70, -88, 900_000),
        (0, 90, 100_000),
        (0, -90, 2_000_000),
        (30, 70, 2_300_000),
        (5, 5, 10_000_000),
        (100, -30, 20_000_000),
        (0, 0, 5),
    ],
)
async def test_near_uses_great_circle_distance(geometry: Geometry, lon: float, lat: float, radius_m: float) -> None:
    """`near` is a great-circle distance everywhere on the globe."""
    rng = random.Random(f"{lon} {lat}")  # noqa: S311 - the same points every time
    points = [(rng.uniform(-180, 180), math.degrees(math.asin(rng.uniform(-1, 1)))) for _ in range(POINTS)]
    spread = min(math.degrees(radius_m / EARTH_RADIUS_M) * 1.3, 90)
    for _ in range(POINTS):  # and as many around the place
        y = max(-90.0, min(90.0, lat + rng.uniform(-spread, spread)))
        x = lon + rng.uniform(-1, 1) * min(180, spread / max(0.01, math.cos(math.radians(y))))
        points.append(((x + 180) % 360 - 180, y))
    points += [(lon, lat), (180.0, lat), (-180.0, lat), (0.0, 90.0), (77.0, 90.0), (0.0, -90.0)]
    results = await geometry.inside({"near": {"lat": lat, "lon": lon, "radius_m": radius_m}}, points)
    assert True in results
    for point, is_in in zip(points, results, strict=True):
        away = distance((lon, lat), point)
        if abs(away - radius_m) > 0.5 + radius_m * 1e-7:
            assert is_in == (away < radius_m), (point, away)
