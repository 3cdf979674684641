"""Commands for the delivery log."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gateway.cli.connect import AppOption, GatewayTarget, gateway_command
from gateway.cli.output import COLOURS, JsonOption, get_console, print_fields, print_items, print_json, print_table

if TYPE_CHECKING:
    from rich.text import Text

    from gateway.client import Gateway
    from gateway.client.requests import DeliverySearch
    from gateway.client.responses import Delivery

deliveries = typer.Typer(help="Read the delivery log.", no_args_is_help=True)

Outcome = Literal["accepted", "gone", "rejected", "expired", "cancelled", "skipped"]
NotificationOption = Annotated[
    str | None, typer.Option("--notification", help="Show only this notification (ntf_...).")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Show only this device (dev_...).")]
UserOption = Annotated[str | None, typer.Option("--user", help="Show only this user's devices.")]
OutcomeOption = Annotated[Outcome | None, typer.Option("--outcome", help="Show only this outcome.")]
HostOption = Annotated[str | None, typer.Option("--host", help="Show only this push service, by host name.")]


def register_commands(cli: typer.Typer) -> None:
    """Add `deliveries`."""
    cli.add_typer(deliveries, name="deliveries")


@deliveries.command("list")
@gateway_command
def list_deliveries(
    target: GatewayTarget,
    app_: AppOption = None,
    notification: NotificationOption = None,
    device: DeviceOption = None,
    user: UserOption = None,
    outcome: OutcomeOption = None,
    host: HostOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of deliveries.")] = 50,
    json: JsonOption = False,
) -> None:
    """List deliveries, newest first."""
    search = _build_search(notification, device, user, outcome, host)

    async def fetch(gateway: "Gateway") -> "list[Delivery]":
        return await gateway.deliveries.list(**search).fetch(limit)

    items = target.call(fetch, app=app_)
    if json:
        return print_items(items)
    for item in items:
        get_console().print(_format_line(item, day=True), soft_wrap=True)


@deliveries.command("show")
@gateway_command
def show_delivery(
    target: GatewayTarget,
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="Delivery id (dlv_...).")],
    app_: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Show a delivery with all attempts and the responses of the push service."""

    async def fetch(gateway: "Gateway") -> Any:
        return await gateway.deliveries.get(delivery_id)

    delivery = target.call(fetch, app=app_)
    if json:
        return print_json(delivery)
    fields = ("id", "notification_id", "device_id", "user_id", "host", "outcome", "cause", "settled_at")
    print_fields({name: value for name in fields if (value := getattr(delivery, name)) is not None})
    rows = [
        (
            attempt.number,
            f"{attempt.at:%H:%M:%S}",
            attempt.duration_ms,
            attempt.status,
            attempt.cause,
            attempt.next if attempt.retry_at is None else f"retry at {attempt.retry_at:%H:%M:%S}",
        )
        for attempt in delivery.attempts
    ]
    print_table(("attempt", "at", "ms", "status", "cause", "next"), rows)


@deliveries.command("tail")
@gateway_command
def tail_deliveries(
    target: GatewayTarget,
    app_: AppOption = None,
    notification: NotificationOption = None,
    device: DeviceOption = None,
    user: UserOption = None,
    outcome: OutcomeOption = None,
    host: HostOption = None,
    json: JsonOption = False,
) -> None:
    """Follow the delivery log until Ctrl-C. With --json, print one line per delivery."""
    search = _build_search(notification, device, user, outcome, host)

    async def follow(gateway: "Gateway") -> None:
        if sys.stderr.isatty():
            print("Following the log; press Ctrl-C to stop.", file=sys.stderr)
        async for delivery in gateway.deliveries.tail(**search):
            if json:
                print_json(delivery, one_line=True)
            else:
                get_console().print(_format_line(delivery), soft_wrap=True)

    with contextlib.suppress(KeyboardInterrupt):
        target.call(follow, app=app_)


def _build_search(
    notification: str | None, device: str | None, user: str | None, outcome: Outcome | None, host: str | None
) -> "DeliverySearch":
    return {"notification_id": notification, "device_id": device, "user_id": user, "outcome": outcome, "host": host}


def _format_line(delivery: "Delivery", *, day: bool = False) -> "Text":
    """Format a delivery as one line. Columns have fixed widths, because `tail` prints a line before it has the next."""
    from rich.text import Text

    return Text.assemble(
        (f"{delivery.settled_at:%Y-%m-%d %H:%M:%S}  " if day else f"{delivery.settled_at:%H:%M:%S}  ", "dim"),
        (f"{delivery.outcome:<9} ", f"bold {COLOURS.get(delivery.outcome, '')}"),
        f"{delivery.status or '':<4}{delivery.host}  ",
        ("" if delivery.user_id is None else f"{delivery.user_id}  ", "cyan"),
        delivery.cause,
        (f" (after {delivery.attempts} attempts)" if delivery.attempts > 1 else "", "yellow"),
        (f"  {delivery.id}", "dim"),
    )
