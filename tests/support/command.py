"""Run the `gateway` command as a separate process, as its users do."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.support.log_guard import guard

ROOT = Path(__file__).parents[2]
# The upper bound of every wait for a process; only a failing test reaches it.
TIMEOUT_S = 180


class CommandResult(NamedTuple):
    """Exit code, stdout and stderr of a command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process with the variables `settings`, and no other GATEWAY_ variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **settings}


async def command(*arguments: str, **settings: str) -> CommandResult:
    """Run a `gateway` command to its end, in the directory `/`, so that it cannot depend on the checkout."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        cwd="/",
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate()
    guard.record(err.decode())
    return CommandResult(process.returncode or 0, out.decode(), err.decode())


class BackgroundCommand:
    """A running process; `output` is what it has written to stderr and a test has read."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""

    async def wait_for_output(self, text: str) -> None:
        """Read stderr until the output contains the text."""
        assert self.process.stderr is not None
        async with asyncio.timeout(TIMEOUT_S):
            while text not in self.output:
                line = await self.process.stderr.readline()
                assert line, f"the process ended before {text!r} appeared: {self.output}"
                self.output += line.decode()

    async def stop(self, signal_: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal_)
        async with asyncio.timeout(TIMEOUT_S):
            _, err = await self.process.communicate()
        self.output += (err or b"").decode()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def run_in_background(*arguments: str, **settings: str) -> AsyncIterator[BackgroundCommand]:
    """Run a `gateway` command in the background until the context ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        cwd="/",
        env=environment(settings),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    running = BackgroundCommand(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            await running.stop(signal.SIGTERM)
        guard.record(running.output)


class TerminalCommand(BackgroundCommand):
    """A process whose input and output are a terminal; `screen` is the stream of what it writes."""

    def __init__(self, process: asyncio.subprocess.Process, screen: asyncio.StreamReader) -> None:
        super().__init__(process)
        self._screen = screen

    async def wait_for_output(self, text: str, times: int = 1) -> None:
        """Read the screen until it contains the text `times` times."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.output.count(text) < times:
                octets = await self._screen.read(4096)
                assert octets, f"the process ended before {text!r} appeared: {self.output}"
                self.output += octets.decode()


@asynccontextmanager
async def run_on_terminal(*arguments: str, **settings: str) -> AsyncIterator[TerminalCommand]:
    """Run a `gateway` command on a terminal until the context ends."""
    master_fd, terminal_fd = os.openpty()
    terminal_settings = {"TERM": "xterm", "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        cwd="/",
        env={name: value for name, value in environment(terminal_settings | settings).items() if name != "NO_COLOR"},
        stdin=terminal_fd,
        stdout=terminal_fd,
        stderr=terminal_fd,
    )
    os.close(terminal_fd)
    screen = asyncio.StreamReader()
    read_transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(screen), os.fdopen(master_fd, "rb", 0)
    )
    running = TerminalCommand(process, screen)
    try:
        yield running
    finally:
        if process.returncode is None:
            await running.stop(signal.SIGTERM)
        read_transport.close()
        guard.record(running.output)


async def get_json(base: str, path: str, key: str | None = None) -> Any:
    """Send a GET request and return the parsed JSON body."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as http, http.get(base + path, headers=headers) as response:
        return await response.json()


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports; parallel test processes use separate ranges."""
    # Each process of pytest-xdist has its own 1,000 ports.
    worker_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    lowest = 20_000 + 1_000 * (worker_number % 12)
    for first in range(lowest, lowest + 1_000, 20):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, socket_ in enumerate(sockets):
                socket_.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for socket_ in sockets:
                socket_.close()
        return first
    raise AssertionError("no free ports")
