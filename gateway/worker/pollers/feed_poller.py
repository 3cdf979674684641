"""Fetch the feeds that alerts come from, beside everything else a worker does.

A feed is fetched by one process at a time, politely: it is asked whether anything is new, at times that drift apart,
and ever more rarely while it fails. An entry counts as read in the transaction that takes its alerts, and an alert
that comes twice is one: whoever dies in the middle leaves nothing out.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.alerting import cap, feeds
from gateway.alerting.feeds import Entry, Feed
from gateway.alerting.text import RefusedAlert
from gateway.domain import clock, ids
from gateway.domain.alert import AlertMessage
from gateway.domain.errors import AddressNotAllowed, MalformedBody
from gateway.outbound.client import OutboundClient, OutboundResponse, Unreachable
from gateway.push.responses import retry_after
from gateway.records import feeds as records
from gateway.records.feeds import LeasedFeed
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.service.alerts.documents import REFUSED, ingest_all
from gateway.service.alerts.ingestion import IngestOptions
from gateway.service.context import Context

PLACES = 8
AT_ONCE = 4
"""Documents of one feed that are fetched at the same time."""
MAX_OCTETS = 16 << 20
TIMEOUT = timedelta(seconds=20)
PATIENCE_S = 90.0
"""For one feed with all that it names; what is left comes with the next look."""
LEASE = timedelta(seconds=120)
MAX_WAIT = timedelta(hours=1)
POLL_S = 15.0
DATABASE_PAUSE_S = 1.0

log = structlog.get_logger(__name__)


class _Failed(Exception):
    """Why a feed or one of its documents could not be read."""

    def __init__(self, cause: str, wait: timedelta | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.wait = wait


class FeedPoller:
    """One for a process. `client` is open for as long as it runs."""

    def __init__(self, context: Context, bell: notifier.Notifier, client: OutboundClient) -> None:
        self._context = context
        self._bell = bell
        self._client = client

    async def run(self, stop: asyncio.Event) -> None:
        """Fetch until `stop`. What is under way is dropped then, and fetched again by whoever comes next."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look())
            await stop.wait()
            looking.cancel()

    async def _look(self) -> None:
        free = asyncio.Semaphore(PLACES)
        async with asyncio.TaskGroup() as group:
            with self._bell.subscribe(notifier.FEEDS) as waiter:
                while True:
                    await free.acquire()
                    try:
                        async with self._context.engine.begin() as conn:
                            held = await records.claim(conn, LEASE)
                            due = None if held else await records.next_due(conn)
                    except DATABASE_ERRORS as error:
                        log.warning("feeds.database_unavailable", error=type(error).__name__)
                        held, due = None, DATABASE_PAUSE_S
                    if held is None:
                        free.release()
                        await waiter.wait(POLL_S if due is None else min(POLL_S, due))
                    else:
                        group.create_task(self._serve(held)).add_done_callback(lambda _: free.release())

    async def _serve(self, held: LeasedFeed) -> None:
        with structlog.contextvars.bound_contextvars(
            feed_id=ids.format_id(ids.FEED, held.id), application_id=ids.format_id(ids.APPLICATION, held.application_id)
        ):
            try:
                await self._poll(held)
            except DATABASE_ERRORS as error:
                log.warning("feed.database_unavailable", error=type(error).__name__)
            except Exception:
                # A fault of ours with one feed must not end the polling of all; its lease brings it back.
                log.exception("feed.failed")

    async def _poll(self, held: LeasedFeed) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                said, read = await self._fetch(held)
        except TimeoutError:
            return await self._fail(held, _Failed("it and what it names take too long to fetch"))
        except _Failed as failure:
            return await self._fail(held, failure)
        async with self._context.engine.begin() as conn:
            await records.settle(conn, held, _apart(held.interval), failures=0, last_error=None, **said)
        if read.total():
            log.info("feed.read", **read)
        return None

    async def _fetch(self, held: LeasedFeed) -> tuple[dict[str, object], Counter[str]]:
        """(what to remember of the answer, what the alerts came to). Raises _Failed."""
        asked = {"Accept": "application/cap+xml, application/geo+json, application/atom+xml, application/xml;q=0.8"}
        if held.etag is not None:
            asked["If-None-Match"] = held.etag
        if held.last_modified is not None:
            asked["If-Modified-Since"] = held.last_modified
        answer = await self._get(held.url, asked)
        now: dict[str, object] = {"last_ok_at": clock.now()}
        digest = hashlib.sha256(answer.body).digest()
        if answer.status == 304 or digest == held.digest:
            return now, Counter()
        try:
            feed = await asyncio.to_thread(feeds.read, answer.body, answer.url)
        except MalformedBody as error:
            raise _Failed(error.detail) from None
        read = await self._read(held, feed)
        named = {"etag": answer.headers.get("ETag"), "last_modified": answer.headers.get("Last-Modified")}
        return now | named | {"digest": digest}, read

    async def _read(self, held: LeasedFeed, feed: Feed) -> Counter[str]:
        """Raises _Failed when a document could not be fetched, after all others were taken."""
        async with self._context.engine.begin() as conn:
            unread = await records.unread(conn, held.id, [entry.key for entry in feed.entries])
        came_to: Counter[str] = Counter()
        for alert in feed.alerts:  # each by itself, so that the first is on its way before the last is read
            async with self._context.engine.begin() as conn:
                came_to += await self._take(conn, held, [alert])
        wanted = [entry for entry in feed.entries if entry.key in unread]
        places, failed = asyncio.Semaphore(AT_ONCE), []

        async def document(entry: Entry) -> None:
            async with places:
                try:
                    came_to.update(await self._document(held, entry))
                except _Failed as failure:
                    failed.append(failure)

        async with asyncio.TaskGroup() as group:
            for entry in wanted:
                group.create_task(document(entry))
        if failed:
            raise _Failed(f"{len(failed)} of {len(wanted)} documents could not be fetched: {failed[0].cause}")
        return came_to

    async def _document(self, held: LeasedFeed, entry: Entry) -> Counter[str]:
        answer = await self._get(entry.url, {"Accept": "application/cap+xml, application/xml;q=0.8"})
        found: Sequence[AlertMessage | RefusedAlert]
        try:
            found = await asyncio.to_thread(cap.read, answer.body)
        except MalformedBody as error:
            found = [RefusedAlert(entry.url[:200], (error.detail,))]
        async with self._context.engine.begin() as conn:
            await records.mark_read(conn, held.id, entry.key)
            return await self._take(conn, held, found)

    async def _take(
        self, conn: AsyncConnection, held: LeasedFeed, found: Sequence[AlertMessage | RefusedAlert]
    ) -> Counter[str]:
        door = IngestOptions(held.audience, held.category)
        items = await ingest_all(conn, self._context, held.application_id, found, door)
        refused = [item for item in items if item["outcome"] == REFUSED]
        for item in refused:
            log.info("feed.alert_refused", identifier=item["identifier"], detail=item["detail"])
        came_to = Counter(str(item["outcome"]) for item in items)
        if items:
            told = [{"identifier": item["identifier"], "detail": item["detail"]} for item in refused]
            await records.count(conn, held.id, came_to, told)
        return came_to

    async def _get(self, url: str, headers: dict[str, str]) -> OutboundResponse:
        """An answer of 200 or 304. Raises _Failed."""
        try:
            answer = await self._client.get(url, headers, largest=MAX_OCTETS, timeout=TIMEOUT)
        except Unreachable as error:
            raise _Failed(error.cause) from None
        except AddressNotAllowed as refusal:
            raise _Failed(refusal.detail) from None
        if answer.status not in (200, 304):
            wait = retry_after(answer.headers.get("Retry-After"), clock.now())
            raise _Failed(f"it answered {answer.status}", wait)
        return answer

    async def _fail(self, held: LeasedFeed, failure: _Failed) -> None:
        wait = _apart(min(held.interval * 2.0 ** min(held.failures + 1, 12), MAX_WAIT))
        wait = max(wait, min(failure.wait or wait, MAX_WAIT))
        async with self._context.engine.begin() as conn:
            values = {"failures": held.failures + 1, "last_error": failure.cause}
            ours = await records.settle(conn, held, wait, **values)
        if ours:
            log.warning("feed.failing", cause=failure.cause, failures=held.failures + 1)


def _apart(interval: timedelta) -> timedelta:
    """Feeds that began together drift apart."""
    return interval * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
