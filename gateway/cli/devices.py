"""Commands for devices: import from another push sender."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import device_files
from gateway.cli.connect import AppOption, GatewayTarget, gateway_command
from gateway.cli.output import JsonOption, get_console, print_fields, print_json
from gateway.domain.errors import GatewayError

if TYPE_CHECKING:
    from gateway.client import Gateway, ImportLineResult

# Maximum number of errors that are printed; --json prints all.
MAX_REPORTED = 20

devices = typer.Typer(help="Manage devices, the registered browsers.", no_args_is_help=True)


def register_commands(cli: typer.Typer) -> None:
    """Add `devices`."""
    cli.add_typer(devices, name="devices")


@devices.command("import")
@gateway_command
def import_devices(
    target: GatewayTarget,
    file: Annotated[Path, typer.Argument(help="NDJSON, a JSON list of subscriptions, or a CSV export from OneSignal.")],
    app_: AppOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate all lines without registering anything.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Register the browsers in a file.

    Invalid lines are reported and do not prevent the others. The application's VAPID key must be the one that the
    browsers subscribed with: see --vapid-key of `gateway apps create`.
    """
    rejected: list[tuple[int, str]] = []

    async def call(gateway: "Gateway") -> dict[str, int]:
        return await _import(gateway, file, rejected, dry_run=dry_run)

    counts = target.call(call, app=app_)
    if json:
        print_json({**counts, "errors": [{"line": line, "detail": detail} for line, detail in rejected]})
    else:
        for line, detail in rejected[:MAX_REPORTED]:
            get_console().print(f"line {line}: {detail}", style="yellow", markup=False)
        if len(rejected) > MAX_REPORTED:
            get_console().print(f"and {len(rejected) - MAX_REPORTED} more; --json prints all", style="yellow")
        print_fields(dict(counts))
    if rejected:
        raise typer.Exit(1)


async def _import(gateway: "Gateway", file: Path, rejected: list[tuple[int, str]], *, dry_run: bool) -> dict[str, int]:
    """Import a file and return the counts by status. Invalid lines are added to `rejected` with their errors."""
    # Line numbers in the file, in the order of the request's lines. A result has the line number in the request.
    file_lines: list[int] = []

    def valid_registrations() -> Iterator[bytes]:
        for number, registration in device_files.read_registrations(file):
            if isinstance(registration, GatewayError):
                rejected.append((number, registration.detail))
                continue
            file_lines.append(number)
            yield registration

    results = gateway.devices.import_many(valid_registrations(), dry_run=dry_run)
    async for result in results:
        if result.status == "refused":
            rejected.append((file_lines[result.line - 1], _describe_errors(result)))
    rejected.sort()
    return results.sums | {"refused": len(rejected)}


def _describe_errors(result: "ImportLineResult") -> str:
    return "; ".join(f"{error.pointer}: {error.detail}".removeprefix(": ") for error in result.errors)
