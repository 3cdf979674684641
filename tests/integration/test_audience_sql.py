"""The SQL of audiences, compared with an evaluation in Python, on generated devices and filters."""

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from shapely.geometry import Point as ShapelyPoint
from shapely.geometry import shape
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain import ids
from gateway.domain.audience import parse
from gateway.records.audiences import match_active
from gateway.records.postgres.schema import applications, devices, vapid_keys

EARTH_RADIUS_M = 6_371_008.8
ZONE_CODES = ("TXC201", "TXZ213", "DE131", "048201")
TOPICS = ("weather", "weather.coast", "offers", "news")
USERS = ("ada", "grace", "Ада", "o'brien")
NAMES = ("plan", "age", "tags", "vip", 'a"b\\c')
# The values of devices and the values of filters, by detail.
DETAILS = {
    "locale": (["de", "de-AT", "DE-at", "den", "en-GB", "%"], ["de", "DE-AT", "en", "e", "%", "_e"]),
    "timezone": (["Europe/Vienna", "Asia/Tokyo", "UTC"], ["Europe/Vienna", "europe/vienna", "Europe", "UTC"]),
    "platform": (["android", "ios", "Windows"], ["ANDROID", "ios", "win", "windows"]),
    "browser": (["Firefox 140", "Firefox", "Chrome 141", "Firefoxy 1"], ["firefox", "Chrome 141", "Chrome 14"]),
}
TIMES = [datetime(2026, month, 1, hour, tzinfo=UTC) for month in (5, 6, 7) for hour in (0, 12)]
# Most devices and borders are on different grids, because either result is correct for a device on a border.
# `is_on_border` finds the other devices, which are not compared.
CITIES = [
    (lat + 0.37, lon + 0.41)
    for lat, lon in ((59, 18), (57, 11), (-33, 151), (-18, 178), (-18, -179), (64, -22), (0, 0), (89, 10), (-89, -170))
]

texts = st.sampled_from(["", "a", "ab", "abc", "basic", "gold", "100", "it's", "%", "a_c", "ü"])
numbers = st.one_of(st.integers(-5, 120), st.sampled_from([0.5, -2.25, 18.0, 1e6]))
scalars = st.one_of(texts, numbers, st.booleans())
attribute_values = st.one_of(
    scalars, st.none(), st.lists(scalars, max_size=3), st.fixed_dictionaries({"plan": scalars})
)


@dataclass(frozen=True)
class DeviceFields:
    """The fields of a device that filters use; `location` is (latitude, longitude)."""

    id: UUID
    user_id: str | None = None
    topics: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    location: tuple[float, float] | None = None
    details: dict[str, str] = field(default_factory=dict)
    last_seen_at: datetime = datetime(2026, 6, 1, tzinfo=UTC)


degree_steps = st.integers(-20, 20).map(lambda step: step * 0.05)
locations = st.one_of(
    st.none(),
    st.builds(
        lambda city, dlat, dlon: (max(-90.0, min(90.0, city[0] + dlat)), (city[1] + dlon + 180) % 360 - 180),
        st.sampled_from(CITIES),
        degree_steps,
        degree_steps,
    ),
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)).map(lambda point: (round(point[0], 3), round(point[1], 3))),
)
device_lists = st.lists(
    st.builds(
        DeviceFields,
        id=st.builds(ids.new_id),
        user_id=st.one_of(st.none(), st.sampled_from(USERS)),
        topics=st.lists(st.sampled_from(TOPICS), unique=True, max_size=3).map(tuple),
        zones=st.lists(st.sampled_from(ZONE_CODES), unique=True, max_size=3).map(tuple),
        attributes=st.dictionaries(st.sampled_from(NAMES), attribute_values, max_size=4),
        location=locations,
        details=st.fixed_dictionaries({}, optional={name: st.sampled_from(DETAILS[name][0]) for name in DETAILS}),
        last_seen_at=st.sampled_from(TIMES),
    ),
    min_size=1,
    max_size=12,
)


