"""Commands that watch the log of deliveries."""

import asyncio
import contextlib
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import app
from gateway.cli.installation import AppOption, DataDir, application, id_of, installation, order, run, settings
from gateway.cli.output import COLOURS, JsonOption, as_json, console, table
from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.records import log
from gateway.records.signals import Signals
from gateway.service import reports
from gateway.service.context import Context
from gateway.service.follow import follow

deliveries = typer.Typer(help="The log of deliveries.", no_args_is_help=True)

NotificationOption = Annotated[str | None, typer.Option("--notification", help="Only of this one (ntf_...).")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Only to this device (dev_...).")]
UserOption = Annotated[str | None, typer.Option("--user", help="Only to this user's devices.")]
OutcomeOption = Annotated[OutcomeName | None, typer.Option("--outcome", help="Only what came to this.")]
HostOption = Annotated[str | None, typer.Option("--host", help="Only by this push service's host.")]

COLUMNS = ("settled", "outcome", "status", "tries", "host", "user", "delivery", "cause")


def add(cli: typer.Typer) -> None:
    cli.add_typer(deliveries, name="deliveries")


def _filters(
    notification: str | None, device: str | None, user: str | None, outcome: OutcomeName | None, host: str | None
) -> log.Filters:
    return log.Filters(
        None if notification is None else id_of(ids.NOTIFICATION, notification),
        None if device is None else id_of(ids.DEVICE, device),
        user,
        outcome,
        host,
    )


def _row(shown: dict[str, Any]) -> tuple[Any, ...]:
    outcome = shown["outcome"]
    return (
        f"{shown['settled_at']:%H:%M:%S}",
        f"[{COLOURS[outcome]}]{outcome}[/]",
        shown["status"],
        shown["attempts"],
        shown["host"],
        shown["user_id"],
        shown["id"],
        shown["cause"],
    )


@deliveries.command("list")
def list_(
    app_: AppOption,
    notification: NotificationOption = None,
    device: DeviceOption = None,
    user: UserOption = None,
    outcome: OutcomeOption = None,
    host: HostOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """List deliveries, the newest first."""
    filters = _filters(notification, device, user, outcome, host)

    async def found(conn: AsyncConnection, _: Context) -> list[dict[str, Any]]:
        entries = await log.page(conn, await application(conn, app_), filters, before=None, limit=limit)
        return [reports.delivery(entry) for entry in entries]

    items = order(data_dir, found)
    if json:
        return as_json({"items": items})
    table(COLUMNS, map(_row, items))


@deliveries.command("tail")
def tail(
    app_: AppOption,
    notification: NotificationOption = None,
    device: DeviceOption = None,
    user: UserOption = None,
    outcome: OutcomeOption = None,
    host: HostOption = None,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Follow the log as it grows, until Ctrl-C. With --json a line for each delivery."""
    filters = _filters(notification, device, user, outcome, host)

    async def followed() -> None:
        chosen = settings(data_dir)
        url = (await asyncio.to_thread(app.find, chosen)).database_url
        async with installation(chosen) as context, Signals(url).running() as bell:
            async with context.engine.connect() as conn:
                id_ = await application(conn, app_)
            async for entries in follow(context.engine, bell, id_, filters, None):
                for entry in entries:
                    shown = reports.delivery(entry)
                    if json:
                        as_json(shown)
                    else:
                        console.print(*("" if cell is None else cell for cell in _row(shown)), soft_wrap=True)

    with contextlib.suppress(KeyboardInterrupt):
        run(followed())
