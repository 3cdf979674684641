"""Run the shell, Python and HTTP blocks of the documents, and check all commands, settings, routes and links in them.

tests/browser/test_docs_in_firefox.py runs the JavaScript and HTML blocks.
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
from tests.support.command import ROOT, TIMEOUT_S, command, environment, free_ports, run_in_background
from tests.support.documents import DOCUMENTS, fences, inline_code

# Each of these languages has a test that runs all its blocks, except `text`, which is never run.
LANGUAGES = {"sh", "http", "json", "python", "js", "html", "text"}
LINK = re.compile(r'href="(/docs/[^"#]*)(?:#([^"]*))?"')
# Commands that do not end, or that other tests run: set-up, demo, `up`, backup, the tail of the log.
SKIPPED_COMMANDS = re.compile(
    r"^(\.venv/bin/)?(ops/run/|ops/bench/fleet|pg_|gateway up|gateway deliveries tail|python3 -m http).*\n?",
    re.MULTILINE,
)
# GATEWAY_ variables with which commands reach a remote server; they are not settings of the gateway.
CLIENT_VARIABLES = {"SERVER", "KEY"}
CREATE_APPLICATION = re.compile(r"gateway apps create ([\w-]+)")
SHELL_PRELUDE = """
set -eu
gateway() { "$PYTHON" -m gateway "$@"; }
curl() { command curl --silent --show-error --fail-with-body "$@" | tee -a answers; }
ops/capacity() { "$PYTHON" "$ROOT/ops/capacity.py" "$@"; }
"""
# A block may use await at the top level, as in `python -m asyncio`.
PYTHON_RUNNER = """
import ast, asyncio, sys
if coroutine := eval(compile(sys.stdin.read(), "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {}):
    asyncio.run(coroutine)
"""


@dataclass(slots=True)
class Reader:
    """Runs the code blocks of the documents against a running gateway, with `folder` as the working directory."""

    folder: Path
    settings: dict[str, str]

    async def run(self, script: str, *program: str) -> str:
        """Run a script with bash, or with `program`, which reads the script from stdin; return the output."""
        commands = SKIPPED_COMMANDS.sub("", script).replace(".venv/bin/gateway", "gateway")
        process = await asyncio.create_subprocess_exec(
            *(program or ("bash", "-c", SHELL_PRELUDE + commands)),
            cwd=self.folder,
            env=environment(self.settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate(script.encode() if program else None)
        assert process.returncode == 0, f"{script}\n{output.decode()}"
        return output.decode()

    def localize(self, text: str) -> str:
        """Replace the URL and the secret key of the examples by those of the running gateway."""
        address, secret = self.settings["GATEWAY"], self.settings["SECRET"]
        return text.replace("https://push.example.org", address).replace("sk_...", secret)


@pytest.fixture
async def reader(database_url: str, tmp_path: Path) -> AsyncIterator[Reader]:
    """Start a gateway with the application Shop, and write the files that the documents mention."""
    if which("curl") is None:
        pytest.skip("curl is not installed: apt-get install curl")
    port = free_ports(1)
    settings = {
        "GATEWAY_DATABASE_URL": database_url,
        "GATEWAY_MASTER_KEY": "a master key for tests that is long enough",
        "GATEWAY_PORT": str(port),
    }
    async with (
        Sim() as sim,
        run_in_background("up", **settings, GATEWAY_PUSH_HOSTS=",".join(sim.origins.values())) as up,
    ):
        await up.wait_for_output("worker.started")
        origin = ("--origin", "http://localhost:8000")
        create = ("apps", "create", "Shop", "--subject", "mailto:ops@example.org", *origin, "--json")
        application = (await command(*create, **settings)).json
        variables = {
            "GATEWAY": f"http://127.0.0.1:{port}",
            "SECRET": application["secret_key"],
            "PYTHON": sys.executable,
            "ROOT": str(ROOT),
        }
        key = VapidKey.generate()
        (tmp_path / "vapid.txt").write_text(encode_base64url(key.private_bytes()))
        subscriptions = [browser.to_json() for browser in sim.subscribe_many(Vendor.FCM, 2, key.public_key)]
        (tmp_path / "subscriptions.json").write_text(json.dumps(subscriptions))
        (tmp_path / "devices.ndjson").write_text(json.dumps({"subscription": subscriptions[0]}) + "\n{}\n")
        alert = min((ROOT / "tests" / "data").rglob("*.xml"))
        (tmp_path / "alert.xml").write_bytes(alert.read_bytes())
        settings["GATEWAY_PUSH_HOSTS"] = ",".join(sim.origins.values())
        yield Reader(tmp_path, settings | variables)


@pytest.mark.timeout(480)
async def test_every_block_runs_and_every_page_is_served(reader: Reader) -> None:
    """All shell, Python and HTTP blocks succeed, and the JSON block with an error is the gateway's real response."""
    applications = {"Shop"}
    for block in fences("sh"):
        script = rename_repeated_applications(reader.localize(block.text), applications)
        applications |= set(CREATE_APPLICATION.findall(script))
        await reader.run(script)
    outputs = [
        await reader.run(reader.localize(block.text), sys.executable, "-c", PYTHON_RUNNER) for block in fences("python")
    ]
    assert "'created': 1, 'refreshed': 0, 'refused': 1" in "".join(outputs)
    authorization = {"Authorization": f"Bearer {reader.settings['SECRET']}"}
    async with aiohttp.ClientSession(reader.settings["GATEWAY"], headers=authorization) as http:
        await request_json(http, "POST /v1/categories", {"name": "offers", "title": "Offers"})
        segment = await request_json(http, "POST /v1/segments", {"name": "Offers", "audience": {"topic": "offers"}})
        for block in fences("http"):
            for request in block.text.replace("seg_...", segment["id"]).split("\n\n"):
                request_line, _, body = request.partition("\n")
                await request_json(http, request_line, json.loads(body) if body else None)
        [example] = fences("json")
        invalid = {"content": {"body": "Half price"}, "audience": {"topic": "offers", "colour": "red"}}
        async with http.post("/v1/notifications", json=invalid) as response:
            assert await response.json() == json.loads(example.text)
    await assert_pages_are_served(reader)


def rename_repeated_applications(script: str, names: set[str]) -> str:
    """Rename the applications in `names`, which other pages have created, because each page assumes a new gateway."""
    return CREATE_APPLICATION.sub(
        lambda match: match[0] if match[1] not in names else f"{match[0]}-{len(names)}", script
    )


async def request_json(http: aiohttp.ClientSession, request_line: str, body: Any) -> Any:
    """Send a request, such as `POST /v1/events`, that must succeed; return the JSON of the response."""
    async with http.request(*request_line.split(" "), json=body) as response:
        assert response.status < 300, f"{request_line}\n{await response.text()}"
        return await response.json()


async def assert_pages_are_served(reader: Reader) -> None:
    """Every page is served, and the `type` of an error leads to its row in the table of errors."""
    async with aiohttp.ClientSession(reader.settings["GATEWAY"]) as http:
        for name in docs.PAGES[1:]:
            async with http.get(f"/docs/{name}") as response:
                assert (response.status, response.content_type) == (200, "text/html")
                assert docs.page(name).title in await response.text()
        for path in ("/docs/", "/docs/api", "/docs/docs.css", "/docs/api.js"):
            async with http.get(path) as response:
                assert response.status == 200, path
        async with http.get("/v1/devices") as response:
            page, _, code = (await response.json())["type"].partition("#")
        async with http.get(page) as response:
            assert f'id="{code}"' in await response.text()


def test_block_languages_all_have_a_runner() -> None:
    """A document has no block in a language whose blocks no test runs."""
    assert [block for block in fences() if block.language not in LANGUAGES] == []


def test_inline_commands_settings_and_routes_exist() -> None:
    """Each command, option, setting and route in the sentences and tables of the documents exists."""
    routes = {re.sub(r"{\w+}", "{}", route.path) for route in ROUTES}
    for document in DOCUMENTS:
        for code in inline_code(document):
            if code.startswith("gateway "):
                assert_command_exists(code.split()[1:])
            for setting in re.findall(r"\bGATEWAY_([A-Z_]+)", code):
                assert setting.lower() in Settings.model_fields or setting in CLIENT_VARIABLES, code
            for path in re.findall(r"(?:^|[A-Z] )(/v1/[^?\s]+)", code):
                assert re.sub(r"{\w+}", "{}", path) in routes, code


def assert_command_exists(words: list[str]) -> None:
    """Follow the words of a command line through groups, commands and options."""
    node: Any = typer.main.get_command(cli)
    for word in words:
        if word.startswith("--"):
            options = {option for param in node.params for option in (*param.opts, *param.secondary_opts)}
            assert word in options | {"--help"}, words
        elif hasattr(node, "commands"):
            assert word in node.commands, words
            node = node.commands[word]


def test_links_between_pages_lead_to_pages_and_headings() -> None:
    """Each link to a page leads to a path under /docs/, and the anchor of a link is a heading of that page."""
    for name in docs.PAGES:
        html = docs.page(name).html
        assert '.md"' not in html, name
        assert ".md#" not in html, name
        for path, anchor in LINK.findall(html):
            target = path.removeprefix("/docs/") or docs.PAGES[0]
            if target == "api":
                continue
            assert target in docs.PAGES, path
            assert not anchor or f'id="{anchor}"' in docs.page(target).html, (path, anchor)


def test_generated_tables_are_filled_in() -> None:
    """No placeholder such as {{errors}} is left in a page, outside of code."""
    for name in docs.PAGES:
        assert "{{" not in re.sub(r"<pre>.*?</pre>", "", docs.document(name), flags=re.DOTALL)
