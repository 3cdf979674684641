"""Processes of the previous version serve and send during the migration to this version, until they are replaced."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from gateway.push.encryption import decode_base64url
from gateway.records.postgres import migrate
from gateway.sim import Sim, Vendor
from tests.support.command import ROOT, free_ports

MASTER_KEY = "a master key for tests that is long enough"
DEVICES = 400
NEWEST_MIGRATION = max((ROOT / "migrations" / "versions").glob("[0-9]*.py"))


def git(*arguments: str) -> bytes:
    return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def previous_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the code of the commit before the one that added the newest migration."""
    try:
        path = str(NEWEST_MIGRATION.relative_to(ROOT))
        commits = git("log", "--diff-filter=A", "--format=%H", "--", path).split()
        archive = git("archive", f"{commits[-1].decode()}^", "gateway", "migrations")
    except (OSError, subprocess.CalledProcessError, IndexError):
        pytest.skip("the git history with the previous version is not available")
    folder = tmp_path_factory.mktemp("old")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


@asynccontextmanager
async def start_process(
    code: Path, settings: dict[str, str], *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments), cwd=code, env={**inherited, "PYTHONPATH": str(code), **settings}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 60)


async def run_command(code: Path, settings: dict[str, str], *arguments: str) -> None:
    async with start_process(code, settings, *arguments) as process:
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def send_request(http: aiohttp.ClientSession, method: str, path: str, body: Any = None, key: str = "") -> Any:
    async with http.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"}) as response:
        assert response.status < 300, await response.text()
        return await response.json()


async def wait_until_ready(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with http.get("/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)  # another process starts; there is no event to wait for


async def test_previous_version_works_during_a_migration(
    previous_code: Path, empty_database_url: str, tmp_path: Path
) -> None:
    """The previous version registers devices and sends during the migration; the new version then continues."""
    port = free_ports(2)
    async with Sim() as sim:
        settings = {
            "GATEWAY_DATABASE_URL": empty_database_url,
            "GATEWAY_MASTER_KEY": MASTER_KEY,
            "GATEWAY_ADMIN_TOKEN": "an admin token for tests, of 32 characters",
            "GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "GATEWAY_PUSH_HOSTS": ",".join(sim.origins.values()),
            "GATEWAY_DATA_DIR": str(tmp_path / "data"),
            "GATEWAY_PORT": str(port),
            "GATEWAY_LOG_FORMAT": "json",
        }
        await run_command(previous_code, settings, "migrate")
        async with (
            start_process(previous_code, settings, "serve") as old_server,
            start_process(previous_code, settings, "work") as old_worker,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        ):
            await wait_until_ready(http)
            application_request = {"name": "Old", "subject": "mailto:ops@example.org", "allowed_origins": []}
            app = await send_request(
                http, "POST", "/v1/applications", application_request, settings["GATEWAY_ADMIN_TOKEN"]
            )
            key, vapid = app["secret_key"], decode_base64url(app["vapid_public_key"])

            async def register(count: int) -> None:
                for subscriber in sim.subscribe_many(Vendor.FCM, count, vapid, share_keys=True):
                    await send_request(http, "POST", "/v1/devices", {"subscription": subscriber.to_json()}, key)

            async def create_campaign(per_second: int) -> str:
                request = {"name": f"At {per_second}", "audience": {"everyone": True}, "content": {"title": "Hello"}}
                throttle = {"throttle": {"per_second": per_second}}
                return str((await send_request(http, "POST", "/v1/campaigns", {**request, **throttle}, key))["id"])

            async def get_campaign(id_: str, client: aiohttp.ClientSession = http) -> Any:
                return await send_request(client, "GET", f"/v1/campaigns/{id_}", None, key)

            async def wait_until_sending(id_: str) -> None:
                async with asyncio.timeout(60):
                    while not (await get_campaign(id_))["progress"]["accepted"]:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)  # poll as an API client does

            async def wait_until_done(id_: str, client: aiohttp.ClientSession = http) -> int:
                async with asyncio.timeout(60):
                    while (campaign := await get_campaign(id_, client))["status"] != "done":  # noqa: ASYNC110
                        await asyncio.sleep(0.1)  # poll as an API client does
                return int(campaign["progress"]["accepted"])

            await register(DEVICES)
            first_campaign = await create_campaign(per_second=200)
            migration = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))
            registered = 0
            while not migration.done() or registered < 10:
                await register(1)
                registered += 1
            await migration
            assert await wait_until_done(first_campaign) >= DEVICES
            assert await wait_until_done(await create_campaign(per_second=10_000)) == DEVICES + registered
            assert (old_server.returncode, old_worker.returncode) == (None, None)

            # As in ops/docs/upgrade.md: start the new processes next to the old ones, which then finish their work.
            last_campaign = await create_campaign(per_second=100)
            await wait_until_sending(last_campaign)
            new_port = {**settings, "GATEWAY_PORT": str(port + 1)}
            async with (
                start_process(ROOT, settings, "work"),
                start_process(ROOT, new_port, "serve"),
                aiohttp.ClientSession(f"http://127.0.0.1:{port + 1}") as new_http,
            ):
                await wait_until_ready(new_http)
                for process in (old_worker, old_server):
                    process.terminate()
                    assert await asyncio.wait_for(process.wait(), 60) == 0
                assert await wait_until_done(last_campaign, new_http) == DEVICES + registered
    conn = await asyncpg.connect(empty_database_url)
    assert NEWEST_MIGRATION.name.startswith(await conn.fetchval("SELECT version_num FROM alembic_version"))
    await conn.close()
