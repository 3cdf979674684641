"""Commands for devices: bring in those that another sender knew."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import exports
from gateway.cli.connect import AppOption, GatewayTarget, reaching
from gateway.cli.output import JsonOption, as_json, console, pairs
from gateway.domain.errors import GatewayError

if TYPE_CHECKING:
    from gateway.client import Gateway, ImportLineResult

MAX_REPORTED = 20

devices = typer.Typer(help="Devices: the browsers that are registered.", no_args_is_help=True)


def add(cli: typer.Typer) -> None:
    cli.add_typer(devices, name="devices")


@devices.command("import")
@reaching
def import_devices(
    reach: GatewayTarget,
    file: Annotated[Path, typer.Argument(help="NDJSON, a JSON list of subscriptions, or a CSV export of OneSignal's.")],
    app_: AppOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line, and register nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Register the browsers in a file.

    Lines that are refused are told, and keep no other from being registered. They are sent to with the application's
    VAPID key, so it must be the one that they subscribed with: see --vapid-key of `gateway apps create`.
    """
    refused: list[tuple[int, str]] = []

    async def imported(gateway: "Gateway") -> dict[str, int]:
        return await _import(gateway, file, refused, dry_run=dry_run)

    sums = reach.ask(imported, app=app_)
    if json:
        as_json({**sums, "errors": [{"line": line, "detail": detail} for line, detail in refused]})
    else:
        for line, detail in refused[:MAX_REPORTED]:
            console().print(f"line {line}: {detail}", style="yellow", markup=False)
        if len(refused) > MAX_REPORTED:
            console().print(f"and {len(refused) - MAX_REPORTED} more; --json tells all", style="yellow")
        pairs(dict(sums))
    if refused:
        raise typer.Exit(1)


async def _import(gateway: "Gateway", file: Path, refused: list[tuple[int, str]], *, dry_run: bool) -> dict[str, int]:
    """The sums. What was refused, by line, is added to `refused`."""
    sent: list[int] = []

    def readable() -> Iterator[bytes]:
        for number, said in exports.read(file):
            if isinstance(said, GatewayError):
                refused.append((number, said.detail))
                continue
            sent.append(number)
            yield said

    verdicts = gateway.devices.import_(readable(), dry_run=dry_run)
    async for verdict in verdicts:
        if verdict.status == "refused":
            refused.append((sent[verdict.line - 1], _why(verdict)))
    refused.sort()
    return verdicts.sums | {"refused": len(refused)}


def _why(verdict: "ImportLineResult") -> str:
    return "; ".join(f"{fault.pointer}: {fault.detail}".removeprefix(": ") for fault in verdict.faults)
