"""What one journalled micro-op costs: the difference that so many more of them make.

A start of a VM with many disks has one micro-op more for each disk than a start of a VM with one;
everything else (the call, the task, the plan's beginning and end) is in both, and cancels out. The
simulator's own write of a few microseconds is in the figure.
"""

import statistics
import time

from bench.plan import Plan
from bench.rows import Row, at_most
from bench.server import serving
from bench.wire import Connection

NAME = "micro-op"
DISKS = {"small": 1, "large": 33}


def run(plan: Plan) -> list[Row]:
    repeats = max(3, plan.calls // 100)
    with serving(plan.directory / NAME) as daemon, daemon.connect() as client:
        for id, disks in DISKS.items():
            client.call("VM.import_metadata", metadata=_metadata(id, disks))
        costs = [_one(client) for _ in range(repeats + 2)][2:]
    cost = statistics.median(costs) * 1e6
    note = f"of {repeats} starts; quartiles {_quartiles(costs)} µs"
    return [Row(NAME, "overhead of a journalled micro-op, median", "µs", cost, at_most(200), note)]


def _one(client: Connection) -> float:
    """Seconds that one more micro-op takes."""
    more = DISKS["large"] - DISKS["small"]
    seconds = {id: _start(client, id) for id in DISKS}
    return (seconds["large"] - seconds["small"]) / more


def _start(client: Connection, id: str) -> float:
    began = time.perf_counter()
    task = _ended(client, client.call("VM.start", id=id))
    seconds = time.perf_counter() - began
    plugged = sum(step["name"] == "vbd_plug" for step in task["subtasks"])
    if plugged != DISKS[id]:
        raise RuntimeError(f"{plugged} disks were plugged, not {DISKS[id]}")
    _ended(client, client.call("VM.shutdown", id=id))
    return seconds


def _ended(client: Connection, task: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = client.call("TASK.wait", id=task)
    return found


def _quartiles(costs: list[float]) -> str:
    low, _, high = statistics.quantiles(costs, n=4)
    return f"{low * 1e6:.0f} and {high * 1e6:.0f}"


def _metadata(id: str, disks: int) -> dict[str, object]:
    return {
        "vm": {"id": id},
        "vbds": [
            {"id": f"{id}/d{n}", "backend": {"type": "local", "path": f"/images/{id}-{n}"}}
            for n in range(disks)
        ],
    }
