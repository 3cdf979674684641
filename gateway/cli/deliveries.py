"""Commands that watch the log of deliveries."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gateway.cli.connect import AppOption, GatewayTarget, reaching
from gateway.cli.output import COLOURS, JsonOption, as_items, as_json, console, pairs, table

if TYPE_CHECKING:
    from rich.text import Text

    from gateway.client import Gateway
    from gateway.client.requests import DeliverySearch
    from gateway.client.responses import Delivery

deliveries = typer.Typer(help="The log of deliveries.", no_args_is_help=True)

Outcome = Literal["accepted", "gone", "rejected", "expired", "cancelled", "skipped"]
NotificationOption = Annotated[str | None, typer.Option("--notification", help="Only of this one (ntf_...).")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Only to this device (dev_...).")]
UserOption = Annotated[str | None, typer.Option("--user", help="Only to this user's devices.")]
OutcomeOption = Annotated[Outcome | None, typer.Option("--outcome", help="Only what came to this.")]
HostOption = Annotated[str | None, typer.Option("--host", help="Only by this push service's host.")]


def add(cli: typer.Typer) -> None:
    cli.add_typer(deliveries, name="deliveries")


@deliveries.command("list")
@reaching
def list_(
    reach: GatewayTarget,
    app_: AppOption = None,
    notification: NotificationOption = None,
    device: DeviceOption = None,
    user: UserOption = None,
    outcome: OutcomeOption = None,
    host: HostOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 50,
    json: JsonOption = False,
) -> None:
    """List deliveries, the newest first."""
    search = _search(notification, device, user, outcome, host)

    async def found(gateway: "Gateway") -> "list[Delivery]":
        return await gateway.deliveries.list(**search).first(limit)

    items = reach.ask(found, app=app_)
    if json:
        return as_items(items)
    for item in items:
        console().print(_line(item, day=True), soft_wrap=True)


@deliveries.command("show")
@reaching
def show(
    reach: GatewayTarget,
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="The delivery's id (dlv_...).")],
    app_: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Show a delivery with every attempt: what the push service said, and what was done about it."""

    async def found(gateway: "Gateway") -> Any:
        return await gateway.deliveries.get(delivery_id)

    shown = reach.ask(found, app=app_)
    if json:
        return as_json(shown)
    fields = ("id", "notification_id", "device_id", "user_id", "host", "outcome", "cause", "settled_at")
    pairs({name: value for name in fields if (value := getattr(shown, name)) is not None})
    rows = [
        (
            one.number,
            f"{one.at:%H:%M:%S}",
            one.duration_ms,
            one.status,
            one.cause,
            one.next if one.retry_at is None else f"tried again at {one.retry_at:%H:%M:%S}",
        )
        for one in shown.attempts
    ]
    table(("attempt", "at", "ms", "status", "cause", "and then"), rows)


@deliveries.command("tail")
@reaching
def tail(
    reach: GatewayTarget,
    app_: AppOption = None,
    notification: NotificationOption = None,
    device: DeviceOption = None,
    user: UserOption = None,
    outcome: OutcomeOption = None,
    host: HostOption = None,
    json: JsonOption = False,
) -> None:
    """Follow the log as it grows, until Ctrl-C. With --json a line for each delivery."""
    search = _search(notification, device, user, outcome, host)

    async def followed(gateway: "Gateway") -> None:
        if sys.stderr.isatty():
            print("Following the log; Ctrl-C ends it.", file=sys.stderr)
        async for delivery in gateway.deliveries.tail(**search):
            if json:
                as_json(delivery, line=True)
            else:
                console().print(_line(delivery), soft_wrap=True)

    with contextlib.suppress(KeyboardInterrupt):
        reach.ask(followed, app=app_)


def _search(
    notification: str | None, device: str | None, user: str | None, outcome: Outcome | None, host: str | None
) -> "DeliverySearch":
    return {"notification_id": notification, "device_id": device, "user_id": user, "outcome": outcome, "host": host}


def _line(shown: "Delivery", *, day: bool = False) -> "Text":
    """In columns that need not know what comes next; what was tried more than once says so."""
    from rich.text import Text

    return Text.assemble(
        (f"{shown.settled_at:%Y-%m-%d %H:%M:%S}  " if day else f"{shown.settled_at:%H:%M:%S}  ", "dim"),
        (f"{shown.outcome:<9} ", f"bold {COLOURS.get(shown.outcome, '')}"),
        f"{shown.status or '':<4}{shown.host}  ",
        ("" if shown.user_id is None else f"{shown.user_id}  ", "cyan"),
        shown.cause,
        (f" (after {shown.attempts} tries)" if shown.attempts > 1 else "", "yellow"),
        (f"  {shown.id}", "dim"),
    )
