"""The ledger of frequency caps: which person was sent which notification of a capped category, and when."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Text, any_, cast, delete, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.notification import Notification
from gateway.domain.send_policy import FrequencyCap
from gateway.records.postgres.schema import frequency_cap_sends


async def reserve_quota(
    conn: AsyncConnection, notification: Notification, category: str, cap: FrequencyCap, persons: Sequence[str]
) -> set[str]:
    """Return the persons who are below the cap, and record one send for each of them.

    A person is a user id, or the id of a device without a user. One notification counts once per person, however many
    devices the person has. A lock per category serialises concurrent campaigns, so that two campaigns cannot both use
    the last send that a cap allows.
    """
    lock = func.hashtextextended(f"cap {notification.application_id} {category}", 0)
    await conn.execute(select(func.pg_advisory_xact_lock(lock)))
    c = frequency_cap_sends.c
    candidates = select(func.unnest(cast(list(persons), ARRAY(Text))).label("person")).subquery("candidates")
    earlier_sends = (
        select(c.person, func.count().label("count"))
        .where(
            c.application_id == notification.application_id,
            c.category == category,
            c.person == any_(cast(list(persons), ARRAY(Text))),
            c.notification_id != notification.id,
            c.at > func.now() - cap.window,
        )
        .group_by(c.person)
        .subquery("earlier_sends")
    )
    below_cap = (
        select(
            literal(notification.application_id),
            literal(category),
            candidates.c.person,
            literal(notification.id),
            func.now(),
        )
        .select_from(candidates.outerjoin(earlier_sends, candidates.c.person == earlier_sends.c.person))
        .where(func.coalesce(earlier_sends.c.count, 0) < cap.limit)
    )
    columns = ["application_id", "category", "person", "notification_id", "at"]
    await conn.execute(insert(frequency_cap_sends).from_select(columns, below_cap).on_conflict_do_nothing())
    recorded = select(c.person).where(
        c.application_id == notification.application_id,
        c.category == category,
        c.notification_id == notification.id,
        c.person == any_(cast(list(persons), ARRAY(Text))),
    )
    return set((await conn.execute(recorded)).scalars())


async def prune(conn: AsyncConnection, before: datetime) -> int:
    """Delete sends older than `before`; return the number deleted.

    `before` must not be later than the start of the longest window of a cap.
    """
    return (await conn.execute(delete(frequency_cap_sends).where(frequency_cap_sends.c.at < before))).rowcount
