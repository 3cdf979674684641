"""Areas in SQL on random points, compared with shapely for polygons and with vectors on a sphere for distances."""

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

# The number of random points per area.
POINTS = 1500
# In degrees: a point that is closer than this to an edge may count as inside or outside.
EDGE_TOLERANCE = 1e-5


@pytest.fixture
async def geometry(engine: AsyncEngine) -> "Geometry":
    return Geometry(engine)


class Geometry:
    """Evaluates areas in Postgres."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def inside(self, audience: Any, points: list[tuple[float, float]]) -> list[bool]:
        """Return for each (longitude, latitude) whether it is in the audience.

        One query selects from temporary devices at these points; the transaction is rolled back.
        """
        async with self.engine.connect() as conn:
            await conn.execute(text("SET LOCAL session_replication_role = replica"))  # checks no foreign keys
            insert_devices = text("""
                INSERT INTO devices (id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id,
                                     user_id, location)
                SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000001', '', n::text::bytea, '', '', '',
                       '00000000-0000-0000-0000-000000000001', n, point(x, y)
                FROM unnest(CAST(:x AS float[]), CAST(:y AS float[])) WITH ORDINALITY AS points (x, y, n)
            """)
            await conn.execute(insert_devices, {"x": [x for x, _ in points], "y": [y for _, y in points]})
            rows = await conn.execute(select(devices.c.user_id).where(compile_audience(parse(audience))))
            matching = {int(row.user_id) - 1 for row in rows}
            await conn.rollback()
        return [number in matching for number in range(len(points))]


def ring(rng: random.Random, lon: float, lat: float, radius: float, corners: int = 9) -> list[list[float]]:
    """Return a random star-shaped ring around a centre, which is mostly concave and never crosses itself."""
    positions = []
    for corner in range(corners):
        angle, distance_ = 2 * math.pi * corner / corners, radius * rng.uniform(0.4, 1)
        positions.append([lon + distance_ * math.cos(angle), lat + distance_ * math.sin(angle)])
    return [*positions, positions[0]]


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
            if expected.boundary.distance(Point(point)) > EDGE_TOLERANCE:
                assert is_in == expected.contains(Point(point)), (area["type"], point)
        assert 50 < sum(results) < POINTS - 50


@pytest.mark.parametrize("unit", [1, 0.1, 0.01])
async def test_points_at_the_latitude_of_a_corner_match(geometry: Geometry, unit: float) -> None:
    """With corners and points on one grid, the ray of the point-in-polygon test meets corners and edges."""
    rng = random.Random(f"grid {unit}")  # noqa: S311 - the same points every time
    steps = [-1 + half / 2 for half in range(22)]
    points = [(round(x * unit, 4), round(y * unit, 4)) for x in steps for y in steps]
    checked = 0
    for _ in range(15):
        outer = grid_ring(rng, unit)
        area = {"type": "Polygon", "coordinates": [outer]}
        results = await geometry.inside({"within": area}, points)
        for point, is_in in zip(points, results, strict=True):
            if shape(area).boundary.distance(Point(point)) > EDGE_TOLERANCE:
                checked += 1
                assert is_in == shape(area).contains(Point(point)), (outer, point)
    assert checked > 3000


def grid_ring(rng: random.Random, unit: float) -> list[list[float]]:
    """Return a random ring with corners on a grid from 0 to 8 units; some edges are horizontal or vertical."""
    while True:
        corners = {(rng.randint(0, 8), rng.randint(0, 8)) for _ in range(rng.randint(5, 14))}
        lon, lat = (sum(side) / len(corners) + 0.01 for side in zip(*corners, strict=True))
        positions = sorted(corners, key=lambda corner: math.atan2(corner[1] - lat, corner[0] - lon))
        if len(positions) >= 4 and Polygon(positions).is_valid:
            return [[round(x * unit, 4), round(y * unit, 4)] for x, y in [*positions, positions[0]]]


async def test_polygon_in_a_hole_is_inside(geometry: Geometry) -> None:
    """A point in a polygon that lies in the hole of another polygon is inside."""

    def centred_square(half: int) -> list[list[int]]:
        return [[-half, -half], [half, -half], [half, half], [-half, half], [-half, -half]]

    area = {
        "type": "MultiPolygon",
        "coordinates": [[centred_square(3), centred_square(2)], [centred_square(1)]],
    }
    assert shape(area).is_valid
    results = await geometry.inside({"within": area}, [(0, 0), (1.5, 0), (2.5, 0), (3.5, 0)])
    assert results == [True, False, True, False]


def distance_m(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the great-circle distance from the angle between vectors, which is not the formula of the SQL."""
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
    for _ in range(POINTS):  # as many points again near the centre
        y = max(-90.0, min(90.0, lat + rng.uniform(-spread, spread)))
        x = lon + rng.uniform(-1, 1) * min(180, spread / max(0.01, math.cos(math.radians(y))))
        points.append(((x + 180) % 360 - 180, y))
    points += [(lon, lat), (180.0, lat), (-180.0, lat), (0.0, 90.0), (77.0, 90.0), (0.0, -90.0)]
    results = await geometry.inside({"near": {"lat": lat, "lon": lon, "radius_m": radius_m}}, points)
    assert True in results
    for point, is_in in zip(points, results, strict=True):
        expected_m = distance_m((lon, lat), point)
        if abs(expected_m - radius_m) > 0.5 + radius_m * 1e-7:
            assert is_in == (expected_m < radius_m), (point, expected_m)
