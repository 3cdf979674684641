"""Outcomes of deliveries for each push service, with a worker, the real pipeline and the simulator."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.domain import ids, retry
from gateway.domain.notification import Kind, Status, push_topic
from gateway.push.encryption import encrypt
from gateway.records import devices as records
from gateway.service.pipeline import push_sender
from gateway.sim import Rule, Vendor
from tests.support.gateway_parts import APP_ORIGIN, Parts


@pytest.mark.parametrize("vendor", Vendor)
async def test_responses_become_outcomes(parts: Parts, vendor: Vendor) -> None:
    """201, 410 and 413 of each push service become accepted, gone and rejected."""
    active, gone, refusing = parts.subscribe(vendor, 3)
    devices = await parts.register([active, gone, refusing])
    by_endpoint = {subscriber.endpoint: device_id for device_id, subscriber in devices.items()}
    parts.sim.unsubscribe(gone)
    parts.sim.behave(Rule(status=413, endpoint=refusing.endpoint))
    sent = await parts.submit()

    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)

    assert (progress.targets, progress.accepted, progress.gone, progress.rejected) == (3, 1, 1, 1)
    log = {
        subscriber.endpoint: row
        for row in (await parts.list_deliveries(sent.id)).values()
        for subscriber in [devices[row.device_id]]
    }
    rows = [log[subscriber.endpoint] for subscriber in (active, gone, refusing)]
    assert [(row.outcome, row.status) for row in rows] == [
        ("accepted", 201),
        ("gone", 410),
        ("rejected", 413),
    ]
    assert {row.attempts for row in log.values()} == {1}
    [message] = active.messages
    assert log[active.endpoint].message == f"{parts.sim.origins[vendor]}/m/{message.id}"
    assert log[active.endpoint].granted_ttl == message.ttl
    assert "no longer exists" in log[gone.endpoint].cause
    assert "too large" in log[refusing.endpoint].cause
    assert await parts.device_status(by_endpoint[gone.endpoint]) == "gone"
    assert await parts.device_status(by_endpoint[refusing.endpoint]) == "active"
    assert {row.host for row in log.values()} == {parts.sim.origins[vendor].removeprefix("http://")}


async def test_late_410_does_not_undo_new_registration(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 410 to a POST from before the browser registered again leaves the device active."""
    [subscriber] = parts.subscribe(Vendor.FCM, 1)
    [device_id] = await parts.register([subscriber])
    parts.sim.behave(Rule(status=410, delay_ms=1500))
    posted, select_rule = asyncio.Event(), parts.sim.behaviour.select_rule

    def on_post(*request: Any) -> Rule | None:
        posted.set()
        return select_rule(*request)

    monkeypatch.setattr(parts.sim.behaviour, "select_rule", on_post)
    sent = await parts.submit()
    async with parts.run_worker():
        await asyncio.wait_for(posted.wait(), 30)
        await parts.register([subscriber])
        assert (await parts.wait_until_done(sent.id)).gone == 1
    assert await parts.device_status(device_id) == "active"
    parts.sim.behave(Rule(status=410))
    async with parts.run_worker():
        assert (await parts.wait_until_done((await parts.submit()).id)).gone == 1
    assert await parts.device_status(device_id) == "gone"


async def test_gone_device_is_not_sent_to_again(parts: Parts) -> None:
    """A device that is gone is not a target of the next notification."""
    active, gone = parts.subscribe(Vendor.FCM, 2)
    await parts.register([active, gone])
    parts.sim.unsubscribe(gone)
    async with parts.run_worker():
        assert (await parts.wait_until_done((await parts.submit()).id)).gone == 1
        second_progress = await parts.wait_until_done((await parts.submit()).id)
    assert (second_progress.targets, second_progress.accepted) == (1, 1)
    assert parts.sim.counters[Vendor.FCM][410] == 1


async def test_device_gone_meanwhile_is_not_retried(parts: Parts) -> None:
    """A delivery that waits for a retry ends as gone if a message of another notification gets a 410 before it."""
    [gone] = parts.subscribe(Vendor.FCM, 1)
    [device_id] = await parts.register([gone])
    parts.sim.behave(Rule(status=503, times=1, retry_after=4))
    async with parts.run_worker():
        waiting = await parts.submit()
        await parts.wait_until(waiting.id, lambda progress: progress.retries == 1)
        parts.sim.unsubscribe(gone)
        assert (await parts.wait_until_done((await parts.submit()).id)).gone == 1
        assert (await parts.wait_until_done(waiting.id)).gone == 1
    assert parts.sim.counters[Vendor.FCM] == {503: 1, 410: 1}
    assert "was gone before" in (await parts.list_deliveries(waiting.id))[device_id].cause


