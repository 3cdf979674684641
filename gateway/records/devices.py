"""Devices: write registrations, change and find them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import Row, any_, bindparam, cast, delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from gateway.domain.device import ClientDetails, Device, DeviceStatus, Location, Registration, Subscription
from gateway.domain.ids import new_ids
from gateway.records import outbox
from gateway.records.postgres.schema import devices

_CLIENT = ClientDetails._fields

# Run for most requests, and made once: building one takes longer than running it.
_ONE = select(devices).where(devices.c.id == bindparam("id"))
_ITS_APPLICATION = select(devices.c.application_id).where(devices.c.id == bindparam("id"))


class CheckedRegistration(NamedTuple):
    """A registration of one application, checked; `host` is the push service's."""

    application_id: UUID
    registration: Registration
    host: str
    vapid_key_id: UUID


class Registered(NamedTuple):
    device_id: UUID
    created: bool


@dataclass(frozen=True, slots=True)
class DeviceFilters:
    """None does not filter."""

    user_id: str | None = None
    topic: str | None = None
    status: DeviceStatus | None = None


async def register(conn: AsyncConnection, new: Sequence[CheckedRegistration]) -> list[Registered]:
    """Insert or refresh each by its endpoint; answers in their order.

    No endpoint may occur twice in one application. A refreshed device is active again, and keeps what the registration
    does not say.
    """
    keys = [(one.application_id, endpoint_digest(one.registration.subscription.endpoint)) for one in new]
    left = dict(zip(keys, new, strict=True))
    found: dict[tuple[UUID, bytes], Registered] = {}
    while left:  # again only for what others were inserting or deleting meanwhile
        # In one order: two transactions that share devices in another order would wait for each other in a circle.
        order = sorted(left, key=_BY_DIGEST)
        rows = [_row(id_, key[1], left[key]) for id_, key in zip(new_ids(len(order)), order, strict=True)]
        columns = dict(zip(_COLUMNS, map(_column, zip(*rows, strict=True)), strict=True))
        for id_, application_id, digest, created in await conn.execute(_WRITE, columns):
            found[application_id, digest] = Registered(id_, created)
            del left[application_id, digest]
    await _tell(conn, found)
    return [found[key] for key in keys]


async def _tell(conn: AsyncConnection, found: Mapping[tuple[UUID, bytes], Registered]) -> None:
    if not found or not await outbox.has_subscribers(conn, {application_id for application_id, _ in found}):
        return
    for type_, created in (("device.registered", True), ("device.changed", False)):
        if those := [one.device_id for one in found.values() if one.created is created]:
            await outbox.append_registration_events(conn, type_, those)


async def get(conn: AsyncConnection, id_: UUID) -> Device | None:
    row = (await conn.execute(_ONE, {"id": id_})).first()
    return None if row is None else _device(row)


async def list_hosts(conn: AsyncConnection) -> list[str]:
    """The push services' hosts that there are active devices of."""
    query = select(devices.c.host).where(devices.c.status == DeviceStatus.ACTIVE).distinct()
    return sorted((await conn.execute(query)).scalars())


async def get_application_id(conn: AsyncConnection, id_: UUID) -> UUID | None:
    found: UUID | None = (await conn.execute(_ITS_APPLICATION, {"id": id_})).scalar()
    return found


async def list_page(
    conn: AsyncConnection, application_id: UUID, filters: DeviceFilters, *, before: UUID | None, limit: int
) -> list[Device]:
    """Newest first; `before` is the last id of the page before."""
    query = select(devices).where(devices.c.application_id == application_id)
    if filters.user_id is not None:
        query = query.where(devices.c.user_id == filters.user_id)
    if filters.topic is not None:
        query = query.where(devices.c.topics.contains(cast([filters.topic], ARRAY(Text))))
    if filters.status is not None:
        query = query.where(devices.c.status == filters.status)
    if before is not None:
        query = query.where(devices.c.id < before)
    rows = await conn.execute(query.order_by(devices.c.id.desc()).limit(limit))
    return [_device(row) for row in rows]


async def list_topics(
    conn: AsyncConnection, application_id: UUID, *, after: str | None, limit: int
) -> list[tuple[str, int]]:
    """(topic, devices that can be reached by it) in order of name; `after` is the last name of the page before."""
    each = (
        select(func.unnest(devices.c.topics).label("topic"))
        .where(devices.c.application_id == application_id, devices.c.status == DeviceStatus.ACTIVE)
        .subquery("each")
    )
    name = each.c.topic.collate("C")
    query = select(each.c.topic, func.count()).group_by(each.c.topic).order_by(name).limit(limit)
    if after is not None:
        query = query.where(name > after)
    return [(topic, count) for topic, count in await conn.execute(query)]


