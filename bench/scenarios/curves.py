"""How latency, restart and memory grow with the number of VMs."""

import statistics
import time

import msgspec

from bench.load import add, operate, vm_ids
from bench.plan import Plan
from bench.rows import percentile
from bench.scenarios.restart import restart
from bench.scenarios.updates import latencies
from bench.server import Daemon, serving
from bench.wire import Connection

NAME = "curves"


class Point(msgspec.Struct, frozen=True):
    """A daemon with so many running VMs, each with a VBD and a VIF. Milliseconds, seconds, MB."""

    vms: int
    stat_p50_ms: float
    stat_p99_ms: float
    list_ms: float
    update_ms: float
    answers_s: float
    recovered_s: float
    rss_mb: float


def run(plan: Plan) -> list[Point]:
    return [_point(plan, vms) for vms in plan.sizes]


def _point(plan: Plan, vms: int) -> Point:
    ids = vm_ids(vms)
    with serving(plan.directory / f"{NAME}-{vms}", "--workers", "4") as daemon:
        with daemon.connect() as client:
            add(client, ids)
            operate(client, "VM.start", ids)
            stat = _times(client, plan.calls, "VM.stat", id=ids[vms // 2])
            listed = _times(client, max(3, plan.rounds), "VM.list")
            rss = daemon.process.rss()
        update = statistics.median(latencies(daemon, 1, max(3, plan.calls // 20), ids[0]))
        answers, recovered = _restarts(daemon, plan.rounds)
    return Point(
        vms=vms,
        stat_p50_ms=percentile(stat, 50) * 1e3,
        stat_p99_ms=percentile(stat, 99) * 1e3,
        list_ms=statistics.median(listed) * 1e3,
        update_ms=update * 1e3,
        answers_s=answers,
        recovered_s=recovered,
        rss_mb=rss,
    )


def _times(client: Connection, count: int, method: str, **params: str) -> list[float]:
    """Seconds of each of so many calls; two before them warm up."""
    times = []
    for _ in range(count + 2):
        began = time.perf_counter()
        client.call(method, **params)
        times.append(time.perf_counter() - began)
    return times[2:]


def _restarts(daemon: Daemon, count: int) -> tuple[float, float]:
    times = [restart(daemon) for _ in range(count)]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)
