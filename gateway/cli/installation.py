"""How commands reach the installation they are about: by the environment, and an option for the data directory."""

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
    typer.Option("--data-dir", help="Where `gateway up` keeps its database and secrets.", envvar="GATEWAY_DATA_DIR"),
]


def settings(data_dir: Path | None = None, **given: Any) -> "Settings":
    """The environment's settings, and over them what options say. Raises SettingsError."""
    from gateway.settings import load_settings

    over = {name: value for name, value in given.items() if value is not None}
    if data_dir is not None:
        over["data_dir"] = data_dir.expanduser().absolute()
    return load_settings(**over)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Of the faults of parts that run beside each other, raises the one that says why they do not."""
    import uvloop

    from gateway.domain.errors import OperatorError

    try:
        return uvloop.run(work)
    except BaseExceptionGroup as several:
        told: BaseException | None = several.subgroup(OperatorError)
        while isinstance(told, BaseExceptionGroup):
            told = told.exceptions[0]
        if told is None:
            raise
        raise told from None


@asynccontextmanager
async def installation(chosen: "Settings") -> AsyncIterator["Context"]:
    from gateway import app, log

    log.configure("error", chosen.log_format)
    async with app.open_context(chosen, await asyncio.to_thread(app.find_installation, chosen)) as context:
        yield context
