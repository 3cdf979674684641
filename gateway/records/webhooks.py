"""State of the dispatch of webhooks: leases, cursors and failures.

Webhooks are claimed like jobs: claiming moves `run_at`, the time of the next dispatch, to the end of the lease and
increments `claim`. Every update requires that `claim` is unchanged. So a dispatcher that has lost its lease, or whose
webhook was reset, updates nothing.
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
from gateway.records.outbox import MIN_RUNNING_TXID, Cursor
from gateway.records.postgres.schema import applications, outbox_events, webhooks

# Column values for moving the cursor of a webhook. The new claim discards the result of a batch that is being sent.
RESTART: Mapping[str, Any] = {"claim": webhooks.c.claim + 1, "pending": None}
# Column values that make a webhook due at once.
RUN_NOW: Mapping[str, Any] = {"claim": webhooks.c.claim + 1, "run_at": func.now()}
# Column values of a webhook without failures.
HEALTHY: Mapping[str, Any] = {
    "status": "active",
    "cause": None,
    "failures": 0,
    "failing_since": None,
    "last_error": None,
}

# Event patterns that include events of the delivery log.
_LOG_PATTERNS = [pattern for pattern in PATTERNS if subscribed_types([pattern], DELIVERY_OUTCOMES)]


@dataclass(frozen=True, slots=True)
class WebhookCursor:
    """The progress of a webhook: its positions in the application's delivery log and in the outbox.

    The webhook has received all subscribed events up to both positions.
    """

    log: int
    outbox: Cursor


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """The batch that is being sent. It has the events after the webhook's cursor and up to the cursor `upto`."""

    message_id: str
    upto: WebhookCursor


@dataclass(frozen=True, slots=True)
class LeasedWebhook:
    """A webhook that this process has leased.

    Attributes:
        claim: the fencing token.
        events: the patterns of the event types that the webhook receives.
        secrets: the encrypted signing secrets.
        cursor: the end of the last batch that the receiver accepted.
        pending: the batch whose sending has begun, if any. A retry sends the same events with the same message id.
        failures: the number of requests that have failed in a row.
        failing_since: the time of the first of these failures.
    """

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
    """Lease due webhooks that have events to send."""
    w = webhooks.c
    due = (
        select(w.id)
        .join(applications, applications.c.id == w.application_id)
        .where(w.status == "active", w.run_at <= func.now(), _has_events(readable=True))
        .order_by(w.run_at)
        .limit(limit)
        .with_for_update(of=webhooks, skip_locked=True)
        .cte("due")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    claimed = update(webhooks).where(w.id == due.c.id).values(run_at=func.now() + lease, claim=w.claim + 1)
    return [_from_row(row) for row in await conn.execute(claimed.returning(webhooks))]


async def next_due(conn: AsyncConnection) -> float | None:
    """Return the seconds until a webhook with events to send is due; None if there is none."""
    w = webhooks.c
    wait = func.extract("epoch", func.min(func.greatest(w.run_at, func.now())) - func.now())
    waiting = select(wait).join(applications, applications.c.id == w.application_id)
    seconds = (await conn.execute(waiting.where(w.status == "active", _has_events(readable=False)))).scalar()
    return None if seconds is None else float(seconds)


async def store_pending(conn: AsyncConnection, webhook: LeasedWebhook, pending: PendingBatch, lease: timedelta) -> bool:
    """Store the batch before it is sent, and renew the lease.

    Returns:
        False if the lease was lost or the webhook was disabled.
    """
    upto = pending.upto
    values = {"id": pending.message_id, "log": upto.log, "outbox": list(upto.outbox)}
    return await _update(conn, webhook, webhooks.c.status == "active", pending=values, run_at=func.now() + lease)


async def advance(
    conn: AsyncConnection, webhook: LeasedWebhook, cursor: WebhookCursor, *, sent: bool, lease: timedelta
) -> bool:
    """Move the cursor of a webhook, and renew the lease. A lease of 0 releases the webhook.

    `sent` says that the receiver has accepted a batch, which resets the failures.

    Returns:
        False if the lease was lost.
    """
    values: dict[str, Any] = {"run_at": func.now() + lease}
    if sent:
        values |= {"failures": 0, "failing_since": None, "last_error": None, "last_ok_at": func.now()}
    return await _update(conn, webhook, pending=None, **cursor_values(cursor), **values)


async def record_failure(
    conn: AsyncConnection, webhook: LeasedWebhook, error: str, failing_since: datetime, run_at: datetime
) -> bool:
    """Record a failed batch, which is retried at `run_at`. Returns False if the lease was lost."""
    values = {"failures": webhook.failures + 1, "failing_since": failing_since, "last_error": error, "run_at": run_at}
    return await _update(conn, webhook, **values)


async def disable(
    conn: AsyncConnection, webhook: LeasedWebhook, error: str, cause: str, failing_since: datetime
) -> bool:
    """Disable a webhook after repeated failures. Returns False if the lease was lost.

    `error` describes the last failure, `cause` the reason for disabling the webhook.
    """
    values = {"failures": webhook.failures + 1, "failing_since": failing_since, "last_error": error}
    return await _update(conn, webhook, status="disabled", cause=cause, **values)


def cursor_values(cursor: WebhookCursor) -> dict[str, int]:
    """Return the column values of a cursor."""
    return {"log_position": cursor.log, "outbox_txid": cursor.outbox.txid, "outbox_id": cursor.outbox.id}


async def _update(
    conn: AsyncConnection, webhook: LeasedWebhook, *conditions: ColumnElement[bool], **values: Any
) -> bool:
    leased = (webhooks.c.id == webhook.id, webhooks.c.claim == webhook.claim, *conditions)
    return (await conn.execute(update(webhooks).where(*leased).values(**values))).rowcount == 1


def _has_events(*, readable: bool) -> ColumnElement[bool]:
    """Return the condition for webhooks with events to send.

    `readable` counts only outbox events that can be read already, because no older transaction is running.
    """
    w, e = webhooks.c, outbox_events.c
    in_outbox = exists().where(
        e.application_id == w.application_id,
        tuple_(e.txid, e.id) > tuple_(w.outbox_txid, w.outbox_id),
        *([e.txid < MIN_RUNNING_TXID] if readable else []),
    )
    subscribes_to_log = w.events.overlap(cast(_LOG_PATTERNS, ARRAY(Text)))
    return or_(w.pending.is_not(None), and_(subscribes_to_log, applications.c.log_position > w.log_position), in_outbox)


def _from_row(row: Row[Any]) -> LeasedWebhook:
    pending = row.pending
    return LeasedWebhook(
        id=row.id,
        claim=row.claim,
        application_id=row.application_id,
        url=row.url,
        events=tuple(row.events),
        secrets=row.secrets,
        cursor=WebhookCursor(row.log_position, Cursor(row.outbox_txid, row.outbox_id)),
        pending=pending and PendingBatch(pending["id"], WebhookCursor(pending["log"], Cursor(*pending["outbox"]))),
        failures=row.failures,
        failing_since=row.failing_since,
    )
