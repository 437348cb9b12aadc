"""Rows on a terminal, in a pipe, and for programs. Nothing here asks the daemon.

A terminal gets a table with colours; a pipe gets aligned columns, one line a row, that awk
and cut can read; `json` is what the daemon said, `name` the ids alone.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import click

T = TypeVar("T")

FORMATS = ("table", "wide", "json", "name")

#: A wide table is not squeezed: the terminal wraps it, or `less -S` scrolls.
_UNBOUNDED = 10_000

format_option = click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How to print.",
)
#: Of one object.
detail_option = click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="How to print.",
)


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column: its title and what a row says in it. A wide one is left out of `table`."""

    title: str
    text: Callable[[T], str]
    wide: bool = False


def emit(
    rows: Sequence[T], columns: Sequence[Column[T]], output: str, name: Callable[[T], str]
) -> None:
    """Print rows in one of `FORMATS`."""
    match output:
        case "json":
            click.echo(as_json(rows))
        case "name":
            for row in rows:
                click.echo(name(row))
        case _:
            shown = [column for column in columns if output == "wide" or not column.wide]
            cells = [[column.text(row) for column in shown] for row in rows]
            titles = [column.title for column in shown]
            if sys.stdout.isatty():
                text = drawn(titles, cells, _UNBOUNDED if output == "wide" else None)
            else:
                text = aligned(titles, cells)
            click.echo(text, nl=False)


def details(pairs: Iterable[tuple[str, str]]) -> None:
    """Print what there is to say of one object; nothing is said of what is empty."""
    said = [(name, text) for name, text in pairs if text]
    width = max((len(name) for name, _ in said), default=0)
    for name, text in said:
        click.echo(f"{name.ljust(width)}  {text}")


def aligned(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; an empty cell is a dash, so that fields can be counted."""
    lines = [list(titles), *([cell or "-" for cell in row] for row in cells)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(titles))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def drawn(titles: Sequence[str], cells: Sequence[Sequence[str]], width: int | None = None) -> str:
    """A table for a terminal, `width` columns wide (by default as wide as it is)."""
    # A pipe must not pay for the import.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


_STYLES = {
    "running": "green",
    "paused": "yellow",
    "suspended": "blue",
    "halted": "dim",
    "failed": "red",
    "completed": "green",
    "pending": "yellow",
}


def as_json(value: Any) -> str:
    """Indented JSON of anything that travels."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def size(count: int | None) -> str:
    """Bytes in the largest binary unit that leaves at most one decimal."""
    amount, units = float(count or 0), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.1f}".removesuffix(".0") + f" {units[0]}"


def moment(stamp: float | None) -> str:
    """A time of the daemon, in UTC."""
    if stamp is None:
        return ""
    return (
        datetime.fromtimestamp(stamp, UTC).isoformat(" ", "seconds").removesuffix("+00:00") + "Z"
    )
