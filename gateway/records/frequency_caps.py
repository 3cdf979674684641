"""Who was sent what of a capped category, so that nobody is sent too much of it."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Text, any_, cast, delete, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.notification import Notification
from gateway.domain.send_policy import FrequencyCap
from gateway.records.postgres.schema import frequency_cap_sends


async def reserve_quota(
    conn: AsyncConnection, notification: Notification, category: str, cap: FrequencyCap, people: Sequence[str]
) -> set[str]:
    """Those of them who may be sent this notification; it then counts for them, once however many devices they have.

    Campaigns of one category are admitted one after the other, so that two at once cannot both be the last allowed.
    """
    alone = func.hashtextextended(f"cap {notification.application_id} {category}", 0)
    await conn.execute(select(func.pg_advisory_xact_lock(alone)))
    c = frequency_cap_sends.c
    asked = select(func.unnest(cast(list(people), ARRAY(Text))).label("person")).subquery("asked")
    earlier = (
        select(c.person, func.count().label("count"))
        .where(
            c.application_id == notification.application_id,
            c.category == category,
            c.person == any_(cast(list(people), ARRAY(Text))),
            c.notification_id != notification.id,
            c.at > func.now() - cap.window,
        )
        .group_by(c.person)
        .subquery("earlier")
    )
    free = (
        select(
            literal(notification.application_id),
            literal(category),
            asked.c.person,
            literal(notification.id),
            func.now(),
        )
        .select_from(asked.outerjoin(earlier, asked.c.person == earlier.c.person))
        .where(func.coalesce(earlier.c.count, 0) < cap.limit)
    )
    columns = ["application_id", "category", "person", "notification_id", "at"]
    await conn.execute(insert(frequency_cap_sends).from_select(columns, free).on_conflict_do_nothing())
    ours = select(c.person).where(
        c.application_id == notification.application_id,
        c.category == category,
        c.notification_id == notification.id,
        c.person == any_(cast(list(people), ARRAY(Text))),
    )
    return set((await conn.execute(ours)).scalars())


async def prune(conn: AsyncConnection, before: datetime) -> int:
    """What is older than any cap looks back."""
    return (await conn.execute(delete(frequency_cap_sends).where(frequency_cap_sends.c.at < before))).rowcount
