"""The notifier: events wake the subscriptions of their channel, also after a lost connection."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.records.postgres import notifier
from gateway.records.postgres.notifier import ChannelSubscription, Notifier

LONG_S = 20.0


@pytest.fixture
async def listener(database_url: str) -> AsyncIterator[Notifier]:
    listener = Notifier(database_url)
    with listener.subscribe(notifier.JOBS) as subscription:
        async with listener.running():
            assert await subscription.wait(LONG_S) == {""}, "connected"
            yield listener


async def send(engine: AsyncEngine, channel: str, *payloads: str) -> None:
    """Send one event with each payload on a channel, in one transaction."""
    async with engine.begin() as conn:
        for payload in payloads:
            await notifier.notify(conn, channel, payload)


@pytest.mark.parametrize("turns", range(6))
async def test_event_does_not_swallow_a_cancellation(turns: int) -> None:
    """A wait that is cancelled just when an event arrives raises CancelledError, so that a stopped worker stops."""
    subscription = ChannelSubscription()
    waiting = asyncio.create_task(subscription.wait(LONG_S))
    await asyncio.wait({waiting}, timeout=0.01)
    subscription.publish("job")
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await waiting
    else:
        assert await waiting == {"job"}


async def test_event_arrives_when_its_transaction_commits(listener: Notifier, engine: AsyncEngine) -> None:
    """An event of a transaction that is rolled back never arrives."""
    with listener.subscribe(notifier.LOG) as subscription:
        async with engine.connect() as conn:
            await notifier.notify(conn, notifier.LOG, "rolled back")
            await conn.rollback()
        async with engine.begin() as conn:
            await notifier.notify(conn, notifier.LOG, "committed")
            assert await subscription.wait(0.05) == set()
        assert await subscription.wait(LONG_S) == {"committed"}


async def test_subscription_gets_its_own_channel_only(listener: Notifier, engine: AsyncEngine) -> None:
    """All subscriptions of a channel get its events, and subscriptions of other channels do not."""
    with (
        listener.subscribe(notifier.LOG) as first,
        listener.subscribe(notifier.LOG) as second,
        listener.subscribe(notifier.STATUS) as third,
    ):
        await send(engine, notifier.LOG, "a")
        assert await first.wait(LONG_S) == await second.wait(LONG_S) == {"a"}
        await send(engine, notifier.STATUS, "b")
        assert await third.wait(LONG_S) == {"b"}
        assert await first.wait(0.05) == set()


async def test_events_between_two_waits_are_not_lost(listener: Notifier, engine: AsyncEngine) -> None:
    """Events that arrive between two waits are returned by the next wait, once each."""
    with listener.subscribe(notifier.LOG) as subscription, listener.subscribe(notifier.STATUS) as last:
        await send(engine, notifier.LOG, "a", "b", "a")
        await send(engine, notifier.STATUS, "end")
        await last.wait(LONG_S)
        assert await subscription.wait(LONG_S) == {"a", "b"}


async def test_lost_connection_wakes_all_and_is_restored(
    listener: Notifier, engine: AsyncEngine, postgres_url: str, database_url: str
) -> None:
    """Every subscription gets an empty event, because events may have been missed while the connection was lost."""
    server = await asyncpg.connect(postgres_url)
    name = database_url.rpartition("/")[2]
    with listener.subscribe(notifier.LOG) as subscription:
        await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        assert await subscription.wait(LONG_S) == {""}
        await send(engine, notifier.LOG, "after")
        assert await subscription.wait(LONG_S) == {"after"}
    await server.close()
