"""Queries for planning a notification: which devices it is sent to, and when each device is due."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, any_, case, func, literal, not_, select
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.types import Text

from gateway.domain.audience import Audience
from gateway.domain.notification import Notification
from gateway.domain.schedule import to_utc, zone_or_utc
from gateway.domain.send_policy import sample_size
from gateway.records.audiences import match_active
from gateway.records.bound_deliveries import valid_user_id
from gateway.records.postgres.engine import Connection
from gateway.records.postgres.schema import devices
from gateway.records.recipients import compute_bucket


def match_devices(notification: Notification, audience: Audience) -> ColumnElement[bool]:
    """Return the condition for the devices in the audience that have not muted the notification's category."""
    condition = match_active(notification.application_id, audience)
    category = notification.policy.category
    return condition if category is None else condition & not_(literal(category) == any_(devices.c.muted))


async def count_devices(conn: Connection, condition: ColumnElement[bool]) -> int:
    """Return the number of devices that match the condition."""
    count: int = (await conn.execute(select(func.count()).select_from(devices).where(condition))).scalar_one()
    return count


async def select_due_times(
    conn: Connection, notification: Notification, condition: ColumnElement[bool], now: datetime
) -> Select[tuple[UUID, datetime, str | None]]:
    """Return the query of (device id, due time, user id) of every device that matches the condition.

    A device is due now, or at the notification's local time in the time zone of the device. In a variant test, devices
    outside the sample are due later, after the winner has been decided.
    """
    policy = notification.policy
    due: ColumnElement[datetime] = literal(now, TIMESTAMP(timezone=True))
    query: Select[Any] = select(devices.c.id)
    if policy.local_at is not None:
        # Python resolves the time zones, since the system of the database may lack some of them.
        zones = (await conn.execute(select(devices.c.timezone).where(condition).distinct())).scalars().all()
        due_times = [max(now, to_utc(policy.local_at, zone_or_utc(name))) for name in zones]
        local_times = (
            func.unnest(
                literal(["" if name is None else name for name in zones], ARRAY(Text)),
                literal(due_times, ARRAY(TIMESTAMP(timezone=True))),
            )
            .table_valued("zone", "due", name="local_times")
            .render_derived()
        )
        query = query.join(local_times, func.coalesce(devices.c.timezone, "") == local_times.c.zone)
        due = local_times.c.due
    if policy.winner is not None:
        sampled = compute_bucket(notification.id) < sample_size(policy.winner.sample)
        due = case((sampled, due), else_=due + policy.winner.after)
    return query.add_columns(due.label("due"), valid_user_id().label("user_id")).where(condition)
