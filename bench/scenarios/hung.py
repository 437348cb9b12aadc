"""Calls of the hypervisor that hang: one, and as many as there are workers.

Meanwhile others read, and shut VMs down the hard way; both should be as if nothing were. Any other
operation waits for a worker, which is there again when the deadline of a short micro-op is over.
"""

import select
import statistics
import time
from itertools import islice
from typing import NamedTuple

from bench.load import add, operate, vm_ids
from bench.plan import Plan
from bench.rows import Row, at_most
from bench.server import DEADLINE, serving
from bench.wire import Connection

NAME = "hung"
WORKERS = 4
#: "Unchanged" needs a number: more than measurements of the same thing differ.
UNCHANGED = 1.5

#: The deadline of a short micro-op, as it is by default.
SHORT = 10.0
#: The deadline ends a call, and the others go on when that is done.
BREAKING_OFF = 0.1


class Episode(NamedTuple):
    """Median seconds of a read and of a hard shutdown; those until another operation ended."""

    read: float
    shutdown: float
    other: float


def run(plan: Plan) -> list[Row]:
    short = 0.5 if plan.is_quick else SHORT
    config = plan.directory / "hung.toml"
    config.write_text(f"workers = {WORKERS}\n[deadlines]\nshort = {short}\n")
    arguments = ("--debug", "--config", str(config))
    with serving(plan.directory / NAME, *arguments) as daemon, daemon.connect() as client:
        sample = max(5, plan.vms // 20)
        free = iter(_running(client, 4 * (sample + WORKERS + 1)))

        def episode(hanging: int, *, deaf: bool = False) -> Episode:
            hung = list(islice(free, hanging))
            return _episode(client, hung, next(free), list(islice(free, sample)), deaf=deaf)

        calm, one, every = (episode(hanging) for hanging in (0, 1, WORKERS))
        deaf = episode(WORKERS, deaf=True)
    everyone = f"{WORKERS} VMs hang, and {WORKERS} workers"
    return [
        *_unchanged("one VM hangs", calm, one),
        *_unchanged(everyone, calm, every),
        _resumed("one VM hangs", one, short),
        _resumed(everyone, every, short),
        _resumed(f"{everyone}, deaf to being broken off", deaf, short),
    ]


def _running(client: Connection, count: int) -> list[str]:
    ids = vm_ids(count)
    add(client, ids)
    operate(client, "VM.start", ids)
    return ids


def _episode(
    client: Connection, hung: list[str], other: str, sample: list[str], *, deaf: bool
) -> Episode:
    client.call("DEBUG.trigger", cmd="hang", args=["vm_pause", str(len(hung)), *["deaf"] * deaf])
    stuck = [client.call("VM.pause", id=id) for id in hung]
    for id in hung:
        _wait_stuck(client, id)
    task = client.call("VM.pause", id=other)
    read = statistics.median(_timed(client, "VM.stat", (hung or [other])[0]) for _ in range(500))
    shutdown = statistics.median(_timed_shutdown(client, id) for id in sample)
    seconds = client.call("TASK.wait", id=task)["state"]["duration"]
    client.call("DEBUG.trigger", cmd="undeaf", args=[])
    for each in stuck:
        client.call("TASK.wait", id=each)
    return Episode(read, shutdown, seconds)


def _wait_stuck(client: Connection, id: str) -> None:
    until = time.monotonic() + DEADLINE
    while True:
        operation = client.call("VM.stat", id=id)["state"]["operation"]
        if operation and operation["micro_op"] == "vm_pause":
            return
        if time.monotonic() > until:
            raise TimeoutError(f"{id} does not hang")
        select.select([], [], [], 0.005)


def _timed(client: Connection, method: str, id: str) -> float:
    began = time.perf_counter()
    client.call(method, id=id)
    return time.perf_counter() - began


def _timed_shutdown(client: Connection, id: str) -> float:
    began = time.perf_counter()
    task = client.call("TASK.wait", id=client.call("VM.shutdown", id=id))
    seconds = time.perf_counter() - began
    if task["state"]["type"] != "completed":
        raise RuntimeError(f"the hard shutdown of {id} did not complete: {task}")
    return seconds


def _unchanged(what: str, calm: Episode, now: Episode) -> list[Row]:
    return [
        Row(
            NAME,
            f"{what}: {name} over the same before",
            "times",
            after / before,
            at_most(UNCHANGED),
            f"{after * 1e3:.3f} ms, before {before * 1e3:.3f} ms, medians",
        )
        for name, before, after in (
            ("VM.stat", calm.read, now.read),
            ("a hard shutdown", calm.shutdown, now.shutdown),
        )
    ]


def _resumed(what: str, episode: Episode, short: float) -> Row:
    what = f"{what}: another VM is paused after"
    note = f"the deadline of a short micro-op is {short:g} s; {BREAKING_OFF:g} s to break off"
    return Row(NAME, what, "s", episode.other, at_most(short + BREAKING_OFF), note)
