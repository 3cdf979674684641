"""A real headless Chromium, driven by Playwright.

It has no push service that could be ours, so a push comes to its service workers over the devtools protocol, and a
notification is what the service worker was granted to show.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

BINARY = shutil.which("chromium") or shutil.which("google-chrome")

# Without these it asks its maker's hosts for this and that at every start.
QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """Each test takes a context of its own from it, which shares nothing with another's."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BINARY, args=QUIET, chromium_sandbox=False)
        try:
            yield browser
        finally:
            await browser.close()
