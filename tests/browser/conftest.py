"""Fixtures: one Firefox and one Chromium for the session, and a new gateway port for each test.

A new port is a new web origin with its own service worker, permission and subscription, so that tests in the shared
browser are independent of each other.
"""

from collections.abc import AsyncIterator

import chromium as chromium_
import pytest
from fake_gateway import KEY, FakeGateway, running_fake_gateway
from firefox import BINARY, Firefox, Tab, running_firefox
from playwright.async_api import Browser

from gateway.sim import Sim
from tests.support.fixtures import api, parts, pool_size

__all__ = ["api", "parts", "pool_size"]


@pytest.fixture(scope="session")
async def sim() -> AsyncIterator[Sim]:
    """Run the simulated push services."""
    async with Sim() as sim:
        yield sim


@pytest.fixture(scope="session")
async def firefox(sim: Sim) -> AsyncIterator[Firefox]:
    """Run Firefox, connected to the simulated push service."""
    if not BINARY:
        pytest.skip("Firefox is not installed: apt-get install firefox-esr")
    async with running_firefox(sim.websocket_url) as firefox:
        yield firefox


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """Run Chromium."""
    if not chromium_.BINARY:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    async with chromium_.running_chromium() as browser:
        yield browser


@pytest.fixture
async def fake_gateway() -> AsyncIterator[FakeGateway]:
    """Serve a fake gateway on a new origin."""
    async with running_fake_gateway() as gateway:
        yield gateway


@pytest.fixture
async def sample(firefox: Firefox, fake_gateway: FakeGateway) -> AsyncIterator[Tab]:
    """Open the sample page without subscribing."""
    async with firefox.tab(f"{fake_gateway.origin}/sample/#key={KEY}") as tab:
        yield tab
        await firefox.dismiss_all()


@pytest.fixture
async def subscribed(sample: Tab) -> Tab:
    """Open the sample page, and subscribe with a click on its button."""
    await sample.until("!document.getElementById('subscribe').disabled")
    await sample.click("#subscribe")
    await sample.until("document.getElementById('state').dataset.state === 'subscribed'")
    return sample
