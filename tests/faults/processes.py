"""The gateway's own processes, started again whenever they end, as a service manager does it."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.support.log_guard import guard

ROOT = Path(__file__).resolve().parents[2]
SKEWED = Path(__file__).with_name("skewed")
PAUSE_S = 0.3
STOP_S = 60.0


class Process:
    """`gateway COMMAND`; `exits` are those that nobody asked for, of a process that had begun its work."""

    def __init__(self, name: str, command: str, begun: str, log: Path, settings: Mapping[str, object]) -> None:
        self.name = name
        self.exits: list[int] = []
        self.restarts = 0
        self._command = command
        self._begun = begun
        self._log = log
        self._heard = 0
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._killed: asyncio.subprocess.Process | None = None
        self._wanted = asyncio.Event()
        self._starting = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        self._wanted.set()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=self.name)

    def kill(self) -> None:
        """SIGKILL, and no new one before `start`."""
        self._wanted.clear()
        if self._process is not None and self._process.returncode is None:
            self._killed = self._process
            self._process.kill()

    async def end(self) -> int | None:
        """SIGTERM; its exit code. None when there was nobody to tell."""
        self._wanted.clear()
        async with self._starting:
            process = self._process
        if process is None or process.returncode is not None:
            await self.close()
            return None
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.send_signal(signal.SIGABRT)  # its last words are what it was doing
            await process.wait()
        await self.close()
        return process.returncode

    async def close(self) -> None:
        self.kill()
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if self._process is not None:
            await self._process.wait()
        guard.record(self.log[self._heard :])
        self._heard = len(self.log)

    async def _keep(self) -> None:
        while True:
            await self._wanted.wait()
            said = self._log.stat().st_size if self._log.exists() else 0
            async with self._starting:
                with self._log.open("ab") as log:
                    self._process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "gateway", self._command),
                        cwd=ROOT,
                        env=_environment(self._settings),
                        stdout=log,
                        stderr=log,
                    )
            code = await self._process.wait()
            self.restarts += 1
            if (
                self._process is not self._killed
                and self._wanted.is_set()
                and self._begun in self._log.read_bytes()[said:].decode()
            ):
                self.exits.append(code)
            await asyncio.sleep(PAUSE_S)


def _environment(settings: Mapping[str, object]) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    given = {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items() if name != "skew_s"}
    paths = [str(ROOT)]
    if skew := settings.get("skew_s"):
        given["FAULTS_SKEW_S"] = str(skew)
        paths.insert(0, str(SKEWED))
    return ours | given | {"PYTHONFAULTHANDLER": "1", "PYTHONPATH": os.pathsep.join(paths)}
