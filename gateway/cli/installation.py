"""What commands need to work on the installation of this machine: its settings, an event loop, its database."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from gateway.service.context import Context
    from gateway.settings import Settings

T = TypeVar("T")

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
    """Run a coroutine in a new event loop.

    If concurrent tasks fail, an OperatorError is raised alone if there is one; otherwise the exception group.
    """
    import uvloop

    from gateway.domain.errors import OperatorError

    try:
        return uvloop.run(work)
    except BaseExceptionGroup as group:
        error: BaseException | None = group.subgroup(OperatorError)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is None:
            raise
        raise error from None


@asynccontextmanager
async def open_installation(settings: "Settings") -> AsyncIterator["Context"]:
    """Open the installation and log only errors."""
    from gateway import app, log

    log.configure("error", settings.log_format)
    async with app.open_context(settings, await asyncio.to_thread(app.find_installation, settings)) as context:
        yield context
