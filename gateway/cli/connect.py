"""Which gateway a command asks: a server by its address and a key, else the installation on this machine.

The installation is asked the same way, over the API in this process, so that a command does one thing and has one
outcome wherever it is run. It lets in whoever may read its database and its master key, and needs no running server.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from gateway.cli.installation import DataDir, run, settings

if TYPE_CHECKING:
    from uuid import UUID

    from gateway.client import Gateway

T = TypeVar("T")

AppOption = Annotated[
    str | None,
    typer.Option("--app", help="The application's id (app_...) or name; when there is but one, not needed."),
]
AppArgument = Annotated[str, typer.Option("--app", help="The application's id (app_...) or name.")]
Server = Annotated[
    str | None,
    typer.Option("--server", help="Ask the gateway at this address.", envvar="GATEWAY_SERVER", metavar="URL"),
]
Key = Annotated[
    str | None, typer.Option("--key", help="The key to ask it with (sk_...).", envvar="GATEWAY_KEY", metavar="KEY")
]

SOMEBODY = "command line"


class GatewayTarget(NamedTuple):
    data_dir: Path | None
    server: str | None
    key: str | None

    def ask(self, do: Callable[["Gateway"], Awaitable[T]], *, app: str | None = None, about: str | None = None) -> T:
        """Ask for one application: `app`, or the one that `about`, a notification's id, belongs to, or the only one."""

        async def asked() -> T:
            async with self.connected(app, about) as gateway:
                return await do(gateway)

        return self.run(asked())

    def operate(self, do: Callable[["Gateway"], Awaitable[T]]) -> T:
        """Ask as the operator, who needs the admin token when it is a server."""

        async def asked() -> T:
            async with self.connected(None, None, operator=True) as gateway:
                return await do(gateway)

        return self.run(asked())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work) if self.server is not None else run(work)

    @asynccontextmanager
    async def connected(
        self, app: str | None, about: str | None, *, operator: bool = False
    ) -> AsyncIterator["Gateway"]:
        if about is not None:
            _check_notification(about)

        from gateway.client import Gateway

        if self.server is None:
            async with self._own(app, about, operator=operator) as (url, key), Gateway(url, key, tries=1) as gateway:
                yield gateway
            return
        if app is not None and not operator:
            raise typer.BadParameter("a server knows the application by the key; leave it out", param_hint="--app")
        try:
            gateway = Gateway(self.server, self.key)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--server") from None
        async with gateway:
            yield gateway

    @asynccontextmanager
    async def _own(self, app: str | None, about: str | None, *, operator: bool) -> AsyncIterator[tuple[str, str]]:
        chosen = settings(self.data_dir)  # what is wrong there need not wait for the rest

        from gateway.app import find_installation, in_process_api
        from gateway.service.access.authentication import ADMIN, SCOPES, Principal

        own = await asyncio.to_thread(find_installation, chosen)
        _be_quiet(chosen)
        id_ = None if operator else await _application(chosen, own, app, about)
        scopes = {ADMIN} if operator else {*SCOPES}
        async with in_process_api(chosen, own, Principal(frozenset(scopes), id_, name=SOMEBODY)) as reached:
            yield reached


async def _application(chosen: Any, own: Any, app: str | None, about: str | None) -> "UUID":
    """Raises NotFound."""
    from gateway.app import open_context
    from gateway.domain import ids
    from gateway.domain.errors import NotFound
    from gateway.records import applications, notifications

    async with open_context(chosen, own) as context, context.engine.connect() as conn:
        if about is not None:
            if not (held := await notifications.load(conn, [_check_notification(about)])):
                raise NotFound(f"there is no notification {about}")
            return held[0].application_id
        if app is not None and (id_ := ids.parse(ids.APPLICATION, app)) is not None:
            if await applications.get(conn, id_) is None:
                raise NotFound(f"there is no application {app!r}; `gateway apps list` shows them")
            return id_
        known: list[tuple[UUID, str]] = [
            (row.id, row.name) for row in await applications.list_by_creation(conn, limit=1000)
        ]
    if app is None:
        if len(known) == 1:
            return known[0][0]
        if not known:
            raise NotFound("there is no application yet; `gateway apps create` makes one")
        raise typer.BadParameter(f"say which of the {len(known)} applications: --app ID or NAME", param_hint="--app")
    found = [id_ for id_, name in known if name == app]
    if len(found) > 1:
        raise NotFound(f"{len(found)} applications are called {app!r}; use the id")
    if not found:
        raise NotFound(f"there is no application {app!r}; `gateway apps list` shows them")
    return found[0]


def _check_notification(text: str) -> "UUID":
    """Raises NotFound."""
    from gateway.domain import ids
    from gateway.domain.errors import NotFound

    if (found := ids.parse(ids.NOTIFICATION, text)) is None:
        raise NotFound(f"{text!r} is not an id that begins with {ids.NOTIFICATION}_")
    return found


async def named(gateway: "Gateway", app: str) -> str:
    """The id of an application, for the operator. Raises NotFound."""
    from gateway.domain.errors import NotFound

    found = [one.id async for one in gateway.applications.list() if app in (one.id, one.name)]
    if len(found) > 1:
        raise NotFound(f"{len(found)} applications are called {app!r}; use the id")
    if not found:
        raise NotFound(f"there is no application {app!r}; `gateway apps list` shows them")
    return found[0]


def reaching(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a Reach: it gets the options that say which gateway is asked."""
    own = inspect.signature(command, eval_str=True)
    options = {"data_dir": DataDir, "server": Server, "key": Key}
    kept = [one for one in own.parameters.values() if one.name != "reach"]
    asked = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=o) for n, o in options.items()
    ]
    asked = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in kept] + asked

    @functools.wraps(command)
    def called(**given: Any) -> None:
        reach = GatewayTarget(*(given.pop(name) for name in options))
        if reach.server is not None and not reach.key:
            made = "`gateway keys create` makes one"
            raise typer.BadParameter(f"--server needs a key: --key sk_... or GATEWAY_KEY; {made}", param_hint="--key")
        if reach.key and reach.server is None:
            raise typer.BadParameter("a key needs an address: --server URL or GATEWAY_SERVER", param_hint="--server")
        command(reach, **given)

    called.__signature__ = own.replace(parameters=asked)  # type: ignore[attr-defined] # typer reads it
    called.__annotations__ = {one.name: one.annotation for one in asked}
    return called


def _be_quiet(chosen: Any) -> None:
    from gateway import log

    log.configure("error", chosen.log_format)
