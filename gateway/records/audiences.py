"""An audience compiled to one SQL condition over `devices`.

Points are Postgres's native (longitude, latitude), matched with a GiST index: a polygon by `<@`, its holes by
NOT. Postgres's polygons are planar in degrees, as RFC 7946 defines them, with a tolerance of about 1e-6.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, assert_never
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
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
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
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
from gateway.records.postgres.schema import deliveries, devices, notifications

EARTH_RADIUS_M = 6_371_008.8


async def raise_work_mem(conn: AsyncConnection) -> None:
    """Before a large audience is asked for: room for its bitmap.

    With Postgres's 4 MB a bitmap over a million devices forgets which rows of a page it meant, so that reading the
    whole table looks cheaper than the index. Measured in ops/bench/RESULTS.md.
    """
    await conn.execute(text("SET LOCAL work_mem = '64MB'"))


class AudienceSize(NamedTuple):
    """The devices and the users in an audience, and a sample of rows (id, user_id, platform, browser)."""

    devices: int
    users: int
    sample: Sequence[Row[Any]]


async def measure(conn: AsyncConnection, application_id: UUID, audience: Audience, *, sample: int) -> AudienceSize:
    """Count the devices and users that an audience reaches now, and read `sample` of the devices."""
    await raise_work_mem(conn)
    matches = match_active(application_id, audience)
    # Sorted by bytes: counting all users in the order of a collation other than C took 1.7 times as long.
    users = func.count(devices.c.user_id.collate("C").distinct())
    device_count, user_count = (await conn.execute(select(func.count(), users).where(matches))).one()
    columns = (devices.c.id, devices.c.user_id, devices.c.platform, devices.c.browser)
    query: Select[Any] = select(*columns).where(matches).limit(sample)
    rows: Sequence[Row[Any]] = (await conn.execute(query)).all()
    return AudienceSize(device_count, user_count, rows)


def match_active(application_id: UUID, audience: Audience) -> ColumnElement[bool]:
    """The application's devices in the audience that can be sent to."""
    return and_(
        devices.c.application_id == application_id,
        devices.c.status == "active",
        compile_audience(audience),
    )


def compile_audience(audience: Audience) -> ColumnElement[bool]:
    """NULL counts as no match. Only a negation says so in SQL, since COALESCE would hide the rest from the indexes."""
    match audience:
        case Everyone():
            return true()
        case Topic(name):
            return devices.c.topics.contains(cast([name], ARRAY(Text)))
        case Zones(codes):
            return devices.c.zones.op("&&", is_comparison=True)(cast(list(codes), ARRAY(Text)))
        case Users(user_ids):
            return devices.c.user_id.in_(user_ids)
        case Devices(device_ids):
            return devices.c.id.in_(device_ids)
        case Notified(notification_ids):
            return devices.c.id.in_(_told(notification_ids))
        case Segment():
            raise ValueError("a segment is resolved before its audience is compiled")
        case Detail(name, values):
            return _detail(name, values)
        case LastSeen(after, before):
            seen = devices.c.last_seen_at
            limits = [*([seen >= after] if after else []), *([seen < before] if before else [])]
            return and_(*limits)
        case Attribute(name, operator, value):
            return _attribute(name, operator, value)
        case Within(polygons):
            return or_(*map(_inside, polygons))
        case Near(lat, lon, radius_m):
            return _near(lat, lon, radius_m)
        case AllOf(of):
            return and_(*map(compile_audience, of))
        case AnyOf(of):
            return or_(*map(compile_audience, of))
        case Not(of):
            return _negated(compile_audience(of))
        case _:
            assert_never(audience)


def _negated(inner: ColumnElement[bool]) -> ColumnElement[bool]:
    return not_(func.coalesce(inner, false()))


def _told(notification_ids: tuple[UUID, ...]) -> Select[tuple[UUID]]:
    """By way of each notification's day, which says in what partition of the log to look."""
    same = (deliveries.c.day == notifications.c.day) & (deliveries.c.notification_id == notifications.c.id)
    told = select(deliveries.c.device_id).select_from(notifications).join(deliveries, same)
    return told.where(notifications.c.id.in_(notification_ids), deliveries.c.outcome == OutcomeName.ACCEPTED)


