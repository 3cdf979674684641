"""One Firefox and one Chromium for the session; a fresh gateway port, hence a fresh web origin, for each test.

A fresh origin has its own worker, permission and subscription, so tests cannot meet inside the shared browser.
"""

from collections.abc import AsyncIterator

import chromium as chromium_
import pytest
from fake_gateway import KEY, FakeGateway, running_fake_gateway
from firefox import BINARY, Firefox, Tab, running_firefox
from playwright.async_api import Browser

from gateway.sim import Sim


@pytest.fixture(scope="session")
async def sim() -> AsyncIterator[Sim]:
    async with Sim() as sim:
        yield sim


@pytest.fixture(scope="session")
async def firefox(sim: Sim) -> AsyncIterator[Firefox]:
    if not BINARY:
        pytest.skip("no Firefox here: apt-get install firefox-esr")
    async with running_firefox(sim.websocket_url) as firefox:
        yield firefox


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    if not chromium_.BINARY:
        pytest.skip("no Chromium here: apt-get install chromium")
    async with chromium_.running_chromium() as browser:
        yield browser


@pytest.fixture
async def fake_gateway() -> AsyncIterator[FakeGateway]:
    async with running_fake_gateway() as gateway:
        yield gateway


@pytest.fixture
async def sample(firefox: Firefox, fake_gateway: FakeGateway) -> AsyncIterator[Tab]:
    """The sample page, open and not subscribed."""
    async with firefox.tab(f"{fake_gateway.origin}/sample/#key={KEY}") as tab:
        yield tab
        await firefox.dismiss_all_alerts()


@pytest.fixture
async def subscribed(sample: Tab) -> Tab:
    """The sample page, subscribed by a click on its button."""
    await sample.until("!document.getElementById('subscribe').disabled")
    await sample.click("#subscribe")
    await sample.until("document.getElementById('state').dataset.state === 'subscribed'")
    return sample
