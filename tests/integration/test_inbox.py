"""The inbox: rendered content, pages, read marks, long polls and limits."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from gateway.domain import ids
from gateway.domain.errors import RateLimited
from gateway.sim import Rule
from gateway.web.http.rate_limits import TokenBuckets
from tests.support.api import Api, serve_api
from tests.support.gateway_parts import APP_ORIGIN


async def register_device(api: Api, **details: Any) -> tuple[str, str]:
    """Register a device, and return (path of its inbox, device token)."""
    registered = await api.register(**details)
    return f"/v1/devices/{registered['id']}/inbox", registered["device_token"]


async def send(api: Api, title: str = "Hi", **fields: Any) -> Any:
    """Send a notification with a worker, and return it."""
    request = {"content": {"title": title, "url": "/x"}, "audience": {"everyone": True}, **fields}
    notification = await api.call_ok("POST", "/v1/notifications", request)
    id_ = await api.parts.scalar("SELECT id FROM notifications ORDER BY id DESC LIMIT 1")
    async with api.parts.run_worker():
        await api.parts.wait_until_done(id_)
    return notification


def device_id_of(inbox: str) -> UUID:
    """Return the device's id in the path of its inbox."""
    device_id = ids.parse(ids.DEVICE, inbox.split("/")[3])
    assert device_id is not None
    return device_id


def titles(page: Any) -> list[str]:
    """Return the titles of the items of an inbox page, in order."""
    return [item["content"]["title"] for item in page["items"]]


async def test_inbox_has_content_as_the_device_got_it(api: Api) -> None:
    """The items of the inbox have the content that was rendered for the device, in its language."""
    inbox, token = await register_device(api, user_id="u-1", attributes={"name": "Ada"}, client={"locale": "de-AT"})
    content = {"title": "Hi {{ user.attributes.name }}", "locales": {"de": {"body": "Servus"}}, "url": "/x"}
    notification = await send(api, content=content)
    page = await api.call_ok("GET", inbox, key=token)
    [item] = page["items"]
    assert (item["notification_id"], item["kind"], item["read_at"]) == (notification["id"], "direct", None)
    assert (item["content"]["title"], item["content"]["body"]) == ("Hi Ada", "Servus")
    assert item["content"]["url"] == f"{APP_ORIGIN}/x"
    assert (page["unread"], page["position"]) == (1, item["position"])
    assert page == await api.call_ok("GET", inbox)  # the secret key may read the inbox as well


async def test_inbox_of_another_device_is_not_found(api: Api) -> None:
    """Neither the token of another device nor a publishable key can read an inbox."""
    inbox, _ = await register_device(api)
    _, other = await register_device(api)
    assert (await api.call("GET", inbox, key=other)).status == 404
    assert (await api.call("GET", inbox, key=api.publishable, origin=APP_ORIGIN)).status == 403


async def test_failed_sends_are_listed_but_cancelled_ones_not(api: Api) -> None:
    """Failed deliveries are in the inbox; cancelled ones are not."""
    inbox, token = await register_device(api)
    api.parts.sim.behave(Rule(status=413))
    await send(api, "Too large")
    api.parts.sim.behave()
    request = {"content": {"title": "Cancelled"}, "audience": {"everyone": True}}
    queued = await api.call_ok("POST", "/v1/notifications", request)
    await api.call_ok("POST", f"/v1/notifications/{queued['id']}/cancel")
    await send(api, "Sent")
    assert titles(await api.call_ok("GET", inbox, key=token)) == ["Sent", "Too large"]


async def test_inbox_has_pages_read_marks_and_unread_count(api: Api) -> None:
    """A read mark applies to one item, or to all items up to a position, and reduces the unread count."""
    inbox, token = await register_device(api)
    for number in range(5):
        await send(api, f"n{number}")
    first_page = await api.call_ok("GET", f"{inbox}?limit=2", key=token)
    second_page = await api.call_ok("GET", f"{inbox}?limit=2&cursor={first_page['next_cursor']}", key=token)
    assert titles(first_page) + titles(second_page) == ["n4", "n3", "n2", "n1"]
    later = await api.call_ok("GET", f"{inbox}?after={second_page['items'][-1]['position']}&limit=2", key=token)
    assert titles(later) == ["n2", "n3"]
    path = f"{inbox}/{first_page['items'][0]['id']}/read"
    assert (await api.call("PUT", path, key=token)).status == 204
    assert (await api.call("PUT", path, key=token)).status == 204
    marked = await api.call_ok("POST", f"{inbox}/read", {"upto": second_page["items"][0]["position"]}, key=token)
    assert marked == {"marked": 3}
    page = await api.call_ok("GET", inbox, key=token)
    assert page["unread"] == 1
    assert [item["read_at"] is None for item in page["items"]] == [False, True, False, False, False]
    _, other = await register_device(api)
    assert (await api.call("PUT", path, key=other)).status == 404


