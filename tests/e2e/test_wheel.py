"""The wheel: it carries everything, and works where there is no checkout."""

import asyncio
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import aiohttp
import pytest

from gateway.records.postgres import migrate
from gateway.records.postgres.engine import open_engine
from tests.support.command import free_ports

ROOT = Path(__file__).parents[2]
ADMIN_TOKEN = "an admin token for tests, of 32 characters"
MASTER_KEY = "a master key for tests that is long enough"


class Installed(NamedTuple):
    """An environment with the wheel and our dependencies, and a directory that is not the checkout."""

    bin: Path
    elsewhere: Path

    def run(self, *command: str, **settings: str) -> str:
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.elsewhere,
            env=environment(**settings),
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), **settings}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, ROOT],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    [built] = dist.glob("webpush_gateway-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("installed")
    venv.create(home / "venv", with_pip=False)
    python = home / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    # The dependencies come from here. Path files in that directory, such as the checkout's own, are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    return Installed(python.parent, elsewhere)


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_carries_the_package_its_pages_and_the_migrations_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.partition(".dist-info/")[2] for name in archive.namelist() if ".dist-info/" in name}
    wanted = {f"gateway/{name}" for name in files(ROOT / "gateway")}
    wanted |= {f"gateway/_migrations/{name}" for name in files(ROOT / "migrations")}
    assert inside == wanted
    assert {"gateway/static/sdk/webpush.js", "gateway/_migrations/env.py"} <= inside
    assert {"entry_points.txt", "licenses/LICENSE"} <= metadata


def test_the_installed_package_is_not_the_checkout(installed: Installed) -> None:
    where = installed.run("python", "-c", "import gateway; print(gateway.__file__)").strip()
    assert Path(where).is_relative_to(installed.bin.parent)


def test_the_command_explains_itself(installed: Installed) -> None:
    assert "gateway [OPTIONS] COMMAND" in installed.run("gateway", "--help")
    assert installed.run("gateway", "--version").startswith("gateway ")


async def test_the_migrations_run_from_the_wheel(installed: Installed, empty_database_url: str) -> None:
    await asyncio.to_thread(installed.run, "gateway", "migrate", GATEWAY_DATABASE_URL=empty_database_url)
    engine = open_engine(empty_database_url)
    async with engine.connect() as conn:
        assert await migrate.is_current(conn, empty_database_url)
    await engine.dispose()


async def test_the_pages_are_served_from_the_wheel(installed: Installed, database_url: str) -> None:
    port = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        *(installed.bin / "gateway", "serve", "--port", str(port)),
        cwd=installed.elsewhere,
        env=environment(
            GATEWAY_DATABASE_URL=database_url, GATEWAY_MASTER_KEY=MASTER_KEY, GATEWAY_ADMIN_TOKEN=ADMIN_TOKEN
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"web.listening" not in (line := await process.stderr.readline()):
                assert line, "it ended before it listened"
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            for path in ("/sdk/webpush.js", "/sdk/service-worker.js", "/sample/", "/openapi.json"):
                async with http.get(path) as answer:
                    assert (answer.status, bool(await answer.read())) == (200, True), path
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
