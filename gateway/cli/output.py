"""Output of commands: tables for people, JSON for programs, one line on stderr for errors.

Colours are used only on terminals, and not if NO_COLOR is set. Functions import rich themselves, so that commands
without a table start faster.
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

# Columns whose values people copy. They are never truncated or wrapped.
COPIED_COLUMNS = ("id", "delivery", "key", "setting")

# Colour of each delivery outcome.
COLOURS = {
    "accepted": "green",
    "gone": "yellow",
    "rejected": "red",
    "expired": "magenta",
    "cancelled": "cyan",
    "skipped": "blue",
}


@cache
def get_console(*, err: bool = False) -> "Console":
    """Return the console of stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    # In a pipe, long lines must not be cut to the width of a terminal.
    return Console(highlight=False, stderr=err, width=None if stream.isatty() else 400)


def fail(message: str) -> NoReturn:
    """Print a message of one line on stderr and exit with status 1."""
    print(f"gateway: {message}", file=sys.stderr)
    sys.exit(1)


def print_json(value: Any, *, one_line: bool = False) -> None:
    """Print JSON: indented on a terminal, but on one line in a pipe or with `one_line`."""
    indent = 2 if sys.stdout.isatty() and not one_line else None
    print(json.dumps(value, indent=indent, ensure_ascii=False, default=_encode_value), flush=True)


def print_items(items: Sequence[Any]) -> None:
    """Print a list as JSON, in the format of a page of the API."""
    print_json({"items": items, "next_cursor": None})


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(column, no_wrap=column in COPIED_COLUMNS, overflow="fold")
    for row in rows:
        cells = ("" if cell is None else cell for cell in row)
        grid.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))
    get_console().print(grid)


def print_fields(values: dict[str, Any]) -> None:
    """Print labelled values, one per line."""
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:<{width}}  {format_time(value) if isinstance(value, datetime) else value}".rstrip())


def format_time(at: datetime) -> str:
    """Format a time in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _encode_value(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")
