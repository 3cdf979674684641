"""Devices: write registrations, change and find them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from sqlalchemy import Row, any_, case, cast, delete, func, literal, literal_column, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from gateway.domain.device import ClientDetails, Device, DeviceStatus, Location, Registration, Subscription
from gateway.domain.ids import new_id
from gateway.records import events, happenings
from gateway.records.schema import contacts, deliveries, devices

NEVER_NULL = ("attributes", "topics", "zones", "muted")
_CLIENT = tuple(field.name for field in fields(ClientDetails))


class Registered(NamedTuple):
    id: UUID
    created: bool


@dataclass(frozen=True, slots=True)
class Filters:
    """None does not filter."""

    user_id: str | None = None
    topic: str | None = None
    status: DeviceStatus | None = None


async def register(
    conn: AsyncConnection, application_id: UUID, registrations: Sequence[tuple[Registration, str, UUID]]
) -> list[Registered]:
    """Insert or refresh each (registration, push service host, VAPID key) by its endpoint; answers in their order.

    No endpoint may occur twice. A refreshed device is active again, and keeps what the registration does not say.
    """
    if len(registrations) > 1:
        # Two batches that share devices in another order would wait for each other in a circle.
        await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(str(application_id), 0))))
    # These are never NULL in the table, so that a statement must know which of them were said.
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for registration in registrations:
        row = _row(application_id, *registration)
        alike.setdefault(tuple(name for name in NEVER_NULL if name in row), []).append(row)
    found: dict[bytes, Registered] = {}
    for said, rows in alike.items():
        for id_, digest, created in await conn.execute(_upsert(rows, said)):
            found[digest] = Registered(id_, created)
    for type_, created in (("device.registered", True), ("device.changed", False)):
        if those := [one.id for one in found.values() if one.created is created]:
            await happenings.of_devices(conn, type_, devices.c.id.in_(those))
    return [found[endpoint_digest(registration.subscription.endpoint)] for registration, _, _ in registrations]


def _upsert(rows: list[dict[str, Any]], said: tuple[str, ...]) -> Any:
    statement = insert(devices).values(rows)
    new, old = statement.excluded, devices.c
    refreshed = statement.on_conflict_do_update(
        index_elements=["application_id", "endpoint_digest"],
        set_={
            "p256dh": new.p256dh,
            "auth": new.auth,
            "vapid_key_id": new.vapid_key_id,
            "status": DeviceStatus.ACTIVE,
            "updated_at": func.now(),
            "last_seen_at": func.now(),
            **{name: new[name] for name in said},
            **{name: func.coalesce(new[name], old[name]) for name in ("user_id", *_CLIENT)},
            **{
                name: case((new.located_at.is_(None), old[name]), else_=new[name])
                for name in ("location", "accuracy_m", "located_at")
            },
        },
    )
    return refreshed.returning(old.id, old.endpoint_digest, literal_column("(xmax = 0)"))


async def get(conn: AsyncConnection, id_: UUID) -> Device | None:
    row = (await conn.execute(select(devices).where(devices.c.id == id_))).first()
    return None if row is None else _device(row)


async def newest(
    conn: AsyncConnection, application_id: UUID, filters: Filters, *, before: UUID | None, limit: int
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


async def topics(
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
    await happenings.of_devices(conn, "device.changed", this)


async def locate(conn: AsyncConnection, id_: UUID, location: Location | None) -> None:
    await change(conn, id_, _location(location))


async def subscribe(conn: AsyncConnection, id_: UUID, topic: str, *, most: int) -> bool:
    """Add a topic; False when the device has `most` others already."""
    here = devices.c.topics
    added = update(devices).where(devices.c.id == id_, (literal(topic) == any_(here)) | (func.cardinality(here) < most))
    topics = func.array_append(func.array_remove(here, topic), topic)
    values = {"topics": topics, "updated_at": func.now(), "last_seen_at": func.now()}
    if (await conn.execute(added.values(**values))).rowcount != 1:
        return False
    await happenings.of_devices(conn, "device.changed", devices.c.id == id_)
    return True


async def unsubscribe(conn: AsyncConnection, id_: UUID, topic: str) -> None:
    await change(conn, id_, {"topics": func.array_remove(devices.c.topics, topic)})


async def remove(conn: AsyncConnection, id_: UUID) -> None:
    await happenings.of_devices(conn, "device.unregistered", devices.c.id == id_)
    await conn.execute(delete(devices).where(devices.c.id == id_))


async def forget_user(conn: AsyncConnection, application_id: UUID, user_id: str) -> int:
    """Delete a user's devices and take their name out of the log; answers how many devices there were."""
    theirs = (devices.c.application_id == application_id, devices.c.user_id == user_id)
    await happenings.of_devices(conn, "device.unregistered", *theirs)
    await happenings.forget(conn, application_id, user_id)
    removed = (await conn.execute(delete(devices).where(*theirs))).rowcount
    named = (deliveries.c.application_id == application_id, deliveries.c.user_id == user_id)
    await conn.execute(update(deliveries).where(*named).values(user_id=None))
    await conn.execute(
        delete(contacts).where(contacts.c.application_id == application_id, contacts.c.person == user_id)
    )
    await events.forget(conn, application_id, user_id)
    return removed


def endpoint_digest(endpoint: str) -> bytes:
    return hashlib.sha256(endpoint.encode()).digest()


def _row(application_id: UUID, registration: Registration, host: str, vapid_key_id: UUID) -> dict[str, Any]:
    subscription, client = registration.subscription, registration.client
    return {
        "id": new_id(),
        "application_id": application_id,
        "endpoint": subscription.endpoint,
        "endpoint_digest": endpoint_digest(subscription.endpoint),
        "host": host,
        "p256dh": subscription.p256dh,
        "auth": subscription.auth,
        "vapid_key_id": vapid_key_id,
        "user_id": registration.user_id,
        **{name: getattr(client, name) for name in _CLIENT},
        **({} if registration.attributes is None else {"attributes": registration.attributes}),
        **({} if registration.topics is None else {"topics": list(registration.topics)}),
        **({} if registration.zones is None else {"zones": list(registration.zones)}),
        **({} if registration.muted is None else {"muted": list(registration.muted)}),
        **_location(registration.location),
    }


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
