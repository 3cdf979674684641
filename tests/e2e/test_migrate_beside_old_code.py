"""Gateways of the version before serve and send while `gateway migrate` of this one runs, until it takes over."""

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
NEWEST = max((ROOT / "migrations" / "versions").glob("[0-9]*.py"))


def git(*arguments: str) -> bytes:
    return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository as it was before the newest revision came."""
    try:
        path = str(NEWEST.relative_to(ROOT))
        came = git("log", "--diff-filter=A", "--format=%H", "--", path).split()
        archive = git("archive", f"{came[-1].decode()}^", "gateway", "migrations")
    except (OSError, subprocess.CalledProcessError, IndexError):
        pytest.skip("the history that has the version before is not here")
    to = tmp_path_factory.mktemp("old")
    subprocess.run(["tar", "-x", "-C", str(to)], input=archive, check=True)
    return to


@asynccontextmanager
async def started(code: Path, settings: dict[str, str], *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments), cwd=code, env={**kept, "PYTHONPATH": str(code), **settings}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 60)


async def run(code: Path, settings: dict[str, str], *arguments: str) -> None:
    async with started(code, settings, *arguments) as process:
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def call(http: aiohttp.ClientSession, method: str, path: str, body: Any = None, key: str = "") -> Any:
    async with http.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"}) as answer:
        assert answer.status < 300, await answer.text()
        return await answer.json()


async def until_up(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with http.get("/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)  # another process gives no event


async def test_the_version_before_serves_and_sends_while_the_database_is_migrated(
    old_code: Path, empty_database_url: str, tmp_path: Path
) -> None:
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
        await run(old_code, settings, "migrate")
        async with (
            started(old_code, settings, "serve") as serving,
            started(old_code, settings, "work") as working,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        ):
            await until_up(http)
            new = {"name": "Old", "subject": "mailto:ops@example.org", "allowed_origins": []}
            app = await call(http, "POST", "/v1/applications", new, settings["GATEWAY_ADMIN_TOKEN"])
            key, vapid = app["secret_key"], decode_base64url(app["vapid_public_key"])

            async def register(count: int) -> None:
                for subscriber in sim.subscribe_many(Vendor.FCM, count, vapid, share_keys=True):
                    await call(http, "POST", "/v1/devices", {"subscription": subscriber.to_json()}, key)

            async def campaign(per_second: int) -> str:
                said = {"name": f"At {per_second}", "audience": {"everyone": True}, "content": {"title": "Hello"}}
                throttle = {"throttle": {"per_second": per_second}}
                return str((await call(http, "POST", "/v1/campaigns", {**said, **throttle}, key))["id"])

            async def sending(id_: str) -> None:
                async with asyncio.timeout(60):
                    while not (await call(http, "GET", f"/v1/campaigns/{id_}", None, key))["progress"]["accepted"]:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)  # as its user would ask

            async def accepted(id_: str, of: aiohttp.ClientSession = http) -> int:
                async with asyncio.timeout(60):
                    while (said := await call(of, "GET", f"/v1/campaigns/{id_}", None, key))["status"] != "done":  # noqa: ASYNC110
                        await asyncio.sleep(0.1)  # as its user would ask
                return int(said["progress"]["accepted"])

            await register(DEVICES)
            during = await campaign(per_second=200)
            migrating = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))
            more = 0
            while not migrating.done() or more < 10:
                await register(1)
                more += 1
            await migrating
            assert await accepted(during) >= DEVICES
            assert await accepted(await campaign(per_second=10_000)) == DEVICES + more
            assert (serving.returncode, working.returncode) == (None, None)

            # As ops/docs/upgrade.md has it: the new ones beside the old ones, which then finish what they have begun.
            handed_over = await campaign(per_second=100)
            await sending(handed_over)
            new_port = {**settings, "GATEWAY_PORT": str(port + 1)}
            async with (
                started(ROOT, settings, "work"),
                started(ROOT, new_port, "serve"),
                aiohttp.ClientSession(f"http://127.0.0.1:{port + 1}") as new_http,
            ):
                await until_up(new_http)
                for old in (working, serving):
                    old.terminate()
                    assert await asyncio.wait_for(old.wait(), 60) == 0
                assert await accepted(handed_over, new_http) == DEVICES + more
    conn = await asyncpg.connect(empty_database_url)
    assert NEWEST.name.startswith(await conn.fetchval("SELECT version_num FROM alembic_version"))
    await conn.close()
