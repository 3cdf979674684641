"""What is kept of one person, wherever it is kept: found and taken out.

Rows of the log stay, since counters are held to them, but lead to nobody: without the name, without the push service's
address of the message, under the id of a device that no longer exists.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    Text,
    any_,
    cast,
    delete,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.records import outbox
from gateway.records.postgres.schema import (
    applications,
    audit,
    deliveries,
    devices,
    erased_devices,
    events,
    frequency_cap_sends,
    notifications,
    reminders,
    trigger_runs,
)

TOMBSTONE_LIFETIME = timedelta(days=7)
"""How long a device that was forgotten may still be on its way in a job that was loaded before."""
EMPTY_CONTENT = {"title": "…"}

_n = notifications.c


async def remove_devices(conn: AsyncConnection, application_id: UUID, user_id: str) -> list[UUID]:
    """Delete a user's devices, and with them what they read and wait for; answers their ids."""
    theirs = (devices.c.application_id == application_id, devices.c.user_id == user_id)
    await outbox.append_device_events(conn, "device.unregistered", *theirs)
    removed = list((await conn.execute(delete(devices).where(*theirs).returning(devices.c.id))).scalars())
    if removed:
        await conn.execute(insert(erased_devices), [{"device_id": id_} for id_ in removed])
    return removed


async def find_notifications_to(
    conn: AsyncConnection, application_id: UUID, user_id: str, device_ids: Collection[UUID]
) -> Sequence[Row[Any]]:
    """Notifications whose audience names the user, or one of these devices alone; with `alone`, whether nobody else.

    Those with others in their audience have no index: all of the application's are looked through.
    """
    shown = [ids.format_id(ids.DEVICE, id_) for id_ in device_ids]
    names = [user_id, *shown]
    whom = func.coalesce(_n.audience["user_id"].astext, _n.audience["device_id"].astext)
    alone = whom.in_([*names, *(f'["{name}"]' for name in shown)]) | (_n.audience["user_id"] == _json([user_id]))
    direct = _n.audience.has_any(cast(["user_id", "device_id"], ARRAY(Text)))
    named = func.strpos(cast(_n.audience, Text), cast(_json(user_id), Text)) > 0
    either = or_(direct & alone, named)
    query = select(_n.id, _n.audience, (direct & alone).label("alone"))
    return (await conn.execute(query.where(_n.application_id == application_id, either).order_by(_n.id))).all()


async def find_notifications_triggered_by(conn: AsyncConnection, application_id: UUID, user_id: str) -> Sequence[UUID]:
    """Notifications to whomever that events of the user started."""
    theirs = (
        select(trigger_runs.c.notification_id)
        .join(events)
        .where(events.c.application_id == application_id, events.c.user_id == user_id)
    )
    return (await conn.execute(select(_n.id).where(_n.id.in_(theirs)).order_by(_n.id))).scalars().all()


async def erase_notification(conn: AsyncConnection, id_: UUID, audience: dict[str, Any]) -> None:
    """Of a notification to one person only that there was one stays."""
    values = {"content": EMPTY_CONTENT, "audience": audience, "details": {}, "steering": {}, "name": None}
    await conn.execute(update(notifications).where(_n.id == id_).values(**values, collapse_key=None, templating=null()))


async def replace_audience(conn: AsyncConnection, id_: UUID, audience: dict[str, Any]) -> None:
    await conn.execute(update(notifications).where(_n.id == id_).values(audience=audience))


async def erase_template_variables(conn: AsyncConnection, ids_: Collection[UUID]) -> None:
    """Take out what templates were filled from: none of it can be rendered any more, and what cannot is not shown."""
    nothing = literal({"strict": True, "event": {}}, JSONB)
    await conn.execute(
        update(notifications).where(_n.id.in_(ids_), _n.templating.is_not(None)).values(templating=nothing)
    )


async def remove_reminders(conn: AsyncConnection, application_id: UUID, user_id: str) -> None:
    """Those for nobody else; of making them the audit keeps that it was done."""
    to = reminders.c.draft["audience"]["user_id"]
    theirs = (reminders.c.application_id == application_id, or_(to == _json(user_id), to == _json([user_id])))
    removed = (await conn.execute(delete(reminders).where(*theirs).returning(reminders.c.id))).scalars().all()
    noted = audit.c.target.in_([ids.format_id(ids.REMINDER, id_) for id_ in removed])
    await conn.execute(update(audit).where(audit.c.application_id == application_id, noted).values(details={}))


async def remove_traces(
    conn: AsyncConnection, application_id: UUID, user_id: str, device_ids: Collection[UUID], sent: Collection[UUID]
) -> None:
    """Events and what came of them, counts against caps, and the name in the log and in what webhooks are told.

    `sent`: notifications to nobody else.
    """
    people = [user_id, *map(str, device_ids)]
    await conn.execute(
        delete(frequency_cap_sends).where(
            frequency_cap_sends.c.application_id == application_id,
            frequency_cap_sends.c.person == any_(cast(people, ARRAY(Text))),
        )
    )
    await outbox.erase_user(conn, application_id, user_id, sent)
    await conn.execute(delete(events).where(events.c.application_id == application_id, events.c.user_id == user_id))
    # Batches take this row before they write to the log: those before us are written, those after us see the time.
    await conn.execute(update(applications).where(applications.c.id == application_id).values(forgot_at=func.now()))
    d = deliveries.c
    for theirs in (d.user_id == user_id, d.device_id == any_(cast(list(device_ids), ARRAY(PG_UUID)))):
        named = (d.application_id == application_id, theirs)
        await conn.execute(update(deliveries).where(*named).values(user_id=None, message=None))


async def find_erased(conn: AsyncConnection, device_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the devices that were forgotten lately."""
    query = select(erased_devices.c.device_id).where(
        erased_devices.c.device_id == any_(cast(list(device_ids), ARRAY(PG_UUID)))
    )
    return set((await conn.execute(query)).scalars())


async def prune(conn: AsyncConnection) -> int:
    """Let go of the ids of devices that nothing can be on its way for any more."""
    old = erased_devices.c.at < func.now() - TOMBSTONE_LIFETIME
    return (await conn.execute(delete(erased_devices).where(old))).rowcount


def _json(value: object) -> ColumnElement[Any]:
    return literal(value, JSONB)
