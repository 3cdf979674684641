"""Devices: registration, changes and queries."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import (
    ColumnElement,
    Row,
    any_,
    bindparam,
    case,
    cast,
    delete,
    false,
    func,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from gateway.domain.device import (
    ClientDetails,
    Device,
    DeviceChange,
    DeviceStatus,
    Location,
    Registration,
    Subscription,
)
from gateway.domain.ids import new_ids
from gateway.domain.json_object import JsonObject
from gateway.domain.page import Page
from gateway.records import outbox
from gateway.records.postgres.paging import fetch_page
from gateway.records.postgres.schema import devices

# Names of the columns with the details of the client.
_CLIENT = ClientDetails._fields

# Prepared once: these statements run for most requests, and building one takes longer than running it.
_GET = select(devices).where(devices.c.id == bindparam("id"))
_GET_APPLICATION_ID = select(devices.c.application_id).where(devices.c.id == bindparam("id"))


class CheckedRegistration(NamedTuple):
    """A validated registration.

    Attributes:
        application_id: the application of the device.
        registration: the registration, with the canonical form of its endpoint.
        host: the host of the push service.
        vapid_key_id: the VAPID key of a new device. A registered device keeps its key unless the registration has one.
        user_proven: whether the user id is proven, or the application's back end sent it.
        trusted: whether the back end sent the registration. Then its keys may differ from the stored ones.
        proven_device_id: the device whose device token the request contains.
        may_create: whether a device may be created. Otherwise only a registered device is refreshed.
    """

    application_id: UUID
    registration: Registration
    host: str
    vapid_key_id: UUID
    user_proven: bool = True
    trusted: bool = True
    proven_device_id: UUID | None = None
    may_create: bool = True


class Registered(NamedTuple):
    """The result of a registration. `created` is False if the endpoint was registered before."""

    device_id: UUID
    created: bool


class Refusal(StrEnum):
    """The reason why a registration changed nothing.

    `unproven`: a device has the endpoint, but another `auth` secret. Otherwise any client that knows an endpoint could
    take over its device. Only the browser and the application server know the secret (RFC 8291 section 2). `limited`:
    the device is not registered, and the registration may not create a device.
    """

    UNPROVEN = "unproven"
    LIMITED = "limited"


@dataclass(frozen=True, slots=True)
class DeviceFilters:
    """Filters of a list of devices; None disables a filter."""

    user_id: str | None = None
    topic: str | None = None
    status: DeviceStatus | None = None


async def register(conn: AsyncConnection, registrations: Sequence[CheckedRegistration]) -> list[Registered | Refusal]:
    """Insert devices, or refresh those whose endpoint is registered; return the results in the same order.

    `registrations` may contain an endpoint only once per application. A refreshed device becomes active again. Fields
    that a registration omits keep their values. But if the user of the device changes, the topics and attributes of the
    former user are removed.
    """
    keys = [(item.application_id, endpoint_digest(item.registration.subscription.endpoint)) for item in registrations]
    remaining = dict(zip(keys, registrations, strict=True))
    results: dict[tuple[UUID, bytes], Registered | Refusal] = {}
    # Usually one round. Devices that another transaction inserts or deletes at the same time need a second one.
    while remaining:
        # Sorted, so that transactions with the same devices lock them in the same order and cannot deadlock.
        sorted_keys = sorted(remaining, key=_BY_DIGEST)
        new_keys = zip(new_ids(len(sorted_keys)), sorted_keys, strict=True)
        rows = [_row(id_, key[1], remaining[key]) for id_, key in new_keys]
        columns = dict(zip(_COLUMNS, map(_column, zip(*rows, strict=True)), strict=True))
        for id_, application_id, digest, result in await conn.execute(_WRITE, columns):
            is_stored = result in ("created", "refreshed")
            stored = Registered(id_, result == "created")
            results[application_id, digest] = stored if is_stored else Refusal(result)
            del remaining[application_id, digest]
    await _append_events(conn, results)
    return [results[key] for key in keys]


async def _append_events(conn: AsyncConnection, results: Mapping[tuple[UUID, bytes], Registered | Refusal]) -> None:
    if not results or not await outbox.has_subscribers(conn, {application_id for application_id, _ in results}):
        return
    stored = [result for result in results.values() if isinstance(result, Registered)]
    for type_, created in (("device.registered", True), ("device.changed", False)):
        if device_ids := [result.device_id for result in stored if result.created is created]:
            await outbox.append_registration_events(conn, type_, device_ids)


async def get(conn: AsyncConnection, id_: UUID) -> Device | None:
    """Return a device, or None."""
    row = (await conn.execute(_GET, {"id": id_})).first()
    return None if row is None else _device(row)


async def list_hosts(conn: AsyncConnection) -> list[str]:
    """Return the push-service hosts of all active devices."""
    query = select(devices.c.host).where(devices.c.status == DeviceStatus.ACTIVE).distinct()
    return sorted((await conn.execute(query)).scalars())


async def get_application_id(conn: AsyncConnection, id_: UUID) -> UUID | None:
    """Return the application of a device, or None."""
    application_id: UUID | None = (await conn.execute(_GET_APPLICATION_ID, {"id": id_})).scalar()
    return application_id


async def list_page(
    conn: AsyncConnection, application_id: UUID, filters: DeviceFilters, *, before: UUID | None, limit: int
) -> Page[Device]:
    """Return a page of devices, newest first; `before` is the last id of the previous page."""
    query = select(devices).where(devices.c.application_id == application_id)
    if filters.user_id is not None:
        query = query.where(devices.c.user_id == filters.user_id)
    if filters.topic is not None:
        query = query.where(devices.c.topics.contains(cast([filters.topic], ARRAY(Text))))
    if filters.status is not None:
        query = query.where(devices.c.status == filters.status)
    if before is not None:
        query = query.where(devices.c.id < before)
    page = await fetch_page(conn, query, devices.c.id, limit=limit)
    return Page([_device(row) for row in page.items], page.next_after)


async def list_topics(
    conn: AsyncConnection, application_id: UUID, *, after: str | None, limit: int
) -> list[tuple[str, int]]:
    """Return (topic, number of active devices) by name; `after` is the last name of the previous page."""
    unnested = (
        select(func.unnest(devices.c.topics).label("topic"))
        .where(devices.c.application_id == application_id, devices.c.status == DeviceStatus.ACTIVE)
        .subquery("unnested")
    )
    name = unnested.c.topic.collate("C")
    query = select(unnested.c.topic, func.count()).group_by(unnested.c.topic).order_by(name).limit(limit)
    if after is not None:
        query = query.where(name > after)
    return [(topic, count) for topic, count in await conn.execute(query)]


async def lock_attributes(conn: AsyncConnection, id_: UUID) -> JsonObject:
    """Return the attributes of a device, and lock its row until the transaction ends."""
    query = select(devices.c.attributes).where(devices.c.id == id_).with_for_update()
    attributes: JsonObject | None = (await conn.execute(query)).scalar()
    return attributes or {}


async def change(conn: AsyncConnection, id_: UUID, changed: DeviceChange, *, user_proven: bool = False) -> None:
    """Change fields of a device. Attributes are merged; those with the value None are removed.

    If the user of the device changes, the topics and attributes of the former user are removed. `user_proven`: the user
    id in `changed` is proven, or the application's back end sent it.
    """
    await _change(conn, id_, {**changed}, user_proven=user_proven)


async def _change(conn: AsyncConnection, id_: UUID, values: dict[str, Any], *, user_proven: bool = False) -> None:
    """Update columns of a device; `attributes` in `values` is a patch, in which None removes an attribute."""
    d = devices.c
    patch = values.pop("attributes", None)
    attributes: ColumnElement[Any] = d.attributes
    if "user_id" in values:
        user_id = values["user_id"]
        values |= {"user_proven": user_proven and user_id is not None, "former_user_id": None}
        if user_id is None:
            values["former_user_id"] = func.coalesce(d.user_id, d.former_user_id)
        else:
            is_same = func.coalesce(d.user_id == user_id, false())
            values["user_proven"] = literal(user_proven) | (d.user_proven & is_same)
            is_other = func.coalesce(d.user_id, d.former_user_id) != user_id
            attributes = case((is_other, literal({}, d.attributes.type)), else_=d.attributes)
            values["attributes"] = attributes
            values.setdefault("topics", case((is_other, cast([], ARRAY(Text))), else_=d.topics))
    if patch is not None:
        merged_values = {name: value for name, value in patch.items() if value is not None}
        removed = [name for name, value in patch.items() if value is None]
        merged = attributes.op("||")(literal(merged_values, d.attributes.type))
        values["attributes"] = merged.op("-")(cast(removed, ARRAY(Text))) if removed else merged
    device = devices.c.id == id_
    await conn.execute(update(devices).where(device).values(**values, updated_at=func.now(), last_seen_at=func.now()))
    await outbox.append_device_events(conn, "device.changed", device)


async def set_location(conn: AsyncConnection, id_: UUID, location: Location | None) -> None:
    """Set or clear the location of a device."""
    await _change(conn, id_, _location(location))


async def subscribe(conn: AsyncConnection, id_: UUID, topic: str, *, max_topics: int) -> bool:
    """Add a topic to a device; return False if the device already has `max_topics` other topics."""
    current = devices.c.topics
    statement = update(devices).where(
        devices.c.id == id_, (literal(topic) == any_(current)) | (func.cardinality(current) < max_topics)
    )
    topics = func.array_append(func.array_remove(current, topic), topic)
    values = {"topics": topics, "updated_at": func.now(), "last_seen_at": func.now()}
    if (await conn.execute(statement.values(**values))).rowcount != 1:
        return False
    await outbox.append_device_events(conn, "device.changed", devices.c.id == id_)
    return True


async def unsubscribe(conn: AsyncConnection, id_: UUID, topic: str) -> None:
    """Remove a topic from a device."""
    await _change(conn, id_, {"topics": func.array_remove(devices.c.topics, topic)})


async def mark_accepted(conn: AsyncConnection, device_ids: Sequence[UUID]) -> None:
    """Record that the push services of devices accepted a message. Skips devices that another transaction changes."""
    await conn.execute(_MARK_ACCEPTED, {"ids": device_ids})


async def mark_refused(conn: AsyncConnection, device_ids: Sequence[UUID]) -> None:
    """Record that the push services of devices refuse the VAPID key. Skips devices that another transaction changes.

    A device that is recorded already keeps the time of its first refusal.
    """
    await conn.execute(_MARK_REFUSED, {"ids": device_ids})


async def release_refused(conn: AsyncConnection, age: timedelta, *, limit: int) -> int:
    """Make devices active that have been in quarantine for `age`; return how many.

    Only devices whose push service refused the VAPID key are released. The next message to a device shows whether the
    push service still refuses the key.
    """
    due = (
        devices.c.status == DeviceStatus.QUARANTINED,
        devices.c.refused_since.is_not(None),
        devices.c.updated_at < func.now() - age,
    )
    locked = select(devices.c.id).where(*due).order_by(devices.c.updated_at).limit(limit)
    released = await conn.execute(
        update(devices)
        .where(devices.c.id.in_(locked.with_for_update(skip_locked=True)))
        .values(status=DeviceStatus.ACTIVE, updated_at=func.now())
        .returning(devices.c.id)
    )
    device_ids = released.scalars().all()
    if device_ids:
        await outbox.append_device_events(conn, "device.changed", devices.c.id.in_(device_ids))
    return len(device_ids)


async def remove(conn: AsyncConnection, id_: UUID) -> None:
    """Delete a device."""
    await outbox.append_device_events(conn, "device.unregistered", devices.c.id == id_)
    await conn.execute(delete(devices).where(devices.c.id == id_))


def endpoint_digest(endpoint: str) -> bytes:
    """Return the SHA-256 of an endpoint. It is unique among the devices of an application."""
    return hashlib.sha256(endpoint.encode()).digest()


# The columns of the input of _WRITE, in order.
_COLUMNS = (
    *("id", "application_id", "endpoint", "endpoint_digest", "host", "p256dh", "auth", "vapid_key_id", "user_id"),
    *_CLIENT,
    *("attributes", "topics", "zones", "muted", "lon", "lat", "accuracy_m"),
    *("names_key", "user_proven", "trusted", "proven_device_id", "may_create"),
)
# Plain SQL, prepared once: a Core expression would be compiled again for every number of rows, which costs twenty times
# as much as running it. Postgres 14 has no MERGE, and ON CONFLICT DO UPDATE cannot tell an omitted value from the
# default of a column that is NOT NULL.
_WRITE = text("""
    WITH new AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:id AS uuid[]), CAST(:application_id AS uuid[]), CAST(:endpoint AS text[]),
            CAST(:endpoint_digest AS bytea[]), CAST(:host AS text[]), CAST(:p256dh AS bytea[]), CAST(:auth AS bytea[]),
            CAST(:vapid_key_id AS uuid[]), CAST(:user_id AS text[]), CAST(:platform AS text[]),
            CAST(:browser AS text[]), CAST(:locale AS text[]), CAST(:timezone AS text[]), CAST(:app_version AS text[]),
            CAST(:attributes AS text[]), CAST(:topics AS text[]), CAST(:zones AS text[]), CAST(:muted AS text[]),
            CAST(:lon AS float8[]), CAST(:lat AS float8[]), CAST(:accuracy_m AS float8[]),
            CAST(:names_key AS boolean[]), CAST(:user_proven AS boolean[]), CAST(:trusted AS boolean[]),
            CAST(:proven_device_id AS uuid[]), CAST(:may_create AS boolean[])
        ) AS input (
            id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id, platform,
            browser, locale, timezone, app_version, attributes, topics, zones, muted, lon, lat, accuracy_m,
            names_key, user_proven, trusted, proven_device_id, may_create
        )
    ), existing AS MATERIALIZED (
        SELECT d.id AS existing_id,
            trusted OR new.auth = d.auth OR proven_device_id IS NOT DISTINCT FROM d.id AS proven,
            coalesce(new.user_id <> coalesce(d.user_id, d.former_user_id), false) AS other_user, new.*
        FROM new JOIN devices d USING (application_id, endpoint_digest) ORDER BY endpoint_digest FOR UPDATE OF d
    ), refreshed AS (
        UPDATE devices d SET
            accepted_at = CASE
                WHEN NOT input.names_key OR d.vapid_key_id = input.vapid_key_id THEN d.accepted_at
            END,
            refused_since = CASE
                WHEN NOT input.names_key OR d.vapid_key_id = input.vapid_key_id THEN d.refused_since
            END,
            p256dh = input.p256dh, auth = input.auth,
            vapid_key_id = CASE WHEN input.names_key THEN input.vapid_key_id ELSE d.vapid_key_id END,
            status = 'active', updated_at = now(), last_seen_at = now(), registered_at = now(),
            user_id = coalesce(input.user_id, d.user_id),
            user_proven = CASE
                WHEN input.user_id IS NULL THEN d.user_proven
                ELSE input.user_proven OR (d.user_proven AND input.user_id = d.user_id)
            END,
            former_user_id = CASE WHEN input.user_id IS NULL THEN d.former_user_id END,
            platform = coalesce(input.platform, d.platform), browser = coalesce(input.browser, d.browser),
            locale = coalesce(input.locale, d.locale),
            timezone = coalesce(input.timezone, d.timezone), app_version = coalesce(input.app_version, d.app_version),
            attributes = coalesce(
                CAST(input.attributes AS jsonb), CASE WHEN input.other_user THEN '{}' ELSE d.attributes END
            ),
            topics = coalesce(CAST(input.topics AS text[]), CASE WHEN input.other_user THEN '{}' ELSE d.topics END),
            zones = coalesce(CAST(input.zones AS text[]), d.zones),
            muted = coalesce(CAST(input.muted AS text[]), d.muted),
            location = CASE WHEN input.lon IS NULL THEN d.location ELSE point(input.lon, input.lat) END,
            accuracy_m = CASE WHEN input.lon IS NULL THEN d.accuracy_m ELSE input.accuracy_m END,
            located_at = CASE WHEN input.lon IS NULL THEN d.located_at ELSE now() END
        FROM existing input WHERE d.id = input.existing_id AND input.proven
        RETURNING d.id, d.application_id, d.endpoint_digest
    ), added AS (
        INSERT INTO devices (
            id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id, platform,
            browser, locale, timezone, app_version, attributes, topics, zones, muted, location, accuracy_m, located_at,
            user_proven, registered_at
        )
        SELECT
            id, application_id, endpoint, endpoint_digest, host, p256dh, auth, vapid_key_id, user_id, platform,
            browser, locale, timezone, app_version, coalesce(CAST(attributes AS jsonb), '{}'),
            coalesce(CAST(topics AS text[]), '{}'), coalesce(CAST(zones AS text[]), '{}'),
            coalesce(CAST(muted AS text[]), '{}'), point(lon, lat), accuracy_m,
            CASE WHEN lon IS NOT NULL THEN now() END, user_proven, now()
        FROM new WHERE may_create AND id NOT IN (SELECT id FROM existing) ORDER BY endpoint_digest
        ON CONFLICT (application_id, endpoint_digest) DO NOTHING
        RETURNING id, application_id, endpoint_digest
    )
    SELECT *, 'refreshed' FROM refreshed UNION ALL SELECT *, 'created' FROM added
    UNION ALL SELECT existing_id, application_id, endpoint_digest, 'unproven' FROM existing WHERE NOT proven
    UNION ALL SELECT id, application_id, endpoint_digest, 'limited' FROM new
        WHERE NOT may_create AND id NOT IN (SELECT id FROM existing)
