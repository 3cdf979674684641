"""Gateway processes that are restarted whenever they exit, as a service manager does."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.support.log_guard import guard

ROOT = Path(__file__).resolve().parents[2]
# The folder of the sitecustomize module that shifts the clock of a process.
SKEWED = Path(__file__).with_name("skewed")
# The pause before a restart.
PAUSE_S = 0.3
# The time in which a process must exit after SIGTERM.
STOP_S = 60.0


class Process:
    """A supervised `gateway` command.

    `started_event` is the log event of a completed start. `exits` has the codes of unexpected exits after such a
    start, and `restarts` is the number of all exits.
    """

    def __init__(self, name: str, command: str, started_event: str, log: Path, settings: Mapping[str, object]) -> None:
        self.name = name
        self.exits: list[int] = []
        self.restarts = 0
        self._command = command
        self._started_event = started_event
        self._log = log
        self._checked_length = 0
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._killed: asyncio.subprocess.Process | None = None
        self._should_run = asyncio.Event()
        self._starting = asyncio.Lock()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def log(self) -> str:
        """Return the log of all runs of the process."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Start the process, and restart it whenever it exits."""
        self._should_run.set()
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name=self.name)

    def kill(self) -> None:
        """Send SIGKILL; the process is not restarted until `start` is called."""
        self._should_run.clear()
        if self._process is not None and self._process.returncode is None:
            self._killed = self._process
            self._process.kill()

    async def end(self) -> int | None:
        """Send SIGTERM and return the exit code, or None if no process is running."""
        self._should_run.clear()
        async with self._starting:
            process = self._process
        if process is None or process.returncode is not None:
            await self.close()
            return None
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.send_signal(signal.SIGABRT)  # with PYTHONFAULTHANDLER, the process prints its stack traces
            await process.wait()
        await self.close()
        return process.returncode

    async def close(self) -> None:
        """Kill the process, and give its new log lines to the guard, which searches them for secrets."""
        self.kill()
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
        if self._process is not None:
            await self._process.wait()
        guard.record(self.log[self._checked_length :])
        self._checked_length = len(self.log)

    async def _supervise(self) -> None:
        while True:
            await self._should_run.wait()
            log_size = self._log.stat().st_size if self._log.exists() else 0
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
                and self._should_run.is_set()
                and self._started_event in self._log.read_bytes()[log_size:].decode()
            ):
                self.exits.append(code)
            await asyncio.sleep(PAUSE_S)


def _environment(settings: Mapping[str, object]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    gateway_settings = {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items() if name != "skew_s"}
    paths = [str(ROOT)]
    if skew := settings.get("skew_s"):
        gateway_settings["FAULTS_SKEW_S"] = str(skew)
        paths.insert(0, str(SKEWED))
    return inherited | gateway_settings | {"PYTHONFAULTHANDLER": "1", "PYTHONPATH": os.pathsep.join(paths)}
