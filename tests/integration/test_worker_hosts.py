"""A push service that is slow or down delays no other service, and its messages are sent when it recovers."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from gateway.domain.notification import Kind
from gateway.service.pipeline import key_health
from gateway.sim import Rule, Vendor
from gateway.worker import host_limiter
from tests.support.gateway_parts import Parts, quick_config


@pytest.fixture
def short_pauses(short_retry_delays: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses of the breakers to fractions of a second."""
    for module in (host_limiter, key_health):
        monkeypatch.setattr(module, "INITIAL_PAUSE_S", 0.3)
        monkeypatch.setattr(module, "MAX_PAUSE_S", 0.6)


async def test_jobs_of_a_slow_host_do_not_delay_other_hosts(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has one job at a time, each with messages for both hosts; the fast host gets all its messages."""
    monkeypatch.setattr(host_limiter, "INITIAL_LIMIT", 4)
    slow = parts.subscribe(Vendor.WNS, 900, share_keys=True)
    fast = parts.subscribe(Vendor.FCM, 900, share_keys=True)
    await parts.register([subscriber for pair in zip(slow, fast, strict=True) for subscriber in pair])
    parts.sim.behave(Rule(vendor=Vendor.WNS, delay_ms=3000))
    async with parts.run_worker(quick_config(jobs=1, senders=16)) as stop:
        sent = await parts.submit()
        _, progress = await parts.wait_until(sent.id, lambda progress: progress.accepted >= len(fast), 20)
        assert all(subscriber.messages for subscriber in fast)
        assert sum(len(subscriber.messages) for subscriber in slow) < 100
        assert progress.retries == 0
        stop.set()


@pytest.mark.usefixtures("short_pauses")
async def test_failing_host_is_paused_until_it_recovers(parts: Parts) -> None:
    """The application's breaker opens once, few messages probe, and all are accepted after the recovery."""
    down = await parts.register(parts.subscribe(Vendor.MOZILLA, 300, share_keys=True))
    fast = await parts.register(parts.subscribe(Vendor.FCM, 50, share_keys=True))
    parts.sim.behave(Rule(vendor=Vendor.MOZILLA, status=500, delay_ms=20))
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker():
            sent = await parts.submit()
            await parts.wait_until(sent.id, lambda progress: progress.accepted == len(fast))
            await asyncio.sleep(1)
            refused = parts.sim.counters[Vendor.MOZILLA][500]
            assert refused < host_limiter.INITIAL_LIMIT + 20, (
                "more messages were sent than those in flight and a few probes"
            )
            parts.sim.behave()
            progress = await parts.wait_until_done(sent.id)
    assert progress.accepted == len(down) + len(fast)
    assert {len(subscriber.messages) for subscriber in down.values()} == {1}
    rows = await parts.list_deliveries(sent.id)
    posted = sum(row.attempts for row in rows.values())
    assert posted == len(rows) + parts.sim.counters[Vendor.MOZILLA][500], "a deferral counts as an attempt"
    assert await parts.scalar("SELECT count(*) FROM devices WHERE status <> 'active'") == 0
    events = [entry["event"] for entry in logs]
    assert events.count("host.fails_for_application") == events.count("host.recovered_for_application") == 1
    assert "host.unreachable" not in events, "one application's failures are no evidence against the host"


async def test_alert_does_not_wait_for_an_open_breaker(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert is sent as a probe although the breaker's pause is two minutes."""
    monkeypatch.setattr(key_health, "INITIAL_PAUSE_S", 120.0)
    await parts.register(parts.subscribe(Vendor.APPLE, 100, share_keys=True), topics=("offers",))
    await parts.register(parts.subscribe(Vendor.APPLE, 3), topics=("weather",))
    parts.sim.behave(Rule(vendor=Vendor.APPLE, status=500))
    async with parts.run_worker() as stop:
        offers = await parts.submit(audience={"topic": "offers"})
        await parts.wait_until(offers.id, lambda progress: progress.retries >= key_health.FAILURES_TO_OPEN)
        parts.sim.behave()
        alert = await parts.submit(Kind.ALERT, audience={"topic": "weather"})
        assert (await parts.wait_until_done(alert.id, 30)).accepted == 3
        stop.set()


@pytest.mark.usefixtures("short_pauses")
async def test_service_failing_for_several_pauses_all(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own breaker opens when two applications see it fail with devices that were accepted before."""
    monkeypatch.setattr(key_health, "SUCCESS_WINDOW_S", 0.0)
    applications = [parts, await parts.add_application()]
    for application in applications:
        await application.register(application.subscribe(Vendor.WNS, 60, share_keys=True))
    with structlog.testing.capture_logs() as logs:
        async with parts.run_worker():
            for application in applications:
                await application.wait_until_done((await application.submit()).id)
            parts.sim.behave(Rule(vendor=Vendor.WNS, status=500, delay_ms=20))
            sent = [await application.submit() for application in applications]
            for application, notification in zip(applications, sent, strict=True):
                await application.wait_until(notification.id, lambda progress: progress.retries >= 25)
            assert "host.unreachable" in {entry["event"] for entry in logs}
            parts.sim.behave()
            for application, notification in zip(applications, sent, strict=True):
                assert (await application.wait_until_done(notification.id)).accepted == 60
    assert [entry["event"] for entry in logs].count("host.recovered") == 1


async def test_retry_after_beyond_the_expiry_slows_sending_down(parts: Parts) -> None:
    """A push service that is overloaded for longer than the messages live gets few of them."""
    await parts.register(parts.subscribe(Vendor.FCM, 400, share_keys=True))
    parts.sim.behave(Rule(status=503, retry_after=3600))
    async with parts.run_worker(quick_config()):
        sent = await parts.submit(expires_at=datetime.now(UTC) + timedelta(seconds=5))
        progress = await parts.wait_until_done(sent.id)
    assert progress.expired == 400
    assert parts.sim.counters[Vendor.FCM][503] < 50
