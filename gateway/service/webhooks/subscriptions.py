"""Webhooks as their application sees them: made, changed, given another secret, replayed, tried out."""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func

from gateway.domain import clock, ids
from gateway.domain.errors import AddressNotAllowed
from gateway.domain.webhook_event import DELIVERY_OUTCOMES, TEST_TYPE, subscribed_types
from gateway.outbound.client import OutboundClient, Unreachable
from gateway.records import outbox
from gateway.records.delivery_log import reader
from gateway.records.postgres import named_resources, notifier
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import webhooks as table
from gateway.records.webhooks import WebhookCursor, cursor_values
from gateway.service.context import Context
from gateway.service.webhooks import signing
from gateway.service.webhooks.batches import body_of, event
from gateway.service.webhooks.signing import Secret

TEST_TIMEOUT = timedelta(seconds=10)

# Where it begins anew: what is being sent under an earlier claim settles nothing any more.
_ANEW = {"claim": table.c.claim + 1, "pending": None}
_SOUND = {"status": "active", "cause": None, "failures": 0, "failing_since": None, "last_error": None}


async def create(
    conn: Connection, context: Context, application_id: UUID, name: str, url: str, events: Sequence[str]
) -> dict[str, Any]:
    """It is told what happens from now on. Answers with its `secret`, this once.

    Raises AddressNotAllowed and Conflict.
    """
    secret = signing.new_secret()
    row = await named_resources.add(
        conn,
        table,
        application_id=application_id,
        name=name,
        url=context.outbound.check(url),
        events=_distinct(events),
        secrets=signing.seal([Secret(secret)], context.keyring),
        **cursor_values(await _place(conn, application_id, None)),
    )
    return show(row) | {"secret": secret}


async def change(
    conn: Connection, context: Context, application_id: UUID, id_: UUID, values: dict[str, Any]
) -> dict[str, Any]:
    """`values` by column. What it did not ask for before is told from now on; so is all, once it is active again.

    Raises NotFound, AddressNotAllowed and Conflict.
    """
    row = await named_resources.find(conn, table, application_id, id_, lock=True)
    values = dict(values)
    if "url" in values:
        values["url"] = context.outbound.check(values["url"])
    if "events" in values:
        values["events"] = _distinct(values["events"])
        values |= _ANEW
        if not subscribed_types(row.events, DELIVERY_OUTCOMES):
            values["log_position"] = await reader.last_position(conn, application_id)
    if values.get("status") == "active" and row.status != "active":
        values |= {**_SOUND, "claim": table.c.claim + 1, "run_at": func.now()}
        await notifier.notify(conn, notifier.OUTBOX, str(application_id))
    return show(await named_resources.change(conn, table, id_, **values))


async def rotate(
    conn: Connection, context: Context, application_id: UUID, id_: UUID, keep_old: timedelta
) -> dict[str, Any]:
    """A new secret, shown this once. Those before it sign beside it for `keep_old`. Raises NotFound."""
    row = await named_resources.find(conn, table, application_id, id_, lock=True)
    secret = signing.new_secret()
    held = signing.rotated(signing.unseal(row.secrets, context.keyring), secret, keep_old, clock.now())
    changed = await named_resources.change(conn, table, id_, secrets=signing.seal(held, context.keyring))
    return show(changed) | {"secret": secret}


async def replay(conn: Connection, application_id: UUID, id_: UUID, since: datetime) -> dict[str, Any]:
    """Send again all that is kept since then, also to one that was disabled. Raises NotFound."""
    await named_resources.find(conn, table, application_id, id_, lock=True)
    place = cursor_values(await _place(conn, application_id, since))
    row = await named_resources.change(conn, table, id_, **_SOUND, **_ANEW, **place, run_at=func.now())
    await notifier.notify(conn, notifier.OUTBOX, str(application_id))
    return show(row)


async def remove(conn: Connection, application_id: UUID, id_: UUID) -> None:
    """Raises NotFound."""
    await named_resources.find(conn, table, application_id, id_)
    await named_resources.remove(conn, table, id_)


async def get(conn: Connection, application_id: UUID, id_: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    return show(await named_resources.find(conn, table, application_id, id_))


async def list_page(
    conn: Connection, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    return [
        show(row) for row in await named_resources.list_page(conn, table, application_id, before=before, limit=limit)
    ]


async def prepare_test(
    conn: Connection, context: Context, application_id: UUID, id_: UUID
) -> Callable[[], Awaitable[dict[str, Any]]]:
    """What posts a test event and says what came of it; it needs the database no more. Raises NotFound."""
    row = await named_resources.find(conn, table, application_id, id_)
    held = signing.unseal(row.secrets, context.keyring)
    shown = ids.format_id(ids.WEBHOOK, id_)

    async def post() -> dict[str, Any]:
        now, began, fresh = clock.now(), time.perf_counter(), ids.new_id().hex
        body = body_of([event(f"evt_{fresh}", TEST_TYPE, now, {"webhook_id": shown})])
        headers = {"Content-Type": "application/json", **signing.headers(held, f"msg_{fresh}", body, now)}
        status, error = None, None
        try:
            async with OutboundClient(context.outbound) as client:
                status = (await client.post(row.url, body, headers, timeout=TEST_TIMEOUT)).status
        except Unreachable as unreachable:
            error = unreachable.cause
        except AddressNotAllowed as refusal:
            error = refusal.detail
        return {"status": status, "error": error, "duration_ms": round((time.perf_counter() - began) * 1000)}

    return post


def show(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": ids.format_id(ids.WEBHOOK, row.id),
        "name": row.name,
        "url": row.url,
        "events": list(row.events),
        "status": row.status,
        "cause": row.cause,
        "failures": row.failures,
        "failing_since": row.failing_since,
        "last_error": row.last_error,
        "last_ok_at": row.last_ok_at,
        "next_try_at": row.run_at if row.failures and row.status == "active" else None,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


async def _place(conn: Connection, application_id: UUID, since: datetime | None) -> WebhookCursor:
    """Where everything since then comes after; None is now."""
    if since is None:
        position = await reader.last_position(conn, application_id)
    else:
        position = await reader.find_position(conn, application_id, since)
    return WebhookCursor(position, await outbox.find_cursor(conn, application_id, since))


def _distinct(events: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(events))
