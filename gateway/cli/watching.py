"""Commands that watch: the log of deliveries, a campaign's progress."""

import asyncio
import contextlib
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import app
from gateway.cli.installation import AppOption, DataDir, application, installation, order, run, settings
from gateway.cli.output import COLOURS, JsonOption, as_json, console, pairs, table
from gateway.domain import ids
from gateway.domain.delivery import OutcomeName
from gateway.domain.errors import NotFound
from gateway.records import log, notifications
from gateway.records.signals import LOG, Signals
from gateway.service import reports
from gateway.service.context import Context
from gateway.service.follow import follow

deliveries = typer.Typer(help="The log of deliveries.", no_args_is_help=True)
campaign = typer.Typer(help="Campaigns, and notifications of every other kind.", no_args_is_help=True)

NotificationOption = Annotated[str | None, typer.Option("--notification", help="Only of this one (ntf_...).")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Only to this device (dev_...).")]
UserOption = Annotated[str | None, typer.Option("--user", help="Only to this user's devices.")]
OutcomeOption = Annotated[OutcomeName | None, typer.Option("--outcome", help="Only what came to this.")]
HostOption = Annotated[str | None, typer.Option("--host", help="Only by this push service's host.")]

COLUMNS = ("settled", "outcome", "status", "tries", "host", "user", "delivery", "cause")
ENDED = ("done", "cancelled")
LOOK_S = 2.0


def add(cli: typer.Typer) -> None:
    cli.add_typer(deliveries, name="deliveries")
    cli.add_typer(campaign, name="campaign")


def _filters(
    notification: str | None, device: str | None, user: str | None, outcome: OutcomeName | None, host: str | None
) -> log.Filters:
    return log.Filters(_id(ids.NOTIFICATION, notification), _id(ids.DEVICE, device), user, outcome, host)


def _id(kind: str, text: str | None) -> Any:
    if text is None:
        return None
    if (found := ids.parse(kind, text)) is None:
        raise NotFound(f"{text!r} is not an id that begins with {kind}_")
    return found


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


@campaign.command("status")
def status(
    notification_id: str,
    watch: Annotated[bool, typer.Option("--watch", help="Until it is done.")] = False,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Show how far a campaign (or any notification) has come."""
    id_ = _id(ids.NOTIFICATION, notification_id)

    async def found(conn: AsyncConnection) -> dict[str, Any]:
        held = await notifications.load(conn, [id_])
        if not held:
            raise NotFound(f"there is no notification {notification_id}")
        return await reports.one_notification(conn, held[0].application_id, id_)

    watched = run(_watched(data_dir, found, bar=not json)) if watch else None
    shown = watched or order(data_dir, lambda conn, _: found(conn))
    if json:
        return as_json(shown)
    counts = {name: count for name, count in shown["progress"].items() if count or name in ("targets", "accepted")}
    pairs({"id": shown["id"], "name": shown["name"] or "", "status": shown["status"], **counts})


async def _watched(data_dir: DataDir, found: Any, *, bar: bool) -> dict[str, Any]:
    chosen = settings(data_dir)
    url = (await asyncio.to_thread(app.find, chosen)).database_url
    async with installation(chosen) as context, Signals(url).running() as bell:
        with bell.waiter(LOG) as waiter, progress_bar(disable=not bar) as progress:
            task = progress.add_task("sending", total=None)
            while True:
                async with context.engine.connect() as conn:
                    shown: dict[str, Any] = await found(conn)
                counts = shown["progress"]
                targets = counts["targets"] if shown["status"] != "scheduled" else None
                progress.update(
                    task, description=shown["status"], total=targets, completed=counts["targets"] - counts["pending"]
                )
                if shown["status"] in ENDED and not counts["pending"]:
                    return shown
                await waiter.wait(LOOK_S)


def progress_bar(*, disable: bool = False) -> Progress:
    """One line on a terminal, nothing in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=disable or not console.is_terminal)
