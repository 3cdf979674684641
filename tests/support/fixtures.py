"""Fixtures of the tests that run the gateway; a folder's conftest.py imports the ones that its tests use.

They are not defined in tests/conftest.py because unit tests do not use them, and importing the gateway would slow
down every run of a single unit test.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta

import aiohttp
import pytest

from gateway.domain import clock, retry
from gateway.sim import Sim
from tests.support.api import Api, serve_api
from tests.support.gateway_parts import Parts, gateway


@pytest.fixture
def pool_size() -> int:
    """The size of the connection pool of `parts`; a module that needs more connections overrides this fixture."""
    return 10


@pytest.fixture
async def parts(database_url: str, pool_size: int) -> AsyncIterator[Parts]:
    """A gateway with one application on the database of the test, without a running worker or server."""
    async with gateway(database_url, pool_size=pool_size) as parts:
        yield parts


@pytest.fixture
async def api(parts: Parts) -> AsyncIterator[Api]:
    """A client of the HTTP API, served on loopback from `parts`."""
    async with serve_api(parts) as api:
        yield api


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    """Simulated push services that accept every valid message."""
    async with Sim() as sim:
        yield sim


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client session."""
    async with aiohttp.ClientSession() as http:
        yield http


@pytest.fixture
def today() -> date:
    """The current date in UTC."""
    return datetime.now(UTC).date()


@pytest.fixture
def own_clock() -> Iterator[None]:
    """Reset the offset of the gateway's clock before and after a test that changes it."""
    clock.reset()
    yield
    clock.reset()


@pytest.fixture
def short_retry_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten retry delays to fractions of a second."""
    monkeypatch.setattr(retry, "FIRST_DELAY", timedelta(milliseconds=50))
    monkeypatch.setattr(retry, "RETRY_GRID", timedelta(milliseconds=20))
