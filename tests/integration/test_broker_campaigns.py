"""Campaigns through a broker, with a relay and a worker that has no database: large payloads and alerts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from gateway.domain.notification import Kind, Lane, Status
from gateway.queue.nats import Broker, NatsQueue
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline.push_sender import PushSender
from gateway.sim import Rule, Vendor
from gateway.worker.backends import BrokerBackend
from gateway.worker.relay import Relay
from gateway.worker.worker import Worker, WorkerConfig
from tests.support.gateway_parts import Parts, quick_config
from tests.support.nats_server import start_nodes

LEASE = timedelta(seconds=5)


async def test_oversize_job_is_rejected_and_delays_nobody(parts: Parts, tmp_path: Path) -> None:
    """A job of one device that exceeds the broker's maximum payload ends as rejected."""
    devices = await parts.register(parts.subscribe(Vendor.FCM, 3))
    languages = {language: {"body": language * 400} for language in ("de", "fr", "it", "es", "pl", "nl")}
    async with start_nodes(1, tmp_path, "max_payload: 4096\n") as [node], run_relay_and_worker(parts, node.url):
        large = await parts.submit(content={"title": "Storm", "body": "Stay inside", "locales": languages})
        small = await parts.submit()
        assert (await parts.wait_until_done(small.id)).accepted == 3
        progress = await parts.wait_until_done(large.id)
    assert (progress.rejected, progress.pending) == (3, 0)
    rows = await parts.list_deliveries(large.id)
    assert rows.keys() == devices.keys()
    assert {row.cause.partition(" bytes;")[2] for row in rows.values()} == {" the broker accepts at most 3,072"}
    assert {await parts.device_status(id_) for id_ in devices} == {"active"}
    assert await parts.scalar("SELECT count(*) FROM jobs") == 0


async def test_integer_beyond_64_bits_is_sent_as_float(parts: Parts, tmp_path: Path) -> None:
    """The API refuses integers beyond 64 bits, but the database may have some from before that rule."""
    [subscriber] = (await parts.register(parts.subscribe(Vendor.FCM, 1))).values()
    numbers = [2**63 - 1, 2**64, -(2**70), 10**400]
    async with start_nodes(1, tmp_path) as [node], run_relay_and_worker(parts, node.url):
        sent = await parts.submit(content={"title": "Storm", "data": {"n": numbers}})
        assert (await parts.wait_until_done(sent.id)).accepted == 1
    [message] = subscriber.messages
    assert message.json()["notification"]["data"]["n"] == [2**63 - 1, 2.0**64, -(2.0**70), 1e300]


async def test_alert_overtakes_a_campaign_through_the_broker(parts: Parts, tmp_path: Path) -> None:
    """A worker whose senders are all busy with a campaign sends an alert within three seconds."""
    await parts.register(parts.subscribe(Vendor.FCM, 2_000, share_keys=True))
    await parts.register(parts.subscribe(Vendor.FCM, 5, share_keys=True), user_id="u-1")
    parts.sim.behave(Rule(delay_ms=50))
    config = quick_config(senders=16, urgent_senders=4, jobs=1, urgent_jobs=1)
    async with start_nodes(1, tmp_path) as [node], run_relay_and_worker(parts, node.url, config):
        campaign = await parts.submit()
        assert campaign.delivery.lane is Lane.BULK
        await parts.sim.wait_for(count=200, timeout=30)
        alert = await parts.submit(Kind.ALERT, {"user_id": "u-1"})
        async with asyncio.timeout(3):
            assert (await parts.wait_until_done(alert.id)).accepted == 5
        notification, progress = await parts.get_notification(campaign.id)
        assert (notification.status, progress.pending > 1_000) == (Status.SENDING, True)


@asynccontextmanager
async def run_relay_and_worker(parts: Parts, url: str, config: WorkerConfig | None = None) -> AsyncIterator[None]:
    """Run a relay and a worker on the broker, each with its own connection, until the context ends."""
    stop = asyncio.Event()
    async with Broker.connect([url]) as relay_broker, Broker.connect([url]) as worker_broker:
        await relay_broker.prepare()
        async with NatsQueue(worker_broker) as queue, asyncio.TaskGroup() as group:
            renderers = RendererCache(parts.context.keyring, parts.context.public_url)
            push_sender = PushSender(parts.client, parts.context.keyring, parts.context.policy)
            backend = BrokerBackend(worker_broker, queue)
            worker = Worker(queue, backend, renderers, push_sender, config or quick_config())
            group.create_task(Relay(parts.context, relay_broker, parts.notifier, LEASE).run(stop))
            group.create_task(worker.run(stop))
            try:
                yield
            finally:
                stop.set()
