"""`gateway work` as a process of its own, to be killed or stopped in the middle of its work."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.gateway_parts import MASTER_KEY, Parts

CHECKOUT = Path(__file__).resolve().parents[2]
STOP_S = 30.0


class WorkerProcess:
    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def kill(self) -> None:
        """SIGKILL: it settles nothing more and gives nothing back."""
        self.process.kill()
        await self.process.wait()

    async def terminate(self) -> int:
        """SIGTERM; answers its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), STOP_S)


@asynccontextmanager
async def worker_process(parts: Parts, directory: Path, **settings: object) -> AsyncIterator[WorkerProcess]:
    """A worker on the parts' database that may post to their sim; `settings` are the gateway's, by name."""
    said = {
        "database_url": parts.url,
        "database_pool": 6,
        "master_key": MASTER_KEY.decode(),
        "push_hosts": ",".join(parts.sim.origins.values()),
        "data_dir": directory / "data",
        "log_format": "json",
        **settings,
    }
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environment = ours | {f"GATEWAY_{name.upper()}": str(value) for name, value in said.items()}
    log = directory / "worker.log"
    with log.open("ab") as written:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "work", cwd=CHECKOUT, env=environment, stdout=written, stderr=written
        )
    try:
        yield WorkerProcess(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
