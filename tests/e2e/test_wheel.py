"""The wheel contains the files of the package and the migrations, and works without a checkout."""

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


class Installation(NamedTuple):
    """A virtual environment with the wheel and the dependencies of the wheel, and a directory outside the checkout.

    `bin` is the environment's folder of commands, and `directory` the working directory of `run`.
    """

    bin: Path
    directory: Path

    def run(self, *command: str, **settings: str) -> str:
        """Run a command of the environment and return its output."""
        process = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.directory,
            env=make_environment(**settings),
            check=False,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout


def make_environment(**settings: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), **settings}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, ROOT],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    [wheel_file] = dist.glob("webpush_gateway-*-py3-none-any.whl")
    return wheel_file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    # Share the dependencies of this environment. Python ignores the .pth files in the added directory, so the
    # checkout's own .pth file adds nothing.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    directory = folder / "outside"
    directory.mkdir()
    return Installation(python.parent, directory)


def list_files(folder: Path) -> set[str]:
    """Return the relative paths of a folder's files."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_contains_the_package_and_migrations_only(wheel: Path) -> None:
    """The wheel contains the package with its static files, the migrations, and nothing else."""
    with ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.partition(".dist-info/")[2] for name in archive.namelist() if ".dist-info/" in name}
    expected = {f"gateway/{name}" for name in list_files(ROOT / "gateway")}
    expected |= {f"gateway/_migrations/{name}" for name in list_files(ROOT / "migrations")}
    assert files == expected
    assert {"gateway/static/sdk/webpush.js", "gateway/_migrations/env.py"} <= files
    assert {"entry_points.txt", "licenses/LICENSE"} <= metadata


def test_installed_package_is_imported_from_the_wheel(installed: Installation) -> None:
    """The package is imported from the site-packages of the new environment."""
    path = installed.run("python", "-c", "import gateway; print(gateway.__file__)").strip()
    assert Path(path).is_relative_to(installed.bin.parent)


def test_installed_command_prints_help_and_version(installed: Installation) -> None:
    """`gateway --help` and `gateway --version` work."""
    assert "gateway [OPTIONS] COMMAND" in installed.run("gateway", "--help")
    assert installed.run("gateway", "--version").startswith("gateway ")


async def test_installed_command_migrates_the_database(installed: Installation, empty_database_url: str) -> None:
    """`gateway migrate` finds the migrations inside the wheel."""
    await asyncio.to_thread(installed.run, "gateway", "migrate", GATEWAY_DATABASE_URL=empty_database_url)
    engine = open_engine(empty_database_url)
    async with engine.connect() as conn:
        assert await migrate.is_current(conn, empty_database_url)
    await engine.dispose()


async def test_installed_server_serves_static_files(installed: Installation, database_url: str) -> None:
    """`gateway serve` finds the static files inside the wheel."""
    port = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        *(installed.bin / "gateway", "serve", "--port", str(port)),
        cwd=installed.directory,
        env=make_environment(
            GATEWAY_DATABASE_URL=database_url, GATEWAY_MASTER_KEY=MASTER_KEY, GATEWAY_ADMIN_TOKEN=ADMIN_TOKEN
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"web.listening" not in (line := await process.stderr.readline()):
                assert line, "the server exited before it listened"
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            for path in ("/sdk/webpush.js", "/sdk/service-worker.js", "/sample/", "/openapi.json"):
                async with http.get(path) as response:
                    assert (response.status, bool(await response.read())) == (200, True), path
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
