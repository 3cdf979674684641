"""Run work on untrusted input in helper processes, with hard limits of CPU time and memory.

Whatever a document makes a parser do, it takes the CPU time of a helper of lower priority, and no event loop waits for
it. A helper that exceeds its limits is ended by the operating system and replaced. The CPU time is what counts, so that
a busy machine refuses nothing. Helpers are started when they are needed, and end with the process that started them.
"""

import asyncio
import contextlib
import os
import pickle
import resource
import signal
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Any, BinaryIO, TypeVar

from gateway.domain.errors import GatewayError, RateLimited, WorkLimitExceeded

T = TypeVar("T")

# Helper processes at once. An owner may use half of them, so that the work of one tenant delays no other's.
HELPERS = 4
# Calls of one owner that may wait for a helper.
MAX_WAITING = 32
# Data of a helper beyond what Python and its modules take at the start.
MAX_MEMORY_OCTETS = 1 << 30
NICENESS = 10
# Exit status of a helper without memory (sysexits.h has no such status).
OUT_OF_MEMORY = 79
# A longer response is decoded in a thread.
MAX_INLINE_OCTETS = 1 << 16

_LENGTH = struct.Struct("!Q")
_BUSY_RETRY_AFTER = {"Retry-After": "1"}


class HelperProcesses:
    """A pool of helper processes.

    Charged per owner (an application): an owner has at most half of the helpers, and a bounded number of calls that
    wait for them.
    """

    def __init__(self, helpers: int = HELPERS) -> None:
        """Create a pool of at most `helpers` processes; none is started yet."""
        self._slots = asyncio.Semaphore(helpers)
        self._owner_limit = max(1, helpers // 2)
        self._owners: dict[Hashable, asyncio.Semaphore] = {}
        self._calls = Counter[Hashable]()
        self._idle: list[asyncio.subprocess.Process] = []

    async def run(self, owner: Hashable, cpu_s: float, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of a module in a helper process; arguments and result are pickled.

        Args:
            owner: who is charged.
            cpu_s: CPU seconds that the call may take.
            function: the function.
            arguments: its arguments.

        Raises:
            GatewayError: what the function raises.
            RateLimited: the owner has too many calls waiting.
            WorkLimitExceeded: the call took too much CPU time or memory.
        """
        request = pickle.dumps((cpu_s, function, arguments))
        async with self._slot(owner):
            process = self._idle.pop() if self._idle else await _start()
            try:
                response = await _exchange(process, request)
            except (asyncio.IncompleteReadError, ConnectionError):
                await _end(process)
                raise WorkLimitExceeded(
                    f"the input takes more than {cpu_s:g} s of CPU time, or too much memory"
                ) from None
            except BaseException:
                await _end(process)
                raise
            self._idle.append(process)
        succeeded, result = pickle.loads(response)  # noqa: S301 - from a process of ours
        if not succeeded:
            raise result
        returned: T = result
        return returned

    async def close(self) -> None:
        """End all idle helpers."""
        while self._idle:
            await _end(self._idle.pop())

    @contextlib.asynccontextmanager
    async def _slot(self, owner: Hashable) -> AsyncIterator[None]:
        if self._calls[owner] >= MAX_WAITING:
            raise RateLimited("too much input of this application is being processed", _BUSY_RETRY_AFTER)
        self._calls[owner] += 1
        try:
            async with self._owners.setdefault(owner, asyncio.Semaphore(self._owner_limit)), self._slots:
                yield
        finally:
            self._calls[owner] -= 1
            if not self._calls[owner]:
                del self._calls[owner], self._owners[owner]


async def _start() -> asyncio.subprocess.Process:
    # Without our settings: a helper needs no secret.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.isolation",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
    )


async def _exchange(process: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
    process.stdin.write(_LENGTH.pack(len(request)) + request)
    await process.stdin.drain()
    (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
    return await process.stdout.readexactly(length)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


# The helper process.


def serve(requests: BinaryIO, responses: BinaryIO) -> None:
    """Answer requests until the end of the input."""
    while len(header := requests.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(header)
        response = _call(requests.read(length))
        responses.write(_LENGTH.pack(len(response)) + response)
        responses.flush()


def _call(request: bytes) -> bytes:
    cpu_s, function, arguments = pickle.loads(request)  # noqa: S301 - from the process that started this one
    # SIGPROF ends the process once it has used this CPU time.
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        result = (True, function(*arguments))
    except GatewayError as error:
        result = (False, error)
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return pickle.dumps(result)


def main() -> None:
    """Run a helper process on standard input and output."""
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the process that started this one
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_OCTETS, MAX_MEMORY_OCTETS))
    responses = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no response
    serve(sys.stdin.buffer, responses)


if __name__ == "__main__":
    main()
