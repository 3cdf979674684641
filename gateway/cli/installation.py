"""What commands need to work on the installation of this machine: its settings, an event loop, its database."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from gateway.service.context import Context
    from gateway.settings import Settings

T = TypeVar("T")

# The exit code of a command that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130
# How many seconds a command may take to end after Ctrl-C. Some waits cannot be cancelled, such as that for a thread
# that resolves a host name. A command that still runs after this time is terminated with the exit code INTERRUPTED.
INTERRUPT_GRACE_S = 2.0

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Directory with the database and secrets of `gateway up`.", envvar="GATEWAY_DATA_DIR"
    ),
]


def read_settings(data_dir: Path | None = None, **options: Any) -> "Settings":
    """Read the settings from the environment; options override them.

    Raises:
        SettingsError: a setting is invalid.
    """
    from gateway.settings import load_settings

    overrides = {name: value for name, value in options.items() if value is not None}
    if data_dir is not None:
        overrides["data_dir"] = data_dir.expanduser().absolute()
    return load_settings(**overrides)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the server's event loop.

    If concurrent tasks fail, an OperatorError is raised alone if there is one; otherwise the exception group.

    Raises:
        KeyboardInterrupt: on the first Ctrl-C, unless the coroutine has set another handler of SIGINT.
    """
    import uvloop

    from gateway.domain.errors import OperatorError

    try:
        return run_until_interrupt(work, uvloop.new_event_loop)
    except BaseExceptionGroup as group:
        error: BaseException | None = group.subgroup(OperatorError)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is None:
            raise
        raise error from None


def run_until_interrupt(
    work: Coroutine[Any, Any, T], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> T:
    """Run a coroutine in a new event loop until it ends, or until the first Ctrl-C.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
    """

    async def run_work() -> T:
        task = asyncio.ensure_future(work)
        # asyncio's own handler is missing when SIGINT was ignored at the start, as it is in a shell's background jobs.
        with suppress(NotImplementedError):  # on Windows, where asyncio's own handler remains
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _interrupt, task)
        return await task

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            return runner.run(run_work())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


def _interrupt(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    end = threading.Timer(INTERRUPT_GRACE_S, os._exit, (INTERRUPTED,))
    end.daemon = True
    end.start()


@asynccontextmanager
async def open_installation(settings: "Settings") -> AsyncIterator["Context"]:
    """Open the installation and log only errors."""
    from gateway import app, log

    log.configure("error", settings.log_format)
    async with app.open_context(settings, await asyncio.to_thread(app.find_installation, settings)) as context:
        yield context
