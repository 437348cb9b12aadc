"""The rows as a table for a terminal. Values in, text out."""

from collections.abc import Sequence

from bench.rows import Row, number

HEAD = ("what", "bar", "measured", "verdict")


def table(rows: Sequence[Row]) -> str:
    """Aligned columns, with each row's note below it."""
    lines = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD))]
    notes = ["", *(row.note for row in rows)]
    printed = []
    for line, note in zip(lines, notes, strict=True):
        printed.append("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
        if note:
            printed.append(f"    {note}")
    return "\n".join(printed)


def _cells(row: Row) -> tuple[str, str, str, str]:
    bar = f"{row.bar.kind} {number(row.bar.value)}" if row.bar else ""
    measured = f"{number(row.measured)} {row.unit}" if row.measured is not None else "-"
    return row.what, bar, measured, row.verdict
