"""Notifications, their progress and the counters of their variants."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, any_, bindparam, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.notification import (
    MAX_TTL,
    DeliveryOptions,
    Kind,
    Lane,
    Notification,
    Progress,
    Status,
    Templating,
    Urgency,
)
from gateway.domain.page import Page
from gateway.domain.send_policy import SendPolicy
from gateway.records import outbox
from gateway.records.postgres.paging import fetch_page
from gateway.records.postgres.schema import notifications, progress, variants

# The columns of the fields of `Progress`.
_PROGRESS = [progress.c[field.name] for field in fields(Progress)]
# Prepared once: the statement runs for every job.
_LOAD = select(notifications).where(notifications.c.id == any_(bindparam("ids", type_=ARRAY(PG_UUID))))


async def add(conn: AsyncConnection, accepted: Sequence[Notification]) -> None:
    """Insert notifications with their progress and the counters of their variants."""
    await conn.execute(insert(notifications), [_row(notification) for notification in accepted])
    await conn.execute(insert(progress), [{"notification_id": notification.id} for notification in accepted])
    variant_rows = [
        {"notification_id": notification.id, "number": number}
        for notification in accepted
        for number in range(len(notification.policy.variants))
    ]
    if variant_rows:
        await conn.execute(insert(variants), variant_rows)
    inserted = notifications.c.id.in_([notification.id for notification in accepted])
    await outbox.append_notification_events(conn, "notification.accepted", inserted)


def _row(notification: Notification) -> dict[str, Any]:
    delivery = notification.delivery
    return {
        "id": notification.id,
        "application_id": notification.application_id,
        "kind": notification.kind,
        "name": notification.name,
        "status": notification.status,
        "content": notification.content,
        "audience": notification.audience,
        "details": notification.details,
        "steering": notification.policy.to_json(),
        "reminder_id": notification.reminder_id,
        "occurrence": notification.occurrence,
        "trace": notification.trace,
        "templating": None if notification.templating is None else asdict(notification.templating),
        "lane": delivery.lane,
        "urgency": delivery.urgency,
        "ttl_s": int(delivery.ttl.total_seconds()),
        "collapse_key": delivery.collapse_key,
        "expires_at": delivery.expires_at,
        "start_at": notification.start_at,
        "created_at": notification.created_at,
    }


async def get(conn: AsyncConnection, application_id: UUID, id_: UUID) -> tuple[Notification, Progress] | None:
    """Return a notification with its progress, or None."""
    query = (
        select(notifications, *_PROGRESS)
        .join(progress)
        .where(notifications.c.id == id_, notifications.c.application_id == application_id)
    )
    row = (await conn.execute(query)).first()
    return None if row is None else (_notification_from_row(row), _progress_from_row(row))


async def list_page(
    conn: AsyncConnection,
    application_id: UUID,
    *,
    kind: Kind | None = None,
    status: Status | None = None,
    before: UUID | None = None,
    limit: int,
) -> Page[tuple[Notification, Progress]]:
    """Return a page of notifications, newest first; `before` is the last id of the previous page."""
    query = select(notifications, *_PROGRESS).join(progress).where(notifications.c.application_id == application_id)
    if kind is not None:
        query = query.where(notifications.c.kind == kind)
    if status is not None:
        query = query.where(notifications.c.status == status)
    if before is not None:
        query = query.where(notifications.c.id < before)
    page = await fetch_page(conn, query, notifications.c.id, limit=limit)
    return Page([(_notification_from_row(row), _progress_from_row(row)) for row in page.items], page.next_after)


async def load(conn: AsyncConnection, ids: Sequence[UUID], *, lock: bool = False) -> list[Notification]:
    """Return the notifications with these ids; `lock` locks their rows for update."""
    rows = await conn.execute(_LOAD.with_for_update() if lock else _LOAD, {"ids": list(ids)})
    return [_notification_from_row(row) for row in rows]


async def start(
    conn: AsyncConnection,
    id_: UUID,
    day: date,
    targets: int,
    per_second: float | None = None,
    *,
    person_bound: bool = False,
) -> None:
    """Record that sending starts. A notification without recipients is done at once.

    `day` is the partition of the delivery log, `targets` the number of devices, `per_second` the rate of the throttle.
    """
    values = {"targets": targets, "per_second": per_second}
    await conn.execute(update(progress).where(progress.c.notification_id == id_).values(**values))
    ended: dict[str, Any] = {"status": Status.DONE, "finished_at": func.now()}
    status_values = ended if targets == 0 else {"status": Status.SENDING}
    same_notification = notifications.c.id == id_
    await conn.execute(
        update(notifications).where(same_notification).values(day=day, person_bound=person_bound, **status_values)
    )
    await outbox.append_notification_events(conn, "notification.started", same_notification)
    if targets == 0:
        await outbox.append_notification_events(conn, "notification.done", same_notification)


async def set_status(
    conn: AsyncConnection, id_: UUID, status: Status, *, finished: bool = False, auto_paused: str | None = None
) -> None:
    """Change the status of a notification.

    `auto_paused` is the reason for a pause by the gateway itself. `finished` sets the finishing time to now.
    """
    values: dict[str, Any] = {"status": status}
    if finished:
        values["finished_at"] = func.now()
    if auto_paused is not None:
        values["auto_paused"] = auto_paused
    same_notification = notifications.c.id == id_
    await conn.execute(update(notifications).where(same_notification).values(**values))
    event = status if status in (Status.PAUSED, Status.CANCELLED) else "resumed"
    await outbox.append_notification_events(conn, f"notification.{event}", same_notification)


async def end_missed_occurrence(conn: AsyncConnection, id_: UUID, reason: str) -> None:
    """Cancel an occurrence of a reminder that could not start in time."""
    details = notifications.c.details.op("||")(literal({"missed": reason}, JSONB))
    values = {"status": Status.CANCELLED, "finished_at": func.now(), "details": details}
    same_notification = notifications.c.id == id_
    await conn.execute(update(notifications).where(same_notification).values(**values))
    await outbox.append_notification_events(conn, "notification.cancelled", same_notification)


async def set_expiry(conn: AsyncConnection, id_: UUID, expires_at: datetime) -> None:
    """Set the time at which a notification expires."""
    await conn.execute(update(notifications).where(notifications.c.id == id_).values(expires_at=expires_at))


async def reserve_slot(conn: AsyncConnection, id_: UUID, messages: int, expires_at: datetime) -> datetime:
    """Reserve the next free time slot of a notification's throttle for a number of messages.

    Returns:
        The start of the slot, which is not later than `expires_at`.
    """
    start = func.least(func.greatest(progress.c.free_at, func.now()), literal(expires_at))
    # The length of the slot is limited, since a very long one would overflow Postgres's type interval.
    seconds = func.least(messages / progress.c.per_second, MAX_TTL.total_seconds())
    length = func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    statement = update(progress).where(progress.c.notification_id == id_).values(free_at=start + length)
    slot: datetime = (await conn.execute(statement.returning(progress.c.free_at - length))).scalar_one()
    return slot


async def load_variant_counts(conn: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, list[Row[Any]]]:
    """Return the counters of the variants of each notification, ordered by variant number."""
    query = select(variants).where(variants.c.notification_id.in_(ids)).order_by(variants.c.number)
    counts: dict[UUID, list[Row[Any]]] = {}
    for row in await conn.execute(query):
        counts.setdefault(row.notification_id, []).append(row)
    return counts


async def decide_winner(conn: AsyncConnection, id_: UUID) -> int:
    """Return the index of the winning variant.

    The first call decides the winner, which is the variant with the most clicks per accepted message. Later calls
    return the same variant.
    """
    query = select(notifications.c.winner).where(notifications.c.id == id_).with_for_update()
    if (winner := (await conn.execute(query)).scalar_one()) is not None:
        return int(winner)
    click_rate = variants.c.clicked * 1.0 / func.greatest(variants.c.accepted, 1)
    best = select(variants.c.number).where(variants.c.notification_id == id_)
    best = best.order_by(click_rate.desc(), variants.c.number).limit(1)
    number: int = (await conn.execute(best)).scalar_one()
    await conn.execute(update(notifications).where(notifications.c.id == id_).values(winner=number))
    return number


def _notification_from_row(row: Row[Any]) -> Notification:
    return Notification(
        id=row.id,
        application_id=row.application_id,
        kind=Kind(row.kind),
        name=row.name,
        status=Status(row.status),
        day=row.day,
        content=row.content,
        audience=row.audience,
        delivery=DeliveryOptions(
            lane=Lane(row.lane),
            urgency=Urgency(row.urgency),
            ttl=timedelta(seconds=row.ttl_s),
            expires_at=row.expires_at,
            collapse_key=row.collapse_key,
        ),
        details=row.details,
        start_at=row.start_at,
        created_at=row.created_at,
        finished_at=row.finished_at,
        policy=SendPolicy.from_json(row.steering),
        winner=row.winner,
        auto_paused=row.auto_paused,
        templating=None if row.templating is None else Templating(**row.templating),
        reminder_id=row.reminder_id,
        occurrence=row.occurrence,
        trace=row.trace,
        person_bound=row.person_bound,
    )


def _progress_from_row(row: Row[Any]) -> Progress:
    return Progress(**{field.name: getattr(row, field.name) for field in fields(Progress)})
