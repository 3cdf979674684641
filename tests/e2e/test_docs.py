"""The documentation is true: each of its commands is run, one page after the other, as a reader would."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import aiohttp
import pytest

from gateway.push.encryption import encode_base64url
from gateway.push.vapid import VapidKey
from gateway.sim import Sim, Vendor
from gateway.web import docs
from tests.support.command import PATIENCE_S, ROOT, command, environment, free_ports, running

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((/docs/[^)#]*)(?:#([^)]*))?\)")
# These go on until they are ended, and are what the test runs the others against.
SERVERS = {"gateway up", "gateway up --sim", "python3 -m http.server 8000"}
# What sets up the checkout is what runs this test; the demo, `up` and a backup have tests of their own.
ELSEWHERE = ("ops/run/", "pg_dump")
PRELUDE = """
set -eu
gateway() { "$PYTHON" -m gateway "$@"; }
curl() { command curl --silent --show-error --fail-with-body "$@" | tee -a answers; }
"""


def snippets(file: Path, language: str) -> list[str]:
    found = FENCE.findall(file.read_text())
    return [text.strip() for said, text in found if said == language and text.strip() not in SERVERS]


def file(name: str) -> Path:
    return docs.FOLDER / f"{name}.md"


@dataclass(slots=True)
class Reader:
    """`folder` is where the reader sits."""

    folder: Path
    settings: dict[str, str]

    async def runs(self, script: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", PRELUDE + script),
            cwd=self.folder,
            env=environment(self.settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
        assert process.returncode == 0, f"{script}\n{said.decode()}"
        return said.decode()


@pytest.fixture
async def reader(database_url: str, tmp_path: Path) -> AsyncIterator[Reader]:
    """Beside a gateway with an application, Shop, whose keys are at hand."""
    if which("curl") is None:
        pytest.skip("no curl here: apt-get install curl")
    port = free_ports(1)
    settings = {
        "GATEWAY_DATABASE_URL": database_url,
        "GATEWAY_MASTER_KEY": "a master key for tests that is long enough",
        "GATEWAY_PORT": str(port),
    }
    async with Sim() as sim, running("up", **settings, GATEWAY_PUSH_HOSTS=",".join(sim.origins.values())) as up:
        await up.until_said("worker.started")
        origin = ("--origin", "http://localhost:8000")
        create = ("apps", "create", "Shop", "--subject", "mailto:ops@example.org", *origin, "--json")
        made = (await command(*create, **settings)).json
        where = {"GATEWAY": f"http://127.0.0.1:{port}", "SECRET": made["secret_key"], "PYTHON": sys.executable}
        key = VapidKey.generate()
        (tmp_path / "vapid.txt").write_text(encode_base64url(key.private_bytes()))
        known = sim.subscribe_many(Vendor.FCM, 2, key.public_key)
        (tmp_path / "subscriptions.json").write_text(json.dumps([one.to_json() for one in known]))
        settings["GATEWAY_PUSH_HOSTS"] = ",".join(sim.origins.values())
        yield Reader(tmp_path, settings | where)


async def test_every_command_of_the_documentation_works(reader: Reader) -> None:
    done = 0
    for name in docs.PAGES:
        for script in snippets(file(name), "sh"):
            # There is one Shop already, and the second page would make a second one.
            await reader.runs(script.replace("gateway apps create Shop", f"gateway apps create Shop-{done}"))
            done += 1
    assert done >= 15
    async with aiohttp.ClientSession(reader.settings["GATEWAY"]) as http:
        for name in docs.PAGES[1:]:
            async with http.get(f"/docs/{name}") as answer:
                assert (answer.status, answer.content_type) == (200, "text/html")
                assert docs.page(name).title in await answer.text()
        for path in ("/docs/", "/docs/api", "/docs/docs.css", "/docs/api.js"):
            async with http.get(path) as answer:
                assert answer.status == 200, path
        async with http.get("/v1/devices") as answer:
            where, _, code = (await answer.json())["type"].partition("#")
        async with http.get(where) as answer:
            assert f'id="{code}"' in await answer.text()


async def test_every_command_of_the_readme_works(reader: Reader) -> None:
    alert = sorted((ROOT / "tests" / "data").rglob("*.xml"))[0]
    (reader.folder / "alert.xml").write_bytes(alert.read_bytes())
    scripts = [one for one in snippets(ROOT / "README.md", "sh") if not one.startswith(ELSEWHERE)]
    assert len(scripts) >= 3
    for script in scripts:
        await reader.runs(script.replace("https://push.example.org", "$GATEWAY").replace("sk_...", "$SECRET"))


def test_what_the_documentation_links_to_is_there() -> None:
    for name in docs.PAGES:
        for path, anchor in LINK.findall(file(name).read_text()):
            to = path.removeprefix("/docs/") or docs.PAGES[0]
            if to == "api":
                continue
            assert to in docs.PAGES, path
            assert not anchor or f'id="{anchor}"' in docs.page(to).html, (path, anchor)


def test_no_table_is_left_out_and_json_is_json() -> None:
    for name in docs.PAGES:
        assert "{{" not in re.sub(r"<pre>.*?</pre>", "", docs.whole(name), flags=re.DOTALL)
        for text in snippets(file(name), "json"):
            json.loads(text)
