"""The scenarios: each a function from a plan to rows, in the order of the table."""

from collections.abc import Callable

from bench.plan import Plan
from bench.rows import Row
from bench.scenarios import containers, hung, memory, microop, reads, restart, starts, updates

SCENARIOS: dict[str, Callable[[Plan], list[Row]]] = {
    reads.NAME: reads.run,
    microop.NAME: microop.run,
    starts.NAME: starts.run,
    restart.NAME: restart.run,
    updates.NAME: updates.run,
    memory.NAME: memory.run,
    hung.NAME: hung.run,
    containers.NAME: containers.run,
}
