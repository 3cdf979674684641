"""How commands reach the installation they are about: by the environment, and an option for the data directory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
import uvloop
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import app, log
from gateway.domain import ids
from gateway.domain.errors import NotFound
from gateway.records import applications
from gateway.service.context import Context
from gateway.settings import Settings, load_settings

T = TypeVar("T")

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where `gateway up` keeps its database and secrets.", envvar="GATEWAY_DATA_DIR"),
]
AppOption = Annotated[str, typer.Option("--app", help="The application's id (app_...) or name.", metavar="ID")]


def settings(data_dir: Path | None = None, **given: Any) -> Settings:
    """The environment's settings, and over them what options say. Raises SettingsError."""
    over = {name: value for name, value in given.items() if value is not None}
    if data_dir is not None:
        over["data_dir"] = data_dir.expanduser().absolute()
    return load_settings(**over)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Of the faults of parts that run beside each other, raises the one that says why they do not."""
    try:
        return uvloop.run(work)
    except BaseExceptionGroup as several:
        told: BaseException | None = several.subgroup(app.CannotStart)
        while isinstance(told, BaseExceptionGroup):
            told = told.exceptions[0]
        if told is None:
            raise
        raise told from None


def order(data_dir: Path | None, do: Callable[[AsyncConnection, Context], Awaitable[T]]) -> T:
    """Do one thing in one transaction on the installation's own database."""

    async def done() -> T:
        async with installation(settings(data_dir)) as context, context.engine.begin() as conn:
            return await do(conn, context)

    return run(done())


@asynccontextmanager
async def installation(chosen: Settings) -> AsyncIterator[Context]:
    log.configure("warning", chosen.log_format)
    async with app.context(chosen, await asyncio.to_thread(app.find, chosen)) as context:
        yield context


def id_of(kind: str, text: str) -> UUID:
    """Raises NotFound."""
    found = ids.parse(kind, text)
    if found is None:
        raise NotFound(f"{text!r} is not an id that begins with {kind}_")
    return found


async def application(conn: AsyncConnection, named: str) -> UUID:
    """The application with this id or name. Raises NotFound."""
    if (id_ := ids.parse(ids.APPLICATION, named)) is not None and await applications.get(conn, id_) is not None:
        return id_
    found: list[UUID] = [row.id for row in await applications.oldest(conn, limit=1000) if row.name == named]
    if len(found) > 1:
        raise NotFound(f"{len(found)} applications are called {named!r}; use the id")
    if not found:
        raise NotFound(f"there is no application {named!r}; `gateway apps list` shows them")
    return found[0]
