"""The ledger of frequency caps: which user was sent which notification of a capped category, and when."""

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
    """Return the users who are below the cap, and record one send for each, regardless of their number of devices.

    A lock per category serialises concurrent campaigns, so that two cannot both use the last send of a user.
    """
    lock = func.hashtextextended(f"cap {notification.application_id} {category}", 0)
    await conn.execute(select(func.pg_advisory_xact_lock(lock)))
    c = frequency_cap_sends.c
    candidates = select(func.unnest(cast(list(people), ARRAY(Text))).label("person")).subquery("candidates")
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
    below_cap = (
        select(
            literal(notification.application_id),
            literal(category),
            candidates.c.person,
            literal(notification.id),
            func.now(),
        )
        .select_from(candidates.outerjoin(earlier, candidates.c.person == earlier.c.person))
        .where(func.coalesce(earlier.c.count, 0) < cap.limit)
    )
    columns = ["application_id", "category", "person", "notification_id", "at"]
    await conn.execute(insert(frequency_cap_sends).from_select(columns, below_cap).on_conflict_do_nothing())
    recorded = select(c.person).where(
        c.application_id == notification.application_id,
        c.category == category,
        c.notification_id == notification.id,
        c.person == any_(cast(list(people), ARRAY(Text))),
    )
    return set((await conn.execute(recorded)).scalars())


async def prune(conn: AsyncConnection, before: datetime) -> int:
    """Delete sends older than `before`, the start of the longest window; return the number deleted."""
    return (await conn.execute(delete(frequency_cap_sends).where(frequency_cap_sends.c.at < before))).rowcount