@pytest.mark.parametrize(("vendor", "status"), [(Vendor.FCM, 429), (Vendor.MOZILLA, 503), (Vendor.WNS, 406)])
async def test_retry_after_is_respected(parts: Parts, vendor: Vendor, status: int) -> None:
    """A throttled message is retried after the time in the Retry-After header."""
    [subscriber] = parts.subscribe(vendor, 1)
    [device_id] = await parts.register([subscriber])
    parts.sim.behave(Rule(status=status, times=1, retry_after=1))
    sent = await parts.submit()
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)

    assert (progress.accepted, progress.retries) == (1, 1)
    [refused] = await parts.list_attempts(sent.id, device_id)
    assert (refused.number, refused.status) == (1, status)
    assert refused.retry_at - refused.at >= timedelta(seconds=1)
    [message] = subscriber.messages
    assert message.received_at >= refused.retry_at
    assert (await parts.list_deliveries(sent.id))[device_id].attempts == 2


async def test_wns_406_is_retried_after_an_hour(parts: Parts) -> None:
    """WNS throttles with 406, and without Retry-After such a message is retried after an hour."""
    [device_id] = await parts.register(parts.subscribe(Vendor.WNS, 1))
    parts.sim.behave(Rule(status=406))
    sent = await parts.submit()
    async with parts.run_worker():
        await parts.wait_until(sent.id, lambda progress: progress.retries == 1)
    [refused] = await parts.list_attempts(sent.id, device_id)
    assert timedelta(hours=1) <= refused.retry_at - refused.at < timedelta(hours=1, seconds=5)
    assert parts.sim.counters[Vendor.WNS] == {406: 1}


@pytest.mark.usefixtures("short_retry_delays")
@pytest.mark.parametrize("fault", [Rule(status=503, times=3), Rule(status=502, times=3), Rule(reset=True, times=3)])
async def test_temporary_failure_is_retried_with_backoff(parts: Parts, fault: Rule) -> None:
    """Pauses between attempts grow exponentially."""
    [device_id] = await parts.register(parts.subscribe(Vendor.APPLE, 1))
    parts.sim.behave(fault)
    sent = await parts.submit()
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)

    assert (progress.accepted, progress.retries) == (1, 3)
    attempts = await parts.list_attempts(sent.id, device_id)
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    pauses = [attempt.retry_at - attempt.at for attempt in attempts]
    for number, pause in enumerate(pauses):
        assert pause >= retry.FIRST_DELAY * 2**number / 2
    row = (await parts.list_deliveries(sent.id))[device_id]
    assert (row.outcome, row.attempts, row.status) == ("accepted", 4, 201)


@pytest.mark.usefixtures("short_retry_delays")
async def test_delivery_expires_while_it_is_retried(parts: Parts) -> None:
    """A delivery that is retried until its expiry is logged as expired, with its last attempt in its row."""
    [device_id] = await parts.register(parts.subscribe(Vendor.FCM, 1))
    parts.sim.behave(Rule(status=503))
    async with parts.run_worker():
        sent = await parts.submit(expires_at=datetime.now(UTC) + timedelta(seconds=3))
        progress = await parts.wait_until_done(sent.id)

    assert progress.expired == 1
    row = (await parts.list_deliveries(sent.id))[device_id]
    attempts = await parts.list_attempts(sent.id, device_id)
    assert attempts
    assert max(attempt.retry_at for attempt in attempts) < sent.delivery.expires_at
    # The row has the last attempt with its status, unless a retry was due just before the expiry and claimed after it.
    expired_in_queue = "before it was sent" in row.cause
    assert expired_in_queue or "expiry" in row.cause
    assert (row.attempts, row.status) == ((len(attempts), None) if expired_in_queue else (len(attempts) + 1, 503))
    assert parts.sim.counters[Vendor.FCM] == {503: row.attempts}


async def test_expired_message_is_never_posted(parts: Parts) -> None:
    """A job that is claimed after the expiry is settled as expired without a POST."""
    [device_id] = await parts.register(parts.subscribe(Vendor.FCM, 1))
    sent = await parts.submit(expires_at=datetime.now(UTC) + timedelta(milliseconds=200))
    await asyncio.sleep((sent.delivery.expires_at - datetime.now(UTC)).total_seconds())
    async with parts.run_worker():
        assert (await parts.wait_until_done(sent.id)).expired == 1
    row = (await parts.list_deliveries(sent.id))[device_id]
    assert (row.attempts, row.status, row.attempted_at) == (0, None, None)
    assert not parts.sim.counters[Vendor.FCM]