async def change(conn: AsyncConnection, id_: UUID, values: dict[str, Any]) -> None:
    """`values` by column; attributes named None are removed, others merged."""
    values = dict(values)
    if (patch := values.pop("attributes", None)) is not None:
        kept = {name: value for name, value in patch.items() if value is not None}
        dropped = [name for name, value in patch.items() if value is None]
        merged = devices.c.attributes.op("||")(literal(kept, devices.c.attributes.type))
        values["attributes"] = merged.op("-")(cast(dropped, ARRAY(Text))) if dropped else merged
    this = devices.c.id == id_
    await conn.execute(update(devices).where(this).values(**values, updated_at=func.now(), last_seen_at=func.now()))
    await outbox.append_device_events(conn, "device.changed", this)


async def set_location(conn: AsyncConnection, id_: UUID, location: Location | None) -> None:
    await change(conn, id_, _location(location))


async def subscribe(conn: AsyncConnection, id_: UUID, topic: str, *, max_topics: int) -> bool:
    """Add a topic; False when the device has `most` others already."""
    here = devices.c.topics
    added = update(devices).where(
        devices.c.id == id_, (literal(topic) == any_(here)) | (func.cardinality(here) < max_topics)
    )
    topics = func.array_append(func.array_remove(here, topic), topic)
    values = {"topics": topics, "updated_at": func.now(), "last_seen_at": func.now()}
    if (await conn.execute(added.values(**values))).rowcount != 1:
        return False
    await outbox.append_device_events(conn, "device.changed", devices.c.id == id_)
    return True


async def unsubscribe(conn: AsyncConnection, id_: UUID, topic: str) -> None:
    await change(conn, id_, {"topics": func.array_remove(devices.c.topics, topic)})


async def remove(conn: AsyncConnection, id_: UUID) -> None:
    await outbox.append_device_events(conn, "device.unregistered", devices.c.id == id_)
    await conn.execute(delete(devices).where(devices.c.id == id_))


def endpoint_digest(endpoint: str) -> bytes:
    return hashlib.sha256(endpoint.encode()).digest()


_COLUMNS = (
    *("id", "application_id", "endpoint", "endpoint_digest", "host", "p256dh", "auth", "vapid_key_id", "user_id"),
    *_CLIENT,
    *("attributes", "topics", "zones", "muted", "lon", "lat", "accuracy_m"),
)
# Written out and prepared once: as an expression it was built and compiled anew for every number of rows, at twenty
# times what running it takes. Postgres 14 has no MERGE, and ON CONFLICT DO UPDATE cannot tell what was not said of
# columns that are never NULL.
_WRITE = text("""
    WITH new AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:id AS uuid[]), CAST(:application_id AS uuid[]), CAST(:endpoint AS text[]),
            CAST(:endpoint_digest AS bytea[]), CAST(:host AS text[]), CAST(:p256dh AS bytea[]), CAST(:auth AS bytea[]),
            CAST(:vapid_key_id AS uuid[]), CAST(:user_id AS text[]), CAST(:platform AS text[]),
            CAST(:browser AS text[]), CAST(:locale AS text[]), CAST(:timezone AS text[]), CAST(:app_version AS text[]),
            CAST(:attributes AS text[]), CAST(:topics AS text[]), CAST(:zones AS text[]), CAST(:muted AS text[]),
            CAST(:lon AS float8[]), CAST(:lat AS float8[]), CAST(:accuracy_m AS float8[])
        ) AS said (
            id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id, platform,
            browser, locale, timezone, app_version, attributes, topics, zones, muted, lon, lat, accuracy_m
        )
    ), known AS MATERIALIZED (
        SELECT d.id AS known_id, new.*
        FROM new JOIN devices d USING (application_id, endpoint_digest) ORDER BY endpoint_digest FOR UPDATE OF d
    ), refreshed AS (
        UPDATE devices d SET
            p256dh = said.p256dh, auth = said.auth, vapid_key_id = said.vapid_key_id, status = 'active',
            updated_at = now(), last_seen_at = now(),
            user_id = coalesce(said.user_id, d.user_id), platform = coalesce(said.platform, d.platform),
            browser = coalesce(said.browser, d.browser), locale = coalesce(said.locale, d.locale),
            timezone = coalesce(said.timezone, d.timezone), app_version = coalesce(said.app_version, d.app_version),
            attributes = coalesce(CAST(said.attributes AS jsonb), d.attributes),
            topics = coalesce(CAST(said.topics AS text[]), d.topics),
            zones = coalesce(CAST(said.zones AS text[]), d.zones),
            muted = coalesce(CAST(said.muted AS text[]), d.muted),
            location = CASE WHEN said.lon IS NULL THEN d.location ELSE point(said.lon, said.lat) END,
            accuracy_m = CASE WHEN said.lon IS NULL THEN d.accuracy_m ELSE said.accuracy_m END,
            located_at = CASE WHEN said.lon IS NULL THEN d.located_at ELSE now() END
        FROM known said WHERE d.id = said.known_id
        RETURNING d.id, d.application_id, d.endpoint_digest
    ), added AS (
        INSERT INTO devices (
            id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id, platform,
            browser, locale, timezone, app_version, attributes, topics, zones, muted, location, accuracy_m, located_at
        )
        SELECT
            id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id, platform,
            browser, locale, timezone, app_version, coalesce(CAST(attributes AS jsonb), '{}'),
            coalesce(CAST(topics AS text[]), '{}'), coalesce(CAST(zones AS text[]), '{}'),
            coalesce(CAST(muted AS text[]), '{}'), point(lon, lat), accuracy_m,
            CASE WHEN lon IS NOT NULL THEN now() END
        FROM new WHERE id NOT IN (SELECT id FROM known) ORDER BY endpoint_digest
        ON CONFLICT (application_id, endpoint_digest) DO NOTHING
        RETURNING id, application_id, endpoint_digest
    )
    SELECT *, false FROM refreshed UNION ALL SELECT *, true FROM added
""")


