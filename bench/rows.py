"""What was measured, and whether it holds the bar. Values only."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec


class Bar(msgspec.Struct, frozen=True):
    """What the design asks for."""

    kind: Literal["at most", "at least"]
    value: float


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the table; `measured` is null where it could not be, and `note` says why."""

    scenario: str
    what: str
    unit: str
    measured: float | None
    bar: Bar | None = None
    note: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the bar was held; None without a bar or without a measurement."""
        if self.bar is None or self.measured is None:
            return None
        if self.bar.kind == "at most":
            return self.measured <= self.bar.value
        return self.measured >= self.bar.value

    @property
    def verdict(self) -> str:
        """`held, 12 % to spare`, `missed by 12 %`, `not measured`, or nothing without a bar."""
        if self.measured is None:
            return "not measured"
        if self.bar is None or self.held is None:
            return ""
        off = abs(self.measured - self.bar.value) / self.bar.value * 100
        return f"held, {off:.0f} % to spare" if self.held else f"missed by {off:.0f} %"


def at_most(value: float) -> Bar:
    return Bar("at most", value)


def at_least(value: float) -> Bar:
    return Bar("at least", value)


def number(value: float) -> str:
    """Three significant digits, thousands with commas."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent of them lie; ValueError where there is none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The gradient of the line of least squares through (x, y); 0.0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
