"""Feeds: real alerts fetched from a server on loopback, told once, politely asked for, by one process at a time."""

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

ATOM = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Alerts</title>{}</feed>"""
RSS = """<?xml version="1.0"?><rss version="2.0"><channel><title>Alerts</title>{}</channel></rss>"""


@dataclass
class Office:
    """A weather office's web server. `gone`: what is answered 503 for as long as it is in there."""

    origin: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    asked: list[tuple[str, int]] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)
    slow_s: float = 0.0
    at_once: int = 0
    most_at_once: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.slow_s)
        answer = self._answer(request)
        self.at_once -= 1
        async with self.came:
            self.asked.append((request.path, answer.status))
            self.came.notify_all()
        return answer

    def _answer(self, request: web.Request) -> web.Response:
        if request.path in self.gone:
            return web.Response(status=503)
        if (body := self.files.get(request.path)) is None:
            return web.Response(status=404)
        etag = f'"{hash(body)}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=body, headers={"ETag": etag, "Content-Type": "application/xml"})

    def statuses(self, path: str) -> list[int]:
        return [status for asked, status in self.asked if asked == path]

    async def until(self, path: str, *statuses: int) -> None:
        async with asyncio.timeout(TIMEOUT_S), self.came:
            await self.came.wait_for(lambda: self.statuses(path)[-len(statuses) :] == list(statuses))


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    office = Office()
    app = web.Application()
    app.router.add_get("/{path:.*}", office.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    office.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield office
    await runner.cleanup()


@pytest.fixture
async def parts(parts: Parts, office: Office) -> Parts:
    """The gateway, allowed to fetch from the test's weather office."""
    parts.context = replace(parts.context, outbound=OutboundPolicy([office.origin]))
    return parts


@asynccontextmanager
async def polling(api: Api) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with OutboundClient(api.parts.context.outbound) as client:
        task = asyncio.create_task(FeedPoller(api.parts.context, api.parts.notifier, client).run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, TIMEOUT_S)


async def added(api: Api, office: Office, path: str, **said: Any) -> Any:
    return await api.call_ok("POST", "/v1/feeds", {"name": path, "url": office.origin + path, **said})


async def again(api: Api, feed: Any, office: Office, path: str, *statuses: int) -> Any:
    """Have it fetched now instead of when it is due; the feed after that."""
    id_ = ids.parse(ids.FEED, feed["id"])
    seen = len(office.asked)
    async with api.parts.engine.begin() as conn:
        await conn.execute(update(feeds).where(feeds.c.id == id_).values(run_at=func.now()))
        await notifier.notify(conn, notifier.FEEDS)
    async with asyncio.timeout(TIMEOUT_S), office.came:
        await office.came.wait_for(lambda: path in [asked for asked, _ in office.asked[seen:]])
    return await settled(api, feed)


async def settled(api: Api, feed: Any) -> Any:
    """The feed once it has been fetched again, well or badly, since it was shown as that."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            shown = await api.call_ok("GET", f"/v1/feeds/{feed['id']}")
            if (shown["last_ok_at"], shown["failures"]) != (feed["last_ok_at"], feed["failures"]):
                return shown
            await asyncio.sleep(0.02)


def entry(office: Office, name: str, updated: str = "2026-11-01T00:00:00Z") -> str:
    link = f'<link type="application/cap+xml" href="/{name}"/>'
    return f"<entry><id>{name}</id><updated>{updated}</updated><title>x</title>{link}</entry>"


async def told(api: Api) -> list[str]:
    listed = await api.call_ok("GET", "/v1/notifications?kind=alert&limit=1000")
    return sorted(one["details"]["identifier"] for one in listed["items"])


async def test_unchanged_nws_collection_is_not_sent_again(api: Api, office: Office) -> None:
    """The alerts of an NWS collection are sent once; an unchanged one is answered 304."""
    office.files["/active"] = alerts.move_to_now("nws/nws_alerts-api-phoenix.json")
    async with polling(api):
        feed = await added(api, office, "/active")
        await office.until("/active", 200)
        shown = await settled(api, feed)
        assert shown["counts"] == {"accepted": 2}
        assert shown["last_ok_at"] is not None
        shown = await again(api, shown, office, "/active")
    assert office.statuses("/active") == [200, 304]
    assert shown["counts"] == {"accepted": 2}
    assert shown["failures"] == 0


async def test_atom_feed_documents_are_fetched_once(api: Api, office: Office) -> None:
    """Each document that an Atom feed names is fetched once per update."""
    names = ["cap/gb-metoffice-ni-ice.xml", "cap/ie-smallcraft-20250413.xml", "cap/bad-missing-scope.xml"]
    for name in names:
        office.files[f"/{name}"] = alerts.move_to_now(name)
    [farmer] = api.parts.subscribe(Vendor.MOZILLA, 1)
    await api.call_ok("POST", "/v1/devices", {"subscription": farmer.to_json(), "zones": ["UK113"]})
    office.files["/atom"] = ATOM.format("".join(entry(office, name) for name in names)).encode()
    async with polling(api), api.parts.run_worker():
        feed = await added(api, office, "/atom")
        await office.until("/atom", 200)
        shown = await settled(api, feed)
        assert shown["counts"] == {"accepted": 2, "refused": 1}
        assert shown["refusals"] == [{"identifier": "12345", "detail": "scope is '': only Public alerts are sent"}]
        office.files["/atom"] += b"<!-- changed -->"
        shown = await again(api, shown, office, "/atom")
        assert [office.statuses(f"/{name}") for name in names] == [[200]] * 3
        changed = entry(office, names[0], "2026-11-02T00:00:00Z")
        office.files["/atom"] = ATOM.format(changed).encode()
        shown = await again(api, shown, office, "/atom")
        assert office.statuses(f"/{names[0]}") == [200, 200]
        assert shown["counts"] == {"accepted": 2, "refused": 1, "repeated": 1}
        for notification in (await api.call_ok("GET", "/v1/notifications?kind=alert"))["items"]:
            parsed = ids.parse(ids.NOTIFICATION, notification["id"])
            assert parsed is not None
            await api.parts.wait_until_done(parsed)
    assert len(farmer.messages) == 1


@pytest.mark.parametrize(
    "item",
    [
        "<item><guid>1</guid><link>{url}</link></item>",
        '<item><guid>1</guid><link>https://x.example/</link><enclosure type="application/cap+xml" url="{url}"/></item>',
    ],
)
async def test_rss_feed_names_documents_by_link_or_enclosure(api: Api, office: Office, item: str) -> None:
    """An RSS feed names documents by link or by enclosure."""
    office.files["/a.xml"] = alerts.move_to_now("cap/no-metno-gale-20210921.xml")
    office.files["/rss"] = RSS.format(item.format(url=office.origin + "/a.xml")).encode()
    async with polling(api):
        shown = await settled(api, await added(api, office, "/rss"))
    assert shown["counts"] == {"accepted": 1}


async def test_inline_alerts_of_a_feed_are_ingested(api: Api, office: Office) -> None:
    """Alerts that a feed contains are ingested without further requests."""
    office.files["/inline"] = alerts.move_to_now("wrapped/atom-earthquake-inline.xml")
    office.files["/edxl"] = alerts.move_to_now("wrapped/edxl-bushfire-valid.xml")
    async with polling(api):
        for path in ("/inline", "/edxl"):
            await settled(api, await added(api, office, path))
    assert len(await told(api)) == 8


async def test_failing_feed_is_polled_less_often(api: Api, office: Office) -> None:
    """A failing feed is polled with growing pauses and shows the error."""
    office.gone.add("/feed")
    async with polling(api):
        feed = await added(api, office, "/feed", interval=60)
        await office.until("/feed", 503)
        shown, waits = feed, []
        for failures in (1, 2):
            shown = await settled(api, feed) if failures == 1 else await again(api, shown, office, "/feed")
            assert (shown["failures"], shown["last_error"]) == (failures, "the server responded with status 503")
            id_ = ids.parse(ids.FEED, feed["id"])
            waits.append(await api.parts.scalar("SELECT extract(epoch FROM run_at - now()) FROM feeds", id=id_))
        assert 100 < waits[0] <= 132
        assert 200 < waits[1] <= 264
        office.gone.clear()
        office.files["/feed"] = alerts.move_to_now("nws/heavy-freezing-spray-arctic.json")
        shown = await again(api, shown, office, "/feed")
    assert (shown["failures"], shown["last_error"], shown["counts"]) == (0, None, {"accepted": 1})


async def test_failing_document_does_not_delay_others(api: Api, office: Office) -> None:
    """A document that cannot be fetched delays no other and is fetched later."""
    names = ["cap/gb-metoffice-ni-ice.xml", "cap/ie-smallcraft-20250413.xml"]
    for name in names:
        office.files[f"/{name}"] = alerts.move_to_now(name)
    office.gone.add(f"/{names[0]}")
    office.files["/atom"] = ATOM.format("".join(entry(office, name) for name in names)).encode()
    async with polling(api):
        feed = await added(api, office, "/atom")
        await office.until("/atom", 200)
        shown = await settled(api, feed)
        assert shown["counts"] == {"accepted": 1}
        assert shown["last_error"] == "1 of 2 documents could not be fetched: the server responded with status 503"
        office.gone.clear()
        shown = await again(api, shown, office, "/atom")
    assert office.statuses("/atom") == [200, 200]  # without an ETag, since it was not read whole
    assert shown["counts"] == {"accepted": 2}
    assert office.statuses(f"/{names[1]}") == [200]


async def test_feed_is_fetched_by_one_process_at_a_time(api: Api, office: Office) -> None:
    """Only one process fetches a feed at a time."""
    office.files["/active"] = alerts.move_to_now("nws/nws_alerts-api-phoenix.json")
    office.slow_s = 0.3
    async with polling(api), polling(api), polling(api):
        feed = await added(api, office, "/active")
        await office.until("/active", 200)
        await settled(api, feed)
    assert office.asked == [("/active", 200)]
    assert office.most_at_once == 1


async def test_killed_worker_loses_no_alert(api: Api, office: Office, tmp_path: Path) -> None:
    """After a worker is killed in the middle of a feed, no alert is missing."""
    names = [
        f"cap/{name}"
        for name in ("gb-metoffice-ni-ice.xml", "ie-smallcraft-20250413.xml", "kz-kazhydromet-20250306.xml")
    ]
    for name in names:
        office.files[f"/{name}"] = alerts.move_to_now(name)
    office.files["/atom"] = ATOM.format("".join(entry(office, name) for name in names)).encode()
    office.slow_s = 0.5
    feed = await added(api, office, "/atom")
    async with worker_process(api.parts, tmp_path, outbound_hosts=office.origin) as worker:
        await office.until("/atom", 200)
        await worker.kill()
    assert (await api.call_ok("GET", f"/v1/feeds/{feed['id']}"))["last_ok_at"] is None
    office.slow_s = 0.0
    async with polling(api):
        shown = await again(api, feed, office, "/atom")
    assert sum(shown["counts"].values()) >= 3
    assert len(await told(api)) == 3


@pytest.mark.parametrize("body", [b"", b"<html><body>Sorry</body></html>", b"{}", b"[1]", b"<!DOCTYPE a><a/>"])
async def test_invalid_feed_is_reported_and_retried(api: Api, office: Office, body: bytes) -> None:
    """A document that is not a feed is reported as a failure and polled again."""
    office.files["/feed"] = body
    async with polling(api):
        feed = await added(api, office, "/feed")
        await office.until("/feed", 200)
        shown = await settled(api, feed)
    assert shown["failures"] == 1
    assert shown["last_error"]


async def test_feed_of_an_internal_address_is_refused(api: Api) -> None:
    """A feed may not have an address in the operator's network."""
    for url in ("http://127.0.0.1:1/x", "https://10.0.0.1/x", "https://localhost/x", "file:///etc/passwd"):
        said = await api.call("POST", "/v1/feeds", {"name": "f", "url": url})
        assert (said.status, said.body["code"]) == (422, "address_not_allowed")


async def test_feed_is_restricted_changed_paused_and_removed(api: Api, office: Office) -> None:
    """A feed can be restricted to an audience, changed, paused and removed."""
    office.files["/active"] = alerts.move_to_now("nws/heavy-freezing-spray-arctic.json")
    async with polling(api):
        feed = await added(api, office, "/active", audience={"topic": "sea"}, interval=3600)
        await office.until("/active", 200)
        feed = await settled(api, feed)
        [notification] = (await api.call_ok("GET", "/v1/notifications?kind=alert"))["items"]
        assert {"topic": "sea"} in notification["audience"]["all"]
        paused = await api.call_ok("PATCH", f"/v1/feeds/{feed['id']}", {"status": "paused", "audience": None})
        assert (paused["next_at"], paused["audience"]) == (None, None)
        await api.call_ok("PATCH", f"/v1/feeds/{feed['id']}", {"status": "active"})
        await office.until("/active", 200, 200)
        await settled(api, feed)
        assert (await api.call("DELETE", f"/v1/feeds/{feed['id']}")).status == 204
        assert (await api.call("GET", f"/v1/feeds/{feed['id']}")).status == 404


def test_lease_is_longer_than_the_longest_fetch() -> None:
    """The lease of a feed is longer than its longest fetch."""
    assert timedelta(seconds=FEED_TIMEOUT_S) < LEASE
