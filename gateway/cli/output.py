"""What commands print: a table for people, JSON for programs, one line on stderr for what went wrong.

Colours are for terminals, and not for those who set NO_COLOR. Whatever prints more than text is loaded when it does.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

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


@cache
def console(*, err: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    # In a pipe nothing is cut off to fit a screen.
    return Console(highlight=False, stderr=err, width=None if stream.isatty() else 400)


def fail(line: str) -> NoReturn:
    print(f"gateway: {line}", file=sys.stderr)
    sys.exit(1)


def as_json(value: Any, *, line: bool = False) -> None:
    """Indented for a person at a terminal, one line for a pipe, and when there will be many."""
    indent = 2 if sys.stdout.isatty() and not line else None
    print(json.dumps(value, indent=indent, ensure_ascii=False, default=_plain), flush=True)


def as_items(items: Sequence[Any]) -> None:
    as_json({"items": items, "next_cursor": None})


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, no_wrap=column in IDS, overflow="fold")
    for row in rows:
        cells = ("" if cell is None else cell for cell in row)
        shown.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))
    console().print(shown)


def pairs(values: dict[str, Any]) -> None:
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:<{width}}  {moment(value) if isinstance(value, datetime) else value}".rstrip())


def moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
