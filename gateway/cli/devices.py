"""Commands for devices: bring in those that another sender knew."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import exports
from gateway.cli.installation import AppOption, DataDir, application, installation, run, settings
from gateway.cli.output import JsonOption, as_json, console, pairs
from gateway.domain.errors import GatewayError
from gateway.records.devices import New
from gateway.service import audit
from gateway.service.registration import Desk
from gateway.settings import Settings
from gateway.web.devices import NewDevice
from gateway.web.reading import read_body

BATCH = 500
MOST_TOLD = 20

devices = typer.Typer(help="Devices: the browsers that are registered.", no_args_is_help=True)

Line = tuple[int, bytes | GatewayError]


def add(cli: typer.Typer) -> None:
    cli.add_typer(devices, name="devices")


@devices.command("import")
def import_devices(
    file: Annotated[Path, typer.Argument(help="NDJSON, a JSON list of subscriptions, or a CSV export of OneSignal's.")],
    app_: AppOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line, and register nothing.")] = False,
    data_dir: DataDir = None,
    json: JsonOption = False,
) -> None:
    """Register the browsers in a file. Lines that are refused are told, and keep no other from being registered.

    They are sent to with the application's VAPID key, so it must be the one that they subscribed with: see --vapid-key
    of `gateway apps create`.
    """
    sums, refused = run(_import(settings(data_dir), file, app_, dry_run))
    if json:
        as_json({**sums, "errors": [{"line": line, "detail": detail} for line, detail in refused]})
    else:
        for line, detail in refused[:MOST_TOLD]:
            console.print(f"line {line}: {detail}", style="yellow", markup=False)
        if len(refused) > MOST_TOLD:
            console.print(f"and {len(refused) - MOST_TOLD} more; --json tells all", style="yellow")
        pairs(dict(sums))
    if refused:
        raise typer.Exit(1)


async def _import(
    chosen: Settings, file: Path, app_: str, dry_run: bool
) -> tuple[dict[str, int], list[tuple[int, str]]]:
    """The sums, and what was refused by line."""
    sums = dict.fromkeys(("sound",) if dry_run else ("created", "refreshed"), 0)
    refused: list[tuple[int, str]] = []
    async with installation(chosen) as context:
        async with context.engine.connect() as conn:
            application_id = await application(conn, app_)
            desk = await Desk.open(conn, context, application_id)
        lines = exports.read(file)
        while batch := [*islice(lines, BATCH)]:
            sound = [*_sound(desk, batch, refused)]
            if dry_run:
                sums["sound"] += len(sound)
                continue
            async with context.engine.begin() as conn:
                for one in await desk.register_all(conn, sound):
                    sums["created" if one.created else "refreshed"] += 1
        if not dry_run:
            async with context.engine.begin() as conn:
                await audit.note(conn, audit.COMMAND_LINE, "devices.import", application_id)
    return sums | {"refused": len(refused)}, refused


def _sound(desk: Desk, lines: Iterable[Line], refused: list[tuple[int, str]]) -> Iterator[New]:
    """What can be registered; the other lines are added to `refused`."""
    for number, said in lines:
        try:
            if isinstance(said, GatewayError):
                raise said
            yield desk.check(read_body(NewDevice, said).value())
        except GatewayError as refusal:
            refused.append((number, refusal.detail))
