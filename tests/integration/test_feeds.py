"""Feeds: real alerts are fetched from a server on loopback, each once, with caching, by one process at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import func, update

from gateway.domain import ids
from gateway.outbound.client import OutboundClient
from gateway.outbound.policy import OutboundPolicy
from gateway.records.postgres import notifier
from gateway.records.postgres.schema import feeds
from gateway.sim import Vendor
from gateway.worker.pollers.feed_poller import FEED_TIMEOUT_S, LEASE, FeedPoller
from tests.support import alerts
from tests.support.api import Api
from tests.support.gateway_parts import TIMEOUT_S, Parts
from tests.support.worker_process import worker_process

# Feeds whose placeholder stands for their entries.
ATOM = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Alerts</title>{}</feed>"""
RSS = """<?xml version="1.0"?><rss version="2.0"><channel><title>Alerts</title>{}</channel></rss>"""


@dataclass
class FeedServer:
    """A web server that publishes `files` by path; paths in `failing` get 503. `requests` has (path, status)."""

    origin: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    requests: list[tuple[str, int]] = field(default_factory=list)
    received: asyncio.Condition = field(default_factory=asyncio.Condition)
    delay_s: float = 0.0
    concurrent: int = 0
    max_concurrent: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        await asyncio.sleep(self.delay_s)
        response = self._respond(request)
        self.concurrent -= 1
        async with self.received:
            self.requests.append((request.path, response.status))
            self.received.notify_all()
        return response

    def _respond(self, request: web.Request) -> web.Response:
        if request.path in self.failing:
            return web.Response(status=503)
        if (body := self.files.get(request.path)) is None:
            return web.Response(status=404)
        etag = f'"{hash(body)}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=body, headers={"ETag": etag, "Content-Type": "application/xml"})

    def statuses(self, path: str) -> list[int]:
        return [status for requested_path, status in self.requests if requested_path == path]

    async def wait_until(self, path: str, *statuses: int) -> None:
        """Wait until the last responses for a path have these statuses."""
        async with asyncio.timeout(TIMEOUT_S), self.received:
            await self.received.wait_for(lambda: self.statuses(path)[-len(statuses) :] == list(statuses))


@pytest.fixture
async def server() -> AsyncIterator[FeedServer]:
    """A running server of feeds and alert documents."""
    server = FeedServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def parts(parts: Parts, server: FeedServer) -> Parts:
    """A gateway that may fetch from the test's server."""
    parts.context = replace(parts.context, outbound=OutboundPolicy([server.origin]))
    return parts


@asynccontextmanager
async def run_poller(api: Api) -> AsyncIterator[None]:
    """Run the feed poller until the context ends."""
    stop = asyncio.Event()
    async with OutboundClient(api.parts.context.outbound) as client:
        task = asyncio.create_task(FeedPoller(api.parts.context, api.parts.notifier, client).run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, TIMEOUT_S)


async def create_feed(api: Api, server: FeedServer, path: str, **fields: Any) -> Any:
    """Create a feed for a path of the server."""
    return await api.call_ok("POST", "/v1/feeds", {"name": path, "url": server.origin + path, **fields})


async def refetch(api: Api, feed: Any, server: FeedServer, path: str) -> Any:
    """Make the feed due, wait until it has been fetched, and return it."""
    id_ = ids.parse(ids.FEED, feed["id"])
    count_before = len(server.requests)
    async with api.parts.engine.begin() as conn:
        await conn.execute(update(feeds).where(feeds.c.id == id_).values(run_at=func.now()))
        await notifier.notify(conn, notifier.FEEDS)
    async with asyncio.timeout(TIMEOUT_S), server.received:
        await server.received.wait_for(lambda: path in [requested for requested, _ in server.requests[count_before:]])
    return await wait_until_fetched(api, feed)


