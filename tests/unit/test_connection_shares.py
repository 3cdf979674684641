"""The shares of applications in a process's database connections; no database is contacted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from gateway.domain.database_work import ALERT, LIST, PREVIEW, REQUEST, URGENT, WorkKind
from gateway.domain.errors import ShareExhausted
from gateway.records.postgres.connection_shares import ConnectionShares, divide_pool
from gateway.records.postgres.engine import open_engine

URL = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
async def shares() -> AsyncIterator[ConnectionShares]:
    """Shares of ten connections: five for requests, two for urgent work, and three for open pages and lookups.

    An application's share is 60 %, so that it may use three of the connections for requests.
    """
    sizes = divide_pool(10)
    engine, urgent_engine = open_engine(URL, pool_size=sizes.general), open_engine(URL, pool_size=sizes.urgent)
    yield ConnectionShares(engine, urgent_engine, application_share=60)
    await engine.dispose()
    await urgent_engine.dispose()


def with_short_wait(kind: WorkKind) -> WorkKind:
    """Return a copy of the kind of work that waits at most 10 ms for a connection."""
    return replace(kind, max_wait_s=0.01)


def test_pool_is_divided_completely() -> None:
    """Each part of the pool has at least one connection, and the parts add up to the pool."""
    for connections in range(5, 200):
        sizes = divide_pool(connections)
        assert sum(sizes) == connections
        assert min(sizes) >= 1
        assert sizes.urgent >= 2


async def test_application_beyond_its_share_is_refused(shares: ConnectionShares) -> None:
    """Application a gets three of the five connections for requests; b gets the other two."""
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(shares.reserve(REQUEST, "a"))
        with pytest.raises(ShareExhausted, match=r"the application has its share .* for requests"):
            await stack.enter_async_context(shares.reserve(with_short_wait(REQUEST), "a"))
        for _ in range(2):
            await stack.enter_async_context(shares.reserve(REQUEST, "b"))
        with pytest.raises(ShareExhausted, match="all database connections for requests"):
            await stack.enter_async_context(shares.reserve(with_short_wait(REQUEST), "c"))
    async with shares.reserve(with_short_wait(REQUEST), "a"):
        pass


async def test_previews_leave_connections_to_other_work(shares: ConnectionShares) -> None:
    """One preview per application and two in all run at once; lists and requests still get connections."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(shares.reserve(PREVIEW, "a"))
        with pytest.raises(ShareExhausted, match="for previews"):
            await stack.enter_async_context(shares.reserve(with_short_wait(PREVIEW), "a"))
        await stack.enter_async_context(shares.reserve(PREVIEW, "b"))
        with pytest.raises(ShareExhausted, match="all database connections for previews"):
            await stack.enter_async_context(shares.reserve(with_short_wait(PREVIEW), "c"))
        await stack.enter_async_context(shares.reserve(LIST, "a"))
        await stack.enter_async_context(shares.reserve(REQUEST, "c"))


async def test_urgent_work_has_reserved_connections(shares: ConnectionShares) -> None:
    """When all connections for requests are taken, urgent work of two applications still gets one each."""
    async with AsyncExitStack() as stack:
        for application in ("a", "a", "a", "b", "b"):
            await stack.enter_async_context(shares.reserve(REQUEST, application))
        await stack.enter_async_context(shares.reserve(URGENT, "a"))
        with pytest.raises(ShareExhausted):
            await stack.enter_async_context(shares.reserve(with_short_wait(URGENT), "a"))
        await stack.enter_async_context(shares.reserve(ALERT, "b"))


async def test_alerts_of_an_application_take_one_connection(shares: ConnectionShares) -> None:
    """Two alerts of an application need the same lock, so the second one waits for it without a connection."""
    async with shares.reserve(ALERT, "a"):
        with pytest.raises(ShareExhausted, match="for alerts"):
            async with shares.reserve(with_short_wait(ALERT), "a"):
                pass
        async with shares.reserve(ALERT, "b"):
            pass


async def test_freed_connection_goes_to_applications_in_turn(shares: ConnectionShares) -> None:
    """Ten waiting requests of application b do not delay the one request of c, which arrives after them."""
    served: list[str] = []

    async def work(application: str) -> None:
        async with shares.reserve(REQUEST, application):
            served.append(application)

    async with AsyncExitStack() as stack:
        for application in ("a", "a", "a", "x", "y"):
            await stack.enter_async_context(shares.reserve(REQUEST, application))
        tasks = [asyncio.create_task(work("b")) for _ in range(10)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(work("c")))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert served.index("c") <= 2


async def test_cancelled_wait_occupies_no_connection(shares: ConnectionShares) -> None:
    """After two of three waiters are cancelled, the third gets the connection and then frees it."""

    async def work() -> None:
        async with shares.reserve(PREVIEW, "a"):
            pass

    async with shares.reserve(PREVIEW, "a"):
        waiting = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        await asyncio.sleep(0)
    await waiting[2]
    async with shares.reserve(with_short_wait(PREVIEW), "a"):
        pass
