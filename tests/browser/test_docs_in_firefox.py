"""Run the JavaScript and HTML blocks of the documents in a real Firefox, against a real gateway.

One test follows the tutorial until its notification is on the screen. The other test puts all other blocks into one
page, each behind its own button.
"""

import asyncio
import re
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from firefox import Firefox

from gateway.client import Gateway
from gateway.sim import Sim
from tests.support.command import command, free_ports, run_in_background
from tests.support.documents import TUTORIAL, Fence, fences

pytestmark = pytest.mark.browser

SEND_COMMAND = re.compile(r"^gateway (send .*)$", re.MULTILINE)
# The blocks of the documents rely on a function `show`, and on a service worker of the previous push sender.
PAGE_SETUP = """
const scope = "/firebase-cloud-messaging-push-scope";
await navigator.serviceWorker.register("/firebase-messaging-sw.js", { scope });
const show = (content) => { document.title = content.title; };
window.push = push;
"""
IMPORT = re.compile(r"^import .*;$", re.MULTILINE)
# Accepts the soft prompt of the SDK once it is open.
CLICK_ACCEPT = "void document.querySelector('webpush-prompt')?.shadowRoot.querySelector('.accept').click()"
BUTTON_HANDLER = """
document.querySelector("#{name}").addEventListener("click", async () => {{
  const report = (text) => {{ document.querySelector("#{name}").title = text; }};
  try {{
    {block}
    report("done");
  }} catch (error) {{ report(`${{error.name}}: ${{error.message}}`); }}
}});
"""


@dataclass(slots=True)
class Reader:
    """Follows the documents: `folder` is served at `origin`, and `gateway` is the gateway's address."""

    folder: Path
    origin: str
    gateway: str
    settings: dict[str, str]
    keys: Any

    def localize(self, block: Fence) -> str:
        """Replace the addresses and the key of the example by those of this test."""
        text = re.sub(r"https://push\.example\.org|http://127\.0\.0\.1:8080", self.gateway, block.text)
        return text.replace("http://localhost:8000", self.origin).replace("pk_...", self.keys["publishable_key"])


@pytest.fixture
async def reader(sim: Sim, database_url: str, tmp_path: Path) -> AsyncIterator[Reader]:
    """Start a gateway with the application Shop, and a web server for the reader's folder."""
    port = free_ports(2)
    origin = f"http://localhost:{port + 1}"
    settings = {
        "GATEWAY_DATABASE_URL": database_url,
        "GATEWAY_MASTER_KEY": "a master key for tests that is long enough",
        "GATEWAY_PUSH_HOSTS": ",".join(sim.origins.values()),
        "GATEWAY_PORT": str(port),
    }
    async with run_in_background("up", **settings) as up, serve_folder(tmp_path, port + 1):
        await up.wait_for_output("worker.started")
        create = ("apps", "create", "Shop", "--subject", "mailto:ops@example.org", "--origin", origin, "--json")
        keys = (await command(*create, **settings)).json
        yield Reader(tmp_path, origin, f"http://127.0.0.1:{port}", settings, keys)


@asynccontextmanager
async def serve_folder(folder: Path, port: int) -> AsyncIterator[None]:
    """Serve a folder over HTTP, as the tutorial does."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "http.server", str(port)),
        cwd=folder,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield
    finally:
        server.terminate()
        await server.communicate()


async def test_tutorial_ends_with_a_notification_on_the_screen(firefox: Firefox, reader: Reader) -> None:
    """The tutorial's page, service worker and command bring a notification to the screen."""
    [page] = fences("html")  # only the tutorial has an HTML block
    [worker] = fences("js", of=(TUTORIAL,))
    (reader.folder / "index.html").write_text(reader.localize(page))
    (reader.folder / "service-worker.js").write_text(reader.localize(worker))
    async with firefox.tab(f"{reader.origin}/") as tab:
        await tab.until("document.querySelector('#state').textContent === 'ready'")
        await tab.click("#on")
        await tab.until("document.querySelector('#state').textContent === 'subscribed'")
        [send] = [match for block in fences("sh", of=(TUTORIAL,)) for match in SEND_COMMAND.findall(block.text)]
        result = await command(*shlex.split(send), **reader.settings)
        assert result.code == 0, result.err
        notification = await firefox.wait_for_notification("Umbrellas, half price")
        assert "This weekend only." in notification.body
        await firefox.dismiss_all()
    deliveries = await command("deliveries", "list", "--app", "Shop", "--json", **reader.settings)
    assert [delivery["outcome"] for delivery in deliveries.json["items"]] == ["accepted"]


async def test_every_javascript_block_runs_in_a_page(firefox: Firefox, reader: Reader) -> None:
    """Each block succeeds; the page with all blocks registers, replaces an old worker and receives live messages."""
    blocks = [block for block in fences("js") if block.file != TUTORIAL]
    [worker] = [block for block in blocks if "importScripts(" in block.text]
    [start] = [block for block in blocks if "init({" in block.text]
    button_blocks = {f"block-{index}": block for index, block in enumerate(blocks) if block not in (worker, start)}
    (reader.folder / "service-worker.js").write_text(reader.localize(worker))
    (reader.folder / "firebase-messaging-sw.js").write_text("")
    imports = [line for block in button_blocks.values() for line in IMPORT.findall(reader.localize(block))]
    handlers = [
        BUTTON_HANDLER.format(name=name, block=IMPORT.sub("", reader.localize(block)))
        for name, block in button_blocks.items()
    ]
    (reader.folder / "page.js").write_text("\n".join([*imports, reader.localize(start), PAGE_SETUP, *handlers]))
    buttons = "".join(f'<button id="{name}">{name}</button>' for name in ("subscribe", *button_blocks))
    (reader.folder / "index.html").write_text(f'<!doctype html>{buttons}<script type="module" src="page.js"></script>')
    async with (
        Gateway(reader.gateway, reader.keys["secret_key"]) as gateway,
        firefox.tab(f"{reader.origin}/") as tab,
    ):
        await gateway.categories.create(name="offers", title="Offers")
        await tab.until("window.push")
        for name, block in button_blocks.items():
            # Blocks that subscribe run on an unsubscribed page, and all other blocks on a subscribed page.
            if "push.subscribe(" in block.text or "ask(push" in block.text:
                await tab.js("push.unsubscribe()")
            elif await tab.js("push.state()") == "ready":
                await tab.click("#subscribe")
                await tab.until("push.state().then((state) => state === 'subscribed')")
            await tab.click(f"#{name}")
            report = await tab.until(f"document.querySelector('#{name}').title || {CLICK_ACCEPT}")
            assert report == "done", f"{report}\n{block.text}"
        # The blocks run in the order of the documents; then subscribe with the README's block and open a live channel.
        [live_channel] = [name for name, block in button_blocks.items() if "show(" in block.text]
        await tab.js("push.unsubscribe()")
        await tab.click("#subscribe")
        await tab.until("push.state().then((state) => state === 'subscribed')")
        await tab.click(f"#{live_channel}")
        scopes = "navigator.serviceWorker.getRegistrations().then((all) => all.map((worker) => worker.scope))"
        assert await tab.js(scopes) == [f"{reader.origin}/"]  # the previous sender's worker is unregistered
        [device] = [device async for device in gateway.devices.list()]
        assert (device.user_id, set(device.topics)) == ("u-42", {"offers", "weather"})
        await gateway.notifications.send(content={"title": "Still here"}, audience={"topic": "offers"})
        await tab.until("document.title === 'Still here'")
