"""Alerts that were taken, chain by chain."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Text, cast, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.alert import MessageType
from gateway.records.postgres.schema import alerts


@dataclass(slots=True)
class AlertPart:
    """One thing an alert told. `area` is where it still holds; None when it does nowhere."""

    area: dict[str, Any] | None
    notified_by: list[UUID] = field(default_factory=list)
    """The notifications that told it."""
    cancelled_by: list[UUID] = field(default_factory=list)
    """The notifications that said it holds no longer."""

    def to_json(self) -> dict[str, Any]:
        return {"area": self.area, "told": [*map(str, self.notified_by)], "withdrawn": [*map(str, self.cancelled_by)]}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> "AlertPart":
        return cls(said["area"], [*map(UUID, said["told"])], [*map(UUID, said["withdrawn"])])


@dataclass(slots=True)
class StoredAlert:
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
    """Until the transaction ends nobody else takes an alert for this application."""
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended('alerts ' || :application, 0))")
    await conn.execute(lock, {"application": str(application_id)})


async def add(conn: AsyncConnection, application_id: UUID, alert: StoredAlert) -> None:
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
    parts = [part.to_json() for part in alert.parts]
    await conn.execute(update(alerts).where(alerts.c.id == alert.id).values(parts=parts))


async def find_by_identifier(conn: AsyncConnection, application_id: UUID, identifier: str) -> list[StoredAlert]:
    """The messages of this identifier, the newest first."""
    query = select(alerts).where(alerts.c.application_id == application_id, alerts.c.identifier == identifier)
    return [_held(row) for row in await conn.execute(query.order_by(alerts.c.created_at.desc()))]


async def find_successor(conn: AsyncConnection, application_id: UUID, identifier: str) -> StoredAlert | None:
    """A message that refers to this one, and so came after it."""
    refers = alerts.c.refers_to.contains(cast([identifier], ARRAY(Text)))
    query = select(alerts).where(alerts.c.application_id == application_id, refers, alerts.c.identifier != identifier)
    row = (await conn.execute(query.limit(1))).first()
    return None if row is None else _held(row)


async def load_chains(
    conn: AsyncConnection, application_id: UUID, identifiers: Collection[str], event_keys: Collection[str]
) -> list[StoredAlert]:
    """Every message of the chains that hold one of these identifiers, or that are about one of these events and not
    over yet; the oldest first."""
    ours = alerts.c.application_id == application_id
    about = alerts.c.tracks.op("&&", is_comparison=True)(cast(list(event_keys), ARRAY(Text)))
    named = or_(alerts.c.identifier.in_(identifiers), about & (alerts.c.expires_at > func.now()))
    chains = select(alerts.c.chain).where(ours, named)
    query = select(alerts).where(ours, alerts.c.chain.in_(chains)).order_by(alerts.c.created_at, alerts.c.id)
    return [_held(row) for row in await conn.execute(query)]


def _held(row: Row[Any]) -> StoredAlert:
    return StoredAlert(
        id=row.id,
        chain=row.chain,
        tag=row.tag,
        identifier=row.identifier,
        message_type=MessageType(row.message_type),
        sent=row.sent,
        refers_to=row.refers_to,
        event_keys=row.tracks,
        parts=[AlertPart.from_json(part) for part in row.parts],
        expires_at=row.expires_at,
        created_at=row.created_at,
    )
