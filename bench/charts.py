"""The curves as pictures (SVG), by pygal, whose one importer this is.

Both axes are logarithmic. Colours are of middle brightness on no background, so that a page may be
light or dark.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from pathlib import Path

import pygal
from pygal.style import Style

from bench.report import CURVE
from bench.scenarios.curves import Point

GREY = "#808080"
STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground=GREY,
    foreground_strong=GREY,
    foreground_subtle=GREY,
    font_family="sans-serif",
    label_font_size=13,
    major_label_font_size=13,
    legend_font_size=14,
    title_font_size=17,
    guide_stroke_color=GREY,
    major_guide_stroke_color=GREY,
    guide_stroke_dasharray="1,5",
    major_guide_stroke_dasharray="1,5",
    opacity="1",
    colors=("#3d85c6", "#d9772b", "#3f9b5a", "#a45ec2"),
)
#: A picture's file, its title, and what is drawn in it.
PICTURES: Mapping[str, tuple[str, Sequence[str]]] = {
    "latency.svg": (
        "Latency by number of VMs, ms",
        ("stat_p50_ms", "stat_p99_ms", "list_ms", "update_ms"),
    ),
    "restart.svg": ("Restart by number of VMs, s", ("answers_s", "recovered_s")),
    "memory.svg": ("Resident memory by number of VMs, MB", ("rss_mb",)),
}


def draw(points: Sequence[Point], directory: Path) -> None:
    """Write every picture into a directory, which is made where it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    for file, (title, names) in PICTURES.items():
        (directory / file).write_bytes(_picture(title, names, points))


def _picture(title: str, names: Sequence[str], points: Sequence[Point]) -> bytes:
    titles = {name: text.partition(",")[0] for text, name in CURVE}
    values = [getattr(point, name) for point in points for name in names]
    chart = pygal.XY(
        title=title,
        style=STYLE,
        js=[],
        width=760,
        height=420,
        explicit_size=True,
        margin_right=40,
        logarithmic=True,
        legend_at_bottom=True,
        legend_at_bottom_columns=4,
        dots_size=4,
        show_x_guides=True,
        value_formatter="{:,g}".format,
    )
    chart.x_labels = [{"value": log10(p.vms), "label": _short(p.vms)} for p in points]
    chart.y_labels = ticks(min(values), max(values))
    for name in names:
        chart.add(titles[name], [(log10(p.vms), getattr(p, name)) for p in points])
    picture: bytes = chart.render()
    return picture


def ticks(low: float, high: float) -> list[float]:
    """Round values that enclose a range: powers of ten, and twice and five times these where few
    do."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 100 else (1,)
    every = [float(f"{step}e{decade}") for decade in decades for step in steps]
    first = max((tick for tick in every if tick <= low), default=every[0])
    last = min((tick for tick in every if tick >= high), default=every[-1])
    return [tick for tick in every if first <= tick <= last]


def _short(count: int) -> str:
    return f"{count // 1000}k" if count % 1000 == 0 else str(count)
