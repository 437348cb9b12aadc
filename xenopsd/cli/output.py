"""Rows on a terminal, in a pipe, and for programs. Nothing here asks the daemon.

A terminal gets a table with colours; a pipe gets aligned columns, one line a row, that awk
and cut can read; `json` and `yaml` are what the daemon said, `name` the ids alone.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import click

T = TypeVar("T")

FORMATS = ("table", "wide", "json", "yaml", "name")

#: A wide table is not squeezed: the terminal wraps it, or `less -S` scrolls.
_UNBOUNDED = 10_000
#: What a column may have beside its title before its cells are folded.
_NARROW = 4

#: Of one object.
detail_option = click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml")),
    default="table",
    show_default=True,
    help="How to print.",
)


@dataclass(frozen=True, slots=True)
class Output:
    """How to print rows: in one of `FORMATS`, and with which columns (empty: its own)."""

    format: str = "table"
    columns: tuple[str, ...] = ()


def listing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options -o and -c, as a parameter `output`."""

    @click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print.",
    )
    @click.option(
        "-c",
        "--columns",
        metavar="COLUMN,…",
        help="Only these columns of the table, in this order.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, form: str, columns: str | None, **options: Any) -> Any:
        wanted = tuple(one.strip().upper() for one in (columns or "").split(",") if one.strip())
        if wanted and form not in ("table", "wide"):
            raise click.UsageError(f"-c chooses columns of a table, not of -o {form}.")
        return command(*args, output=Output(form, wanted), **options)

    return wrapped


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column: its title and what a row says in it. A wide one is left out of `table`."""

    title: str
    text: Callable[[T], str]
    wide: bool = False


def emit(
    rows: Sequence[T], columns: Sequence[Column[T]], output: Output, name: Callable[[T], str]
) -> None:
    """Print rows. Raises UsageError for a column that there is not."""
    match output.format:
        case "json":
            click.echo(as_json(rows))
        case "yaml":
            click.echo(as_yaml(rows), nl=False)
        case "name":
            for row in rows:
                click.echo(name(row))
        case _:
            shown = chosen(columns, output)
            cells = [[column.text(row) for column in shown] for row in rows]
            titles = [column.title for column in shown]
            if sys.stdout.isatty():
                text = drawn(titles, cells, _UNBOUNDED if output.format == "wide" else None)
            else:
                text = aligned(titles, cells)
            click.echo(text, nl=False)


def chosen(columns: Sequence[Column[T]], output: Output) -> list[Column[T]]:
    """The columns to print. Raises UsageError."""
    if not output.columns:
        return [column for column in columns if output.format == "wide" or not column.wide]
    known = {column.title: column for column in columns}
    for title in output.columns:
        if title not in known:
            raise click.UsageError(f"There is no column {title}; choose from {','.join(known)}.")
    return [known[title] for title in output.columns]


def tell(value: Any, output: str, pairs: Callable[[], Iterable[tuple[str, str]]]) -> None:
    """Print one object: as a program reads it, or what `pairs` say of it."""
    match output:
        case "json":
            click.echo(as_json(value))
        case "yaml":
            click.echo(as_yaml(value), nl=False)
        case _:
            details(pairs())


def details(pairs: Iterable[tuple[str, str]]) -> None:
    """Print what there is to say of one object; nothing is said of what is empty."""
    said = [(name, text) for name, text in pairs if text]
    width = max((len(name) for name, _ in said), default=0)
    for name, text in said:
        click.echo(f"{name.ljust(width)}  {plain(text)}")


def written(value: Any) -> str:
    """A value of a configuration as `xenops set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def plain(text: str) -> str:
    """A text on one line, without what would move or colour a terminal."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def aligned(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; an empty cell is a dash, so that fields can be counted."""
    lines = [list(titles), *([plain(cell) or "-" for cell in row] for row in cells)]
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
        table.add_column(title, overflow="fold", min_width=len(title))
    for row in cells:
        table.add_row(*(Text(plain(cell) or "-", style=STYLES.get(cell, "")) for cell in row))
    console = Console(width=width)
    # Too narrow for the titles: a terminal breaks lines better than words are broken.
    least = table.__rich_measure__(console, console.options.update(width=_UNBOUNDED)).minimum
    console.width = max(console.width, min(least, sum(len(title) + _NARROW for title in titles)))
    with console.capture() as capture:
        console.print(table)
    return capture.get()


#: How a terminal shows these words.
STYLES = {
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


def as_yaml(value: Any) -> str:
    """YAML of anything that travels."""
    import msgspec

    from xenopsd.cli import yamltext

    return yamltext.dump(msgspec.to_builtins(value))


def size(count: int | None) -> str:
    """Bytes in the largest binary unit that leaves at most one decimal."""
    amount, units = float(count or 0), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.1f}".removesuffix(".0") + f" {units[0]}"


def span(seconds: float) -> str:
    """How long, in one unit or two."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(stamp: float | None) -> str:
    """A time of the daemon, in UTC."""
    if stamp is None:
        return ""
    return (
        datetime.fromtimestamp(stamp, UTC).isoformat(" ", "seconds").removesuffix("+00:00") + "Z"
    )
