"""Erasure of the personal data of one user in all tables (GDPR article 17).

Rows of the delivery log stay, since the counters must agree with the log, but they are anonymised: the user id and the
URL of the message at the push service are removed. The device id stays, and no longer refers to a device.
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
from gateway.domain.json_object import JsonObject
from gateway.records import bound_deliveries, outbox
from gateway.records.postgres.schema import (
    applications,
    audit,
    deliveries,
    devices,
    erased_devices,
    events,
    frequency_cap_sends,
    live_handoffs,
    notifications,
    reminders,
    trigger_runs,
)

# Upper bound on how long a job that was loaded before an erasure can be in flight.
TOMBSTONE_LIFETIME = timedelta(days=7)
# The content of an erased notification.
EMPTY_CONTENT = {"title": "…"}

_n = notifications.c


async def remove_devices(conn: AsyncConnection, application_id: UUID, user_id: str) -> list[UUID]:
    """Delete a user's devices with their inbox marks and offered deliveries; return the ids.

    A device from which the user has signed out stays, without the user's attributes and topics.
    """
    owned = (devices.c.application_id == application_id, devices.c.user_id == user_id)
    await outbox.append_device_events(conn, "device.unregistered", *owned)
    removed = list((await conn.execute(delete(devices).where(*owned).returning(devices.c.id))).scalars())
    signed_out = (devices.c.application_id == application_id, devices.c.former_user_id == user_id)
    await conn.execute(
        update(devices).where(*signed_out).values(former_user_id=None, attributes={}, topics=[], updated_at=func.now())
    )
    if removed:
        await conn.execute(insert(erased_devices), [{"device_id": id_} for id_ in removed])
    return removed


async def find_notifications_to(
    conn: AsyncConnection, application_id: UUID, user_id: str, device_ids: Collection[UUID]
) -> Sequence[Row[Any]]:
    """Return (id, audience, exclusive) of the notifications to the user, or to one of the user's devices.

    `exclusive` is true if the audience consists of this user or device alone, and false if the audience names the user
    among other conditions. No index finds audiences of the second kind, so the query reads all notifications of the
    application.
    """
    formatted_ids = [ids.format_id(ids.DEVICE, id_) for id_ in device_ids]
    recipient = func.coalesce(_n.audience["user_id"].astext, _n.audience["device_id"].astext)
    # An audience may have a list of device ids. The text of a list with one id is `["<id>"]`.
    recipients = [user_id, *formatted_ids, *(f'["{name}"]' for name in formatted_ids)]
    is_recipient = (recipient == any_(cast(recipients, ARRAY(Text)))) | (_n.audience["user_id"] == _json([user_id]))
    # The condition of the index on notifications to single users and devices.
    has_direct_audience = _n.audience.has_any(cast(["user_id", "device_id"], ARRAY(Text)))
    exclusive = has_direct_audience & is_recipient
    mentions_user = func.strpos(cast(_n.audience, Text), cast(_json(user_id), Text)) > 0
    query = select(_n.id, _n.audience, exclusive.label("exclusive"))
    matching = query.where(_n.application_id == application_id, or_(exclusive, mentions_user))
    return (await conn.execute(matching.order_by(_n.id))).all()


async def find_notifications_triggered_by(conn: AsyncConnection, application_id: UUID, user_id: str) -> Sequence[UUID]:
    """Return the ids of the notifications that events of the user triggered, whoever their recipients are."""
    triggered = (
        select(trigger_runs.c.notification_id)
        .join(events)
        .where(events.c.application_id == application_id, events.c.user_id == user_id)
    )
    return (await conn.execute(select(_n.id).where(_n.id.in_(triggered)).order_by(_n.id))).scalars().all()


async def erase_notification(conn: AsyncConnection, id_: UUID, audience: JsonObject) -> None:
    """Erase the content and options of a notification to one user, and replace its audience. The row itself stays."""
    values = {"content": EMPTY_CONTENT, "audience": audience, "details": {}, "steering": {}, "name": None}
    await conn.execute(update(notifications).where(_n.id == id_).values(**values, collapse_key=None, templating=null()))


async def replace_audience(conn: AsyncConnection, id_: UUID, audience: JsonObject) -> None:
    """Replace the audience of a notification."""
    await conn.execute(update(notifications).where(_n.id == id_).values(audience=audience))


async def erase_template_variables(conn: AsyncConnection, ids_: Collection[UUID]) -> None:
    """Erase the template variables of notifications. Their content can no longer be rendered or shown."""
    no_variables = literal({"strict": True, "event": {}}, JSONB)
    selected = _n.id == any_(cast(list(ids_), ARRAY(PG_UUID)))
    await conn.execute(
        update(notifications).where(selected, _n.templating.is_not(None)).values(templating=no_variables)
    )


async def remove_reminders(conn: AsyncConnection, application_id: UUID, user_id: str) -> None:
    """Delete the reminders whose only recipient is the user, and the details of their audit entries."""
    recipient = reminders.c.draft["audience"]["user_id"]
    owned = (
        reminders.c.application_id == application_id,
        or_(recipient == _json(user_id), recipient == _json([user_id])),
    )
    removed = (await conn.execute(delete(reminders).where(*owned).returning(reminders.c.id))).scalars().all()
    targets = [ids.format_id(ids.REMINDER, id_) for id_ in removed]
    entries = audit.c.target == any_(cast(targets, ARRAY(Text)))
    await conn.execute(update(audit).where(audit.c.application_id == application_id, entries).values(details={}))


async def remove_traces(
    conn: AsyncConnection,
    application_id: UUID,
    user_id: str,
    pseudonym: str,
    device_ids: Collection[UUID],
    notification_ids: Collection[UUID],
) -> None:
    """Erase a user from events, frequency caps, the outbox and the delivery log.

    `notification_ids` are the notifications that were sent to this user only. Where a device has another user now, the
    pseudonym replaces the user id, so that the other user does not receive or see the delivery.
    """
    persons = [user_id, *map(str, device_ids)]
    await conn.execute(
        delete(frequency_cap_sends).where(
            frequency_cap_sends.c.application_id == application_id,
            frequency_cap_sends.c.person == any_(cast(persons, ARRAY(Text))),
        )
    )
    await outbox.erase_user(conn, application_id, user_id, notification_ids)
    await conn.execute(delete(events).where(events.c.application_id == application_id, events.c.user_id == user_id))
    # The writer of the delivery log locks this row. Batches that it wrote before this statement are in the log by now.
    # For batches after this transaction it reads the time of the erasure, and checks for erased devices.
    await conn.execute(update(applications).where(applications.c.id == application_id).values(forgot_at=func.now()))
    d = deliveries.c
    of_removed = d.device_id == any_(cast(list(device_ids), ARRAY(PG_UUID)))
    for entries, name in ((of_removed, None), (d.user_id == user_id, pseudonym)):
        of_user = (d.application_id == application_id, entries)
        await conn.execute(update(deliveries).where(*of_user).values(user_id=name, message=None))
    await bound_deliveries.replace_user(conn, application_id, user_id, pseudonym)
    w = live_handoffs.c
    offered = (w.application_id == application_id, w.user_id == user_id)
    await conn.execute(delete(live_handoffs).where(*offered))


async def find_erased(conn: AsyncConnection, device_ids: Sequence[UUID]) -> set[UUID]:
    """Return the devices that were erased within TOMBSTONE_LIFETIME."""
    query = select(erased_devices.c.device_id).where(
        erased_devices.c.device_id == any_(cast(list(device_ids), ARRAY(PG_UUID)))
    )
    return set((await conn.execute(query)).scalars())


async def prune(conn: AsyncConnection) -> int:
    """Delete tombstones older than TOMBSTONE_LIFETIME; return the number deleted."""
    old = erased_devices.c.at < func.now() - TOMBSTONE_LIFETIME
    return (await conn.execute(delete(erased_devices).where(old))).rowcount


def _json(value: object) -> ColumnElement[Any]:
    return literal(value, JSONB)
