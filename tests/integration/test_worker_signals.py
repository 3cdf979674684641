"""Signals wake those who wait, and are only ever hints."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.records.postgres import notifier
from gateway.records.postgres.notifier import Notifier, Subscription

LONG_S = 20.0


@pytest.fixture
async def bell(database_url: str) -> AsyncIterator[Notifier]:
    bell = Notifier(database_url)
    with bell.subscribe(notifier.JOBS) as waiter:
        async with bell.running():
            assert await waiter.wait(LONG_S) == {""}, "it listens now"
            yield bell


async def send(engine: AsyncEngine, channel: str, *payloads: str) -> None:
    async with engine.begin() as conn:
        for payload in payloads:
            await notifier.send(conn, channel, payload)


@pytest.mark.parametrize("turns", range(6))
async def test_a_signal_never_swallows_a_cancellation_that_comes_with_it(turns: int) -> None:
    """A worker that is told to stop just when a job arrives must stop."""
    waiter = Subscription()
    waiting = asyncio.create_task(waiter.wait(LONG_S))
    await asyncio.wait({waiting}, timeout=0.01)
    waiter.publish("job")
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await waiting
    else:
        assert await waiting == {"job"}


async def test_a_signal_is_heard_when_its_transaction_commits(bell: Notifier, engine: AsyncEngine) -> None:
    with bell.subscribe(notifier.LOG) as waiter:
        async with engine.connect() as conn:
            await notifier.send(conn, notifier.LOG, "rolled back")
            await conn.rollback()
        async with engine.begin() as conn:
            await notifier.send(conn, notifier.LOG, "committed")
            assert await waiter.wait(0.05) == set()
        assert await waiter.wait(LONG_S) == {"committed"}


async def test_everybody_hears_their_own_channel_only(bell: Notifier, engine: AsyncEngine) -> None:
    with (
        bell.subscribe(notifier.LOG) as one,
        bell.subscribe(notifier.LOG) as other,
        bell.subscribe(notifier.CONTROL) as third,
    ):
        await send(engine, notifier.LOG, "a")
        assert await one.wait(LONG_S) == await other.wait(LONG_S) == {"a"}
        await send(engine, notifier.CONTROL, "b")
        assert await third.wait(LONG_S) == {"b"}
        assert await one.wait(0.05) == set()


async def test_what_was_heard_between_two_looks_is_not_lost(bell: Notifier, engine: AsyncEngine) -> None:
    with bell.subscribe(notifier.LOG) as waiter, bell.subscribe(notifier.CONTROL) as last:
        await send(engine, notifier.LOG, "a", "b", "a")
        await send(engine, notifier.CONTROL, "end")
        await last.wait(LONG_S)
        assert await waiter.wait(LONG_S) == {"a", "b"}


async def test_after_a_lost_connection_everybody_looks_for_themselves_and_hears_again(
    bell: Notifier, engine: AsyncEngine, postgres_url: str, database_url: str
) -> None:
    server = await asyncpg.connect(postgres_url)
    name = database_url.rpartition("/")[2]
    with bell.subscribe(notifier.LOG) as waiter:
        await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        assert await waiter.wait(LONG_S) == {""}
        await send(engine, notifier.LOG, "again")
        assert await waiter.wait(LONG_S) == {"again"}
    await server.close()
