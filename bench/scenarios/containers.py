"""The same busybox container, started and stopped by liblxc's programs, by LXD, and by us.

From the call until it runs, and until it has stopped; the sides take turns. Then fifty at once.
What is not confined as ours are is named lean. Nothing is pinned to a CPU here: starting a
container is work of many processes on every side.
"""

import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from bench.containers import Side
from bench.containers.ground import Ground, await_up, ground
from bench.containers.lxd import lxd
from bench.containers.ours import ours
from bench.containers.raw import raw
from bench.peers import Unavailable
from bench.pinning import ALL, pinned
from bench.plan import Plan
from bench.rows import Bar, Row, at_most

NAME = "containers"
OURS, LAYERED, RAW, LEAN, LXD = "VM.start", "layered", "lxc-start", "lean", "lxc start"
#: How each is called in the table: started, stopped hard, stopped clean.
CALLS = {
    OURS: ("VM.start", "VM.shutdown", "VM.shutdown with a timeout"),
    LAYERED: ("VM.start with an overlay over the image", "VM.shutdown of that", ""),
    RAW: ("lxc-start", "lxc-stop --kill", "lxc-stop"),
    LEAN: ("lxc-start, lean", "lxc-stop --kill, lean", ""),
    LXD: ("LXD's lxc start", "LXD's lxc stop --force", "LXD's lxc stop"),
}
#: How often each starts and stops, for each of the plan's rounds.
TURNS = 4
AT_ONCE = 50
#: Seconds that the host is left alone before a start.
REST = 0.2

Times = dict[str, list[float]]


def run(plan: Plan) -> list[Row]:
    try:
        with pinned(ALL), ground(plan.directory / NAME) as found:
            return _measure(plan, found)
    except Unavailable as error:
        return [*_against_raw({}, str(error)), *_against_lxd({}, str(error))]


def _measure(plan: Plan, found: Ground) -> list[Row]:
    count = 3 if plan.is_quick else AT_ONCE
    ids = [f"xb-{n}" for n in range(count)]
    with ExitStack() as stack:
        us = stack.enter_context(ours(found, ids))
        sides: dict[str, Side] = {
            OURS: us,
            LAYERED: stack.enter_context(ours(found, ids[:1], LAYERED, overlay=True)),
            RAW: stack.enter_context(raw(found, ids)),
            LEAN: stack.enter_context(raw(found, ids[:1], lean=True)),
        }
        lacking = ""
        try:
            sides[LXD] = stack.enter_context(
                lxd(found.directory / "lxd", found.image, found.bridge, ids)
            )
        except Unavailable as error:
            lacking = str(error)
        one = _one(plan, sides, ids[0])
        steps = us.steps[1:]
        many, silent = _every(plan, sides, ids)
    return [
        *_against_raw(one, ""),
        *_against_lxd(one, lacking),
        *_plain(one),
        *_at_once(many, count, lacking or silent),
        *_spent(steps),
    ]


def _one(plan: Plan, sides: dict[str, Side], id: str) -> Times:
    """Milliseconds of each call, by its name in the table; the first turn warms up."""
    times: Times = {name: [] for side in sides for name in CALLS[side] if name}
    for turn in range(plan.rounds * TURNS + 1):
        for name, side in sides.items():
            found = _turn(side, id, clean=bool(CALLS[name][2]))
            if turn:
                for call, seconds in zip(CALLS[name], found, strict=False):
                    times[call].append(seconds * 1e3)
    return times


def _turn(side: Side, id: str, *, clean: bool) -> list[float]:
    """Seconds of a start, of a hard stop, and of a clean one after another start."""
    # The kernel's first move between control groups after a while waits some 10 ms for a grace
    # period: everybody's does here, also of who comes after somebody who has just stopped one.
    threading.Event().wait(REST)
    found = [_seconds(lambda: side.start(id))]
    await_up(side.pid(id))
    found.append(_seconds(lambda: side.kill(id)))
    if clean:
        side.start(id)
        await_up(side.pid(id))
        found.append(_seconds(lambda: side.shut_down(id)))
    return found


def _every(
    plan: Plan, sides: dict[str, Side], ids: Sequence[str]
) -> tuple[dict[str, list[tuple[float, float]]], str]:
    """What `_many` has of each side, and why not of LXD: it was seen to hang with fifty."""
    many, silent = {}, ""
    for name in (OURS, RAW, LXD):
        if name in sides:
            try:
                many[name] = _many(plan, sides[name], ids)
            except subprocess.TimeoutExpired as error:
                if name != LXD:
                    raise
                silent = f"it did not answer within {error.timeout:.0f} s"
    return many, silent


def _many(plan: Plan, side: Side, ids: Sequence[str]) -> list[tuple[float, float]]:
    """Seconds until all run, and until all are stopped, for each round."""
    found = []
    for _ in range(max(1, plan.rounds // 2)):
        started = _seconds(lambda: side.start_all(ids))
        for id in ids:
            await_up(side.pid(id))
        found.append((started, _seconds(lambda: side.kill_all(ids))))
    return found


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _against_raw(times: Times, lacking: str) -> list[Row]:
    more = [a - b for a, b in _pairs(times, OURS, RAW)]
    leaner = [a - b for a, b in _pairs(times, OURS, LEAN)]
    return [
        _row("VM.start less lxc-start, call to running", "ms", more, lacking, at_most(15)),
        _row("VM.start less a lean lxc-start, call to running", "ms", leaner, lacking),
    ]


def _against_lxd(times: Times, lacking: str) -> list[Row]:
    ratios = [a / b for a, b in _pairs(times, OURS, LXD)]
    what = "VM.start over LXD's lxc start, call to running"
    return [_row(what, "times", ratios, lacking, at_most(1))]


def _pairs(times: Times, one: str, other: str) -> list[tuple[float, float]]:
    starts = (times.get(CALLS[name][0], []) for name in (one, other))
    return list(zip(*starts, strict=False))


def _plain(times: Times) -> list[Row]:
    order = [calls[n] for n in range(3) for calls in CALLS.values()]
    return [_row(call, "ms", times[call], "") for call in order if call in times]


def _at_once(many: dict[str, list[tuple[float, float]]], count: int, lacking: str) -> list[Row]:
    rows = []
    for n, what in enumerate(("started", "stopped hard")):
        for name in (OURS, RAW, LXD):
            call = CALLS[name][n]
            found = [seconds[n] for seconds in many.get(name, [])]
            rows.append(_row(f"{count} {what} at once by {call}", "s", found, lacking))
    return rows


def _spent(steps: list[dict[str, float]]) -> list[Row]:
    """Where the time of our start goes: each micro-op, and the rest of the call."""
    names = [name for name in steps[0] if name != "all"]
    return [
        _row(f"of VM.start: {name}", "ms", [step[name] * 1e3 for step in steps], "")
        for name in (*names, "all")
    ]


def _row(what: str, unit: str, values: list[float], lacking: str, bar: Bar | None = None) -> Row:
    if not values:
        return Row(NAME, what, unit, None, bar, lacking)
    note = f"median of {len(values)}, {min(values):.3g} to {max(values):.3g}"
    return Row(NAME, what, unit, statistics.median(values), bar, note)
