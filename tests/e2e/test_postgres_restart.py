"""`gateway up` restarts its embedded Postgres when Postgres is killed."""

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from gateway import app
from gateway.domain.errors import OperatorError
from gateway.embedded import EmbeddedPostgres
from gateway.embedded.postmaster import read_pid_file
from tests.support.command import TIMEOUT_S, command, free_ports, run_in_background


async def wait_until_ready(base: str) -> None:
    async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession(base) as http:
        while True:  # another process gives no event
            async with http.get("/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.1)


async def test_killed_postgres_is_restarted(reachable_tmp: Path) -> None:
    """After a SIGKILL of Postgres, the gateway becomes ready again, has its application, and sends."""
    port = free_ports(6)
    data_dir = reachable_tmp / "killed"
    data_dir_option = ("--data-dir", str(data_dir))
    async with run_in_background(
        "up", "--sim", *data_dir_option, "--port", str(port), "--sim-port", str(port + 1)
    ) as up:
        await up.wait_for_output("worker.started")
        application = ("apps", "create", "Shop", "--subject", "mailto:ops@example.org", "--json")
        created = (await command(*application, *data_dir_option)).json
        postmaster = read_pid_file(data_dir / "postgres" / "pgdata")
        assert postmaster is not None
        os.kill(postmaster.pid, signal.SIGKILL)
        await up.wait_for_output("postgres.restarted")
        await wait_until_ready(f"http://127.0.0.1:{port}")
        headers = {"Authorization": f"Bearer {created['secret_key']}"}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as http:
            body = {"content": {"title": "Sale"}, "audience": {"everyone": True}}
            async with http.post("/v1/notifications", json=body) as response:
                assert response.status == 201, await response.text()
                sent = await response.json()
        watched = await command("campaign", "status", sent["id"], "--watch", "--json", *data_dir_option)
        assert watched.json["status"] == "done"
        assert await up.stop() == 0


class CrashingPostgres(EmbeddedPostgres):
    """An embedded Postgres that is not running after any restart; `restarts` counts them."""

    restarts = 0

    @property
    def is_running(self) -> bool:
        return False

    def restart(self) -> None:
        self.restarts += 1


async def test_gateway_stops_after_max_postgres_restarts(reachable_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Postgres is still down after MAX_POSTGRES_RESTARTS restarts, the gateway stops with an OperatorError."""
    monkeypatch.setattr(app, "POSTGRES_POLL_S", 0)
    postgres = CrashingPostgres(reachable_tmp / "crashing")
    with pytest.raises(ExceptionGroup) as raised:
        async with app.keep_running(postgres), asyncio.timeout(TIMEOUT_S):
            await asyncio.Event().wait()
    assert postgres.restarts == app.MAX_POSTGRES_RESTARTS
    assert raised.value.subgroup(OperatorError) is not None
