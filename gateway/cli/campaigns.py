"""Commands for what has been accepted: how far it has come, pause, resume, cancel."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.connect import GatewayTarget, reaching
from gateway.cli.output import JsonOption, as_json, console, moment, pairs

if TYPE_CHECKING:
    from rich.progress import Progress

    from gateway.client import Gateway
    from gateway.client.responses import Notification

campaign = typer.Typer(help="Campaigns, and notifications of every other kind.", no_args_is_help=True)

NotificationId = Annotated[str, typer.Argument(metavar="ID", help="The notification's id (ntf_...).")]

ENDED = ("done", "cancelled")
LOOK_S = 1.0


def add(cli: typer.Typer) -> None:
    cli.add_typer(campaign, name="campaign")


@campaign.command("status")
@reaching
def status(
    reach: GatewayTarget,
    notification_id: NotificationId,
    watch: Annotated[bool, typer.Option("--watch", help="Until it is done; Ctrl-C ends the watching alone.")] = False,
    json: JsonOption = False,
) -> None:
    """Show how far a campaign (or any notification) has come."""

    async def find(gateway: "Gateway") -> "Notification":
        if not watch:
            return await gateway.notifications.get(notification_id)
        return await watched(gateway, notification_id)

    try:
        shown = reach.ask(find, about=notification_id)
    except KeyboardInterrupt:
        if watch:
            print(f"It goes on; `gateway campaign cancel {notification_id}` would end it.", file=sys.stderr)
        raise
    if json:
        return as_json(shown)
    pairs(told(shown))


@campaign.command()
@reaching
def pause(reach: GatewayTarget, notification_id: NotificationId) -> None:
    """Send no more of it until it is resumed."""

    async def paused(gateway: "Gateway") -> "Notification":
        return await gateway.notifications.pause(notification_id)

    typer.echo(reach.ask(paused, about=notification_id).status)


@campaign.command()
@reaching
def resume(reach: GatewayTarget, notification_id: NotificationId) -> None:
    """Let it go on where it was paused."""

    async def resumed(gateway: "Gateway") -> "Notification":
        return await gateway.notifications.resume(notification_id)

    typer.echo(reach.ask(resumed, about=notification_id).status)


@campaign.command()
@reaching
def cancel(reach: GatewayTarget, notification_id: NotificationId) -> None:
    """Send no more of it, for good."""

    async def cancelled(gateway: "Gateway") -> "Notification":
        return await gateway.notifications.cancel(notification_id)

    typer.echo(reach.ask(cancelled, about=notification_id).status)


def told(shown: "Notification") -> dict[str, Any]:
    """What a person wants to know of it."""
    progress = shown.progress
    counts = {"targets": progress.targets, "accepted": progress.accepted}
    others = ("pending", "gone", "rejected", "expired", "cancelled", "skipped", "retries")
    counts |= {name: count for name in others if (count := getattr(progress, name))}
    counts |= {name: count for name in ("displayed", "clicked", "dismissed") if (count := getattr(progress, name))}
    said: dict[str, Any] = {"id": shown.id, "name": shown.name, "kind": shown.kind, "status": shown.status}
    if shown.name is None:
        del said["name"]
    if shown.auto_paused:
        said["because"] = shown.auto_paused
    if shown.status == "scheduled":
        said["starts"] = shown.start_at
    if shown.status not in ENDED and progress.eta is not None:
        said["done by"] = progress.eta
    if shown.finished_at is not None:
        said["finished"] = shown.finished_at
    return {**said, **counts}


async def watched(gateway: "Gateway", notification_id: str) -> "Notification":
    """Until it has come to its end: a bar on a terminal, else a line on stderr whenever it has gone on."""
    with _bar() as bar:
        task = bar.add_task("", total=None, rate="", eta="")
        said = ""
        while True:
            shown = await gateway.notifications.get(notification_id)
            progress = shown.progress
            known = shown.status != "scheduled"
            done = progress.targets - progress.pending
            bar.update(
                task,
                description=shown.status,
                total=progress.targets if known else None,
                completed=done,
                rate=f"{progress.per_second:,.0f}/s" if progress.per_second else "",
                eta=_expected(shown),
            )
            line = f"{shown.status} {done:,} of {progress.targets:,}"
            if bar.disable and line != said:
                print(line, file=sys.stderr)
                said = line
            if shown.status in ENDED and not progress.pending:
                return shown
            await asyncio.sleep(LOOK_S)


def _expected(shown: "Notification") -> str:
    if shown.status == "scheduled":
        return f"starts {moment(shown.start_at)}"
    if shown.status in ENDED or shown.progress.eta is None:
        return ""
    return f"done by {moment(shown.progress.eta)}"


def _bar() -> "Progress":
    """One line on a terminal, nothing in a pipe. It is drawn on stderr: stdout is for the outcome."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    screen = console(err=True)
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}", style="dim"),
    )
    return Progress(*columns, console=screen, disable=not screen.is_terminal)
