"""Manage the webhooks of an application: create, update, rotate the secret, replay events, send a test event.

The webhook dispatcher of the worker sends the events. When this module moves the cursor of a webhook, it also
increments `claim`. A dispatcher that is sending a batch under the earlier claim then cannot record the batch's result.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gateway.domain import clock, ids
from gateway.domain.errors import AddressNotAllowed
from gateway.domain.webhook_event import DELIVERY_OUTCOMES, TEST_TYPE, subscribed_types
from gateway.outbound.client import OutboundClient, OutboundError
from gateway.records import outbox
from gateway.records.delivery_log import reader
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import webhooks as table
from gateway.records.webhooks import HEALTHY, RESTART, RUN_NOW, WebhookCursor, cursor_values
from gateway.service import views
from gateway.service.context import Context
from gateway.service.named_resources import NamedResource, map_rows
from gateway.service.webhooks import signing
from gateway.service.webhooks.batches import encode_body, encode_event
from gateway.service.webhooks.signing import Secret

# Time limit of the request that sends a test event.
TEST_TIMEOUT = timedelta(seconds=10)


async def create(
    conn: Connection, context: Context, application_id: UUID, name: str, url: str, events: Sequence[str]
) -> views.CreatedWebhook:
    """Store a webhook. It receives the events from now on. Only the view returned here contains the signing secret.

    Raises:
        AddressNotAllowed: the gateway must not send requests to the URL.
        Conflict: the application has a webhook of this name.
    """
    secret = signing.new_secret()
    columns = {
        "name": name,
        "url": context.outbound.check(url),
        "events": _without_duplicates(events),
        "secrets": signing.seal([Secret(secret)], context.keyring),
        **cursor_values(await _cursor(conn, application_id, None)),
    }
    return {**await _webhooks.create(conn, application_id, columns), "secret": secret}


async def update(
    conn: Connection, context: Context, application_id: UUID, id_: UUID, columns: Mapping[str, Any]
) -> views.Webhook:
    """Change some columns of a webhook.

    New event types are sent from now on. A disabled webhook that becomes active continues where it stopped.

    Raises:
        NotFound: the application has no such webhook.
        AddressNotAllowed: the gateway must not send requests to the URL.
        Conflict: another webhook has the new name.
    """
    row = await _webhooks.find(conn, application_id, id_, lock=True)
    changes = dict(columns)
    if "url" in changes:
        changes["url"] = context.outbound.check(changes["url"])
    if "events" in changes:
        changes["events"] = _without_duplicates(changes["events"])
        changes |= RESTART
        if not subscribed_types(row.events, DELIVERY_OUTCOMES):
            changes["log_position"] = await reader.last_position(conn, application_id)
    if changes.get("status") == "active" and row.status != "active":
        changes |= {**HEALTHY, **RUN_NOW}
        await notifier.notify(conn, notifier.OUTBOX, str(application_id))
    return to_view(await _webhooks.save(conn, id_, changes))


async def rotate_secret(
    conn: Connection, context: Context, application_id: UUID, id_: UUID, keep_old: timedelta
) -> views.CreatedWebhook:
    """Create a new signing secret. The old secrets stay valid for `keep_old`.

    Only the view returned here contains the new secret.

    Raises:
        NotFound: the application has no such webhook.
    """
    row = await _webhooks.find(conn, application_id, id_, lock=True)
    secret = signing.new_secret()
    secrets = signing.rotate(signing.unseal(row.secrets, context.keyring), secret, keep_old, clock.now())
    row = await _webhooks.save(conn, id_, {"secrets": signing.seal(secrets, context.keyring)})
    return {**to_view(row), "secret": secret}


async def replay(conn: Connection, application_id: UUID, id_: UUID, since: datetime) -> views.Webhook:
    """Send all stored events since a time again. A disabled webhook becomes active.

    Raises:
        NotFound: the application has no such webhook.
    """
    await _webhooks.find(conn, application_id, id_, lock=True)
    cursor = cursor_values(await _cursor(conn, application_id, since))
    row = await _webhooks.save(conn, id_, {**HEALTHY, **RESTART, **RUN_NOW, **cursor})
    await notifier.notify(conn, notifier.OUTBOX, str(application_id))
    return to_view(row)


async def prepare_test(
    conn: Connection, context: Context, application_id: UUID, id_: UUID
) -> Callable[[], Awaitable[views.WebhookTested]]:
    """Return a function that sends a test event and returns the result.

    The function does not use `conn`, so it can be called after the transaction has ended.

    Raises:
        NotFound: the application has no such webhook.
    """
    row = await _webhooks.find(conn, application_id, id_)
    secrets = signing.unseal(row.secrets, context.keyring)
    webhook_id = ids.format_id(ids.WEBHOOK, id_)

    async def post() -> views.WebhookTested:
        now, start, message_id = clock.now(), time.perf_counter(), ids.new_id().hex
        body = encode_body([encode_event(f"evt_{message_id}", TEST_TYPE, now, {"webhook_id": webhook_id})])
        headers = {"Content-Type": "application/json", **signing.headers(secrets, f"msg_{message_id}", body, now)}
        status, error = None, None
        try:
            async with OutboundClient(context.outbound) as client:
                status = (await client.post(row.url, body, headers, timeout=TEST_TIMEOUT)).status
        except OutboundError as failure:
            error = failure.cause
        except AddressNotAllowed as failure:
            error = failure.detail
        return {"status": status, "error": error, "duration_ms": round((time.perf_counter() - start) * 1000)}

    return post


def to_view(row: Row[Any]) -> views.Webhook:
    """Return the view of a webhook."""
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


async def _cursor(conn: Connection, application_id: UUID, since: datetime | None) -> WebhookCursor:
    """Return the cursor just before the first event since a time; None stands for now."""
    if since is None:
        position = await reader.last_position(conn, application_id)
    else:
        position = await reader.find_position(conn, application_id, since)
    return WebhookCursor(position, await outbox.find_cursor(conn, application_id, since))


def _without_duplicates(events: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(events))


_webhooks = NamedResource(table, map_rows(to_view))
get, list_page, delete = _webhooks.get, _webhooks.list_page, _webhooks.delete
