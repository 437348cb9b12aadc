"""The scenarios: each a function from a plan to rows, in the order of the table."""

from collections.abc import Callable

from bench.plan import Plan
from bench.rows import Row
from bench.scenarios import memory, starts

SCENARIOS: dict[str, Callable[[Plan], list[Row]]] = {
    "starts": starts.run,
    "memory": memory.run,
}