async def test_retry_after_beyond_expiry_expires_at_once(parts: Parts) -> None:
    """No retry is scheduled after the notification's expiry."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    parts.sim.behave(Rule(status=429, retry_after=7200))
    sent = await parts.submit(Kind.ALERT, ttl=timedelta(hours=1))
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)
    assert (progress.expired, progress.retries) == (1, 0)


@pytest.mark.parametrize("vendor", Vendor)
async def test_message_has_headers_and_declarative_json(parts: Parts, vendor: Vendor) -> None:
    """Each message has TTL, Urgency and Topic, and decrypts to declarative web push."""
    devices = await parts.register(parts.subscribe(vendor, 3))
    content = {
        "title": "Storm ⛈",
        "body": "Stay inside",
        "url": "/storm",
        "actions": [{"action": "map", "title": "Map"}],
    }
    sent = await parts.submit(Kind.ALERT, content=content, ttl=timedelta(minutes=30), collapse_key="storm-7")
    async with parts.run_worker():
        await parts.wait_until_done(sent.id)

    for device_id, subscriber in devices.items():
        [message] = subscriber.messages
        assert 1790 <= message.ttl <= 1800
        assert message.urgency == "high"
        assert message.topic == push_topic(parts.application_id, "storm-7")
        assert (message.content_type, message.encoding) == ("application/json", "aes128gcm")
        payload = message.json()
        assert payload["web_push"] == 8030
        assert payload["mutable"] is True
        notification = payload["notification"]
        assert notification["title"] == "Storm ⛈"
        assert notification["navigate"] == f"{APP_ORIGIN}/storm"
        assert notification["tag"] == "storm-7"
        assert [action["navigate"] for action in notification["actions"]] == [f"{APP_ORIGIN}/storm"]
        gateway_data = notification["data"]["gateway"]
        assert gateway_data["id"] == ids.format_id(ids.NOTIFICATION, sent.id)
        assert parts.context.keyring.verify_receipt_token(gateway_data["receipt"], 0) == (sent.id, device_id, None)


async def test_campaign_is_sent_with_its_defaults(parts: Parts) -> None:
    """Without delivery options, urgency, TTL, topic and tag are the defaults of campaigns."""
    [subscriber] = parts.subscribe(Vendor.MOZILLA, 1)
    await parts.register([subscriber])
    sent = await parts.submit()
    async with parts.run_worker():
        await parts.wait_until_done(sent.id)
    [message] = subscriber.messages
    assert message.urgency == "normal"
    assert 3 * 86_400 - 30 <= message.ttl <= 3 * 86_400
    assert message.topic == push_topic(parts.application_id, str(sent.id))
    assert message.json()["notification"]["tag"] == str(sent.id)


async def test_ttl_of_zero_is_accepted_by_every_service(parts: Parts) -> None:
    """Every push service accepts a message with TTL 0, which it does not store."""
    devices = await parts.register([subscriber for vendor in Vendor for subscriber in parts.subscribe(vendor, 1)])
    sent = await parts.submit(Kind.DIRECT, ttl=timedelta(0))
    async with parts.run_worker():
        assert (await parts.wait_until_done(sent.id)).accepted == len(devices)
    assert {message.ttl for message in parts.sim.messages} == {0}


async def test_notification_without_devices_is_done_at_once(parts: Parts) -> None:
    """A notification whose audience selects no device has no send job."""
    sent = await parts.submit(audience={"topic": "nobody-wants-this"})
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)
    assert progress.targets == 0
    assert (await parts.get_notification(sent.id))[0].status is Status.DONE


async def test_scheduled_notification_is_sent_at_its_time(parts: Parts) -> None:
    """The message is received at most five seconds after the start time."""
    [subscriber] = parts.subscribe(Vendor.FCM, 1)
    await parts.register([subscriber])
    start_at = datetime.now(UTC) + timedelta(seconds=1)
    async with parts.run_worker():
        sent = await parts.submit(start_at=start_at)
        assert (await parts.get_notification(sent.id))[0].status is Status.SCHEDULED
        await parts.wait_until_done(sent.id)
    [message] = subscriber.messages
    assert start_at <= message.received_at < start_at + timedelta(seconds=5)


async def test_device_unregistered_meanwhile_is_logged_as_gone(parts: Parts) -> None:
    """A device that was unregistered between two attempts ends as gone."""
    remaining, removed = parts.subscribe(Vendor.FCM, 2)
    devices = await parts.register([remaining, removed])
    removed_id = next(device_id for device_id, subscriber in devices.items() if subscriber is removed)
    parts.sim.behave(Rule(status=503, retry_after=1, times=1))
    sent = await parts.submit()
    async with parts.run_worker():
        await parts.wait_until(sent.id, lambda progress: progress.retries == 2)
        async with parts.engine.begin() as conn:
            await records.remove(conn, removed_id)
        progress = await parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.gone) == (1, 1)
    assert "unregistered" in (await parts.list_deliveries(sent.id))[removed_id].cause
    assert removed.messages == []


@pytest.mark.usefixtures("short_retry_delays")
async def test_internal_error_is_retried(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the pipeline counts as a failed attempt, and the delivery is retried."""
    faults = iter([RuntimeError("a bug"), None, RuntimeError("a bug")])

    def fail_sometimes(*args: Any) -> bytes:
        if (fault := next(faults, None)) is not None:
            raise fault
        return encrypt(*args)

    monkeypatch.setattr(push_sender, "encrypt", fail_sometimes)
    devices = await parts.register(parts.subscribe(Vendor.FCM, 5))
    sent = await parts.submit()
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.retries) == (5, 2)
    assert len(await parts.list_deliveries(sent.id)) == len(devices)
    assert {len(subscriber.messages) for subscriber in devices.values()} == {1}
