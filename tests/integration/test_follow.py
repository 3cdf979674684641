"""The tail of the delivery log: a follower that resumes after a position gets every later entry once."""

import asyncio
from contextlib import aclosing
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.records.delivery_log import reader
from gateway.records.delivery_log.reader import LogFilters
from gateway.service.access import applications
from gateway.service.reporting import log_tail
from gateway.service.reporting.log_tail import follow
from gateway.sim import Rule, Vendor
from tests.support.gateway_parts import Parts, quick_config

Entries = list[tuple[int, str]]


@pytest.fixture
def pool_size() -> int:
    return 20


async def read_entries(parts: Parts, count: int, position: int | None, filters: LogFilters | None = None) -> Entries:
    """Return (position, device) of the next `count` entries."""
    entries: Entries = []
    batches = follow(parts.engine, parts.notifier, parts.application_id, filters or LogFilters(), position)
    async with asyncio.timeout(30), aclosing(batches):
        async for batch in batches:
            entries += [(entry.row.position, str(entry.row.device_id)) for entry in batch]
            if len(entries) >= count:
                break
    return entries


async def read_with_interruptions(parts: Parts, count: int, chunk: int) -> Entries:
    """Read from the beginning with a client that disconnects after about `chunk` entries and resumes."""
    entries: Entries = []
    while len(entries) < count:
        entries += await read_entries(parts, min(chunk, count - len(entries)), entries[-1][0] if entries else 0)
    return entries


async def test_followers_miss_nothing_with_many_writers(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each follower gets every entry in order while three workers settle concurrently."""
    monkeypatch.setattr(log_tail, "BATCH", 70)
    devices = await parts.register(
        [subscriber for vendor in Vendor for subscriber in parts.subscribe(vendor, 100, share_keys=True)]
    )
    parts.sim.behave(Rule(delay_ms=15, share=0.5, per="try"))
    total = 4 * len(devices)
    followers = [asyncio.create_task(read_with_interruptions(parts, total, chunk)) for chunk in (1, 90, 250, total)]
    config = quick_config(senders=12)
    async with parts.run_worker(config), parts.run_worker(config), parts.run_worker(config):
        sent = [await parts.submit() for _ in range(4)]
        for notification in sent:
            await parts.wait_until_done(notification.id)

    for entries in await asyncio.gather(*followers):
        assert [position for position, _ in entries] == list(range(1, total + 1))
        assert {device for _, device in entries} == {str(device_id) for device_id in devices}


async def test_new_follower_starts_at_the_end(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower without a position gets only the deliveries that settle after it has started."""
    await parts.register(parts.subscribe(Vendor.FCM, 3))
    position_read, last_position = asyncio.Event(), reader.last_position

    async def signalling_last_position(conn: AsyncConnection, application_id: UUID) -> int:
        position = await last_position(conn, application_id)
        position_read.set()
        return position

    async with parts.run_worker():
        await parts.wait_until_done((await parts.submit()).id)
        monkeypatch.setattr(reader, "last_position", signalling_last_position)
        follower = asyncio.create_task(read_entries(parts, 3, None))
        await asyncio.wait_for(position_read.wait(), 10)
        await parts.wait_until_done((await parts.submit()).id)
    assert [position for position, _ in await follower] == [4, 5, 6]


async def test_filtered_follower_still_advances(parts: Parts) -> None:
    """A filtered follower advances past the entries that do not match."""
    active, gone = parts.subscribe(Vendor.FCM, 2)
    devices = await parts.register([active, gone])
    parts.sim.unsubscribe(gone)
    async with parts.run_worker():
        await parts.wait_until_done((await parts.submit()).id)
    [(position, device)] = await read_entries(parts, 1, 0, LogFilters(outcome=OutcomeName.GONE))
    assert device == next(str(device_id) for device_id, subscriber in devices.items() if subscriber is gone)
    assert position in (1, 2)


async def test_idle_follower_gets_heartbeats_only(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower without new entries gets empty batches as heartbeats, and no entries of other applications."""
    monkeypatch.setattr(log_tail, "HEARTBEAT_S", 0.3)
    async with parts.engine.begin() as conn:
        other_application = await applications.create(
            conn, parts.context.keyring, "Other", "mailto:ops@example.org", []
        )
    other_id = ids.parse(ids.APPLICATION, other_application["id"])
    assert other_id is not None
    await parts.register(parts.subscribe(Vendor.FCM, 3))
    entries = follow(parts.engine, parts.notifier, other_id, LogFilters(), 0)
    async with parts.run_worker(), aclosing(entries), asyncio.timeout(10):
        heartbeat = asyncio.ensure_future(anext(entries))
        await parts.wait_until_done((await parts.submit()).id)
        assert await heartbeat == []


async def test_pages_and_follower_agree(parts: Parts) -> None:
    """Pages and the follower return the same entries."""
    await parts.register(parts.subscribe(Vendor.MOZILLA, 25))
    async with parts.run_worker():
        await parts.wait_until_done((await parts.submit()).id)
    pages: Entries = []
    before = None
    async with parts.engine.connect() as conn:
        while page := await reader.list_page(conn, parts.application_id, LogFilters(), before=before, limit=10):
            pages += [(entry.row.position, str(entry.row.device_id)) for entry in page]
            before = pages[-1][0]
    assert pages[::-1] == await read_entries(parts, 25, 0)
