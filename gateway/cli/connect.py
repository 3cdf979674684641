"""Selects the gateway that a command talks to: a server by URL and key, otherwise the installation on this machine.

For the local installation, the HTTP API runs inside the process of the command. So a command has one implementation for
both. Local access needs the database and the master key, but no running server.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from gateway.cli.installation import DataDir, read_settings, run_async, run_until_interrupt

if TYPE_CHECKING:
    from uuid import UUID

    from gateway.client import Gateway

T = TypeVar("T")

AppOption = Annotated[
    str | None,
    typer.Option("--app", help="Application id (app_...) or name. Optional if there is only one."),
]
AppArgument = Annotated[str, typer.Option("--app", help="Application id (app_...) or name.")]
Server = Annotated[
    str | None,
    typer.Option("--server", help="URL of a gateway server.", envvar="GATEWAY_SERVER", metavar="URL"),
]
Key = Annotated[
    str | None, typer.Option("--key", help="API key for --server (sk_...).", envvar="GATEWAY_KEY", metavar="KEY")
]

# Actor in the audit log for commands on the local installation.
LOCAL_ACTOR = "command line"


class GatewayTarget(NamedTuple):
    """The gateway that a command talks to: `server` with `key`, otherwise the installation in `data_dir`."""

    data_dir: Path | None
    server: str | None
    key: str | None

    def call(
        self,
        do: Callable[["Gateway"], Awaitable[T]],
        *,
        app: str | None = None,
        notification_id: str | None = None,
    ) -> T:
        """Run `do` for one application: `app`, or the application of `notification_id`, or the only one."""

        async def run_call() -> T:
            async with self.open_client(app, notification_id) as gateway:
                return await do(gateway)

        return self.run(run_call())

    def call_as_operator(self, do: Callable[["Gateway"], Awaitable[T]]) -> T:
        """Run `do` with the rights of the operator. A server needs the admin token as key."""

        async def run_call() -> T:
            async with self.open_client(None, None, operator=True) as gateway:
                return await do(gateway)

        return self.run(run_call())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in a new event loop. For a remote server, packages that only the server needs stay unused."""
        return run_until_interrupt(work) if self.server is not None else run_async(work)

    @asynccontextmanager
    async def open_client(
        self, app: str | None, notification_id: str | None, *, operator: bool = False
    ) -> AsyncIterator["Gateway"]:
        """Open a client for an application, or for the operator."""
        if notification_id is not None:
            _parse_notification_id(notification_id)

        from gateway.client import Gateway

        if self.server is None:
            async with (
                self._open_local_client(app, notification_id, operator=operator) as (url, key),
                Gateway(url, key, max_attempts=1) as gateway,
            ):
                yield gateway
            return
        if app is not None and not operator:
            raise typer.BadParameter("not used with --server: the key selects the application", param_hint="--app")
        try:
            gateway = Gateway(self.server, self.key)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--server") from None
        async with gateway:
            yield gateway

    @asynccontextmanager
    async def _open_local_client(
        self, app: str | None, notification_id: str | None, *, operator: bool
    ) -> AsyncIterator[tuple[str, str]]:
        settings = read_settings(self.data_dir)  # report settings errors before the slow imports

        from gateway.app import find_installation, in_process_api
        from gateway.service.access.authentication import ADMIN, SCOPES, Principal

        installation = await asyncio.to_thread(find_installation, settings)
        _log_errors_only(settings)
        id_ = None if operator else await _select_application(settings, installation, app, notification_id)
        scopes = {ADMIN} if operator else {*SCOPES}
        async with in_process_api(
            settings, installation, Principal(frozenset(scopes), id_, name=LOCAL_ACTOR)
        ) as url_and_key:
            yield url_and_key


async def _select_application(settings: Any, installation: Any, app: str | None, notification_id: str | None) -> "UUID":
    """Return the id of the application: `app`, or the application of `notification_id`, or the only one.

    Raises:
        NotFound: there is no such application, or several have this name.
    """
    from gateway.app import open_context
    from gateway.domain import ids
    from gateway.domain.errors import NotFound
    from gateway.records import applications, notifications

    async with open_context(settings, installation) as context, context.engine.connect() as conn:
        if notification_id is not None:
            if not (rows := await notifications.load(conn, [_parse_notification_id(notification_id)])):
                raise NotFound(f"there is no notification {notification_id}")
            return rows[0].application_id
        if app is not None and (id_ := ids.parse(ids.APPLICATION, app)) is not None:
            if await applications.get(conn, id_) is None:
                raise NotFound(f"there is no application {app!r}; `gateway apps list` lists them")
            return id_
        ids_and_names: list[tuple[UUID, str]] = [
            (row.id, row.name) for row in await applications.list_by_creation(conn, limit=1000)
        ]
    if app is None:
        if len(ids_and_names) == 1:
            return ids_and_names[0][0]
        if not ids_and_names:
            raise NotFound("there is no application yet; `gateway apps create` creates one")
        raise typer.BadParameter(
            f"there are {len(ids_and_names)} applications: choose one by id or name", param_hint="--app"
        )
    matches = [id_ for id_, name in ids_and_names if name == app]
    if len(matches) > 1:
        raise NotFound(f"{len(matches)} applications have the name {app!r}; use the id")
    if not matches:
        raise NotFound(f"there is no application {app!r}; `gateway apps list` lists them")
    return matches[0]


def _parse_notification_id(text: str) -> "UUID":
    """Parse a notification id.

    Raises:
        NotFound: not a notification id.
    """
    from gateway.domain import ids
    from gateway.domain.errors import NotFound

    if (notification_id := ids.parse(ids.NOTIFICATION, text)) is None:
        raise NotFound(f"{text!r} is not an id that begins with {ids.NOTIFICATION}_")
    return notification_id


async def resolve_application_id(gateway: "Gateway", app: str) -> str:
    """Return the id of the application with this id or name. `gateway` must have the rights of the operator.

    Raises:
        NotFound: no application has this id or name, or several have this name.
    """
    from gateway.domain.errors import NotFound

    matches = [
        application.id async for application in gateway.applications.list() if app in (application.id, application.name)
    ]
    if len(matches) > 1:
        raise NotFound(f"{len(matches)} applications have the name {app!r}; use the id")
    if not matches:
        raise NotFound(f"there is no application {app!r}; `gateway apps list` lists them")
    return matches[0]


def gateway_command(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command whose first parameter is `target`: add the options that select the gateway."""
    signature = inspect.signature(command, eval_str=True)
    options = {"data_dir": DataDir, "server": Server, "key": Key}
    own_parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "target"]
    parameters = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=o) for n, o in options.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own_parameters] + parameters

    @functools.wraps(command)
    def run_command(**arguments: Any) -> None:
        target = GatewayTarget(*(arguments.pop(name) for name in options))
        if target.server is not None and not target.key:
            hint = "`gateway keys create` creates one"
            raise typer.BadParameter(f"--server needs a key: --key sk_... or GATEWAY_KEY; {hint}", param_hint="--key")
        if target.key and target.server is None:
            raise typer.BadParameter("a key needs a server: --server URL or GATEWAY_SERVER", param_hint="--server")
        command(target, **arguments)

    run_command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer reads it
    run_command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run_command


def _log_errors_only(settings: Any) -> None:
    from gateway import log

    log.configure("error", settings.log_format)
