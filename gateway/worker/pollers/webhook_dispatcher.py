"""Send what happened to webhooks, beside everything else a worker does.

Each webhook is served by one sender at a time and is independent of all others: one that is slow or dead waits in its
own back-off and takes nobody's place for longer than a request may last. Nothing here is waited for by deliveries.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import structlog

from gateway import metrics
from gateway.domain import clock, ids
from gateway.domain.errors import AddressNotAllowed
from gateway.domain.retry import backoff
from gateway.outbound.client import OutboundClient, OutboundResponse, Unreachable
from gateway.push.responses import retry_after
from gateway.records import webhooks
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.records.webhooks import LeasedWebhook
from gateway.service.context import Context
from gateway.service.webhooks import signing
from gateway.service.webhooks.batches import Batch, next_batch

PLACES = 32
TIMEOUT = timedelta(seconds=15)
LEASE = timedelta(seconds=45)
GIVE_UP = timedelta(hours=24)
# How long an event may wait for others to go with it.
FILL_S = 0.5
POLL_S = 15.0
DATABASE_PAUSE_S = 1.0
LAST_REQUESTS_S = 5.0

log = structlog.get_logger(__name__)


class WebhookDispatcher:
    """One for a process; any number of processes share the work. `client` is open for as long as it runs."""

    def __init__(self, context: Context, bell: notifier.Notifier, client: OutboundClient) -> None:
        self._context = context
        self._bell = bell
        self._client = client
        self._stopping = False
        self._serving: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`, then see to the end of the requests that are under way, but not of slow ones."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look(group))
            await stop.wait()
            self._stopping = True
            looking.cancel()
            if self._serving:
                _, slow = await asyncio.wait(self._serving, timeout=LAST_REQUESTS_S)
                for task in slow:  # sent again, under the same id, when their lease has run out
                    task.cancel()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        free = asyncio.Semaphore(PLACES)
        with self._bell.subscribe(notifier.LOG, notifier.HAPPENINGS) as waiter:
            while True:
                await free.acquire()
                try:
                    async with self._context.engine.begin() as conn:
                        claimed = await webhooks.claim(conn, limit=1, lease=LEASE)
                        due = None if claimed else await webhooks.next_due(conn)
                except DATABASE_ERRORS as error:
                    log.warning("webhooks.database_unavailable", error=type(error).__name__)
                    claimed, due = [], DATABASE_PAUSE_S
                for held in claimed:
                    task = group.create_task(self._serve(held))
                    self._serving.add(task)
                    task.add_done_callback(self._serving.discard)
                    task.add_done_callback(lambda _: free.release())
                if not claimed:
                    free.release()
                    if await waiter.wait(POLL_S if due is None else min(POLL_S, max(due, FILL_S))):
                        await asyncio.sleep(FILL_S)

    async def _serve(self, held: LeasedWebhook) -> None:
        """Send batch after batch, until there is no full one any more or one is not taken."""
        with structlog.contextvars.bound_contextvars(
            webhook_id=ids.format_id(ids.WEBHOOK, held.id),
            application_id=ids.format_id(ids.APPLICATION, held.application_id),
        ):
            try:
                now: LeasedWebhook | None = held
                while now is not None:
                    now = await self._step(now)
            except DATABASE_ERRORS as error:
                # The same batch goes out again when the lease has run out.
                log.warning("webhook.database_unavailable", error=type(error).__name__)
            except Exception:
                # A fault of ours with one webhook must not end the sender for all.
                log.exception("webhook.failed")

    async def _step(self, held: LeasedWebhook) -> LeasedWebhook | None:
        """Send one batch; answers with the webhook as it stands then, None when it is no longer ours."""
        async with self._context.engine.begin() as conn:
            batch = await next_batch(conn, held)
            if not isinstance(batch, Batch):
                await webhooks.advance(conn, held, batch, sent=False, lease=timedelta(0))
                return None
            if not await webhooks.try_batch(conn, held, batch.pending, LEASE):
                return None
        answer = await self._post(held, batch)
        if isinstance(answer, OutboundResponse) and 200 <= answer.status < 300:
            metrics.WEBHOOK_POSTS.labels("taken").inc()
            upto, goes_on = batch.pending.upto, batch.full and not self._stopping
            async with self._context.engine.begin() as conn:
                lease = LEASE if goes_on else timedelta(0)
                ours = await webhooks.advance(conn, held, upto, sent=True, lease=lease)
            return replace(held, at=upto, pending=None, failures=0, failing_since=None) if ours and goes_on else None
        await self._fail(held, answer)
        return None

    async def _post(self, held: LeasedWebhook, batch: Batch) -> OutboundResponse | str:
        """The answer, or why there is none."""
        secrets = signing.unseal(held.secrets, self._context.keyring)
        signed = signing.headers(secrets, batch.pending.message_id, batch.body, clock.now())
        headers = {"Content-Type": "application/json", **signed}
        try:
            return await self._client.post(held.url, batch.body, headers, timeout=TIMEOUT)
        except Unreachable as error:
            return error.cause
        except AddressNotAllowed as refusal:
            return refusal.detail

    async def _fail(self, held: LeasedWebhook, answer: OutboundResponse | str) -> None:
        why = answer if isinstance(answer, str) else f"it answered {answer.status}"
        metrics.WEBHOOK_POSTS.labels("unreachable" if isinstance(answer, str) else "refused").inc()
        now = clock.now()
        since, cause = held.failing_since or now, None
        wait = backoff(held.failures + 1)
        if isinstance(answer, OutboundResponse):
            wait = max(wait, retry_after(answer.headers.get("Retry-After"), now) or wait)
            if answer.status == 410:
                cause = "its receiver says that it is gone for good (410)"
        if now - since >= GIVE_UP:
            cause = f"its receiver took nothing for {GIVE_UP.total_seconds() / 3600:.0f} hours: {why}"
        async with self._context.engine.begin() as conn:
            if cause is None:
                ours = await webhooks.fail(conn, held, why, since, min(now + wait, since + GIVE_UP))
            else:
                ours = await webhooks.disable(conn, held, why, cause, since)
        if ours and cause is None:
            log.warning("webhook.failing", cause=why, failures=held.failures + 1, since=since.isoformat())
        elif ours:
            metrics.WEBHOOKS_DISABLED.inc()
            log.error("webhook.disabled", cause=cause)
