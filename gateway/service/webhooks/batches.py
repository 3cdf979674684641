"""Build the batches of events that are sent to webhooks, from the delivery log and the outbox, oldest first.

A batch contains the events between two cursors: that of the webhook, and one at the end of the batch. After a failure
or a crash it is built again from both cursors. It then has the same bytes and the same message id, so that receivers
recognize the repeated message.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.webhook_event import DELIVERY_OUTCOMES, OUTBOX_TYPES, subscribed_types
from gateway.records import outbox
from gateway.records.delivery_log import reader
from gateway.records.outbox import Cursor
from gateway.records.postgres.engine import Connection, Row
from gateway.records.webhooks import LeasedWebhook, PendingBatch, WebhookCursor
from gateway.service.notifications import representations

# Limits of one message.
MAX_EVENTS = 100
MAX_OCTETS = 256 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """A message to a webhook. `full` means that there may be more events after this batch."""

    pending: PendingBatch
    body: bytes
    full: bool


class _Event(NamedTuple):
    at: datetime
    body: bytes
    position: int | Cursor  # in the delivery log, or in the outbox


async def next_batch(conn: Connection, webhook: LeasedWebhook) -> Batch | WebhookCursor:
    """Return the batch to send: the pending batch if there is one, otherwise a new one.

    If there is nothing to send, returns the cursor to which the webhook can advance.
    """
    if webhook.pending is not None:
        return await _rebuild_batch(conn, webhook, webhook.pending)
    application_id, cursor, (outcomes, types) = webhook.application_id, webhook.cursor, _subscriptions(webhook)
    last_position, deliveries = cursor.log, list[reader.LogEntry]()
    if outcomes:
        last_position = await reader.last_position(conn, application_id)
        deliveries = await reader.read_ended(
            conn, application_id, outcomes, after=cursor.log, upto=last_position, limit=MAX_EVENTS
        )
    outbox_rows, outbox_end = await outbox.read_after(conn, application_id, cursor.outbox, types, limit=MAX_EVENTS)
    candidates = _merge(deliveries, outbox_rows)
    events = _limit_size(candidates)
    is_complete = len(events) == len(candidates)
    log_positions = [cursor.log, *(event.position for event in events if isinstance(event.position, int))]
    outbox_cursors = [cursor.outbox, *(event.position for event in events if isinstance(event.position, Cursor))]
    upto = WebhookCursor(
        last_position if is_complete and len(deliveries) < MAX_EVENTS else log_positions[-1],
        outbox_end if is_complete and len(outbox_rows) < MAX_EVENTS else outbox_cursors[-1],
    )
    if not events:
        return upto
    full = not is_complete or MAX_EVENTS in (len(deliveries), len(outbox_rows))
    return Batch(PendingBatch(f"msg_{ids.new_id().hex}", upto), encode_body(event.body for event in events), full)


async def _rebuild_batch(conn: Connection, webhook: LeasedWebhook, pending: PendingBatch) -> Batch | WebhookCursor:
    """Build the pending batch again from the events between its cursors; return its end if there are none."""
    cursor, upto, (outcomes, types) = webhook.cursor, pending.upto, _subscriptions(webhook)
    deliveries = await reader.read_ended(conn, webhook.application_id, outcomes, after=cursor.log, upto=upto.log)
    outbox_rows = await outbox.read_between(conn, webhook.application_id, cursor.outbox, upto.outbox, types)
    events = _merge(deliveries, outbox_rows)
    if not events:  # all events of the batch were pruned meanwhile
        return upto
    return Batch(pending, encode_body(event.body for event in events), full=True)


def _subscriptions(webhook: LeasedWebhook) -> tuple[list[OutcomeName], list[str]]:
    """Return the delivery outcomes, and the event types of the outbox, that a webhook subscribes to."""
    return [
        DELIVERY_OUTCOMES[type_] for type_ in subscribed_types(webhook.events, DELIVERY_OUTCOMES)
    ], subscribed_types(webhook.events, OUTBOX_TYPES)


def _merge(deliveries: Sequence[reader.LogEntry], outbox_rows: Sequence[Row[Any]]) -> list[_Event]:
    """Merge the events of both sources by time. Events of one source keep their order."""
    from_log = (
        _Event(
            row.settled_at,
            encode_event(
                f"evt_d{row.position}", f"delivery.{row.outcome}", row.settled_at, representations.delivery_view(entry)
            ),
            row.position,
        )
        for entry in deliveries
        for row in [entry.row]
    )
    from_outbox = (
        _Event(row.at, encode_event(f"evt_{row.id}", row.type, row.at, row.data), Cursor(row.txid, row.id))
        for row in outbox_rows
    )
    return list(heapq.merge(from_log, from_outbox, key=lambda event: event.at))


def _limit_size(events: Sequence[_Event]) -> list[_Event]:
    """Return the first events that fit into one message, at least one."""
    selected, size = list[_Event](), 0
    for candidate in events[:MAX_EVENTS]:
        size += len(candidate.body)
        if selected and size > MAX_OCTETS:
            break
        selected.append(candidate)
    return selected


def encode_body(events: Iterable[bytes]) -> bytes:
    """Return the body of a message with these encoded events."""
    return b'{"events":[' + b",".join(events) + b"]}"


def encode_event(id_: str, type_: str, at: datetime, data: Any) -> bytes:
    """Encode one event of a message."""
    return representations.encode_json({"id": id_, "type": type_, "at": at, "data": data})
