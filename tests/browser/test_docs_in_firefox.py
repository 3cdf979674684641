"""What the documentation has for a browser, done by a reader with a real Firefox and a real gateway.

The tutorial is followed to the letter, until its notification is on the screen. All other blocks are pasted into one
page, each behind a button of its own, as a page calls them.
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
from tests.support.command import command, free_ports, running
from tests.support.documents import TUTORIAL, Fence, fences

pytestmark = pytest.mark.browser

ORDER = re.compile(r"^gateway (send .*)$", re.MULTILINE)
# What a page of one's own has around the blocks: something to show mail with, and the worker of the sender before.
AROUND = """
const scope = "/firebase-cloud-messaging-push-scope";
await navigator.serviceWorker.register("/firebase-messaging-sw.js", { scope });
const show = (content) => { document.title = content.title; };
window.push = push;
"""
IMPORT = re.compile(r"^import .*;$", re.MULTILINE)
# A polite question is answered, once it is there.
YES = "void document.querySelector('webpush-prompt')?.shadowRoot.querySelector('.yes').click()"
BUTTON = """
document.querySelector("#{name}").addEventListener("click", async () => {{
  const said = (what) => {{ document.querySelector("#{name}").title = what; }};
  try {{
    {block}
    said("done");
  }} catch (error) {{ said(`${{error.name}}: ${{error.message}}`); }}
}});
"""


@dataclass(slots=True)
class Reader:
    """`folder` is served at `home`."""

    folder: Path
    home: str
    gateway: str
    settings: dict[str, str]
    keys: Any

    def own(self, block: Fence) -> str:
        text = re.sub(r"https://push\.example\.org|http://127\.0\.0\.1:8080", self.gateway, block.text)
        return text.replace("http://localhost:8000", self.home).replace("pk_...", self.keys["publishable_key"])


@pytest.fixture
async def reader(sim: Sim, database_url: str, tmp_path: Path) -> AsyncIterator[Reader]:
    port = free_ports(2)
    home = f"http://localhost:{port + 1}"
    settings = {
        "GATEWAY_DATABASE_URL": database_url,
        "GATEWAY_MASTER_KEY": "a master key for tests that is long enough",
        "GATEWAY_PUSH_HOSTS": ",".join(sim.origins.values()),
        "GATEWAY_PORT": str(port),
    }
    async with running("up", **settings) as up, serving(tmp_path, port + 1):
        await up.until_said("worker.started")
        create = ("apps", "create", "Shop", "--subject", "mailto:ops@example.org", "--origin", home, "--json")
        keys = (await command(*create, **settings)).json
        yield Reader(tmp_path, home, f"http://127.0.0.1:{port}", settings, keys)


@asynccontextmanager
async def serving(folder: Path, port: int) -> AsyncIterator[None]:
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


async def test_the_tutorial_ends_with_a_notification_on_the_screen(firefox: Firefox, reader: Reader) -> None:
    [page] = fences("html")  # the tutorial's is the only one
    [worker] = fences("js", of=(TUTORIAL,))
    (reader.folder / "index.html").write_text(reader.own(page))
    (reader.folder / "service-worker.js").write_text(reader.own(worker))
    async with firefox.tab(f"{reader.home}/") as tab:
        await tab.until("document.querySelector('#state').textContent === 'ready'")
        await tab.click("#on")
        await tab.until("document.querySelector('#state').textContent === 'subscribed'")
        [order] = [order for block in fences("sh", of=(TUTORIAL,)) for order in ORDER.findall(block.text)]
        sent = await command(*shlex.split(order), **reader.settings)
        assert sent.code == 0, sent.err
        alert = await firefox.alert("Umbrellas, half price")
        assert "This weekend only." in alert.body
        await firefox.dismiss_all_alerts()
    listed = await command("deliveries", "list", "--app", "Shop", "--json", **reader.settings)
    assert [one["outcome"] for one in listed.json["items"]] == ["accepted"]


async def test_every_block_for_a_page_works_in_one(firefox: Firefox, reader: Reader) -> None:
    blocks = [block for block in fences("js") if block.file != TUTORIAL]
    [worker] = [block for block in blocks if "importScripts(" in block.text]
    [start] = [block for block in blocks if "init({" in block.text]
    others = {f"block-{at}": block for at, block in enumerate(blocks) if block not in (worker, start)}
    (reader.folder / "service-worker.js").write_text(reader.own(worker))
    (reader.folder / "firebase-messaging-sw.js").write_text("")
    imports = [line for block in others.values() for line in IMPORT.findall(reader.own(block))]
    pasted = [BUTTON.format(name=name, block=IMPORT.sub("", reader.own(block))) for name, block in others.items()]
    (reader.folder / "page.js").write_text("\n".join([*imports, reader.own(start), AROUND, *pasted]))
    buttons = "".join(f'<button id="{name}">{name}</button>' for name in ("subscribe", *others))
    (reader.folder / "index.html").write_text(f'<!doctype html>{buttons}<script type="module" src="page.js"></script>')
    async with (
        Gateway(reader.gateway, reader.keys["secret_key"]) as gateway,
        firefox.tab(f"{reader.home}/") as tab,
    ):
        await gateway.categories.create(name="offers", title="Offers")
        await tab.until("window.push")
        for name, block in others.items():
            # Those that subscribe by themselves find a page that is not, all others one that is.
            if "push.subscribe(" in block.text or "ask(push" in block.text:
                await tab.js("push.unsubscribe()")
            elif await tab.js("push.state()") == "ready":
                await tab.click("#subscribe")
                await tab.until("push.state().then((state) => state === 'subscribed')")
            await tab.click(f"#{name}")
            said = await tab.until(f"document.querySelector('#{name}').title || {YES}")
            assert said == "done", f"{said}\n{block.text}"
        # End in one state, whatever the order of the documents: subscribed by the README's block, with a live channel.
        [live] = [name for name, block in others.items() if "show(" in block.text]
        await tab.js("push.unsubscribe()")
        await tab.click("#subscribe")
        await tab.until("push.state().then((state) => state === 'subscribed')")
        await tab.click(f"#{live}")
        scopes = "navigator.serviceWorker.getRegistrations().then((all) => all.map((one) => one.scope))"
        assert await tab.js(scopes) == [f"{reader.home}/"]  # the sender before is gone
        [device] = [device async for device in gateway.devices.list()]
        assert (device.user_id, set(device.topics)) == ("u-42", {"offers", "weather"})
        await gateway.notifications.send(content={"title": "Still here"}, audience={"topic": "offers"})
        await tab.until("document.title === 'Still here'")
