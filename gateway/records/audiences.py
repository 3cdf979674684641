"""Compile an audience to one SQL condition over `devices`.

Locations are Postgres points (longitude, latitude) with a GiST index. `<@` selects the locations inside a polygon, and
NOT excludes those inside its holes. Postgres polygons are planar in degrees, as in RFC 7946, with a tolerance of about
1e-6.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, assert_never
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Uuid,
    and_,
    any_,
    cast,
    false,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, JSONPATH
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text, UserDefinedType

from gateway.domain.audience import (
    DETAILS,
    AllOf,
    AnyOf,
    Attribute,
    Audience,
    Detail,
    Devices,
    Everyone,
    LastSeen,
    Near,
    Not,
    Notified,
    Ring,
    Segment,
    Topic,
    Users,
    Within,
    Zones,
)
from gateway.domain.comparison import Scalar
from gateway.domain.delivery import OutcomeName
from gateway.records.bound_deliveries import has_valid_user
from gateway.records.postgres.schema import deliveries, devices, notifications

# Mean radius of the Earth (IUGG).
EARTH_RADIUS_M = 6_371_008.8


async def raise_work_mem(conn: AsyncConnection) -> None:
    """Raise work_mem for the transaction, so that it suffices for the bitmap of an index scan over a large audience.

    With Postgres's default of 4 MB a bitmap over a million devices becomes lossy, and the planner prefers a sequential
    scan to the index. Measured in ops/bench/RESULTS.md.
    """
    await conn.execute(text("SET LOCAL work_mem = '64MB'"))


class AudienceSize(NamedTuple):
    """The numbers of devices and users in an audience, and some of its devices (id, user_id, platform, browser)."""

    devices: int
    users: int
    sample: Sequence[Row[Any]]


async def measure(conn: AsyncConnection, application_id: UUID, audience: Audience, *, sample_size: int) -> AudienceSize:
    """Count the devices and users that an audience reaches now, and read a sample of its devices."""
    await raise_work_mem(conn)
    matches = match_active(application_id, audience)
    # DISTINCT sorts the ids. Collation C compares bytes; with another collation, counting took 1.7 times as long.
    users = func.count(devices.c.user_id.collate("C").distinct())
    device_count, user_count = (await conn.execute(select(func.count(), users).where(matches))).one()
    columns = (devices.c.id, devices.c.user_id, devices.c.platform, devices.c.browser)
    query: Select[Any] = select(*columns).where(matches).limit(sample_size)
    rows: Sequence[Row[Any]] = (await conn.execute(query)).all()
    return AudienceSize(device_count, user_count, rows)


def match_active(application_id: UUID, audience: Audience) -> ColumnElement[bool]:
    """Return the condition for the active devices of an application that are in the audience."""
    return and_(
        devices.c.application_id == application_id,
        devices.c.status == "active",
        compile_audience(audience),
    )


def compile_audience(audience: Audience) -> ColumnElement[bool]:
    """Return the condition for an audience.

    A condition that is NULL does not match. Only negations turn NULL into false with COALESCE, since an index cannot
    serve an expression inside COALESCE.
    """
    match audience:
        case Everyone():
            return true()
        case Topic(name):
            return devices.c.topics.contains(cast([name], ARRAY(Text)))
        case Zones(codes):
            return devices.c.zones.op("&&", is_comparison=True)(cast(list(codes), ARRAY(Text)))
        case Users(user_ids):
            same_user = devices.c.user_id == any_(literal(list(user_ids), ARRAY(Text)))
            return and_(same_user, has_valid_user())
        case Devices(device_ids):
            return devices.c.id == any_(literal(list(device_ids), ARRAY(Uuid)))
        case Notified(notification_ids):
            return devices.c.id.in_(_select_accepted(notification_ids))
        case Segment():
            raise ValueError("segments must be expanded before the audience is compiled")
        case Detail(name, values):
            return _match_detail(name, values)
        case LastSeen(after, before):
            last_seen = devices.c.last_seen_at
            bounds = [*([last_seen >= after] if after else []), *([last_seen < before] if before else [])]
            return and_(*bounds)
        case Attribute(name, operator, value):
            return _match_attribute(name, operator, value)
        case Within(polygons):
            return or_(*map(_match_polygon, polygons))
        case Near(lat, lon, radius_m):
            return _match_circle(lat, lon, radius_m)
        case AllOf(filters):
            return and_(*map(compile_audience, filters))
        case AnyOf(filters):
            return or_(*map(compile_audience, filters))
        case Not(negated):
            return _negate(compile_audience(negated))
        case _:
            assert_never(audience)


def _negate(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return not_(func.coalesce(condition, false()))


def _select_accepted(notification_ids: tuple[UUID, ...]) -> Select[tuple[UUID]]:
    """Select the devices whose push service accepted at least one of the notifications.

    The join by day limits the query to the log partitions of these notifications.
    """
    same_notification = (deliveries.c.day == notifications.c.day) & (deliveries.c.notification_id == notifications.c.id)
    accepted = select(deliveries.c.device_id).select_from(notifications).join(deliveries, same_notification)
    selected = notifications.c.id == any_(literal(list(notification_ids), ARRAY(Uuid)))
    return accepted.where(selected, deliveries.c.outcome == OutcomeName.ACCEPTED)


def _match_detail(name: str, values: tuple[str, ...]) -> ColumnElement[bool]:
    """Return the condition for devices whose detail has one of the values, ignoring case.

    If the detail has a separator, a value also matches a detail that continues after it: `en` matches `en-US`.
    """
    column, separator = func.lower(devices.c[name]), DETAILS[name]
    lowered = [value.lower() for value in values]
    equal = column == any_(literal(lowered, ARRAY(Text)))
    if separator is None:
        return equal
    patterns = [f"{_escape_like(value)}{separator}%" for value in lowered]
    return or_(equal, column.like(any_(literal(patterns, ARRAY(Text)))))


def _escape_like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _match_attribute(name: str, operator: str, value: Scalar | tuple[Scalar, ...]) -> ColumnElement[bool]:
    """Return the condition that compares an attribute of the device with a value, by an operator of `Attribute`."""
    attribute = devices.c.attributes[name]
    match operator:
        case "exists":
            exists = func.jsonb_typeof(attribute) != "null"
            return exists if value else _negate(exists)
        case "eq" | "ne":
            equal = _attribute_equals(name, value)
            return equal if operator == "eq" else _negate(equal)
        case "in":
            assert isinstance(value, tuple)  # noqa: S101 - guaranteed by the parser, for the type checker
            # One JSON path instead of one `@>` for each value: a statement has at most 32,767 parameters, and planning
            # takes time for each. In strict mode a list attribute never equals a scalar. The GIN index supports `@?`.
            values = " || ".join(f"@ == {json.dumps(item)}" for item in value)
            path = literal(f"strict $.{json.dumps(name)} ? ({values})", Text)
            return devices.c.attributes.op("@?", is_comparison=True)(cast(path, JSONPATH))
        case "contains":
            # Matches a list that has the value as an element, and text that has the value as a substring.
            element = devices.c.attributes.contains({name: [value]})
            if not isinstance(value, str):
                return element
            substring = and_(
                func.jsonb_typeof(attribute) == "string",
                func.strpos(devices.c.attributes[name].astext, value) > 0,
            )
            return or_(element, substring)
    json_type = "string" if isinstance(value, str) else "number"
    compare = attribute.op({"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}[operator])
    return and_(func.jsonb_typeof(attribute) == json_type, compare(literal(value, JSONB)))


def _attribute_equals(name: str, value: object) -> ColumnElement[bool]:
    """Express equality as containment (`@>`), which the GIN index supports. A list attribute never equals a scalar."""
    return devices.c.attributes.contains({name: value})


class _Polygon(UserDefinedType[str]):
    """The Postgres type `polygon`."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the SQL name of the type."""
        return "polygon"


