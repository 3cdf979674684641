"""Commands about the installation on this machine: its settings, a check-up, maintenance now."""

import sys
from typing import Annotated

import typer

from gateway.cli.installation import DataDir, installation, run, settings
from gateway.cli.output import JsonOption, as_json, console, pairs, table

MARKS = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "wrong": ("wrong", "red")}


def add(cli: typer.Typer) -> None:
    cli.command("settings")(show_settings)
    cli.command()(doctor)
    cli.command()(prune)


def show_settings(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """List every setting and what it is for."""
    rows = settings(data_dir).describe()
    if json:
        return as_json([{"name": row.name, "value": row.value, "description": row.description} for row in rows])
    table(("setting", "value", "what it is for"), [(row.name, row.value, row.description) for row in rows])


def doctor(
    data_dir: DataDir = None,
    offline: Annotated[bool, typer.Option("--offline", help="Call no push service.")] = False,
    json: JsonOption = False,
) -> None:
    """Check the installation, and say what to do.

    Looked at are settings, database, migrations, clocks, secrets, VAPID subjects, maintenance, queue and push services.
    Ends with 1 when something is wrong, with 0 when all is well or only worth a look.
    """
    from rich.text import Text

    from gateway.cli.doctor import examine

    found = run(examine(data_dir, offline=offline))
    if json:
        as_json([{"check": one.check, "ok": one.level != "wrong", **one._asdict()} for one in found])
    else:
        width = max(len(one.check) for one in found)
        for one in found:
            word, colour = MARKS[one.level]
            console().print(
                Text.assemble((f"{word:<5}", colour), f"  {one.check:<{width}}  {one.said}"), soft_wrap=True
            )
            if one.advice:
                console().print(Text(f"{'':<{width + 9}}{one.advice}", style="bold"), soft_wrap=True)
    sys.exit(1 if any(one.level == "wrong" for one in found) else 0)


def prune(data_dir: DataDir = None, json: JsonOption = False) -> None:
    """Run the maintenance tasks that workers run periodically.

    That is the log's partitions, and what is old: log, gone devices, idempotency keys, notes.
    """
    from gateway import app
    from gateway.worker import maintenance

    async def pruned() -> dict[str, int]:
        chosen = settings(data_dir)
        async with installation(chosen) as context:
            return await maintenance.run_once(context.engine, app.retention_policy(chosen))

    changed = run(pruned())
    if json:
        return as_json(changed)
    pairs({name: f"{count} changed" for name, count in changed.items()})
