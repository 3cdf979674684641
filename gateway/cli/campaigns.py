"""Commands for what has been accepted: how far it has come, pause, resume, cancel."""

import asyncio
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import app
from gateway.cli.installation import DataDir, id_of, installation, order, run, settings
from gateway.cli.output import JsonOption, as_json, console, pairs
from gateway.domain import ids
from gateway.domain.errors import NotFound
from gateway.domain.notification import Notification
from gateway.records import notifications
from gateway.records.signals import LOG, Signals
from gateway.service import audit, control, reports
from gateway.service.context import Context

campaign = typer.Typer(help="Campaigns, and notifications of every other kind.", no_args_is_help=True)

ENDED = ("done", "cancelled")
LOOK_S = 2.0


def add(cli: typer.Typer) -> None:
    cli.add_typer(campaign, name="campaign")


@campaign.command("status")
def status(
    notification_id: str,
    watch: Annotated[bool, typer.Option("--watch", help="Until it is done.")] = False,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Show how far a campaign (or any notification) has come."""
    id_ = id_of(ids.NOTIFICATION, notification_id)

    async def found(conn: AsyncConnection) -> dict[str, Any]:
        return await reports.one_notification(conn, (await _held(conn, id_)).application_id, id_)

    watched = run(_watched(data_dir, found, bar=not json)) if watch else None
    shown = watched or order(data_dir, lambda conn, _: found(conn))
    if json:
        return as_json(shown)
    counts = {name: count for name, count in shown["progress"].items() if count or name in ("targets", "accepted")}
    pairs({"id": shown["id"], "name": shown["name"] or "", "status": shown["status"], **counts})


@campaign.command()
def pause(notification_id: str, data_dir: DataDir = None) -> None:
    """Send no more of it until it is resumed."""
    _controlled("pause", control.pause, notification_id, data_dir)


@campaign.command()
def resume(notification_id: str, data_dir: DataDir = None) -> None:
    """Let it go on where it was paused."""
    _controlled("resume", control.resume, notification_id, data_dir)


@campaign.command()
def cancel(notification_id: str, data_dir: DataDir = None) -> None:
    """Send no more of it, for good."""
    _controlled("cancel", control.cancel, notification_id, data_dir)


def _controlled(name: str, what: control.Order, notification_id: str, data_dir: Path | None) -> None:
    id_ = id_of(ids.NOTIFICATION, notification_id)

    async def controlled(conn: AsyncConnection, _: Context) -> str:
        found = await _held(conn, id_)
        await what(conn, found.application_id, id_)
        await audit.note(conn, audit.COMMAND_LINE, f"notifications.{name}", found.application_id, notification_id)
        return (await _held(conn, id_)).status

    typer.echo(order(data_dir, controlled))


async def _held(conn: AsyncConnection, id_: UUID) -> Notification:
    """Raises NotFound."""
    held = await notifications.load(conn, [id_])
    if not held:
        raise NotFound(f"there is no notification {ids.show(ids.NOTIFICATION, id_)}")
    return held[0]


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