def _polygon_literal(ring: Ring) -> ColumnElement[str]:
    # Passed as text and cast in SQL: SQLAlchemy Core has no type for polygons.
    return cast(cast(",".join(f"({x!r},{y!r})" for x, y in ring), Text), _Polygon())


def _match_polygon(rings: tuple[Ring, ...]) -> ColumnElement[bool]:
    outer, *holes = rings
    inside = devices.c.location.op("<@", is_comparison=True)
    return and_(inside(_polygon_literal(outer)), *(not_(inside(_polygon_literal(hole))) for hole in holes))


def _match_circle(lat: float, lon: float, radius_m: float) -> ColumnElement[bool]:
    """Return the condition for the locations in a circle: in its bounding boxes, by the index, and near its centre.

    The distance from the centre is the great-circle distance on a sphere.
    """
    device_lon: ColumnElement[float] = literal_column("devices.location[0]")
    device_lat: ColumnElement[float] = literal_column("devices.location[1]")
    haversine = func.power(func.sind((device_lat - lat) / 2), 2) + math.cos(math.radians(lat)) * func.cosd(
        device_lat
    ) * func.power(func.sind((device_lon - lon) / 2), 2)
    distance = 2 * EARTH_RADIUS_M * func.asin(func.sqrt(func.least(1.0, haversine)))
    return and_(or_(*(_match_box(*box) for box in bounding_boxes(lat, lon, radius_m))), distance <= radius_m)


def bounding_boxes(lat: float, lon: float, radius_m: float) -> list[tuple[float, float, float, float]]:
    """Return boxes (west, south, east, north) that cover a circle: two if it crosses the antimeridian, else one."""
    lat_angle = math.degrees(radius_m / EARTH_RADIUS_M) * 1.000001  # a margin for rounding errors
    south, north = max(lat - lat_angle, -90.0), min(lat + lat_angle, 90.0)
    if lat - lat_angle <= -90 or lat + lat_angle >= 90:
        return [(-180.0, south, 180.0, north)]
    lon_angle = math.degrees(math.asin(min(1.0, math.sin(math.radians(lat_angle)) / math.cos(math.radians(lat)))))
    west, east = lon - lon_angle, lon + lon_angle
    if west < -180:
        return [(west + 360, south, 180.0, north), (-180.0, south, east, north)]
    if east > 180:
        return [(west, south, 180.0, north), (-180.0, south, east - 360, north)]
    return [(west, south, east, north)]


def _match_box(west: float, south: float, east: float, north: float) -> ColumnElement[bool]:
    corners = func.box(func.point(west, south), func.point(east, north))
    return devices.c.location.op("<@", is_comparison=True)(corners)
