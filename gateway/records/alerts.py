"""Ingested alert messages. Messages that update or cancel each other form a chain."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Text, cast, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.alert import MessageType
from gateway.domain.json_object import JsonObject
from gateway.records.postgres.schema import alerts


@dataclass(slots=True)
class AlertPart:
    """An info block of a stored alert.

    Attributes:
        tag: the notification tag; on a device, a notification replaces an earlier one with the same tag.
        area: the area in which the info block is still in effect; None once the info block has ended everywhere.
        scope: the area in which the info block took effect; None if it never did.
        events: the name of the event by language; the key is empty for a text without a language.
        notified_by: the notifications that announced the info block.
        cancelled_by: the notifications that announced the end of parts with this tag.
    """

    tag: str
    area: JsonObject | None = None
    scope: JsonObject | None = None
    events: dict[str, str] = field(default_factory=dict)
    notified_by: list[UUID] = field(default_factory=list)
    cancelled_by: list[UUID] = field(default_factory=list)

    def to_json(self) -> JsonObject:
        """Return the part as JSON, for the column `parts`."""
        return {
            "tag": self.tag,
            "area": self.area,
            "scope": self.scope,
            "events": self.events,
            "told": [*map(str, self.notified_by)],
            "withdrawn": [*map(str, self.cancelled_by)],
        }

    @classmethod
    def from_json(cls, values: JsonObject, tag: str) -> "AlertPart":
        """Return the part from the result of `to_json`. `tag` is that of a part which was stored without one."""
        return cls(
            tag=values.get("tag", tag),
            area=values["area"],
            scope=values.get("scope", values["area"]),
            events=values.get("events", {}),
            notified_by=[*map(UUID, values["told"])],
            cancelled_by=[*map(UUID, values["withdrawn"])],
        )


@dataclass(slots=True)
class StoredAlert:
    """An ingested alert message.

    Attributes:
        chain: the id of the first message of its chain.
        tag: the tag from which the tags of its parts are derived.
        refers_to: the identifiers of the messages that this message updates or cancels.
        event_keys: the VTEC event keys of the message.
    """

    id: UUID
    chain: UUID
    tag: str
    identifier: str
    message_type: MessageType
    sent: datetime | None
    refers_to: Sequence[str]
    event_keys: Sequence[str]
    parts: list[AlertPart]
    expires_at: datetime
    created_at: datetime


async def lock_alerts(conn: AsyncConnection, application_id: UUID) -> None:
    """Lock the alerts of an application until the transaction ends, so that they are ingested one at a time."""
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended('alerts ' || :application, 0))")
    await conn.execute(lock, {"application": str(application_id)})


async def add(conn: AsyncConnection, application_id: UUID, alert: StoredAlert) -> None:
    """Insert an alert."""
    await conn.execute(
        insert(alerts).values(
            id=alert.id,
            application_id=application_id,
            chain=alert.chain,
            tag=alert.tag,
            identifier=alert.identifier,
            message_type=alert.message_type,
            sent=alert.sent,
            refers_to=list(alert.refers_to),
            tracks=list(alert.event_keys),
            parts=[part.to_json() for part in alert.parts],
            expires_at=alert.expires_at,
            created_at=alert.created_at,
        )
    )


async def save_parts(conn: AsyncConnection, alert: StoredAlert) -> None:
    """Update the parts of an alert."""
    parts = [part.to_json() for part in alert.parts]
    await conn.execute(update(alerts).where(alerts.c.id == alert.id).values(parts=parts))


async def find_by_identifier(conn: AsyncConnection, application_id: UUID, identifier: str) -> list[StoredAlert]:
    """Return the messages with this identifier, newest first."""
    query = select(alerts).where(alerts.c.application_id == application_id, alerts.c.identifier == identifier)
    return [_from_row(row) for row in await conn.execute(query.order_by(alerts.c.created_at.desc()))]


async def find_successor(conn: AsyncConnection, application_id: UUID, identifier: str) -> StoredAlert | None:
    """Return a message that updates or cancels the message with this identifier, or None."""
    refers = alerts.c.refers_to.contains(cast([identifier], ARRAY(Text)))
    query = select(alerts).where(alerts.c.application_id == application_id, refers, alerts.c.identifier != identifier)
    row = (await conn.execute(query.limit(1))).first()
    return None if row is None else _from_row(row)


async def load_chains(
    conn: AsyncConnection, application_id: UUID, identifiers: Collection[str], event_keys: Collection[str]
) -> list[StoredAlert]:
    """Return all messages of the matching chains, oldest first.

    A chain matches if one of its messages has one of the identifiers, or has one of the event keys and has not expired.
    """
    same_application = alerts.c.application_id == application_id
    same_event = alerts.c.tracks.op("&&", is_comparison=True)(cast(list(event_keys), ARRAY(Text)))
    matching = or_(alerts.c.identifier.in_(identifiers), same_event & (alerts.c.expires_at > func.now()))
    chains = select(alerts.c.chain).where(same_application, matching)
    query = (
        select(alerts).where(same_application, alerts.c.chain.in_(chains)).order_by(alerts.c.created_at, alerts.c.id)
    )
    return [_from_row(row) for row in await conn.execute(query)]


def _from_row(row: Row[Any]) -> StoredAlert:
    return StoredAlert(
        id=row.id,
        chain=row.chain,
        tag=row.tag,
        identifier=row.identifier,
        message_type=MessageType(row.message_type),
        sent=row.sent,
        refers_to=row.refers_to,
        event_keys=row.tracks,
        parts=[
            AlertPart.from_json(part, f"{row.tag[:250]}#{number + 1}" if number else row.tag)
            for number, part in enumerate(row.parts)
        ],
        expires_at=row.expires_at,
        created_at=row.created_at,
    )
