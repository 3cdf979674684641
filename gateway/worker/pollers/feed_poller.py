"""Poll alert feeds.

One process at a time fetches a feed. It sends conditional requests, at intervals with jitter, and less often while the
feed fails. An entry of the feed is marked as read in the transaction that ingests its alerts, and an alert that arrives
twice is ingested once. So no alert is lost if the process crashes.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import structlog

from gateway.alerting import cap, feeds
from gateway.alerting.feeds import Entry, Feed
from gateway.alerting.text import RefusedAlert
from gateway.domain import clock, ids
from gateway.domain.alert import AlertMessage
from gateway.domain.errors import AddressNotAllowed, GatewayError, MalformedBody, RateLimited, WorkLimitExceeded
from gateway.outbound.client import OutboundClient, OutboundError, OutboundResponse
from gateway.push.responses import retry_after
from gateway.records import feeds as feed_records
from gateway.records.feeds import LeasedFeed
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import Connection
from gateway.service.alerts.documents import REFUSED, ingest_all, parse
from gateway.service.alerts.ingestion import IngestOptions
from gateway.service.context import Context
from gateway.worker.pollers.leased_poll import LeasedPoll

# Maximum number of feeds that one process fetches at once.
MAX_CONCURRENT_FEEDS = 8
# Maximum number of documents of one feed that are fetched at once.
MAX_CONCURRENT_DOCUMENTS = 4
# Maximum size of a feed or document.
MAX_OCTETS = 16 << 20
# Time limit of one request for a feed or a document.
REQUEST_TIMEOUT = timedelta(seconds=20)
# Timeout for a feed with all its documents. The next poll fetches the documents that remain.
FEED_TIMEOUT_S = 90.0
# Duration of the lease of a feed. It is longer than FEED_TIMEOUT_S.
LEASE = timedelta(seconds=120)
# Maximum time between two polls of a failing feed.
MAX_BACKOFF = timedelta(hours=1)
# The Accept headers of requests for feeds and for documents.
FEED_TYPES = "application/cap+xml, application/geo+json, application/atom+xml, application/xml;q=0.8"
DOCUMENT_TYPES = "application/cap+xml, application/xml;q=0.8"

log = structlog.get_logger(__name__)


class _FetchFailed(Exception):
    """A feed or one of its documents could not be read. `wait` is the Retry-After of the server, if it has sent one."""

    def __init__(self, cause: str, wait: timedelta | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.wait = wait


class FeedPoller:
    """Polls all feeds. A process has one poller; any number of processes can run."""

    def __init__(self, context: Context, notifier: notifier.Notifier, client: OutboundClient) -> None:
        """Create a poller. `client` must be open, and stay open while `run` runs."""
        self._context = context
        self._notifier = notifier
        self._client = client

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until `stop` is set. Fetches in progress are then cancelled, and repeated by another process."""
        poll = LeasedPoll(
            name="feed",
            engine=self._context.engine,
            claim=lambda conn: feed_records.claim(conn, LEASE),
            next_due=feed_records.next_due,
            process=self._poll,
            log_context=lambda feed: {
                "feed_id": ids.format_id(ids.FEED, feed.id),
                "application_id": ids.format_id(ids.APPLICATION, feed.application_id),
            },
            max_concurrent=MAX_CONCURRENT_FEEDS,
        )
        await poll.run(stop, self._notifier.subscribe(notifier.FEEDS))

    async def _poll(self, feed: LeasedFeed) -> None:
        """Fetch a feed, ingest its alerts, and record the success or failure of the poll."""
        try:
            async with asyncio.timeout(FEED_TIMEOUT_S):
                values, outcomes = await self._fetch(feed)
        except TimeoutError:
            return await self._record_failure(feed, _FetchFailed("fetching the feed and its documents takes too long"))
        except _FetchFailed as failure:
            return await self._record_failure(feed, failure)
        async with self._context.engine.begin() as conn:
            await feed_records.settle(conn, feed, _with_jitter(feed.interval), failures=0, last_error=None, **values)
        if outcomes.total():
            log.info("feed.read", **outcomes)
        return None

    async def _fetch(self, feed: LeasedFeed) -> tuple[dict[str, object], Counter[str]]:
        """Fetch a feed and ingest its alerts.

        Returns:
            The values to store with the feed, and the number of alerts by outcome.

        Raises:
            _FetchFailed: the feed or a document could not be read.
        """
        headers = {"Accept": FEED_TYPES}
        if feed.etag is not None:
            headers["If-None-Match"] = feed.etag
        if feed.last_modified is not None:
            headers["If-Modified-Since"] = feed.last_modified
        response = await self._get(feed.url, headers)
        values: dict[str, object] = {"last_ok_at": clock.now()}
        digest = hashlib.sha256(response.body).digest()
        if response.status == 304 or digest == feed.digest:
            return values, Counter()
        try:
            content = await parse(self._context, feed.application_id, feeds.read, response.body, response.url)
        except (MalformedBody, WorkLimitExceeded, RateLimited) as error:
            raise _FetchFailed(error.detail) from None
        outcomes = await self._ingest_feed(feed, content)
        validators = {"etag": response.headers.get("ETag"), "last_modified": response.headers.get("Last-Modified")}
        return values | validators | {"digest": digest}, outcomes

    async def _ingest_feed(self, feed: LeasedFeed, content: Feed) -> Counter[str]:
        """Ingest the alerts in a feed and in the documents that it links to.

        Raises:
            _FetchFailed: a document could not be fetched; all others have been ingested.
        """
        async with self._context.engine.begin() as conn:
            unread = await feed_records.filter_unread(conn, feed.id, [entry.key for entry in content.entries])
        outcomes: Counter[str] = Counter()
        for alert in content.alerts:  # one transaction each, so that the first alert need not wait for the last one
            async with self._context.engine.begin() as conn:
                outcomes += await self._ingest(conn, feed, [alert])
        entries = [entry for entry in content.entries if entry.key in unread]
        slots = asyncio.Semaphore(MAX_CONCURRENT_DOCUMENTS)
        failures: list[_FetchFailed] = []

        async def ingest_document(entry: Entry) -> None:
            async with slots:
                try:
                    outcomes.update(await self._ingest_document(feed, entry))
                except _FetchFailed as failure:
                    failures.append(failure)

        async with asyncio.TaskGroup() as group:
            for entry in entries:
                group.create_task(ingest_document(entry))
        if failures:
            cause = f"{len(failures)} of {len(entries)} documents could not be fetched: {failures[0].cause}"
            raise _FetchFailed(cause)
        return outcomes

    async def _ingest_document(self, feed: LeasedFeed, entry: Entry) -> Counter[str]:
        """Fetch a document of a feed and ingest its alerts; return the number of alerts by outcome."""
        response = await self._get(entry.url, {"Accept": DOCUMENT_TYPES})
        messages: Sequence[AlertMessage | RefusedAlert]
        try:
            messages = await parse(self._context, feed.application_id, cap.read, response.body)
        except RateLimited as error:
            raise _FetchFailed(error.detail) from None
        except (MalformedBody, WorkLimitExceeded) as error:
            messages = [RefusedAlert(entry.url[:200], (error.detail,))]
        async with self._context.engine.begin() as conn:
            await feed_records.mark_read(conn, feed.id, entry.key)
            return await self._ingest(conn, feed, messages)

    async def _ingest(
        self, conn: Connection, feed: LeasedFeed, messages: Sequence[AlertMessage | RefusedAlert]
    ) -> Counter[str]:
        """Ingest alerts, add them to the counts of the feed, and return the number of alerts by outcome.

        Raises:
            _FetchFailed: an alert could not be ingested, for a reason other than its content.
        """
        options = IngestOptions(feed.audience, feed.category)
        try:
            items = await ingest_all(conn, self._context, feed.application_id, messages, options)
        except GatewayError as error:  # the alert itself is valid, so the next poll ingests it again
            raise _FetchFailed(f"an alert could not be ingested: {error.detail}") from None
        refused = [item for item in items if item["outcome"] == REFUSED]
        for item in refused:
            log.info("feed.alert_refused", identifier=item["identifier"], detail=item["detail"])
        outcomes = Counter(str(item["outcome"]) for item in items)
        if items:
            refusals = [{"identifier": item["identifier"], "detail": item["detail"]} for item in refused]
            await feed_records.add_counts(conn, feed.id, outcomes, refusals)
        return outcomes

    async def _get(self, url: str, headers: dict[str, str]) -> OutboundResponse:
        """Return a response with status 200 or 304; raises _FetchFailed for any other."""
        try:
            response = await self._client.get(url, headers, max_octets=MAX_OCTETS, timeout=REQUEST_TIMEOUT)
        except OutboundError as error:
            raise _FetchFailed(error.cause) from None
        except AddressNotAllowed as error:
            raise _FetchFailed(error.detail) from None
        if response.status not in (200, 304):
            wait = retry_after(response.headers.get("Retry-After"), clock.now())
            raise _FetchFailed(f"the server responded with status {response.status}", wait)
        return response

    async def _record_failure(self, feed: LeasedFeed, failure: _FetchFailed) -> None:
        """Schedule the next poll with exponential back-off, or later if the server has sent Retry-After."""
        failures = feed.failures + 1
        wait = _with_jitter(min(feed.interval * 2.0 ** min(failures, 12), MAX_BACKOFF))
        wait = max(wait, min(failure.wait or wait, MAX_BACKOFF))
        async with self._context.engine.begin() as conn:
            has_lease = await feed_records.settle(conn, feed, wait, failures=failures, last_error=failure.cause)
        if has_lease:
            log.warning("feed.failing", cause=failure.cause, failures=failures)


def _with_jitter(interval: timedelta) -> timedelta:
    """Vary an interval at random, so that feeds that were created together are not always polled together."""
    return interval * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
