"""Webhooks at work: which have something to send, and how far each has come.

A webhook is claimed as a job is: claiming moves `run_at` past the lease and counts `claim` up, and what is settled
must be of the same claim. A sender that was overtaken, or whose webhook was told to start over, settles nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Text, and_, cast, exists, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.webhook_event import DELIVERY_OUTCOMES, PATTERNS, subscribed_types
from gateway.records.outbox import OLDEST_RUNNING_TXID, Cursor
from gateway.records.postgres.schema import applications, outbox_events, webhooks

# Columns of a webhook whose cursor moves: what is being sent under an earlier claim settles nothing.
RESTART: Mapping[str, Any] = {"claim": webhooks.c.claim + 1, "pending": None}
# Columns of a webhook that is sent to at once.
RUN_NOW: Mapping[str, Any] = {"claim": webhooks.c.claim + 1, "run_at": func.now()}
# Columns of a webhook without failures.
HEALTHY: Mapping[str, Any] = {
    "status": "active",
    "cause": None,
    "failures": 0,
    "failing_since": None,
    "last_error": None,
}

_LOG_PATTERNS = [pattern for pattern in PATTERNS if subscribed_types([pattern], DELIVERY_OUTCOMES)]


@dataclass(frozen=True, slots=True)
class WebhookCursor:
    """How far a webhook has come: in the application's log, and in what else happened to it."""

    log: int
    outbox: Cursor


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A batch that is being tried: its message id, and where it ends. It begins where the webhook stands."""

    message_id: str
    upto: WebhookCursor


@dataclass(frozen=True, slots=True)
class LeasedWebhook:
    """A webhook that is ours for the lease. `secrets` are sealed."""

    id: UUID
    claim: int
    application_id: UUID
    url: str
    events: tuple[str, ...]
    secrets: bytes
    cursor: WebhookCursor
    pending: PendingBatch | None
    failures: int
    failing_since: datetime | None


async def claim(conn: AsyncConnection, *, limit: int, lease: timedelta) -> list[LeasedWebhook]:
    """Those with something to send whose time has come."""
    w = webhooks.c
    due = (
        select(w.id)
        .join(applications, applications.c.id == w.application_id)
        .where(w.status == "active", w.run_at <= func.now(), _has_something(settled=True))
        .order_by(w.run_at)
        .limit(limit)
        .with_for_update(of=webhooks, skip_locked=True)
        .cte("due")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    claimed = update(webhooks).where(w.id == due.c.id).values(run_at=func.now() + lease, claim=w.claim + 1)
    return [_claimed(row) for row in await conn.execute(claimed.returning(webhooks))]


async def next_due(conn: AsyncConnection) -> float | None:
    """Seconds until a webhook that has something to send may be claimed; None when none has."""
    w = webhooks.c
    waits = func.extract("epoch", func.min(func.greatest(w.run_at, func.now())) - func.now())
    waiting = select(waits).join(applications, applications.c.id == w.application_id)
    seconds = (await conn.execute(waiting.where(w.status == "active", _has_something(settled=False)))).scalar()
    return None if seconds is None else float(seconds)


async def store_pending(conn: AsyncConnection, webhook: LeasedWebhook, pending: PendingBatch, lease: timedelta) -> bool:
    """Note what is about to be sent, before it is; False when the claim was lost or it was told to stop."""
    upto = pending.upto
    said = {"id": pending.message_id, "log": upto.log, "outbox": list(upto.outbox)}
    return await _settle(conn, webhook, webhooks.c.status == "active", pending=said, run_at=func.now() + lease)


async def advance(
    conn: AsyncConnection, webhook: LeasedWebhook, to: WebhookCursor, *, sent: bool, lease: timedelta
) -> bool:
    """Everything up to there is done; `sent`: the receiver took it. With no lease it is let go.

    False when the claim was lost.
    """
    values: dict[str, Any] = {"run_at": func.now() + lease}
    if sent:
        values |= {"failures": 0, "failing_since": None, "last_error": None, "last_ok_at": func.now()}
    return await _settle(conn, webhook, pending=None, **cursor_values(to), **values)


async def record_failure(
    conn: AsyncConnection, webhook: LeasedWebhook, why: str, failing_since: datetime, run_at: datetime
) -> bool:
    """It is tried again at `run_at`. False when the claim was lost."""
    values = {"failures": webhook.failures + 1, "failing_since": failing_since, "last_error": why, "run_at": run_at}
    return await _settle(conn, webhook, **values)


async def disable(conn: AsyncConnection, webhook: LeasedWebhook, why: str, cause: str, failing_since: datetime) -> bool:
    values = {"failures": webhook.failures + 1, "failing_since": failing_since, "last_error": why}
    return await _settle(conn, webhook, status="disabled", cause=cause, **values)


def cursor_values(place: WebhookCursor) -> dict[str, int]:
    """By column."""
    return {"log_position": place.log, "outbox_txid": place.outbox.txid, "outbox_id": place.outbox.id}


async def _settle(conn: AsyncConnection, held: LeasedWebhook, *if_: ColumnElement[bool], **values: Any) -> bool:
    ours = (webhooks.c.id == held.id, webhooks.c.claim == held.claim, *if_)
    return (await conn.execute(update(webhooks).where(*ours).values(**values))).rowcount == 1


def _has_something(*, settled: bool) -> ColumnElement[bool]:
    """`settled`: of the outbox only what can be read by now."""
    w, h = webhooks.c, outbox_events.c
    later = exists().where(
        h.application_id == w.application_id,
        tuple_(h.txid, h.id) > tuple_(w.outbox_txid, w.outbox_id),
        *([h.txid < OLDEST_RUNNING_TXID] if settled else []),
    )
    wants_log = w.events.overlap(cast(_LOG_PATTERNS, ARRAY(Text)))
    return or_(w.pending.is_not(None), and_(wants_log, applications.c.log_position > w.log_position), later)


def _claimed(row: Row[Any]) -> LeasedWebhook:
    said = row.pending
    return LeasedWebhook(
        id=row.id,
        claim=row.claim,
        application_id=row.application_id,
        url=row.url,
        events=tuple(row.events),
        secrets=row.secrets,
        cursor=WebhookCursor(row.log_position, Cursor(row.outbox_txid, row.outbox_id)),
        pending=said and PendingBatch(said["id"], WebhookCursor(said["log"], Cursor(*said["outbox"]))),
        failures=row.failures,
        failing_since=row.failing_since,
    )