_BY_DIGEST = itemgetter(1)


def _column(values: Sequence[Any]) -> list[Any] | None:
    """None for one that nothing was said of: it is unnested as NULLs all the same, and need not be written."""
    return None if values.count(None) == len(values) else list(values)


def _row(id_: UUID, digest: bytes, new: CheckedRegistration) -> tuple[Any, ...]:
    """In the order of _COLUMNS. What is unnested is flat: lists and objects are text in it."""
    said = new.registration
    subscription, client, at = said.subscription, said.client, said.location
    return (
        id_,
        new.application_id,
        subscription.endpoint,
        digest,
        new.host,
        subscription.p256dh,
        subscription.auth,
        new.vapid_key_id,
        said.user_id,
        client.platform,
        client.browser,
        client.locale,
        client.timezone,
        client.app_version,
        None if said.attributes is None else msgspec.json.encode(said.attributes).decode(),
        _listed(said.topics),
        _listed(said.zones),
        _listed(said.muted),
        *((None, None, None) if at is None else (at.lon, at.lat, at.accuracy_m)),
    )


def _listed(texts: Sequence[str] | None) -> str | None:
    """As Postgres writes an array of text."""
    if texts is None:
        return None
    return "{" + ",".join('"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"' for one in texts) + "}"


def _location(location: Location | None) -> dict[str, Any]:
    if location is None:
        return {"location": None, "accuracy_m": None, "located_at": None}
    point = asyncpg.Point(location.lon, location.lat)
    return {"location": point, "accuracy_m": location.accuracy_m, "located_at": func.now()}


def _device(row: Row[Any]) -> Device:
    located = None
    if row.location is not None:
        located = Location(lat=row.location.y, lon=row.location.x, accuracy_m=row.accuracy_m)
    return Device(
        id=row.id,
        application_id=row.application_id,
        subscription=Subscription(row.endpoint, row.p256dh, row.auth),
        vapid_key_id=row.vapid_key_id,
        status=DeviceStatus(row.status),
        user_id=row.user_id,
        client=ClientDetails(**{name: getattr(row, name) for name in _CLIENT}),
        attributes=row.attributes,
        topics=tuple(row.topics),
        zones=tuple(row.zones),
        muted=tuple(row.muted),
        location=located,
        located_at=row.located_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_seen_at=row.last_seen_at,
    )


async def prune_gone(conn: AsyncConnection, age: timedelta) -> int:
    """Delete devices that have been gone for longer than `age` by the database clock; return how many."""
    gone = (devices.c.status == DeviceStatus.GONE, devices.c.updated_at < func.now() - age)
    return (await conn.execute(delete(devices).where(*gone))).rowcount
