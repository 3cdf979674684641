"""What deliveries come to, push service by push service: the worker on the real pipeline and the sim."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from gateway.domain import ids, retry
from gateway.domain.notification import Kind, Status, push_topic
from gateway.push.encryption import encrypt
from gateway.records import devices as records
from gateway.service.pipeline import push_sender
from gateway.sim import Rule, Vendor
from tests.support.gateway_parts import APP_ORIGIN, Parts


@pytest.mark.parametrize("vendor", Vendor)
async def test_each_push_service_s_answers_become_their_outcomes(parts: Parts, vendor: Vendor) -> None:
    good, gone, large = parts.subscribe(vendor, 3)
    devices = await parts.register([good, gone, large])
    by_endpoint = {subscriber.endpoint: device_id for device_id, subscriber in devices.items()}
    parts.sim.unsubscribe(gone)
    parts.sim.behave(Rule(status=413, endpoint=large.endpoint))
    sent = await parts.submit()

    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)

    assert (progress.targets, progress.accepted, progress.gone, progress.rejected) == (3, 1, 1, 1)
    log = {
        subscriber.endpoint: row
        for row in (await parts.list_deliveries(sent.id)).values()
        for subscriber in [devices[row.device_id]]
    }
    assert [(log[s.endpoint].outcome, log[s.endpoint].status) for s in (good, gone, large)] == [
        ("accepted", 201),
        ("gone", 410),
        ("rejected", 413),
    ]
    assert {row.attempts for row in log.values()} == {1}
    [message] = good.messages
    assert log[good.endpoint].message == f"{parts.sim.origins[vendor]}/m/{message.id}"
    assert log[good.endpoint].granted_ttl == message.ttl
    assert "no longer exists" in log[gone.endpoint].cause
    assert "too large" in log[large.endpoint].cause
    assert await parts.device_status(by_endpoint[gone.endpoint]) == "gone"
    assert await parts.device_status(by_endpoint[large.endpoint]) == "active"
    assert {row.host for row in log.values()} == {parts.sim.origins[vendor].removeprefix("http://")}


async def test_a_gone_device_is_not_sent_to_again(parts: Parts) -> None:
    good, gone = parts.subscribe(Vendor.FCM, 2)
    await parts.register([good, gone])
    parts.sim.unsubscribe(gone)
    async with parts.run_worker():
        assert (await parts.wait_until_done((await parts.submit()).id)).gone == 1
        again = await parts.wait_until_done((await parts.submit()).id)
    assert (again.targets, again.accepted) == (1, 1)
    assert parts.sim.counters[Vendor.FCM][410] == 1


async def test_a_device_found_gone_while_another_notification_waited_is_not_asked_again(parts: Parts) -> None:
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


async def test_a_throttling_wns_is_left_alone_for_an_hour(parts: Parts) -> None:
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
async def test_a_passing_fault_is_tried_again_with_growing_pauses(parts: Parts, fault: Rule) -> None:
    [device_id] = await parts.register(parts.subscribe(Vendor.APPLE, 1))
    parts.sim.behave(fault)
    sent = await parts.submit()
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)

    assert (progress.accepted, progress.retries) == (1, 3)
    tried = await parts.list_attempts(sent.id, device_id)
    assert [attempt.number for attempt in tried] == [1, 2, 3]
    pauses = [attempt.retry_at - attempt.at for attempt in tried]
    for number, pause in enumerate(pauses):
        assert pause >= retry.FIRST_DELAY * 2**number / 2
    row = (await parts.list_deliveries(sent.id))[device_id]
    assert (row.outcome, row.attempts, row.status) == ("accepted", 4, 201)


@pytest.mark.usefixtures("short_retry_delays")
async def test_a_delivery_whose_time_runs_out_while_it_is_retried_is_expired(parts: Parts) -> None:
    [device_id] = await parts.register(parts.subscribe(Vendor.FCM, 1))
    parts.sim.behave(Rule(status=503))
    async with parts.run_worker():
        sent = await parts.submit(expires_at=datetime.now(UTC) + timedelta(seconds=3))
        progress = await parts.wait_until_done(sent.id)

    assert progress.expired == 1
    row = (await parts.list_deliveries(sent.id))[device_id]
    tried = await parts.list_attempts(sent.id, device_id)
    assert tried
    assert max(attempt.retry_at for attempt in tried) < sent.delivery.expires_at
    # The last try is in the delivery's own row, its status the last one heard; unless one more came due just in time,
    # and was claimed when it was over.
    another = "before it was sent" in row.cause
    assert another or "expiry" in row.cause
    assert (row.attempts, row.status) == ((len(tried), None) if another else (len(tried) + 1, 503))
    assert parts.sim.counters[Vendor.FCM] == {503: row.attempts}


async def test_what_comes_due_after_its_expiry_is_never_posted(parts: Parts) -> None:
    [device_id] = await parts.register(parts.subscribe(Vendor.FCM, 1))
    sent = await parts.submit(expires_at=datetime.now(UTC) + timedelta(milliseconds=200))
    await asyncio.sleep((sent.delivery.expires_at - datetime.now(UTC)).total_seconds())  # until it is over
    async with parts.run_worker():
        assert (await parts.wait_until_done(sent.id)).expired == 1
    row = (await parts.list_deliveries(sent.id))[device_id]
    assert (row.attempts, row.status, row.attempted_at) == (0, None, None)
    assert not parts.sim.counters[Vendor.FCM]


async def test_a_retry_after_beyond_the_expiry_ends_the_delivery_at_once(parts: Parts) -> None:
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    parts.sim.behave(Rule(status=429, retry_after=7200))
    sent = await parts.submit(Kind.ALERT, ttl=timedelta(hours=1))
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)
    assert (progress.expired, progress.retries) == (1, 0)


@pytest.mark.parametrize("vendor", Vendor)
async def test_every_message_carries_ttl_urgency_and_topic_and_decrypts_to_declarative_json(
    parts: Parts, vendor: Vendor
) -> None:
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
        told = message.json()
        assert told["web_push"] == 8030
        assert told["mutable"] is True
        notification = told["notification"]
        assert notification["title"] == "Storm ⛈"
        assert notification["navigate"] == f"{APP_ORIGIN}/storm"
        assert notification["tag"] == "storm-7"
        assert [action["navigate"] for action in notification["actions"]] == [f"{APP_ORIGIN}/storm"]
        ours = notification["data"]["gateway"]
        assert ours["id"] == ids.format_id(ids.NOTIFICATION, sent.id)
        assert parts.context.keyring.receipt_of(ours["receipt"], 0) == (sent.id, device_id, None)


async def test_a_campaign_travels_with_its_own_defaults(parts: Parts) -> None:
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


async def test_a_ttl_of_0_is_taken_by_every_push_service(parts: Parts) -> None:
    devices = await parts.register([one for vendor in Vendor for one in parts.subscribe(vendor, 1)])
    sent = await parts.submit(Kind.DIRECT, ttl=timedelta(0))
    async with parts.run_worker():
        assert (await parts.wait_until_done(sent.id)).accepted == len(devices)
    assert {message.ttl for message in parts.sim.messages} == {0}


async def test_a_notification_to_nobody_is_done_at_once(parts: Parts) -> None:
    sent = await parts.submit(audience={"topic": "nobody-wants-this"})
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)
    assert progress.targets == 0
    assert (await parts.get_notification(sent.id))[0].status is Status.DONE


async def test_what_is_scheduled_is_sent_when_its_time_has_come(parts: Parts) -> None:
    [subscriber] = parts.subscribe(Vendor.FCM, 1)
    await parts.register([subscriber])
    start_at = datetime.now(UTC) + timedelta(seconds=1)
    async with parts.run_worker():
        sent = await parts.submit(start_at=start_at)
        assert (await parts.get_notification(sent.id))[0].status is Status.SCHEDULED
        await parts.wait_until_done(sent.id)
    [message] = subscriber.messages
    assert start_at <= message.received_at < start_at + timedelta(seconds=5)


async def test_a_device_unregistered_before_its_turn_is_accounted_for(parts: Parts) -> None:
    stays, leaves = parts.subscribe(Vendor.FCM, 2)
    devices = await parts.register([stays, leaves])
    leaving = next(device_id for device_id, subscriber in devices.items() if subscriber is leaves)
    parts.sim.behave(Rule(status=503, retry_after=1, times=1))
    sent = await parts.submit()
    async with parts.run_worker():
        await parts.wait_until(sent.id, lambda progress: progress.retries == 2)
        async with parts.engine.begin() as conn:
            await records.remove(conn, leaving)
        progress = await parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.gone) == (1, 1)
    assert "unregistered" in (await parts.list_deliveries(sent.id))[leaving].cause
    assert leaves.messages == []


@pytest.mark.usefixtures("short_retry_delays")
async def test_a_fault_of_our_own_is_tried_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter([RuntimeError("a bug"), None, RuntimeError("a bug")])

    def sometimes(*args: object) -> bytes:
        if (fault := next(faults, None)) is not None:
            raise fault
        return encrypt(*args)  # type: ignore[arg-type] - passed on as they came

    monkeypatch.setattr(push_sender, "encrypt", sometimes)
    devices = await parts.register(parts.subscribe(Vendor.FCM, 5))
    sent = await parts.submit()
    async with parts.run_worker():
        progress = await parts.wait_until_done(sent.id)
    assert (progress.accepted, progress.retries) == (5, 2)
    assert len(await parts.list_deliveries(sent.id)) == len(devices)
    assert {len(subscriber.messages) for subscriber in devices.values()} == {1}
