"""What a webhook is sent next: a batch of events from the log and from what else happened, oldest first.

A batch is known by where the webhook stands and where the batch ends. Made again from these, after a failure or a
crash, it is the same octets under the same message id, so that a receiver knows what it has seen before.
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

MAX_EVENTS = 100
MAX_OCTETS = 256 * 1024  # octets


@dataclass(frozen=True, slots=True)
class Batch:
    """`full`: there may be more behind it."""

    pending: PendingBatch
    body: bytes
    full: bool


class _Event(NamedTuple):
    at: datetime
    body: bytes
    place: int | Cursor
    """Where it stands, in the log or in the outbox."""


async def next_batch(conn: Connection, held: LeasedWebhook) -> Batch | WebhookCursor:
    """The batch that is being tried, or a new one; where the webhook stands now when there is nothing to send."""
    if held.pending is not None:
        return await _again(conn, held, held.pending)
    application_id, at, (outcomes, types) = held.application_id, held.cursor, _wanted(held)
    newest, ends = at.log, list[reader.LogEntry]()
    if outcomes:
        newest = await reader.last_position(conn, application_id)
        ends = await reader.read_ended(conn, application_id, outcomes, after=at.log, upto=newest, limit=MAX_EVENTS)
    noted, seen = await outbox.read_after(conn, application_id, at.outbox, types, limit=MAX_EVENTS)
    waiting = _in_order(ends, noted)
    taken = _fitting(waiting)
    all_there_is = len(taken) == len(waiting)
    in_log = [at.log, *(one.place for one in taken if isinstance(one.place, int))]
    in_outbox = [at.outbox, *(one.place for one in taken if isinstance(one.place, Cursor))]
    upto = WebhookCursor(
        newest if all_there_is and len(ends) < MAX_EVENTS else in_log[-1],
        seen if all_there_is and len(noted) < MAX_EVENTS else in_outbox[-1],
    )
    if not taken:
        return upto
    full = not all_there_is or MAX_EVENTS in (len(ends), len(noted))
    return Batch(PendingBatch(f"msg_{ids.new_id().hex}", upto), body_of(one.body for one in taken), full)


async def _again(conn: Connection, held: LeasedWebhook, pending: PendingBatch) -> Batch | WebhookCursor:
    at, upto, (outcomes, types) = held.cursor, pending.upto, _wanted(held)
    ends = await reader.read_ended(conn, held.application_id, outcomes, after=at.log, upto=upto.log)
    noted = await outbox.read_between(conn, held.application_id, at.outbox, upto.outbox, types)
    events = _in_order(ends, noted)
    if not events:  # retention has taken them
        return upto
    return Batch(pending, body_of(one.body for one in events), full=True)


def _wanted(held: LeasedWebhook) -> tuple[list[OutcomeName], list[str]]:
    """The ends of deliveries, and the other types, that it asks for."""
    return [DELIVERY_OUTCOMES[type_] for type_ in subscribed_types(held.events, DELIVERY_OUTCOMES)], subscribed_types(
        held.events, OUTBOX_TYPES
    )


def _in_order(ends: Sequence[reader.LogEntry], noted: Sequence[Row[Any]]) -> list[_Event]:
    """By time, but never against the order of either source."""
    settled = (
        _Event(
            row.settled_at,
            event(
                f"evt_d{row.position}", f"delivery.{row.outcome}", row.settled_at, representations.delivery_view(entry)
            ),
            row.position,
        )
        for entry in ends
        for row in [entry.row]
    )
    happened = (
        _Event(row.at, event(f"evt_{row.id}", row.type, row.at, row.data), Cursor(row.txid, row.id)) for row in noted
    )
    return list(heapq.merge(settled, happened, key=lambda one: one.at))


def _fitting(events: Sequence[_Event]) -> list[_Event]:
    """As many of the first as fit in one message; one always does."""
    taken, size = list[_Event](), 0
    for one in events[:MAX_EVENTS]:
        size += len(one.body)
        if taken and size > MAX_OCTETS:
            break
        taken.append(one)
    return taken


def body_of(events: Iterable[bytes]) -> bytes:
    return b'{"events":[' + b",".join(events) + b"]}"


def event(id_: str, type_: str, at: datetime, data: Any) -> bytes:
    """One event as it is sent."""
    return representations.encode_json({"id": id_, "type": type_, "at": at, "data": data})
