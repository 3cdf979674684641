"""Commands for the installation on this machine: settings, doctor, prune."""

import sys
from typing import Annotated

import typer

from gateway.cli.installation import DataDir, open_installation, read_settings, run_async
from gateway.cli.output import JsonOption, get_console, print_fields, print_json, print_table

# Label and colour of each level of `doctor`.
LEVEL_LABELS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "error": ("error", "red")}


def register_commands(cli: typer.Typer) -> None:
    """Add `settings`, `doctor` and `prune`."""
    cli.command("settings")(show_settings)
    cli.command()(doctor)
    cli.command()(prune)


def show_settings(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """List all settings with their values and descriptions."""
    rows = read_settings(data_dir).describe()
    if json:
        return print_json([{"name": row.name, "value": row.value, "description": row.description} for row in rows])
    print_table(("setting", "value", "description"), [(row.name, row.value, row.description) for row in rows])


def doctor(
    data_dir: DataDir = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not connect to push services.")] = False,
    json: JsonOption = False,
) -> None:
    """Check the installation and suggest fixes.

    Checks settings, database, migrations, clocks, secrets, VAPID subjects, maintenance, queue and push services. Exits
    with 1 if a check fails; warnings do not change the exit code.
    """
    from rich.text import Text

    from gateway.cli.doctor import run_checks

    findings = run_async(run_checks(data_dir, offline=offline))
    if json:
        print_json([{"check": item.check, "ok": item.level != "error", **item._asdict()} for item in findings])
    else:
        width = max(len(item.check) for item in findings)
        for item in findings:
            label, colour = LEVEL_LABELS[item.level]
            line = Text.assemble((f"{label:<5}", colour), f"  {item.check:<{width}}  {item.message}")
            get_console().print(line, soft_wrap=True)
            if item.advice:
                get_console().print(Text(f"{'':<{width + 9}}{item.advice}", style="bold"), soft_wrap=True)
    sys.exit(1 if any(item.level == "error" for item in findings) else 0)


def prune(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """Run the maintenance tasks that workers run periodically.

    Creates partitions of the delivery log, and deletes expired data: log, gone devices, idempotency keys, audit
    entries.
    """
    from gateway import app
    from gateway.worker import maintenance

    async def run_maintenance() -> dict[str, int]:
        settings = read_settings(data_dir)
        async with open_installation(settings) as context:
            return await maintenance.run_once(context.engine, app.retention_policy(settings))

    changed = run_async(run_maintenance())
    if json:
        return print_json(changed)
    print_fields({name: f"{count} changed" for name, count in changed.items()})
