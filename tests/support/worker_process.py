"""Run `gateway work`, `relay` and `serve` as separate processes that a test can kill or stop."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.support.command import free_ports
from tests.support.gateway_parts import MASTER_KEY, Parts
from tests.support.log_guard import guard

CHECKOUT = Path(__file__).resolve().parents[2]
# The upper bounds of the time in which a process stops, and in which it starts.
STOP_S = 30.0
START_S = 60.0


class WorkerProcess:
    """A running gateway process (a worker, a relay or a server) and its log."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def wait_for_log(self, text: str) -> None:
        """Wait until the log of the process contains `text`."""
        async with asyncio.timeout(START_S):
            while text not in self.log:  # noqa: ASYNC110 - another process raises no event
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Send SIGKILL: the process neither settles nor requeues anything."""
        self.process.kill()
        await self.process.wait()

    async def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), STOP_S)


@asynccontextmanager
async def worker_process(parts: Parts, directory: Path, **settings: object) -> AsyncIterator[WorkerProcess]:
    """Run a worker on the database of `parts`; `settings` are gateway settings by their names in lower case."""
    async with _process(parts, directory, "work", settings) as process:
        yield process


@asynccontextmanager
async def relay_process(parts: Parts, directory: Path, **settings: object) -> AsyncIterator[WorkerProcess]:
    """Run a relay between the database of `parts` and the broker that the setting `queue` names."""
    async with _process(parts, directory, "relay", settings) as process:
        yield process


@asynccontextmanager
async def server_process(
    parts: Parts, directory: Path, *, max_descriptors: int | None = None, **settings: object
) -> AsyncIterator[tuple[WorkerProcess, str]]:
    """Run a server on the database of `parts`; yield (process, origin).

    `max_descriptors` limits the file descriptors of the server.
    """
    port = free_ports(1)  # below the range from which connections of other processes take theirs
    origin = f"http://127.0.0.1:{port}"
    async with _process(parts, directory, "serve", {"port": port, **settings}, max_descriptors) as process:
        async with aiohttp.ClientSession() as http, asyncio.timeout(START_S):
            while not await _is_healthy(http, origin):  # noqa: ASYNC110 - another process raises no event
                await asyncio.sleep(0.05)
        yield process, origin


async def _is_healthy(http: aiohttp.ClientSession, origin: str) -> bool:
    try:
        async with http.get(f"{origin}/healthz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def _process(
    parts: Parts, directory: Path, command: str, settings: dict[str, object], max_descriptors: int | None = None
) -> AsyncIterator[WorkerProcess]:
    values = {
        "database_url": parts.url,
        "database_pool": 6,
        "master_key": MASTER_KEY.decode(),
        "push_hosts": ",".join(parts.sim.origins.values()),
        "data_dir": directory / "data",
        "log_format": "json",
        **settings,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environment = inherited | {f"GATEWAY_{name.upper()}": str(value) for name, value in values.items()}
    arguments = [sys.executable, "-m", "gateway", command]
    if max_descriptors is not None:
        arguments = ["sh", "-c", f'ulimit -n {max_descriptors}; exec "$@"', "sh", *arguments]
    log = directory / f"{command}.log"
    with log.open("ab") as log_file:
        process = await asyncio.create_subprocess_exec(
            *arguments, cwd=CHECKOUT, env=environment, stdout=log_file, stderr=log_file
        )
    try:
        yield WorkerProcess(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        guard.record(log.read_text())