def value_or_list(values: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Generate a value or a list of values: many filters accept both."""
    return st.one_of(values, st.lists(values, min_size=1, max_size=3))


def box(west: float, south: float, east: float, north: float) -> list[list[float]]:
    """Return the ring of a rectangle."""
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def polygon_around(city: tuple[float, float], size: int, hole: bool, is_triangle: bool) -> list[Any]:
    """Return the rings of a rectangle or triangle of about 2 x `size` degrees, with or without a hole."""
    lat, lon = math.floor(city[0]) + 0.013, math.floor(city[1]) + 0.017
    south, north = max(-89.99, lat - size), min(89.99, lat + size)
    west, east = max(-179.99, lon - size), min(179.99, lon + size)
    triangle = [[west, south], [east, south], [west, north], [west, south]]
    outer = triangle if is_triangle else box(west, south, east, north)
    third_x, third_y = (east - west) / 3.0101, (north - south) / 3.0101
    inner = box(west + third_x / 2, south + third_y / 2, west + third_x, south + third_y)
    return [outer, inner[::-1]] if hole else [outer]


polygons = st.builds(polygon_around, st.sampled_from(CITIES), st.sampled_from([1, 2, 30]), st.booleans(), st.booleans())
orderable = st.one_of(
    # Only lower-case letters, because the order of other characters depends on the collation of the database.
    st.sampled_from(["a", "ab", "abc", "basic", "gold"]),
    numbers,
)
leaves = st.one_of(
    st.just({"everyone": True}),
    st.sampled_from(TOPICS).map(lambda name: {"topic": name}),
    value_or_list(st.sampled_from(ZONE_CODES)).map(lambda codes: {"zone": codes}),
    value_or_list(st.sampled_from(USERS)).map(lambda users: {"user_id": users}),
    st.builds(
        lambda name, operator, value: {"attribute": name, operator: value},
        st.sampled_from(NAMES),
        st.sampled_from(["eq", "ne", "contains"]),
        scalars,
    ),
    st.builds(
        lambda name, operator, value: {"attribute": name, operator: value},
        st.sampled_from(NAMES),
        st.sampled_from(["lt", "lte", "gt", "gte"]),
        orderable,
    ),
    st.builds(
        lambda name, values: {"attribute": name, "in": values},
        st.sampled_from(NAMES),
        st.lists(scalars, min_size=1, max_size=3),
    ),
    st.builds(lambda name, exists: {"attribute": name, "exists": exists}, st.sampled_from(NAMES), st.booleans()),
    *(
        value_or_list(st.sampled_from(DETAILS[name][1])).map(lambda values, name=name: {name: values})
        for name in DETAILS
    ),
    st.fixed_dictionaries({}, optional={limit: st.sampled_from(TIMES) for limit in ("after", "before")})
    .filter(bool)
    .map(lambda limits: {"last_seen": {name: moment.isoformat() for name, moment in limits.items()}}),
    polygons.map(lambda rings: {"within": {"type": "Polygon", "coordinates": rings}}),
    st.lists(polygons, min_size=1, max_size=2).map(
        lambda polygon_list: {"within": {"type": "MultiPolygon", "coordinates": polygon_list}}
    ),
    st.builds(
        lambda city, radius: {"near": {"lat": city[0], "lon": city[1], "radius_m": radius}},
        st.sampled_from(CITIES),
        st.sampled_from([1, 25_123, 160_321, 2_000_777, 19_000_001]),
    ),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=8,
)


def json_equal(left: Any, right: Any) -> bool:
    """Compare as JSON does: 1 equals 1.0, but true does not equal 1."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def matches(device: DeviceFields, filter_json: dict[str, Any]) -> bool:
    """Evaluate a filter in Python."""
    match filter_json:
        case {"everyone": True}:
            return True
        case {"topic": name}:
            return name in device.topics
        case {"zone": codes}:
            return bool({*device.zones} & {*(codes if isinstance(codes, list) else [codes])})
        case {"user_id": users}:
            return device.user_id in (users if isinstance(users, list) else [users])
        case {"device_id": device_ids}:
            return device_id(device) in (device_ids if isinstance(device_ids, list) else [device_ids])
        case {"all": parts}:
            return all(matches(device, part) for part in parts)
        case {"any": parts}:
            return any(matches(device, part) for part in parts)
        case {"not": part}:
            return not matches(device, part)
        case {"within": geometry}:
            if device.location is None:
                return False
            coordinates = geometry["coordinates"]
            polygons_ = [coordinates] if geometry["type"] == "Polygon" else coordinates
            point = ShapelyPoint(device.location[1], device.location[0])
            return any(shape({"type": "Polygon", "coordinates": rings}).contains(point) for rings in polygons_)
        case {"near": near}:
            return (
                device.location is not None
                and distance_m(device.location, (near["lat"], near["lon"])) <= near["radius_m"]
            )
        case {"last_seen": limits}:
            after, before = (
                datetime.fromisoformat(limits[name]) if name in limits else None for name in ("after", "before")
            )
            return (after is None or device.last_seen_at >= after) and (before is None or device.last_seen_at < before)
        case {"locale": requested} | {"timezone": requested} | {"platform": requested} | {"browser": requested}:
            [name] = filter_json
            values = requested if isinstance(requested, list) else [requested]
            return name in device.details and any(equals_detail(name, value, device.details[name]) for value in values)
        case {"attribute": name}:
            [(operator, operand)] = [(key, value) for key, value in filter_json.items() if key != "attribute"]
            return compares(device.attributes.get(name), operator, operand)
    raise AssertionError(filter_json)


def equals_detail(name: str, requested: str, value: str) -> bool:
    """Compare a detail without case: `de` matches `de-AT`, and `Firefox` any version; other details match exactly."""
    parts, expected = re.split("[- ]", value.lower()), re.split("[- ]", requested.lower())
    return parts[: len(expected)] == expected if name in ("locale", "browser") else value.lower() == requested.lower()


def compares(value: Any, operator: str, operand: Any) -> bool:
    """Evaluate a comparison of an attribute."""
    match operator:
        case "exists":
            return (value is not None) == operand
        case "eq":
            return json_equal(value, operand)
        case "ne":
            return not json_equal(value, operand)
        case "in":
            return any(json_equal(value, item) for item in operand)
        case "contains":
            if isinstance(value, list):
                return any(json_equal(item, operand) for item in value)
            return isinstance(value, str) and isinstance(operand, str) and operand in value
    orderable_types = str if isinstance(operand, str) else (int, float)
    if isinstance(value, bool) or not isinstance(value, orderable_types):
        return False
    return {"lt": value < operand, "lte": value <= operand, "gt": value > operand, "gte": value >= operand}[operator]


def distance_m(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the haversine distance in metres on a sphere of the mean radius."""
    (lat1, lon1), (lat2, lon2) = ((math.radians(lat), math.radians(lon)) for lat, lon in (first, second))
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(half)))


class Registry:
    """Stores devices in Postgres and selects those that a filter matches."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.application_id, self.vapid_key_id = ids.new_id(), ids.new_id()

    async def open(self) -> None:
        async with self.engine.begin() as conn:
            values = {"id": self.application_id, "name": "Weather", "subject": "mailto:ops@example.org"}
            await conn.execute(insert(applications).values(**values))
            key = {"id": self.vapid_key_id, "application_id": self.application_id}
            await conn.execute(insert(vapid_keys).values(**key, public_key=b"public", private_key=b"sealed"))

    async def select_ids(
        self,
        population: list[DeviceFields],
        *filters_: Any,
        status: str = "active",
        application_id: UUID | None = None,
    ) -> list[set[UUID]]:
        """Return the ids that each filter selects among these devices, which are stored for this call only.

        The query is for the application of the devices unless `application_id` is given.
        """
        rows = [
            {
                "id": device.id,
                "application_id": self.application_id,
                "endpoint": f"https://push.example.org/{device.id}",
                "endpoint_digest": device.id.bytes,
                "host": "push.example.org",
                "p256dh": b"p256dh",
                "auth": b"auth",
                "vapid_key_id": self.vapid_key_id,
                "status": status,
                "user_id": device.user_id,
                "topics": list(device.topics),
                "zones": list(device.zones),
                "attributes": device.attributes,
                **{name: device.details.get(name) for name in DETAILS},
                "last_seen_at": device.last_seen_at,
                "location": device.location and asyncpg.Point(device.location[1], device.location[0]),
            }
            for device in population
        ]
        async with self.engine.connect() as conn:
            await conn.execute(insert(devices), rows)
            selected = []
            for filter_ in filters_:
                query = select(devices.c.id).where(match_active(application_id or self.application_id, parse(filter_)))
                selected.append(set((await conn.execute(query)).scalars()))
            await conn.rollback()
        return selected


@pytest.fixture
async def registry(engine: AsyncEngine) -> Registry:
    registry = Registry(engine)
    await registry.open()
    return registry


def is_on_border(device: DeviceFields, filter_json: Any) -> bool:
    """Return whether a device is within a centimetre of a circle, or within 1e-4 degrees of a polygon's edge."""
    if device.location is None:
        return False
    match filter_json:
        case {"all": parts} | {"any": parts}:
            return any(is_on_border(device, part) for part in parts)
        case {"not": part}:
            return is_on_border(device, part)
        case {"near": near}:
            return abs(distance_m(device.location, (near["lat"], near["lon"])) - near["radius_m"]) < 0.01
        case {"within": geometry}:
            return bool(shape(geometry).boundary.distance(ShapelyPoint(device.location[1], device.location[0])) < 1e-4)
    return False


@settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(population=device_lists, filters_=st.lists(filters, min_size=1, max_size=4))
async def test_sql_selects_the_same_devices_as_python(
    registry: Registry, population: list[DeviceFields], filters_: list[dict[str, Any]]
) -> None:
    """The SQL of an audience selects the devices that the evaluation in Python selects."""
    for filter_, selected in zip(filters_, await registry.select_ids(population, *filters_), strict=True):
        compared = [device for device in population if not is_on_border(device, filter_)]
        expected = {device.id for device in compared if matches(device, filter_)}
        assert selected & {device.id for device in compared} == expected, filter_


ATTRIBUTES: list[Any] = ["ab", "", 18, 18.5, True, False, None, [], ["ab", 18], [["ab"]], {"ab": 1}]


@pytest.mark.parametrize(
    "comparison",
    [
        {"eq": "ab"},
        {"eq": 18},
        {"eq": 18.0},
        {"eq": True},
        {"ne": "ab"},
        {"ne": 18},
        {"in": ["ab", 18, False]},
        {"lt": 18.5},
        {"lte": 18.5},
        {"gt": 18},
        {"gte": 18},
        {"gt": ""},
        {"lte": "ab"},
        {"exists": True},
        {"exists": False},
        {"contains": "ab"},
        {"contains": "b"},
        {"contains": ""},
        {"contains": 18},
        {"contains": True},
    ],
    ids=str,
)
async def test_comparisons_agree_for_every_value_type(registry: Registry, comparison: dict[str, Any]) -> None:
    """Every comparison has the same result in SQL and in Python, for every JSON type of value."""
    population = [DeviceFields(ids.new_id(), attributes={"x": value}) for value in ATTRIBUTES] + [
        DeviceFields(ids.new_id())
    ]
    filter_json = {"attribute": "x", **comparison}
    selected, negated = await registry.select_ids(population, filter_json, {"not": filter_json})
    assert selected == {device.id for device in population if matches(device, filter_json)}
    assert negated == {device.id for device in population} - selected, "the comparison is NULL in SQL for some device"


async def test_devices_are_selected_by_id(registry: Registry) -> None:
    """Devices are selected by one id or by a list of ids."""
    first, second, third = population = [DeviceFields(ids.new_id()) for _ in range(3)]
    listed_ids = [device_id(second), device_id(third), device_id(DeviceFields(ids.new_id()))]
    assert await registry.select_ids(population, {"device_id": device_id(first)}, {"device_id": listed_ids}) == [
        {first.id},
        {second.id, third.id},
    ]


async def test_hole_is_outside_and_island_inside(registry: Registry) -> None:
    """A device in a hole is outside; a device in another polygon in the hole is inside."""
    lake, shore, island, sea = (
        DeviceFields(ids.new_id(), location=point) for point in ((5, 5), (1, 1), (5.0, 5.05), (20, 20))
    )
    hole = box(4, 4, 6, 6)
    islet = box(5.02, 4.98, 5.08, 5.02)
    country = {"type": "Polygon", "coordinates": [box(0, 0, 10, 10), hole]}
    country_with_islet = {"type": "MultiPolygon", "coordinates": [[box(0, 0, 10, 10), hole], [islet]]}
    population = [lake, shore, island, sea]
    assert await registry.select_ids(
        population, {"within": country}, {"within": country_with_islet}, {"not": {"within": country_with_islet}}
    ) == [
        {shore.id},
        {shore.id, island.id},
        {lake.id, sea.id},
    ]


@pytest.mark.parametrize("lon", [179.99, -179.99, 180.0, -180.0])
async def test_near_crosses_the_antimeridian(registry: Registry, lon: float) -> None:
    """A circle around the antimeridian covers devices on both sides of it."""
    near_devices = [DeviceFields(ids.new_id(), location=(-17.0, east)) for east in (179.5, 180.0, -180.0, -179.5)]
    far_devices = [DeviceFields(ids.new_id(), location=(-17.0, east)) for east in (170.0, -170.0, 0.0)]
    near = {"near": {"lat": -17.0, "lon": lon, "radius_m": 60_000}}
    assert await registry.select_ids([*near_devices, *far_devices], near) == [{device.id for device in near_devices}]


@pytest.mark.parametrize("lat", [89.9, 90.0, -89.9, -90.0])
async def test_near_a_pole_covers_every_longitude(registry: Registry, lat: float) -> None:
    """A circle that contains a pole covers every longitude."""
    sign = math.copysign(1, lat)
    longitudes = (-180.0, -90.0, 0.0, 45.0, 180.0)
    near_devices = [DeviceFields(ids.new_id(), location=(sign * 89.5, east)) for east in longitudes]
    far_devices = [
        DeviceFields(ids.new_id(), location=(sign * 80.0, 0.0)),
        DeviceFields(ids.new_id(), location=(-sign * 89.5, 0.0)),
    ]
    near = {"near": {"lat": lat, "lon": 10.0, "radius_m": 80_000}}
    assert await registry.select_ids([*near_devices, *far_devices], near) == [{device.id for device in near_devices}]


async def test_device_without_location_matches_no_area(registry: Registry) -> None:
    """A device without a location is in no area, so it is in every negation of an area."""
    device = DeviceFields(ids.new_id())
    world = {"type": "Polygon", "coordinates": [box(-180, -90, 180, 90)]}
    near_anything = {"near": {"lat": 0, "lon": 0, "radius_m": 20_037_508}}
    assert await registry.select_ids([device], {"within": world}, near_anything, {"not": near_anything}) == [
        set(),
        set(),
        {device.id},
    ]


@pytest.mark.parametrize("status", ["gone", "quarantined"])
async def test_inactive_devices_are_in_no_audience(registry: Registry, status: str) -> None:
    """Devices that are gone or quarantined are in no audience."""
    assert await registry.select_ids([DeviceFields(ids.new_id())], {"everyone": True}, status=status) == [set()]


async def test_other_applications_devices_are_in_no_audience(registry: Registry) -> None:
    """Devices of another application are in no audience."""
    device = DeviceFields(ids.new_id(), user_id="ada", topics=("weather",))
    audiences = [{"everyone": True}, {"user_id": "ada"}, {"not": {"topic": "offers"}}, {"device_id": device_id(device)}]
    assert await registry.select_ids([device], *audiences) == [{device.id}] * 4
    assert await registry.select_ids([device], *audiences, application_id=ids.new_id()) == [set()] * 4


def device_id(device: DeviceFields) -> str:
    """Return the id of a device in the form of the API."""
    return ids.format_id(ids.DEVICE, device.id)
