"""The first Ctrl-C ends a command, whatever the command waits for."""

import signal
import subprocess
import sys

import pytest

# A command that prints "waits" and then waits; each case of the test inserts its kind of wait and its runner.
COMMAND = """
import asyncio, os, sys, threading
from gateway.cli import installation
from gateway.cli.installation import run_async, run_until_interrupt

installation.INTERRUPT_GRACE_S = 0.3

async def work():
    print("waits", flush=True)
    {wait}

try:
    {run}(work())
except KeyboardInterrupt:
    sys.exit(7)
"""
INTERRUPTED_IN_TIME, ENDED_BY_FORCE = 7, 130
WAITS = {
    "await asyncio.Event().wait()": INTERRUPTED_IN_TIME,
    # As a thread of the resolver does.
    "await asyncio.to_thread(threading.Event().wait)": ENDED_BY_FORCE,
    # As closing a connection to a host that does not respond does.
    "await asyncio.shield(asyncio.get_running_loop().create_future())": INTERRUPTED_IN_TIME,
    "threading.Thread(target=threading.Event().wait).start(); await asyncio.Event().wait()": ENDED_BY_FORCE,
}


@pytest.mark.parametrize("run", ["run_async", "run_until_interrupt"])
@pytest.mark.parametrize(("wait", "code"), WAITS.items(), ids=["event", "to_thread", "shield", "thread"])
@pytest.mark.parametrize("ignored", [False, True], ids=["foreground", "background"])
def test_first_interrupt_ends_any_wait(run: str, wait: str, code: int, ignored: bool) -> None:
    """Ctrl-C also ends a process that started with SIGINT ignored, as background jobs of a shell do."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND.format(wait=wait, run=run)], stdout=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, handler)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == code
