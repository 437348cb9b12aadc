"""Times as options: a number of seconds that a person means."""

import math
from typing import Any

import click


class Seconds(click.FloatRange):
    """Finite: JSON has no other numbers, and without one many a call does its worst."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return number


SECONDS = Seconds(min=0)
