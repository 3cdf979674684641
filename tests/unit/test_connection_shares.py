"""The places of applications in a server's database connections; no database is contacted."""

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
    """Ten connections: five for requests, two for urgent work, the others for open pages and lookups."""
    sizes = divide_pool(10)
    engine, urgent_engine = open_engine(URL, pool_size=sizes.general), open_engine(URL, pool_size=sizes.urgent)
    yield ConnectionShares(engine, urgent_engine, application_share=60)
    await engine.dispose()
    await urgent_engine.dispose()


def impatient(kind: WorkKind) -> WorkKind:
    """Return the kind with a wait of 10 ms."""
    return replace(kind, max_wait_s=0.01)


def test_pool_is_divided_completely() -> None:
    """Each purpose has connections, and all of them together are the pool."""
    for connections in range(5, 200):
        sizes = divide_pool(connections)
        assert sum(sizes) == connections
        assert min(sizes) >= 1
        assert sizes.urgent >= 2


async def test_application_beyond_its_share_is_refused(shares: ConnectionShares) -> None:
    """An application gets its share of the places, and another one gets the rest."""
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(shares.reserve(REQUEST, "a"))
        with pytest.raises(ShareExhausted, match=r"the application has its share .* for requests"):
            await stack.enter_async_context(shares.reserve(impatient(REQUEST), "a"))
        for _ in range(2):
            await stack.enter_async_context(shares.reserve(REQUEST, "b"))
        with pytest.raises(ShareExhausted, match="all database connections for requests"):
            await stack.enter_async_context(shares.reserve(impatient(REQUEST), "c"))
    async with shares.reserve(impatient(REQUEST), "a"):
        pass


async def test_kind_of_work_leaves_slots_to_others(shares: ConnectionShares) -> None:
    """One preview of an application and two of all applications run at once; lists and requests have places left."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(shares.reserve(PREVIEW, "a"))
        with pytest.raises(ShareExhausted, match="for previews"):
            await stack.enter_async_context(shares.reserve(impatient(PREVIEW), "a"))
        await stack.enter_async_context(shares.reserve(PREVIEW, "b"))
        with pytest.raises(ShareExhausted, match="all database connections for previews"):
            await stack.enter_async_context(shares.reserve(impatient(PREVIEW), "c"))
        await stack.enter_async_context(shares.reserve(LIST, "a"))
        await stack.enter_async_context(shares.reserve(REQUEST, "c"))


async def test_urgent_work_has_slots_of_its_own(shares: ConnectionShares) -> None:
    """When every other place is taken, urgent work of two applications still gets one each."""
    async with AsyncExitStack() as stack:
        for application in ("a", "a", "a", "b", "b"):
            await stack.enter_async_context(shares.reserve(REQUEST, application))
        await stack.enter_async_context(shares.reserve(URGENT, "a"))
        with pytest.raises(ShareExhausted):
            await stack.enter_async_context(shares.reserve(impatient(URGENT), "a"))
        await stack.enter_async_context(shares.reserve(ALERT, "b"))


async def test_alerts_of_an_application_take_one_place(shares: ConnectionShares) -> None:
    """They wait for each other's lock, so a second one waits without a connection."""
    async with shares.reserve(ALERT, "a"):
        with pytest.raises(ShareExhausted, match="for alerts"):
            async with shares.reserve(impatient(ALERT), "a"):
                pass
        async with shares.reserve(ALERT, "b"):
            pass


async def test_freed_place_goes_to_the_applications_in_turn(shares: ConnectionShares) -> None:
    """An application with much waiting work does not delay the next application's only request."""
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


async def test_cancelled_wait_keeps_no_place(shares: ConnectionShares) -> None:
    """Neither a cancelled nor a refused waiter occupies a place later."""

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
    async with shares.reserve(impatient(PREVIEW), "a"):
        pass
