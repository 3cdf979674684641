"""The Python client against the real server."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway import client
from gateway.client import Gateway, requests, streams
from gateway.sim import Vendor
from tests.support.api import ADMIN, Api


@pytest.fixture
async def gateway(api: Api) -> AsyncIterator[Gateway]:
    """A Python client with the application's secret key."""
    async with Gateway(api.origin, api.secret) as gateway:
        yield gateway


def registrations(api: Api, count: int, **details: object) -> list[requests.NewDevice]:
    """Return the registration bodies of `count` new devices."""
    return [{"subscription": subscriber.to_json(), **details} for subscriber in api.parts.subscribe(Vendor.FCM, count)]  # type: ignore[misc, typeddict-item]


async def test_import_and_paged_list_work_over_the_client(
    api: Api, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client imports devices from an iterator and lists them page by page."""
    monkeypatch.setattr(streams, "CHUNK_OCTETS", 500)
    invalid: requests.NewDevice = {
        "subscription": {"endpoint": "https://no.example/x", "keys": {"p256dh": "", "auth": ""}}
    }
    lines = [*registrations(api, 120, user_id="u/1 {x}", topics=["news"]), invalid]

    async def iterate() -> AsyncIterator[requests.NewDevice]:
        for line in lines:
            yield line

    import_results = gateway.devices.import_many(iterate())
    results = [result async for result in import_results]
    assert [result.status for result in results] == ["created"] * 120 + ["refused"]
    assert {error.pointer for error in results[-1].errors} == {"/subscription/keys/auth", "/subscription/keys/p256dh"}
    assert import_results.sums == {"created": 120, "refreshed": 0, "refused": 1}
    device_ids = [device.id async for device in gateway.devices.list(topic="news")]
    assert sorted(device_ids) == sorted(result.id for result in results[:-1] if result.id)
    assert [device.id for device in await gateway.devices.list().fetch(101)] == device_ids[:101]
    device = await gateway.devices.update(device_ids[0], attributes={"plan": "pro"})
    await gateway.devices.set_location(device.id, lat=48.2, lon=16.4)
    await gateway.devices.add_topic(device.id, "weather")
    device = await gateway.devices.get(device.id)
    assert (device.attributes, device.location and device.location.lat) == ({"plan": "pro"}, 48.2)
    assert [(topic.topic, topic.devices) async for topic in gateway.topics.list()] == [("news", 120), ("weather", 1)]
    assert (await gateway.audiences.preview(audience={"topic": "weather"})).devices == 1
    assert (await gateway.users.erase("u/1 {x}")).devices == 120


async def test_tail_resumes_after_a_broken_connection(api: Api, gateway: Gateway) -> None:
    """The client's tail resumes after a broken connection and misses no delivery."""
    [result] = [item async for item in gateway.devices.import_many(registrations(api, 1, user_id="ann"))]
    tail = gateway.deliveries.tail(user_id="ann")
    deliveries = aiter(tail)
    next_delivery = asyncio.ensure_future(anext(deliveries))
    async with asyncio.timeout(30), api.parts.run_worker():
        while tail.last_event_id is None:  # noqa: ASYNC110 - the start position arrives before any delivery
            await asyncio.sleep(0.01)
        for task in api.state.open_streams:
            task.cancel()  # breaks the connection as a stopping server does
        sent = await gateway.notifications.send(content={"title": "Hi"}, audience={"user_id": "ann"})
        delivery = await next_delivery
        assert (delivery.notification_id, delivery.device_id) == (sent.id, result.id)
        assert delivery.outcome == "accepted"
        resumed = gateway.deliveries.tail(last_event_id="0")
        assert (await anext(aiter(resumed))).id == delivery.id
        assert resumed.last_event_id == tail.last_event_id
    assert (await gateway.deliveries.get(delivery.id)).attempts
    assert (await gateway.notifications.get(sent.id)).progress.accepted == 1
    assert [item.id async for item in gateway.notifications.list(kind="direct")] == [sent.id]


async def test_errors_are_raised_as_their_types(api: Api, gateway: Gateway) -> None:
    """Problem responses are raised as the matching exception types."""
    with pytest.raises(client.ValidationError) as invalid:
        await gateway.campaigns.create(name="n", content={"title": "t"}, audience={"nonsense": 1})
    assert [error.pointer for error in invalid.value.errors] == ["/audience"]
    with pytest.raises(client.NotFound):
        await gateway.campaigns.get("ntf_" + "0" * 32)
    with pytest.raises(client.Forbidden):
        await gateway.applications.create(name="n", subject="mailto:ops@example.org")
    async with Gateway(api.origin, ADMIN) as operator:
        application = await operator.applications.create(name="n", subject="mailto:ops@example.org")
        assert {item.name async for item in operator.applications.list()} == {"Weather", "n"}
        [secret_key_id] = [key.id for key in application.keys if "send" in key.scopes]
        await operator.applications.remove_key(application.id, secret_key_id)
        assert (await anext(aiter(operator.audit.list()))).action == "keys.remove"
    async with Gateway(api.origin, application.secret_key) as with_removed_key:
        with pytest.raises(client.Unauthenticated):
            await with_removed_key.notifications.list().fetch_page()
    assert (await gateway.check_readiness()).status == "ready"
    assert await gateway.get_vapid_public_key() == api.parts.application["vapid_public_key"]


async def test_same_idempotency_key_sends_once(gateway: Gateway) -> None:
    """A second call with the same key returns the first notification; another body raises IdempotencyMismatch."""
    for title, is_same in (("Storm", True), ("Snow", False)):
        sending = gateway.notifications.send(
            content={"title": title}, audience={"everyone": True}, idempotency_key="order-7"
        )
        if is_same:
            first = await sending
            replayed = await gateway.notifications.send(
                content={"title": title}, audience={"everyone": True}, idempotency_key="order-7"
            )
            assert replayed.id == first.id
        else:
            with pytest.raises(client.IdempotencyMismatch):
                await sending