""")


# SKIP LOCKED, so that settling never waits for a registration of the same devices, which locks them in another order.
_MARK_ACCEPTED = text("""
    UPDATE devices SET accepted_at = coalesce(accepted_at, now()), refused_since = NULL
    WHERE id IN (
        SELECT id FROM devices
        WHERE id = ANY(CAST(:ids AS uuid[])) AND (accepted_at IS NULL OR refused_since IS NOT NULL)
        FOR NO KEY UPDATE SKIP LOCKED
    )
""")
_MARK_REFUSED = text("""
    UPDATE devices SET refused_since = now()
    WHERE id IN (
        SELECT id FROM devices WHERE id = ANY(CAST(:ids AS uuid[])) AND refused_since IS NULL
        FOR NO KEY UPDATE SKIP LOCKED
    )
""")

# Sort key for keys (application id, endpoint digest).
_BY_DIGEST = itemgetter(1)


def _column(values: Sequence[Any]) -> list[Any] | None:
    """Return the values of a column, or None if all are NULL: unnest() yields the same rows for None, at less cost."""
    return None if values.count(None) == len(values) else list(values)


def _row(id_: UUID, digest: bytes, checked: CheckedRegistration) -> tuple[Any, ...]:
    """Return the values in the order of _COLUMNS. unnest() takes scalars only, so arrays and JSON are text."""
    registration = checked.registration
    subscription, client, location = registration.subscription, registration.client, registration.location
    return (
        id_,
        checked.application_id,
        subscription.endpoint,
        digest,
        checked.host,
        subscription.p256dh,
        subscription.auth,
        checked.vapid_key_id,
        registration.user_id,
        client.platform,
        client.browser,
        client.locale,
        client.timezone,
        client.app_version,
        None if registration.attributes is None else msgspec.json.encode(registration.attributes).decode(),
        _array_literal(registration.topics),
        _array_literal(registration.zones),
        _array_literal(registration.muted),
        *((None, None, None) if location is None else (location.lon, location.lat, location.accuracy_m)),
        registration.vapid_public_key is not None,
        checked.user_proven and registration.user_id is not None,
        checked.trusted,
        checked.proven_device_id,
        checked.may_create,
    )


def _array_literal(texts: Sequence[str] | None) -> str | None:
    """Return texts as an array literal of Postgres, None for None."""
    if texts is None:
        return None
    return "{" + ",".join('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts) + "}"


def _location(location: Location | None) -> dict[str, Any]:
    if location is None:
        return {"location": None, "accuracy_m": None, "located_at": None}
    point = asyncpg.Point(location.lon, location.lat)
    return {"location": point, "accuracy_m": location.accuracy_m, "located_at": func.now()}


def _device(row: Row[Any]) -> Device:
    location = None
    if row.location is not None:
        location = Location(lat=row.location.y, lon=row.location.x, accuracy_m=row.accuracy_m)
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
        location=location,
        located_at=row.located_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_seen_at=row.last_seen_at,
        user_proven=row.user_proven,
    )


async def prune_gone(conn: AsyncConnection, age: timedelta) -> int:
    """Delete devices that have been gone for longer than `age` by the database clock; return the number deleted."""
    gone = (devices.c.status == DeviceStatus.GONE, devices.c.updated_at < func.now() - age)
    return (await conn.execute(delete(devices).where(*gone))).rowcount
