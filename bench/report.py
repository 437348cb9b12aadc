"""What a run has found: as a table for a terminal, as JSON, as Markdown. Values in, text out."""

from collections.abc import Sequence

import msgspec

from bench.rows import Row, number
from bench.scenarios.curves import Point

HEAD = ("what", "bar", "measured", "verdict")
CURVE = (
    ("VMs", "vms"),
    ("VM.stat p50, ms", "stat_p50_ms"),
    ("VM.stat p99, ms", "stat_p99_ms"),
    ("VM.list, ms", "list_ms"),
    ("update, ms", "update_ms"),
    ("answers after, s", "answers_s"),
    ("recovered after, s", "recovered_s"),
    ("RSS, MB", "rss_mb"),
)


class Report(msgspec.Struct, frozen=True):
    """One run: when (Unix seconds), on what machine, in words; its rows and curves."""

    at: float
    machine: str
    quick: bool
    rows: list[Row]
    curves: list[Point]


def as_text(report: Report) -> str:
    """Aligned columns, with each row's note below it; then the curves."""
    parts = [report.machine]
    if report.quick:
        parts.append("QUICK: it shows that all can be measured; the figures mean nothing.")
    if report.rows:
        parts.append(_with_notes(_aligned([HEAD, *map(_cells, report.rows)]), report.rows))
    if report.curves:
        parts.append("\n".join(_aligned(_curve_cells(report.curves))))
    return "\n\n".join(parts)


def as_markdown(report: Report) -> str:
    """Two tables in Markdown, with the notes in a column of their own."""
    rows = [(*HEAD, "more"), *((*_cells(row), row.note) for row in report.rows)]
    parts = [report.machine]
    parts += ["\n".join(_markdown(t)) for t in (rows, _curve_cells(report.curves)) if len(t) > 1]
    return "\n\n".join(parts)


def _with_notes(lines: Sequence[str], rows: Sequence[Row]) -> str:
    printed = [lines[0]]
    for line, row in zip(lines[1:], rows, strict=True):
        printed += [line, f"    {row.note}"] if row.note else [line]
    return "\n".join(printed)


def _cells(row: Row) -> tuple[str, ...]:
    bar = f"{row.bar.kind} {row.bar.value:,g}" if row.bar else ""
    measured = f"{number(row.measured)} {row.unit}" if row.measured is not None else "-"
    return row.what, bar, measured, row.verdict


def _curve_cells(points: Sequence[Point]) -> list[tuple[str, ...]]:
    cells = [tuple(number(getattr(point, name)) for _, name in CURVE[1:]) for point in points]
    sizes = [f"{point.vms:,}" for point in points]
    head = tuple(title for title, _ in CURVE)
    return [head, *((size, *rest) for size, rest in zip(sizes, cells, strict=True))]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return [rows[0], "|" + "---|" * len(lines[0]), *rows[1:]]