async def wait_until_fetched(api: Api, feed: Any) -> Any:
    """Wait until the feed has been fetched since `feed` was read, and return the feed."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            feed_state = await api.call_ok("GET", f"/v1/feeds/{feed['id']}")
            if (feed_state["last_ok_at"], feed_state["failures"]) != (feed["last_ok_at"], feed["failures"]):
                return feed_state
            await asyncio.sleep(0.02)


def atom_entry(name: str, updated: str = "2026-11-01T00:00:00Z") -> str:
    """Return an entry of an Atom feed that names the document `name`."""
    link = f'<link type="application/cap+xml" href="/{name}"/>'
    return f"<entry><id>{name}</id><updated>{updated}</updated><title>x</title>{link}</entry>"


async def list_identifiers(api: Api) -> list[str]:
    """Return the identifiers of all ingested alerts, sorted."""
    page = await api.call_ok("GET", "/v1/notifications?kind=alert&limit=1000")
    return sorted(notification["details"]["identifier"] for notification in page["items"])


async def test_unchanged_nws_collection_is_not_sent_again(api: Api, server: FeedServer) -> None:
    """The alerts of an NWS collection are sent once; an unchanged collection is fetched with a 304."""
    server.files["/active"] = alerts.move_to_now("nws/nws_alerts-api-phoenix.json")
    async with run_poller(api):
        feed = await create_feed(api, server, "/active")
        await server.wait_until("/active", 200)
        feed_state = await wait_until_fetched(api, feed)
        assert feed_state["counts"] == {"accepted": 2}
        assert feed_state["last_ok_at"] is not None
        feed_state = await refetch(api, feed_state, server, "/active")
    assert server.statuses("/active") == [200, 304]
    assert feed_state["counts"] == {"accepted": 2}
    assert feed_state["failures"] == 0


async def test_atom_feed_documents_are_fetched_once(api: Api, server: FeedServer) -> None:
    """Each document that an Atom feed names is fetched once per update."""
    names = ["cap/gb-metoffice-ni-ice.xml", "cap/ie-smallcraft-20250413.xml", "cap/bad-missing-scope.xml"]
    for name in names:
        server.files[f"/{name}"] = alerts.move_to_now(name)
    [subscriber] = api.parts.subscribe(Vendor.MOZILLA, 1)
    await api.call_ok("POST", "/v1/devices", {"subscription": subscriber.to_json(), "zones": ["UK113"]})
    server.files["/atom"] = ATOM.format("".join(atom_entry(name) for name in names)).encode()
    async with run_poller(api), api.parts.run_worker():
        feed = await create_feed(api, server, "/atom")
        await server.wait_until("/atom", 200)
        feed_state = await wait_until_fetched(api, feed)
        assert feed_state["counts"] == {"accepted": 2, "refused": 1}
        assert feed_state["refusals"] == [{"identifier": "12345", "detail": "scope is '': only Public alerts are sent"}]
        server.files["/atom"] += b"<!-- changed -->"
        feed_state = await refetch(api, feed_state, server, "/atom")
        assert [server.statuses(f"/{name}") for name in names] == [[200]] * 3
        changed_entry = atom_entry(names[0], "2026-11-02T00:00:00Z")
        server.files["/atom"] = ATOM.format(changed_entry).encode()
        feed_state = await refetch(api, feed_state, server, "/atom")
        assert server.statuses(f"/{names[0]}") == [200, 200]
        assert feed_state["counts"] == {"accepted": 2, "refused": 1, "repeated": 1}
        for notification in (await api.call_ok("GET", "/v1/notifications?kind=alert"))["items"]:
            id_ = ids.parse(ids.NOTIFICATION, notification["id"])
            assert id_ is not None
            await api.parts.wait_until_done(id_)
    assert len(subscriber.messages) == 1


@pytest.mark.parametrize(
    "item",
    [
        "<item><guid>1</guid><link>{url}</link></item>",
        '<item><guid>1</guid><link>https://x.example/</link><enclosure type="application/cap+xml" url="{url}"/></item>',
    ],
)
async def test_rss_feed_names_documents_by_link_or_enclosure(api: Api, server: FeedServer, item: str) -> None:
    """An RSS feed names documents by link or by enclosure."""
    server.files["/a.xml"] = alerts.move_to_now("cap/no-metno-gale-20210921.xml")
    server.files["/rss"] = RSS.format(item.format(url=server.origin + "/a.xml")).encode()
    async with run_poller(api):
        feed_state = await wait_until_fetched(api, await create_feed(api, server, "/rss"))
    assert feed_state["counts"] == {"accepted": 1}


async def test_inline_alerts_of_a_feed_are_ingested(api: Api, server: FeedServer) -> None:
    """Alerts that a feed contains are ingested without further requests."""
    server.files["/inline"] = alerts.move_to_now("wrapped/atom-earthquake-inline.xml")
    server.files["/edxl"] = alerts.move_to_now("wrapped/edxl-bushfire-valid.xml")
    async with run_poller(api):
        for path in ("/inline", "/edxl"):
            await wait_until_fetched(api, await create_feed(api, server, path))
    assert len(await list_identifiers(api)) == 8


async def test_failing_feed_is_polled_less_often(api: Api, server: FeedServer) -> None:
    """A failing feed is polled at growing intervals, and the API returns the error with the feed."""
    server.failing.add("/feed")
    async with run_poller(api):
        feed = await create_feed(api, server, "/feed", interval=60)
        await server.wait_until("/feed", 503)
        feed_state, waits = feed, []
        for failures in (1, 2):
            feed_state = (
                await wait_until_fetched(api, feed)
                if failures == 1
                else await refetch(api, feed_state, server, "/feed")
            )
            assert (feed_state["failures"], feed_state["last_error"]) == (
                failures,
                "the server responded with status 503",
            )
            id_ = ids.parse(ids.FEED, feed["id"])
            waits.append(await api.parts.scalar("SELECT extract(epoch FROM run_at - now()) FROM feeds", id=id_))
        assert 100 < waits[0] <= 132
        assert 200 < waits[1] <= 264
        server.failing.clear()
        server.files["/feed"] = alerts.move_to_now("nws/heavy-freezing-spray-arctic.json")
        feed_state = await refetch(api, feed_state, server, "/feed")
    assert (feed_state["failures"], feed_state["last_error"], feed_state["counts"]) == (0, None, {"accepted": 1})


async def test_failing_document_does_not_delay_others(api: Api, server: FeedServer) -> None:
    """When a document cannot be fetched, the other documents are ingested, and the document is fetched later."""
    names = ["cap/gb-metoffice-ni-ice.xml", "cap/ie-smallcraft-20250413.xml"]
    for name in names:
        server.files[f"/{name}"] = alerts.move_to_now(name)
    server.failing.add(f"/{names[0]}")
    server.files["/atom"] = ATOM.format("".join(atom_entry(name) for name in names)).encode()
    async with run_poller(api):
        feed = await create_feed(api, server, "/atom")
        await server.wait_until("/atom", 200)
        feed_state = await wait_until_fetched(api, feed)
        assert feed_state["counts"] == {"accepted": 1}
        assert feed_state["last_error"] == "1 of 2 documents could not be fetched: the server responded with status 503"
        server.failing.clear()
        feed_state = await refetch(api, feed_state, server, "/atom")
    assert server.statuses("/atom") == [200, 200]  # no ETag is sent, because not all documents were fetched
    assert feed_state["counts"] == {"accepted": 2}
    assert server.statuses(f"/{names[1]}") == [200]


async def test_feed_is_fetched_by_one_process_at_a_time(api: Api, server: FeedServer) -> None:
    """While a process fetches a feed, another process does not fetch it."""
    server.files["/active"] = alerts.move_to_now("nws/nws_alerts-api-phoenix.json")
    server.delay_s = 0.3
    async with run_poller(api), run_poller(api), run_poller(api):
        feed = await create_feed(api, server, "/active")
        await server.wait_until("/active", 200)
        await wait_until_fetched(api, feed)
    assert server.requests == [("/active", 200)]
    assert server.max_concurrent == 1


async def test_killed_worker_loses_no_alert(api: Api, server: FeedServer, tmp_path: Path) -> None:
    """After a worker is killed in the middle of a feed, no alert is missing."""
    names = [
        f"cap/{name}"
        for name in ("gb-metoffice-ni-ice.xml", "ie-smallcraft-20250413.xml", "kz-kazhydromet-20250306.xml")
    ]
    for name in names:
        server.files[f"/{name}"] = alerts.move_to_now(name)
    server.files["/atom"] = ATOM.format("".join(atom_entry(name) for name in names)).encode()
    server.delay_s = 0.5
    feed = await create_feed(api, server, "/atom")
    async with worker_process(api.parts, tmp_path, outbound_hosts=server.origin) as worker:
        await server.wait_until("/atom", 200)
        await worker.kill()
    assert (await api.call_ok("GET", f"/v1/feeds/{feed['id']}"))["last_ok_at"] is None
    server.delay_s = 0.0
    async with run_poller(api):
        feed_state = await refetch(api, feed, server, "/atom")
    assert sum(feed_state["counts"].values()) >= 3
    assert len(await list_identifiers(api)) == 3


@pytest.mark.parametrize("body", [b"", b"<html><body>Sorry</body></html>", b"{}", b"[1]", b"<!DOCTYPE a><a/>"])
async def test_invalid_feed_is_reported_and_retried(api: Api, server: FeedServer, body: bytes) -> None:
    """A document that is not a feed is reported as a failure and polled again."""
    server.files["/feed"] = body
    async with run_poller(api):
        feed = await create_feed(api, server, "/feed")
        await server.wait_until("/feed", 200)
        feed_state = await wait_until_fetched(api, feed)
    assert feed_state["failures"] == 1
    assert feed_state["last_error"]


async def test_feed_of_an_internal_address_is_refused(api: Api) -> None:
    """A feed whose URL leads to a private or local address is refused."""
    for url in ("http://127.0.0.1:1/x", "https://10.0.0.1/x", "https://localhost/x", "file:///etc/passwd"):
        response = await api.call("POST", "/v1/feeds", {"name": "f", "url": url})
        assert (response.status, response.body["code"]) == (422, "address_not_allowed")


async def test_feed_is_restricted_changed_paused_and_removed(api: Api, server: FeedServer) -> None:
    """A feed can be restricted to an audience, changed, paused and removed."""
    server.files["/active"] = alerts.move_to_now("nws/heavy-freezing-spray-arctic.json")
    async with run_poller(api):
        feed = await create_feed(api, server, "/active", audience={"topic": "sea"}, interval=3600)
        await server.wait_until("/active", 200)
        feed = await wait_until_fetched(api, feed)
        [notification] = (await api.call_ok("GET", "/v1/notifications?kind=alert"))["items"]
        assert {"topic": "sea"} in notification["audience"]["all"]
        paused = await api.call_ok("PATCH", f"/v1/feeds/{feed['id']}", {"status": "paused", "audience": None})
        assert (paused["next_at"], paused["audience"]) == (None, None)
        await api.call_ok("PATCH", f"/v1/feeds/{feed['id']}", {"status": "active"})
        await server.wait_until("/active", 200, 200)
        await wait_until_fetched(api, feed)
        assert (await api.call("DELETE", f"/v1/feeds/{feed['id']}")).status == 204
        assert (await api.call("GET", f"/v1/feeds/{feed['id']}")).status == 404


def test_lease_is_longer_than_the_longest_fetch() -> None:
    """The lease of a feed is longer than its longest fetch."""
    assert timedelta(seconds=FEED_TIMEOUT_S) < LEASE
