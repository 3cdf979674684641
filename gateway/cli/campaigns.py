"""Commands for submitted notifications: status, pause, resume, cancel."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.connect import GatewayTarget, gateway_command
from gateway.cli.output import JsonOption, format_time, get_console, print_fields, print_json

if TYPE_CHECKING:
    from rich.progress import Progress

    from gateway.client import Gateway
    from gateway.client.responses import Notification

campaign = typer.Typer(help="Monitor and control campaigns and other notifications.", no_args_is_help=True)

NotificationId = Annotated[str, typer.Argument(metavar="ID", help="Notification id (ntf_...).")]

FINAL_STATUSES = ("done", "cancelled")
# Polling interval of `status --watch`.
POLL_INTERVAL_S = 1.0


def register_commands(cli: typer.Typer) -> None:
    """Add `campaign`."""
    cli.add_typer(campaign, name="campaign")


@campaign.command("status")
@gateway_command
def status(
    target: GatewayTarget,
    notification_id: NotificationId,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show progress until the end. Ctrl-C stops watching, not the notification.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the progress of a campaign or other notification."""

    async def fetch(gateway: "Gateway") -> "Notification":
        if not watch:
            return await gateway.notifications.get(notification_id)
        return await watch_progress(gateway, notification_id)

    try:
        notification = target.call(fetch, notification_id=notification_id)
    except KeyboardInterrupt:
        if watch:
            print(f"Delivery continues; `gateway campaign cancel {notification_id}` cancels it.", file=sys.stderr)
        raise
    if json:
        return print_json(notification)
    print_fields(summarize(notification))


@campaign.command()
@gateway_command
def pause(target: GatewayTarget, notification_id: NotificationId) -> None:
    """Pause delivery."""

    async def call(gateway: "Gateway") -> "Notification":
        return await gateway.notifications.pause(notification_id)

    typer.echo(target.call(call, notification_id=notification_id).status)


@campaign.command()
@gateway_command
def resume(target: GatewayTarget, notification_id: NotificationId) -> None:
    """Resume delivery."""

    async def call(gateway: "Gateway") -> "Notification":
        return await gateway.notifications.resume(notification_id)

    typer.echo(target.call(call, notification_id=notification_id).status)


@campaign.command()
@gateway_command
def cancel(target: GatewayTarget, notification_id: NotificationId) -> None:
    """Cancel delivery permanently."""

    async def call(gateway: "Gateway") -> "Notification":
        return await gateway.notifications.cancel(notification_id)

    typer.echo(target.call(call, notification_id=notification_id).status)


def summarize(notification: "Notification") -> dict[str, Any]:
    """Return the fields to print, by label."""
    progress = notification.progress
    counts = {"targets": progress.targets, "accepted": progress.accepted}
    outcomes = ("pending", "gone", "rejected", "expired", "cancelled", "skipped", "retries")
    optional = (*outcomes, "displayed", "clicked", "dismissed")
    counts |= {name: count for name in optional if (count := getattr(progress, name))}
    fields: dict[str, Any] = {
        "id": notification.id,
        "name": notification.name,
        "kind": notification.kind,
        "status": notification.status,
    }
    if notification.name is None:
        del fields["name"]
    if notification.auto_paused:
        fields["paused because"] = notification.auto_paused
    if notification.status == "scheduled":
        fields["starts"] = notification.start_at
    if notification.status not in FINAL_STATUSES and progress.eta is not None:
        fields["estimated end"] = progress.eta
    if notification.finished_at is not None:
        fields["finished"] = notification.finished_at
    return {**fields, **counts}


async def watch_progress(gateway: "Gateway", notification_id: str) -> "Notification":
    """Poll until the notification is finished. Show a progress bar on a terminal, otherwise lines on stderr."""
    with _create_progress_bar() as bar:
        task = bar.add_task("", total=None, rate="", eta="")
        last_line = ""
        while True:
            notification = await gateway.notifications.get(notification_id)
            progress = notification.progress
            has_started = notification.status != "scheduled"
            done = progress.targets - progress.pending
            bar.update(
                task,
                description=notification.status,
                total=progress.targets if has_started else None,
                completed=done,
                rate=f"{progress.per_second:,.0f}/s" if progress.per_second else "",
                eta=_describe_time(notification),
            )
            line = f"{notification.status} {done:,} of {progress.targets:,}"
            if bar.disable and line != last_line:
                print(line, file=sys.stderr)
                last_line = line
            if notification.status in FINAL_STATUSES and not progress.pending:
                return notification
            await asyncio.sleep(POLL_INTERVAL_S)


def _describe_time(notification: "Notification") -> str:
    if notification.status == "scheduled":
        return f"starts {format_time(notification.start_at)}"
    if notification.status in FINAL_STATUSES or notification.progress.eta is None:
        return ""
    return f"ends {format_time(notification.progress.eta)}"


def _create_progress_bar() -> "Progress":
    """Return a progress bar on stderr, disabled if stderr is not a terminal. The result is printed on stdout."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    screen = get_console(err=True)
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
