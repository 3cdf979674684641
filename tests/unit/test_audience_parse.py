"""Parsing an audience: the accepted filters, and every error with its JSON pointer."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import audience, ids
from gateway.domain.audience import (
    AllOf,
    AnyOf,
    Attribute,
    Detail,
    Devices,
    Everyone,
    LastSeen,
    Near,
    Not,
    Topic,
    Users,
    Within,
    parse,
)
from gateway.domain.errors import ValidationError

DEVICE = UUID("01a21d48-0ffd-7cd7-be29-3d1801766119")
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
SQUARE = [[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]
PARSED_SQUARE = tuple((float(x), float(y)) for x, y in SQUARE)


def errors_by_pointer(value: object) -> dict[str, str]:
    """Return the error details of an invalid audience by JSON pointer."""
    with pytest.raises(ValidationError) as exc_info:
        parse(value)
    return {error.pointer: error.detail for error in exc_info.value.errors}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"everyone": True}, Everyone()),
        ({"topic": "weather.coast:se-1~x"}, Topic("weather.coast:se-1~x")),
        ({"user_id": "ada"}, Users(("ada",))),
        ({"user_id": ["ada", "grace"]}, Users(("ada", "grace"))),
        ({"device_id": ids.format_id(ids.DEVICE, DEVICE)}, Devices((DEVICE,))),
        ({"attribute": "plan", "eq": "gold"}, Attribute("plan", "eq", "gold")),
        ({"attribute": "age", "gte": 18}, Attribute("age", "gte", 18)),
        ({"attribute": "age", "in": [1, "x", True]}, Attribute("age", "in", (1, "x", True))),
        ({"attribute": "age", "exists": False}, Attribute("age", "exists", False)),
        ({"within": {"type": "Polygon", "coordinates": [SQUARE]}}, Within(((PARSED_SQUARE,),))),
        ({"within": {"type": "MultiPolygon", "coordinates": [[SQUARE]]}}, Within(((PARSED_SQUARE,),))),
        ({"locale": "de"}, Detail("locale", ("de",))),
        ({"timezone": "Europe/Vienna"}, Detail("timezone", ("Europe/Vienna",))),
        ({"platform": ["ios", "macos"]}, Detail("platform", ("ios", "macos"))),
        ({"browser": "Firefox"}, Detail("browser", ("Firefox",))),
        ({"last_seen": {"after": "2026-01-01T00:00:00Z"}}, LastSeen(after=JANUARY)),
        ({"last_seen": {"before": "2026-01-01T01:00:00+01:00"}}, LastSeen(before=JANUARY)),
        ({"near": {"lat": 1, "lon": 2, "radius_m": 3}}, Near(1.0, 2.0, 3.0)),
        ({"all": [{"everyone": True}, {"topic": "a"}]}, AllOf((Everyone(), Topic("a")))),
        ({"any": [{"not": {"topic": "a"}}]}, AnyOf((Not(Topic("a")),))),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_filter_is_parsed(value: Any, expected: audience.Audience) -> None:
    """Each filter gives an object of its class, with default values for missing fields."""
    assert parse(value) == expected


def test_altitudes_are_dropped() -> None:
    """The third coordinate of a GeoJSON position is an altitude, which the filter does not use."""
    ring = [[*position, 12.5] for position in SQUARE]
    assert parse({"within": {"type": "Polygon", "coordinates": [ring]}}) == Within(((PARSED_SQUARE,),))


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({"locale": ""}, ["/audience/locale"]),
        ({"platform": []}, ["/audience/platform"]),
        ({"browser": [7]}, ["/audience/browser"]),
        ({"timezone": "UTC", "eq": 1}, ["/audience/eq"]),
        ({"last_seen": {}}, ["/audience/last_seen"]),
        ({"last_seen": "2026-01-01T00:00:00Z"}, ["/audience/last_seen"]),
        ({"last_seen": {"after": "2026-01-01T00:00:00"}}, ["/audience/last_seen/after"]),
        ({"last_seen": {"after": 7, "before": "soon"}}, ["/audience/last_seen/after", "/audience/last_seen/before"]),
        ({"last_seen": {"since": "2026-01-01T00:00:00Z"}}, ["/audience/last_seen/since"]),
        ({"last_seen": {"before": "9999-12-31T23:59:59-14:00"}}, ["/audience/last_seen/before"]),
    ],
)
def test_errors_of_client_details_and_times_have_pointers(value: Any, pointers: list[str]) -> None:
    """Each invalid value has an error with its pointer."""
    assert sorted(errors_by_pointer(value)) == pointers


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (None, ""),
        ([], ""),
        ("everyone", ""),
        ({}, ""),
        ({"everybody": True}, ""),
        ({"everyone": True, "topic": "a"}, ""),
        ({"everyone": False}, "/everyone"),
        ({"everyone": 1}, "/everyone"),
        ({"everyone": True, "a/b~c": 1}, "/a~1b~0c"),
        ({"topic": "a", "eq": 1}, "/eq"),
        ({"topic": ""}, "/topic"),
        ({"topic": "-a"}, "/topic"),
        ({"topic": "a" * 65}, "/topic"),
        ({"topic": ["a"]}, "/topic"),
        ({"user_id": ""}, "/user_id"),
        ({"user_id": []}, "/user_id"),
        ({"user_id": [1]}, "/user_id"),
        ({"user_id": ["a"] * 1001}, "/user_id"),
        ({"device_id": "dev_1"}, "/device_id"),
        ({"device_id": [ids.format_id(ids.DEVICE, DEVICE), "x"]}, "/device_id/1"),
        ({"device_id": ids.format_id(ids.NOTIFICATION, DEVICE)}, "/device_id"),
        ({"attribute": "", "eq": 1}, "/attribute"),
        ({"attribute": 7, "eq": 1}, "/attribute"),
        ({"attribute": "a"}, ""),
        ({"attribute": "a", "eq": 1, "ne": 2}, ""),
        ({"attribute": "a", "eq": None}, "/eq"),
        ({"attribute": "a", "eq": {}}, "/eq"),
        ({"attribute": "a", "eq": float("nan")}, "/eq"),
        ({"attribute": "a", "eq": "x" * 1001}, "/eq"),
        ({"attribute": "a", "lt": True}, "/lt"),
        ({"attribute": "a", "in": "abc"}, "/in"),
        ({"attribute": "a", "in": []}, "/in"),
        ({"attribute": "a", "in": [1, None]}, "/in/1"),
        ({"attribute": "a", "exists": "yes"}, "/exists"),
        ({"near": [1, 2, 3]}, "/near"),
        ({"near": {"lat": 1, "lon": 2}}, "/near/radius_m"),
        ({"near": {"lat": 91, "lon": 2, "radius_m": 3}}, "/near/lat"),
        ({"near": {"lat": 1, "lon": -181, "radius_m": 3}}, "/near/lon"),
        ({"near": {"lat": 1, "lon": 2, "radius_m": 0}}, "/near/radius_m"),
        ({"near": {"lat": 1, "lon": 2, "radius_m": float("inf")}}, "/near/radius_m"),
        ({"near": {"lat": True, "lon": 2, "radius_m": 3}}, "/near/lat"),
        ({"near": {"lat": 1, "lon": 2, "radius_m": 3, "radius_km": 1}}, "/near/radius_km"),
        ({"within": "POLYGON((0 0))"}, "/within"),
        ({"within": {"type": "Point", "coordinates": [0, 0]}}, "/within"),
        ({"within": {"type": "Polygon"}}, "/within/coordinates"),
        ({"within": {"type": "Polygon", "coordinates": [SQUARE], "crs": 1}}, "/within/crs"),
        ({"within": {"type": "Polygon", "coordinates": [SQUARE[:3]]}}, "/within/coordinates/0"),
        ({"within": {"type": "Polygon", "coordinates": [SQUARE[:4]]}}, "/within/coordinates/0"),
        ({"within": {"type": "Polygon", "coordinates": [[*SQUARE[:2], [1], *SQUARE[2:]]]}}, "/within/coordinates/0/2"),
        ({"within": {"type": "Polygon", "coordinates": [[[0, 91], *SQUARE[1:]]]}}, "/within/coordinates/0/0"),
        (
            {"within": {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}},
            "/within/coordinates/0",
        ),
        ({"within": {"type": "MultiPolygon", "coordinates": [[SQUARE], []]}}, "/within/coordinates/1"),
        ({"all": []}, "/all"),
        ({"all": {"topic": "a"}}, "/all"),
        ({"any": [{"topic": "a"}, {"nothing": 1}]}, "/any/1"),
        ({"not": [{"topic": "a"}]}, "/not"),
        ({"all": [{"any": [{"topic": "a"}, {"not": {"near": {}}}]}]}, "/all/0/any/1/not/near/lat"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:60],
)
def test_error_has_the_pointer_of_its_value(value: Any, pointer: str) -> None:
    """`/` and `~` in the name of a member are escaped in the pointer (RFC 6901)."""
    assert f"/audience{pointer}" in errors_by_pointer(value)


def rectangle(west: float, south: float, east: float, north: float) -> list[list[float]]:
    """Return the ring of a rectangle."""
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


@pytest.mark.parametrize(
    ("rings", "pointer", "message"),
    [
        ([[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]], "/0", "crosses or touches itself at [1, 1]"),
        ([[[0, 0], [2, 0], [2, 2], [5, 2], [2, 2], [0, 2], [0, 0]]], "/0", "crosses or touches itself at [2, 2]"),
        ([[[0, 0], [1, 0], [2, 0], [0, 0]]], "/0", "encloses no area"),
        ([[[1, 1]] * 4], "/0", "encloses no area"),
        (
            [rectangle(0, 0, 9, 9), [[1, 1], [2, 2], [2, 1], [1, 2], [1, 1]]],
            "/1",
            "crosses or touches itself at [1.5, 1.5]",
        ),
        (
            [rectangle(0, 0, 4, 4), rectangle(3, 3, 6, 6)],
            "",
            "has rings that cross each other or share an edge at [3, 4]",
        ),
        (
            [rectangle(0, 0, 4, 4), rectangle(0, 1, 2, 2)],
            "",
            "has rings that cross each other or share an edge at [0, 2]",
        ),
        (
            [rectangle(0, 0, 9, 9), rectangle(1, 1, 4, 4), rectangle(3, 3, 6, 6)],
            "",
            "has rings that cross each other or share an edge",
        ),
        ([rectangle(0, 0, 4, 4), rectangle(5, 5, 6, 6)], "", "has a hole outside its outer ring at [5, 5]"),
        (
            [rectangle(0, 0, 9, 9), rectangle(1, 1, 6, 6), rectangle(3, 3, 4, 4)],
            "",
            "has a hole inside a hole at [3, 3]",
        ),
        ([rectangle(0, 0, 4, 4), [[2, 0], [3, 2], [2, 4], [1, 2], [2, 0]]], "", "is cut in two by its holes"),
        ([[[179, 0], [-179, 0], [-179, 2], [179, 2], [179, 0]]], "/0", "cut the polygon in two"),
        ([rectangle(0, 0, 9, 9), [[1, 1], [2, 1], [2, 2], [1, 2]]], "/1", "is not closed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ring_error_names_the_reason_and_the_position(rings: Any, pointer: str, message: str) -> None:
    """The error of a ring is the same in a Polygon and in a MultiPolygon; only the pointers differ."""
    errors = errors_by_pointer({"within": {"type": "Polygon", "coordinates": rings}})
    assert errors.keys() == {f"/audience/within/coordinates{pointer}"}
    assert message in next(iter(errors.values()))
    multipolygon_errors = errors_by_pointer({"within": {"type": "MultiPolygon", "coordinates": [[SQUARE], rings]}})
    assert multipolygon_errors.keys() == {f"/audience/within/coordinates/1{pointer}"}


@pytest.mark.parametrize(
    "rings",
    [
        [rectangle(0, 0, 4, 4), [[0, 2], [1, 1], [1, 3], [0, 2]]],
        [[[0, 0], [2, 0], [2, 0], [2, 2], [0, 2], [0, 0]]],
        [rectangle(0, 0, 4, 4)[::-1], rectangle(1, 1, 2, 2)],
        [rectangle(-180, -90, 180, 90)],
    ],
    ids=["a hole that touches in one point", "a repeated position", "clockwise outer ring", "the world"],
)
def test_unusual_but_valid_ring_is_accepted(rings: Any) -> None:
    """Repeated positions, either orientation, and rings that touch in one point are accepted."""
    within = parse({"within": {"type": "Polygon", "coordinates": rings}})
    assert isinstance(within, Within)
    [polygon] = within.polygons
    assert len(polygon) == len(rings)


def test_all_errors_are_reported_together() -> None:
    """The ValidationError has the errors of all filters."""
    invalid = {"all": [{"topic": "!"}, {"attribute": "a", "in": [None, 1, {}]}, {"near": {"lat": 99, "lon": 0}}]}
    assert errors_by_pointer(invalid).keys() == {
        "/audience/all/0/topic",
        "/audience/all/1/in/0",
        "/audience/all/1/in/2",
        "/audience/all/2/near/lat",
        "/audience/all/2/near/radius_m",
    }


def test_pointer_starts_with_the_given_prefix() -> None:
    """The prefix is the pointer of the audience in the resource that contains it."""
    with pytest.raises(ValidationError) as exc_info:
        parse({"topic": 1}, "/filter")
    assert exc_info.value.errors[0].pointer == "/filter/topic"


def test_filter_may_be_16_levels_deep() -> None:
    """A filter with 17 levels is an error."""
    deep: Any = {"everyone": True}
    for _ in range(audience.MAX_DEPTH - 1):
        deep = {"not": deep}
    parse(deep)
    assert "deeper" in next(iter(errors_by_pointer({"not": deep}).values()))


def test_very_deep_filter_is_refused() -> None:
    """A filter with 5,000 levels has one error, and parsing it does not exhaust the stack."""
    deep: Any = {"everyone": True}
    for _ in range(5_000):
        deep = {"all": [deep]}
    assert len(errors_by_pointer(deep)) == 1


def test_filter_may_have_200_leaves() -> None:
    """A filter with 201 leaves is an error."""
    parse({"any": [{"topic": "a"}] * audience.MAX_LEAVES})
    assert errors_by_pointer({"any": [{"topic": "a"}] * (audience.MAX_LEAVES + 1)}).keys() == {"/audience"}


def test_polygon_may_have_10_000_vertices() -> None:
    """A polygon with 10,001 vertices is an error."""
    edge = [[x / 10_000, 0] for x in range(9_997)]
    ring = [*edge, [1, 1], [0, 1], [0, 0]]
    assert len(ring) == audience.MAX_VERTICES
    parse({"within": {"type": "Polygon", "coordinates": [ring]}})
    longer = [*ring[:-1], [0, 0.5], [0, 0]]
    assert errors_by_pointer({"within": {"type": "Polygon", "coordinates": [longer]}}).keys() == {
        "/audience/within/coordinates"
    }


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from([*audience.FILTER_NAMES, *audience.OPERATORS, "type", "coordinates", "lat", "lon"]),
                st.text(max_size=5),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_parsed_or_refused_with_a_valid_pointer(value: Any) -> None:
    """All steps of a pointer exist in the value, except possibly the last step, for a missing member."""
    for pointer in error_pointers(value):
        part = value
        for token in pointer.split("/")[1:-1]:
            part = part[int(token)] if isinstance(part, list) else part[token.replace("~1", "/").replace("~0", "~")]


def error_pointers(value: Any) -> list[str]:
    """Return the pointers of an audience's errors; none if it is valid."""
    try:
        parse(value, "")
    except ValidationError as error:
        return [field_error.pointer for field_error in error.errors]
    return []
