"""The documentation is true: each of its blocks is run, one page after the other, as a reader would.

Those for a browser are run by tests/browser/test_docs_in_firefox.py.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import aiohttp
import pytest
import typer

from gateway.cli import cli
from gateway.push.encryption import encode_base64url
from gateway.push.vapid import VapidKey
from gateway.settings import Settings
from gateway.sim import Sim, Vendor
from gateway.web.pages import docs
from gateway.web.server import ROUTES
from tests.support.command import PATIENCE_S, ROOT, command, environment, free_ports, running
from tests.support.documents import BESIDE, PAGES, fences, names

# Of these, each has a test that runs all its blocks, in whichever document; `text` is there to be looked at.
LANGUAGES = {"sh", "http", "json", "python", "js", "html", "text"}
LINK = re.compile(r"\]\((/docs/[^)#]*)(?:#([^)]*))?\)")
# What goes on until it is ended, or has tests of its own: the set-up, the demo, `up`, a backup, following the log.
ELSEWHERE = re.compile(
    r"^(\.venv/bin/)?(ops/run/|ops/bench/fleet|pg_|gateway up|gateway deliveries tail|python3 -m http).*\n?",
    re.MULTILINE,
)
# Read by commands that talk to a server, and no settings of a process.
OF_THE_CLIENT = {"SERVER", "KEY"}
CREATE = re.compile(r"gateway apps create ([\w-]+)")
PRELUDE = """
set -eu
gateway() { "$PYTHON" -m gateway "$@"; }
curl() { command curl --silent --show-error --fail-with-body "$@" | tee -a answers; }
ops/capacity() { "$PYTHON" "$ROOT/ops/capacity.py" "$@"; }
"""
# As `python -m asyncio` has it: a block may await.
PYTHON = """
import ast, asyncio, sys
if waiting := eval(compile(sys.stdin.read(), "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {}):
    asyncio.run(waiting)
"""


@dataclass(slots=True)
class Reader:
    """`folder` is where the reader sits."""

    folder: Path
    settings: dict[str, str]

    async def runs(self, script: str, *by: str) -> str:
        """By bash, unless another program is named that reads it."""
        process = await asyncio.create_subprocess_exec(
            *(by or ("bash", "-c", PRELUDE + ELSEWHERE.sub("", script).replace(".venv/bin/gateway", "gateway"))),
            cwd=self.folder,
            env=environment(self.settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate(script.encode() if by else None)
        assert process.returncode == 0, f"{script}\n{said.decode()}"
        return said.decode()

    def own(self, text: str) -> str:
        """With this gateway's address and key where the documents have those of an example."""
        address, secret = self.settings["GATEWAY"], self.settings["SECRET"]
        return text.replace("https://push.example.org", address).replace("sk_...", secret)


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
        where = {
            "GATEWAY": f"http://127.0.0.1:{port}",
            "SECRET": made["secret_key"],
            "PYTHON": sys.executable,
            "ROOT": str(ROOT),
        }
        key = VapidKey.generate()
        (tmp_path / "vapid.txt").write_text(encode_base64url(key.private_bytes()))
        known = [one.to_json() for one in sim.subscribe_many(Vendor.FCM, 2, key.public_key)]
        (tmp_path / "subscriptions.json").write_text(json.dumps(known))
        (tmp_path / "devices.ndjson").write_text(json.dumps({"subscription": known[0]}) + "\n{}\n")
        alert = min((ROOT / "tests" / "data").rglob("*.xml"))
        (tmp_path / "alert.xml").write_bytes(alert.read_bytes())
        settings["GATEWAY_PUSH_HOSTS"] = ",".join(sim.origins.values())
        yield Reader(tmp_path, settings | where)


@pytest.mark.timeout(300)
async def test_every_command_program_and_request_works_and_every_page_is_served(reader: Reader) -> None:
    made = {"Shop"}
    for block in fences("sh"):
        script = with_names_of_its_own(reader.own(block.text), made)
        made |= set(CREATE.findall(script))
        await reader.runs(script)
    said = [await reader.runs(reader.own(block.text), sys.executable, "-c", PYTHON) for block in fences("python")]
    assert "'created': 1, 'refreshed': 0, 'refused': 1" in "".join(said)
    authorization = {"Authorization": f"Bearer {reader.settings['SECRET']}"}
    async with aiohttp.ClientSession(reader.settings["GATEWAY"], headers=authorization) as http:
        await told(http, "POST /v1/categories", {"name": "offers", "title": "Offers"})
        segment = await told(http, "POST /v1/segments", {"name": "Those", "audience": {"topic": "offers"}})
        for block in fences("http"):
            for request in block.text.replace("seg_...", segment["id"]).split("\n\n"):
                order, _, body = request.partition("\n")
                await told(http, order, json.loads(body) if body else None)
        [example] = fences("json")
        faulty = {"content": {"body": "Half price"}, "audience": {"topic": "offers", "colour": "red"}}
        async with http.post("/v1/notifications", json=faulty) as answer:
            assert await answer.json() == json.loads(example.text)
    await pages_are_served(reader)


def with_names_of_its_own(script: str, made: set[str]) -> str:
    """A reader follows one page or another; where both make the same application, the second is called otherwise."""
    return CREATE.sub(lambda one: one[0] if one[1] not in made else f"{one[0]}-{len(made)}", script)


async def told(http: aiohttp.ClientSession, order: str, body: Any) -> Any:
    """What a request that is taken is answered."""
    async with http.request(*order.split(" "), json=body) as answer:
        assert answer.status < 300, f"{order}\n{await answer.text()}"
        return await answer.json()


async def pages_are_served(reader: Reader) -> None:
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


def test_every_block_is_in_a_language_that_is_run() -> None:
    """Who adds one in another language adds what runs it."""
    assert [block for block in fences() if block.language not in LANGUAGES] == []


def test_every_command_setting_and_route_that_a_sentence_names_is_there() -> None:
    routes = {re.sub(r"{\w+}", "{}", route.path) for route in ROUTES}
    for document in (*PAGES, *BESIDE):
        for name in names(document):
            if name.startswith("gateway "):
                assert_command(name.split()[1:])
            for setting in re.findall(r"\bGATEWAY_([A-Z_]+)", name):
                assert setting.lower() in Settings.model_fields or setting in OF_THE_CLIENT, name
            for path in re.findall(r"(?:^|[A-Z] )(/v1/[^?\s]+)", name):
                assert re.sub(r"{\w+}", "{}", path) in routes, name


def assert_command(words: list[str]) -> None:
    found: Any = typer.main.get_command(cli)
    for word in words:
        if word.startswith("--"):
            options = {option for known in found.params for option in (*known.opts, *known.secondary_opts)}
            assert word in options | {"--help"}, words
        elif hasattr(found, "commands"):
            assert word in found.commands, words
            found = found.commands[word]


def test_what_the_documentation_links_to_is_there() -> None:
    for name in docs.PAGES:
        for path, anchor in LINK.findall((docs.FOLDER / f"{name}.md").read_text()):
            to = path.removeprefix("/docs/") or docs.PAGES[0]
            if to == "api":
                continue
            assert to in docs.PAGES, path
            assert not anchor or f'id="{anchor}"' in docs.page(to).html, (path, anchor)


def test_no_table_is_left_out() -> None:
    for name in docs.PAGES:
        assert "{{" not in re.sub(r"<pre>.*?</pre>", "", docs.whole(name), flags=re.DOTALL)
