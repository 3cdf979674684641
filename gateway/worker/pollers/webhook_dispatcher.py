"""Send events to webhooks.

One process at a time sends to a webhook. Webhooks are independent of each other: a receiver that is slow or down
delays only its own events, and counts towards MAX_CONCURRENT only for the duration of a request. Deliveries never wait
for webhooks.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import structlog

from gateway import metrics
from gateway.domain import clock, ids
from gateway.domain.errors import AddressNotAllowed
from gateway.domain.retry import backoff
from gateway.outbound.client import OutboundClient, OutboundError, OutboundResponse
from gateway.push.responses import retry_after
from gateway.records import webhooks
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import Connection
from gateway.records.webhooks import LeasedWebhook
from gateway.service.context import Context
from gateway.service.webhooks import signing
from gateway.service.webhooks.batches import Batch, next_batch
from gateway.worker.pollers.leased_poll import LeasedPoll

# Maximum number of webhooks to which one process sends at once.
MAX_CONCURRENT = 32
# Time limit of a request to a receiver.
TIMEOUT = timedelta(seconds=15)
# Duration of the lease of a webhook, which is renewed before each request.
LEASE = timedelta(seconds=45)
# A webhook that has failed for this long is disabled.
MAX_FAILING = timedelta(hours=24)
# How long an event may wait for further events that are sent in the same request.
FILL_S = 0.5
# Time that requests in flight have to complete on shutdown.
SHUTDOWN_TIMEOUT_S = 5.0

log = structlog.get_logger(__name__)


class WebhookDispatcher:
    """Sends the events of all webhooks. A process has one dispatcher; any number of processes can run."""

    def __init__(self, context: Context, notifier: notifier.Notifier, client: OutboundClient) -> None:
        """Create a dispatcher. `client` must be open, and stay open while `run` runs."""
        self._context = context
        self._notifier = notifier
        self._client = client

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set. Requests in flight then have SHUTDOWN_TIMEOUT_S to complete.

        A request that does not complete in time is cancelled, and repeated after the lease with the same message id.
        """
        poll = LeasedPoll(
            name="webhook",
            engine=self._context.engine,
            claim=_claim,
            next_due=webhooks.next_due,
            process=lambda webhook: self._send_batches(webhook, stop),
            log_context=lambda webhook: {
                "webhook_id": ids.format_id(ids.WEBHOOK, webhook.id),
                "application_id": ids.format_id(ids.APPLICATION, webhook.application_id),
            },
            max_concurrent=MAX_CONCURRENT,
            fill_s=FILL_S,
        )
        subscription = self._notifier.subscribe(notifier.LOG, notifier.OUTBOX)
        await poll.run(stop, subscription, shutdown_timeout_s=SHUTDOWN_TIMEOUT_S)

    async def _send_batches(self, webhook: LeasedWebhook, stop: asyncio.Event) -> None:
        """Send one batch after the other, until a batch is not full or not accepted."""
        current: LeasedWebhook | None = webhook
        while current is not None:
            current = await self._send_batch(current, stop)

    async def _send_batch(self, webhook: LeasedWebhook, stop: asyncio.Event) -> LeasedWebhook | None:
        """Send one batch.

        Returns:
            The webhook with its new cursor if more events may follow, or None if the lease has ended.
        """
        async with self._context.engine.begin() as conn:
            batch_or_cursor = await next_batch(conn, webhook)
            if not isinstance(batch_or_cursor, Batch):  # there is nothing to send
                await webhooks.advance(conn, webhook, batch_or_cursor, sent=False, lease=timedelta(0))
                return None
            batch = batch_or_cursor
            if not await webhooks.store_pending(conn, webhook, batch.pending, LEASE):
                return None
        response = await self._post(webhook, batch)
        if not isinstance(response, OutboundResponse) or not 200 <= response.status < 300:
            await self._record_failure(webhook, response)
            return None
        metrics.WEBHOOK_POSTS.labels("taken").inc()
        cursor, has_more = batch.pending.upto, batch.full and not stop.is_set()
        async with self._context.engine.begin() as conn:
            lease = LEASE if has_more else timedelta(0)
            has_lease = await webhooks.advance(conn, webhook, cursor, sent=True, lease=lease)
        if not (has_lease and has_more):
            return None
        return replace(webhook, cursor=cursor, pending=None, failures=0, failing_since=None)

    async def _post(self, webhook: LeasedWebhook, batch: Batch) -> OutboundResponse | str:
        """Send a batch; return the response, or a description of the error if there is no response."""
        secrets = signing.unseal(webhook.secrets, self._context.keyring)
        signature = signing.headers(secrets, batch.pending.message_id, batch.body, clock.now())
        headers = {"Content-Type": "application/json", **signature}
        try:
            return await self._client.post(webhook.url, batch.body, headers, timeout=TIMEOUT)
        except OutboundError as error:
            return error.cause
        except AddressNotAllowed as error:
            return error.detail

    async def _record_failure(self, webhook: LeasedWebhook, response: OutboundResponse | str) -> None:
        """Schedule a retry, or disable the webhook: after MAX_FAILING, or after a response with status 410."""
        error = response if isinstance(response, str) else f"the receiver responded with status {response.status}"
        metrics.WEBHOOK_POSTS.labels("unreachable" if isinstance(response, str) else "refused").inc()
        now = clock.now()
        failing_since, disable_cause = webhook.failing_since or now, None
        wait = backoff(webhook.failures + 1)
        if isinstance(response, OutboundResponse):
            wait = max(wait, retry_after(response.headers.get("Retry-After"), now) or wait)
            if response.status == 410:
                disable_cause = "the receiver responded that it is gone permanently (410)"
        if now - failing_since >= MAX_FAILING:
            hours = MAX_FAILING.total_seconds() / 3600
            disable_cause = f"the receiver accepted nothing for {hours:.0f} hours: {error}"
        async with self._context.engine.begin() as conn:
            if disable_cause is None:
                retry_at = min(now + wait, failing_since + MAX_FAILING)
                has_lease = await webhooks.record_failure(conn, webhook, error, failing_since, retry_at)
            else:
                has_lease = await webhooks.disable(conn, webhook, error, disable_cause, failing_since)
        if has_lease and disable_cause is None:
            failures = webhook.failures + 1
            log.warning("webhook.failing", cause=error, failures=failures, since=failing_since.isoformat())
        elif has_lease:
            metrics.WEBHOOKS_DISABLED.inc()
            log.error("webhook.disabled", cause=disable_cause)


async def _claim(conn: Connection) -> LeasedWebhook | None:
    claimed = await webhooks.claim(conn, limit=1, lease=LEASE)
    return claimed[0] if claimed else None
