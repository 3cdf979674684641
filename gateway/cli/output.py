"""What commands print: a table for people, JSON for programs, one line on stderr for what went wrong."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gateway.web.routes import to_json

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# In a pipe nothing is cut off to fit a screen.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)

IDS = ("id", "delivery", "key", "setting")
"""Columns that are copied from: never cut or wrapped."""

COLOURS = {
    "accepted": "green",
    "gone": "yellow",
    "rejected": "red",
    "expired": "magenta",
    "cancelled": "cyan",
    "skipped": "blue",
}


def fail(line: str) -> NoReturn:
    print(f"gateway: {line}", file=sys.stderr)
    sys.exit(1)


def as_json(value: Any) -> None:
    """Indented for a person at a terminal, one line for a pipe."""
    plain = json.loads(to_json(value))
    print(json.dumps(plain, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False), flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, no_wrap=column in IDS, overflow="fold")
    for row in rows:
        shown.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(shown)


def pairs(values: dict[str, Any]) -> None:
    width = max(map(len, values))
    for name, value in values.items():
        console.print(f"{name:<{width}}  {value}", markup=False, soft_wrap=True)
