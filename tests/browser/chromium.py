"""A real headless Chromium, driven by Playwright.

Chromium has only its maker's push service. Tests deliver pushes to service workers over the DevTools protocol, and read
notifications from the service worker registration.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

BINARY = shutil.which("chromium") or shutil.which("google-chrome")

# Prevent requests to the maker's hosts at every start.
OFFLINE_FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """Run Chromium; each test creates a context of its own, which shares nothing with others."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BINARY, args=OFFLINE_FLAGS, chromium_sandbox=False)
        try:
            yield browser
        finally:
            await browser.close()