def _detail(name: str, values: tuple[str, ...]) -> ColumnElement[bool]:
    held, separator = func.lower(devices.c[name]), DETAILS[name]
    wanted = [value.lower() for value in values]
    longer = [func.starts_with(held, value + separator) for value in wanted] if separator else []
    return or_(held.in_(wanted), *longer)


def _attribute(name: str, operator: str, value: Scalar | tuple[Scalar, ...]) -> ColumnElement[bool]:
    held = devices.c.attributes[name]
    match operator:
        case "exists":
            exists = func.jsonb_typeof(held) != "null"
            return exists if value else _negated(exists)
        case "eq" | "ne":
            equal = _holds(name, value)
            return equal if operator == "eq" else _negated(equal)
        case "in":
            assert isinstance(value, tuple)  # noqa: S101 - the parser's promise, for the type checker
            return or_(*(_holds(name, item) for item in value))
        case "contains":
            # A list that has the value, or text that has it as a part.
            among = devices.c.attributes.contains({name: [value]})
            if not isinstance(value, str):
                return among
            part = and_(
                func.jsonb_typeof(held) == "string",
                func.strpos(devices.c.attributes[name].astext, value) > 0,
            )
            return or_(among, part)
    wanted = "string" if isinstance(value, str) else "number"
    ordered = held.op({"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}[operator])
    return and_(func.jsonb_typeof(held) == wanted, ordered(literal(value, JSONB)))


def _holds(name: str, value: object) -> ColumnElement[bool]:
    """Equality as containment, which the GIN index answers: below the top, a list does not contain a scalar."""
    return devices.c.attributes.contains({name: value})


class _Polygon(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "polygon"


def _polygon(ring: Ring) -> ColumnElement[str]:
    # As text: asyncpg's own polygon codec would need a type Core does not know.
    return cast(cast(",".join(f"({x!r},{y!r})" for x, y in ring), Text), _Polygon())


def _inside(rings: tuple[Ring, ...]) -> ColumnElement[bool]:
    outer, *holes = rings
    inside = devices.c.location.op("<@", is_comparison=True)
    return and_(inside(_polygon(outer)), *(not_(inside(_polygon(hole))) for hole in holes))


def _near(lat: float, lon: float, radius_m: float) -> ColumnElement[bool]:
    """Great-circle distance on a sphere; a box that surely holds the circle lets the index answer first."""
    lon_of: ColumnElement[float] = literal_column("devices.location[0]")
    lat_of: ColumnElement[float] = literal_column("devices.location[1]")
    half = func.power(func.sind((lat_of - lat) / 2), 2) + math.cos(math.radians(lat)) * func.cosd(lat_of) * func.power(
        func.sind((lon_of - lon) / 2), 2
    )
    distance = 2 * EARTH_RADIUS_M * func.asin(func.sqrt(func.least(1.0, half)))
    return and_(or_(*(_in_box(*box) for box in bounding_boxes(lat, lon, radius_m))), distance <= radius_m)


def bounding_boxes(lat: float, lon: float, radius_m: float) -> list[tuple[float, float, float, float]]:
    """(west, south, east, north) boxes that cover the circle; two where it crosses the antimeridian."""
    angle = math.degrees(radius_m / EARTH_RADIUS_M) * 1.000001
    south, north = max(lat - angle, -90.0), min(lat + angle, 90.0)
    if lat - angle <= -90 or lat + angle >= 90:
        return [(-180.0, south, 180.0, north)]
    spread = math.degrees(math.asin(min(1.0, math.sin(math.radians(angle)) / math.cos(math.radians(lat)))))
    west, east = lon - spread, lon + spread
    if west < -180:
        return [(west + 360, south, 180.0, north), (-180.0, south, east, north)]
    if east > 180:
        return [(west, south, 180.0, north), (-180.0, south, east - 360, north)]
    return [(west, south, east, north)]


def _in_box(west: float, south: float, east: float, north: float) -> ColumnElement[bool]:
    corners = func.box(func.point(west, south), func.point(east, north))
    return devices.c.location.op("<@", is_comparison=True)(corners)
