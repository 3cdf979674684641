"""The tutorial, done by a reader with a real Firefox: its two files, its commands, and what is then on the screen."""

import asyncio
import re
import shlex
import sys
from pathlib import Path

import pytest
from firefox import Firefox

from gateway.sim import Sim
from gateway.web import docs
from tests.support.command import command, free_ports, running

pytestmark = pytest.mark.browser

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ORDER = re.compile(r"^gateway (send .*)$", re.MULTILINE)


async def test_the_tutorial_ends_with_a_notification_on_the_screen(
    firefox: Firefox, sim: Sim, database_url: str, tmp_path: Path
) -> None:
    port = free_ports(2)
    gateway, home = f"http://127.0.0.1:{port}", f"http://localhost:{port + 1}"
    settings = {
        "GATEWAY_DATABASE_URL": database_url,
        "GATEWAY_MASTER_KEY": "a master key for tests that is long enough",
        "GATEWAY_PUSH_HOSTS": ",".join(sim.origins.values()),
        "GATEWAY_PORT": str(port),
    }
    text = (docs.FOLDER / "tutorial.md").read_text()
    text = text.replace("http://127.0.0.1:8080", gateway).replace("http://localhost:8000", home)
    files = {language: said for language, said in FENCE.findall(text) if language in ("html", "js")}
    async with running("up", **settings) as up:
        await up.until_said("worker.started")
        create = ("apps", "create", "Shop", "--subject", "mailto:ops@example.org", "--origin", home, "--json")
        key = (await command(*create, **settings)).json["publishable_key"]
        (tmp_path / "index.html").write_text(files["html"].replace("pk_...", key))
        (tmp_path / "service-worker.js").write_text(files["js"])
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "http.server", str(port + 1)),
            cwd=tmp_path,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with firefox.tab(f"{home}/") as tab:
                await tab.until("document.querySelector('#state').textContent === 'ready'")
                await tab.click("#on")
                await tab.until("document.querySelector('#state').textContent === 'subscribed'")
                [order] = ORDER.findall(text)
                sent = await command(*shlex.split(order), **settings)
                assert sent.code == 0, sent.err
                alert = await firefox.alert("Umbrellas, half price")
                assert "This weekend only." in alert.body
                await firefox.dismiss_all_alerts()
        finally:
            server.terminate()
            await server.communicate()
    listed = await command("deliveries", "list", "--app", "Shop", "--json", **settings)
    assert [one["outcome"] for one in listed.json["items"]] == ["accepted"]
