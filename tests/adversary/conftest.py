"""Fixtures of the adversary suite.

Each test attacks a running gateway as a stranger, a page, a tenant or a push service could, and checks that the
alert of another application (`bystander`) is on time. Server and worker run in separate processes.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.api import ADMIN
from tests.support.bystander import Bystander
from tests.support.fixtures import api, http, parts, pool_size, sim
from tests.support.gateway_parts import Parts
from tests.support.worker_process import server_process, worker_process

__all__ = ["api", "http", "parts", "pool_size", "sim"]


@pytest.fixture
def settings() -> dict[str, object]:
    """The gateway's settings by name; a module with other settings overrides this fixture."""
    return {}


@pytest.fixture
async def worker(parts: Parts, tmp_path: Path, settings: dict[str, object]) -> AsyncIterator[None]:
    """Run `gateway work` with `settings` until the test ends."""
    async with worker_process(parts, tmp_path, **settings):
        yield


@pytest.fixture
async def origin(parts: Parts, tmp_path: Path, settings: dict[str, object]) -> AsyncIterator[str]:
    """Run `gateway serve` with `settings` until the test ends; yield its origin."""
    async with server_process(parts, tmp_path, admin_token=ADMIN, **settings) as (_, origin):
        yield origin


@pytest.fixture
async def bystander(parts: Parts, worker: None, origin: str, http: aiohttp.ClientSession) -> Bystander:
    """An application that nobody attacks, and whose alerts were timed on the idle gateway."""
    return await Bystander.create(parts, origin, http)