async def test_unchanged_inbox_gets_304(api: Api) -> None:
    """A request with the current ETag gets 304, and one with an older ETag gets the inbox."""
    inbox, token = await register_device(api)
    await send(api)
    first_response = await api.call("GET", inbox, key=token)
    headers = {"If-None-Match": first_response.headers["ETag"]}
    assert (await api.call("GET", inbox, key=token, headers=headers)).status == 304
    await send(api, "New")
    assert (await api.call("GET", inbox, key=token, headers=headers)).status == 200


async def test_long_poll_returns_new_items_from_any_server(api: Api) -> None:
    """A long poll at one server returns as soon as an item arrives, although another process sends the item."""
    inbox, token = await register_device(api)
    other_inbox, other_token = await register_device(api, user_id="u-2")
    async with serve_api(api.parts) as second:
        poll = asyncio.create_task(second.call_ok("GET", f"{inbox}?after=0&wait=30", key=token))
        other_poll = asyncio.create_task(second.call_ok("GET", f"{other_inbox}?after=0&wait=3", key=other_token))
        inbox_notifier = second.state.inbox_notifier
        async with asyncio.timeout(10):
            for path in (inbox, other_inbox):
                while not inbox_notifier.count_subscribers(api.parts.application_id, device_id_of(path)):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
        assert await api.parts.scalar("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == 0
        device_id = inbox.split("/")[3]
        await send(api, "News", audience={"device_id": device_id})
        page = await asyncio.wait_for(poll, 10)
        assert titles(page) == ["News"]
        assert not other_poll.done()
        assert (await other_poll)["items"] == []


async def test_poll_with_new_items_does_not_wait(api: Api) -> None:
    """A poll returns at once if the inbox has an item after the given position."""
    inbox, token = await register_device(api)
    await send(api, "Old")
    page = await asyncio.wait_for(api.call_ok("GET", f"{inbox}?after=0&wait=30", key=token), 5)
    assert titles(page) == ["Old"]


async def test_stopping_server_ends_long_polls(api: Api) -> None:
    """A stopping server responds to the waiting polls with no items."""
    inbox, token = await register_device(api)
    async with serve_api(api.parts) as second:
        poll = asyncio.create_task(second.call_ok("GET", f"{inbox}?after=0&wait=60", key=token))
        async with asyncio.timeout(10):
            while not second.state.inbox_notifier.count_subscribers(api.parts.application_id, device_id_of(inbox)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await second.state.inbox_notifier.close()
        assert (await asyncio.wait_for(poll, 5))["items"] == []


async def test_device_requests_are_rate_limited(api: Api) -> None:
    """A device that exceeds its rate gets 429; other devices are not affected."""
    api.state.limits.inbox_buckets = TokenBuckets("inbox", 60, clock=lambda: 0.0)  # never refills
    inbox, token = await register_device(api)
    response = await api.call("GET", inbox, key=token)
    assert response.headers["RateLimit-Policy"] == '"inbox";q=60;w=60'
    assert response.headers["RateLimit"] == '"inbox";r=59;t=60'
    for _ in range(59):
        assert (await api.call("GET", inbox, key=token)).status == 200
    refused = await api.call("GET", inbox, key=token)
    assert (refused.status, refused.body["code"], refused.headers["Retry-After"]) == (429, "rate_limited", "1")
    other_inbox, other_token = await register_device(api)
    assert (await api.call("GET", other_inbox, key=other_token)).status == 200


def test_bucket_refills_with_time() -> None:
    """One second after a bucket for 60 requests per minute is empty, it admits one request."""
    now = [0.0]
    buckets = TokenBuckets("inbox", 60, clock=lambda: now[0])
    for _ in range(60):
        buckets.acquire("d")
    with pytest.raises(RateLimited) as refused:
        buckets.acquire("d")
    assert refused.value.headers["Retry-After"] == "1"
    now[0] = 1.0
    assert buckets.acquire("d")["RateLimit"] == '"inbox";r=0;t=60'
    with pytest.raises(RateLimited):
        buckets.acquire("d")


async def test_deleting_a_user_deletes_their_read_marks(api: Api) -> None:
    """The read marks of a deleted user are removed from the database."""
    inbox, token = await register_device(api, user_id="u-1")
    await send(api)
    await api.call_ok("POST", f"{inbox}/read", {"upto": 100}, key=token)
    assert (await api.rows())["inbox_reads"] == 1
    await api.call_ok("DELETE", "/v1/users/u-1")
    assert (await api.rows())["inbox_reads"] == 0


async def test_unrenderable_item_leaves_the_rest_of_the_inbox(api: Api) -> None:
    """An item that cannot be rendered any more has no content; the other items are not affected."""
    inbox, token = await register_device(api, attributes={"name": "Ada"})
    await send(api, content={"title": "Hi {{ user.attributes.name }}"}, strict=True)
    await send(api, "Plain")
    await api.call_ok("PATCH", inbox.removesuffix("/inbox"), {"attributes": {"name": None}}, key=token)
    items = (await api.call_ok("GET", inbox, key=token))["items"]
    assert [item["content"] and item["content"]["title"] for item in items] == ["Plain", None]
