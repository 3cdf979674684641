"""A real headless Chromium, driven by Playwright.

Chromium can use only Google's push service. Tests therefore deliver pushes to service workers over the DevTools
protocol, and read notifications from the service worker registration.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

BINARY = shutil.which("chromium") or shutil.which("google-chrome")

# Flags that prevent requests to Google's hosts at the start.
OFFLINE_FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """Run Chromium; each test creates its own browser context, which shares no state with other contexts."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BINARY, args=OFFLINE_FLAGS, chromium_sandbox=False)
        try:
            yield browser
        finally:
            await browser.close()
