"""One client that waits for each answer: VM.stat, beside libvirt, LXD and the raw floor.

The sides take turns within one run, so that whatever else the machine does meets all of them.
Each client encodes every call and decodes every answer. All servers are on one CPU; the client is
on the same one (what a call costs) or on another (and what waking the other side costs).
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.containers.ground import ground
from bench.containers.lxd import lxd
from bench.load import add, operate, vm_ids
from bench.peers import LXD_SOCKETS, Unavailable, libvirt_state, libvirt_version, lxd_state
from bench.pinning import CLIENT, SERVER, pinned
from bench.plan import Plan
from bench.rows import Row, at_least
from bench.server import Process, serving
from bench.wire import Connection

NAME = "reads"
OURS, FLOOR, LIBVIRT, LXD = "VM.stat", "echo server", "libvirt", "LXD"
#: LXD is so slow that as many calls would take minutes.
FEWER = 20

Calls = dict[str, Callable[[], Any]]


def run(plan: Plan) -> list[Row]:
    with ExitStack() as stack:
        sides: Calls = {
            OURS: stack.enter_context(_vm_stat(plan.directory / NAME)),
            FLOOR: stack.enter_context(_echo(plan.directory)),
        }
        missing: dict[str, str] = {}
        _try(stack, sides, missing, LIBVIRT, libvirt_state(plan.directory / "libvirt"))
        _try(stack, sides, missing, LXD, _lxd_state(plan.directory / "lxd"))
        rows: list[Row] = []
        for where, cpus in (("one CPU for both", SERVER), ("a CPU each", CLIENT)):
            with pinned(cpus):
                rows += _rows(where, _rates(plan, sides), missing)
    return rows


def _try(stack: ExitStack, sides: Calls, missing: dict[str, str], name: str, peer: Any) -> None:
    try:
        sides[name] = stack.enter_context(peer)
    except Unavailable as error:
        missing[name] = str(error)


@contextmanager
def _vm_stat(directory: Path) -> Iterator[Callable[[], Any]]:
    with serving(directory) as daemon, daemon.connect() as client:
        ids = vm_ids(1)
        add(client, ids)
        operate(client, "VM.start", ids)
        yield lambda: client.call("VM.stat", id=ids[0])


@contextmanager
def _echo(directory: Path) -> Iterator[Callable[[], Any]]:
    path = directory / "echo.sock"
    server = Process([sys.executable, "-m", "bench.echo", str(path)], directory / "echo.log")
    try:
        server.say()
        with Connection(path) as client:
            yield lambda: client.call("VM.stat", id="vm-0")
    finally:
        server.kill()


@contextmanager
def _lxd_state(directory: Path) -> Iterator[Callable[[], Any]]:
    """Of a private LXD with one running instance; where that cannot be, of the machine's own."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(ground(directory))
            opened = lxd(directory / "lxd", found.image, found.bridge, ["xb-0"], cpus=SERVER)
            side = stack.enter_context(opened)
            side.start("xb-0")
            sockets = [side.socket]
        except Unavailable:
            sockets = [*LXD_SOCKETS]
        yield stack.enter_context(lxd_state(sockets))


def _rates(plan: Plan, sides: Calls) -> dict[str, list[float]]:
    """Calls a second of each side, by round; a first round warms up and is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for round in range(plan.rounds + 1):
        for name, call in sides.items():
            rate = _rate(call, plan.calls // (FEWER if name == LXD else 1))
            if round:
                rates[name].append(rate)
    return rates


def _rate(call: Callable[[], Any], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return count / (time.perf_counter() - began)


def _rows(where: str, rates: dict[str, list[float]], missing: dict[str, str]) -> list[Row]:
    rows = [
        _against(where, rates, missing, LIBVIRT, "VM.stat over libvirt's virDomainGetState", 1.5),
        _against(where, rates, missing, LXD, "VM.stat over LXD's state of an instance", 20),
        _plain(where, "VM.stat", rates[OURS]),
        _plain(where, "the raw floor, an echo server of the same loop", rates[FLOOR]),
    ]
    if LIBVIRT in rates:
        what = f"virDomainGetState, libvirt {libvirt_version()}"
        rows.append(_plain(where, what, rates[LIBVIRT], "test driver over libvirtd's socket"))
    if LXD in rates:
        rows.append(_plain(where, "LXD's state of an instance", rates[LXD]))
    return rows


def _against(
    where: str,
    rates: dict[str, list[float]],
    missing: dict[str, str],
    peer: str,
    what: str,
    bar: float,
) -> Row:
    what = f"{what}, {where}"
    if peer in missing:
        return Row(NAME, what, "times", None, at_least(bar), missing[peer])
    ratios = [ours / theirs for ours, theirs in zip(rates[OURS], rates[peer], strict=True)]
    note = f"median of {len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}"
    return Row(NAME, what, "times", statistics.median(ratios), at_least(bar), note)


def _plain(where: str, what: str, rates: list[float], note: str = "") -> Row:
    extremes = f"{min(rates):,.0f} to {max(rates):,.0f}"
    note = "; ".join(part for part in (extremes, note) if part)
    return Row(NAME, f"{what}, {where}", "calls/s", statistics.median(rates), note=note)
