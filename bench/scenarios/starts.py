"""Starts and shutdowns of many VMs, pipelined on one socket; somebody else reads meanwhile."""

import select
import statistics

from bench.load import add, operate, vm_ids
from bench.plan import Plan
from bench.prober import probing
from bench.rows import Row, at_least, at_most, percentile
from bench.server import Daemon, serving
from bench.wire import Connection

NAME = "starts"
WORKERS = 4
#: Seconds for which reads of an idle daemon are watched.
IDLE = 2.0


def run(plan: Plan) -> list[Row]:
    pool = ("--workers", str(WORKERS))
    with serving(plan.directory / NAME, *pool) as daemon, daemon.connect() as client:
        return _measure(plan, daemon, client)


def _measure(plan: Plan, daemon: Daemon, client: Connection) -> list[Row]:
    ids = vm_ids(plan.vms)
    add(client, ids)
    operate(client, "VM.start", ids)
    operate(client, "VM.shutdown", ids)
    alone = [_round(client, ids) for _ in range(plan.rounds)]
    idle: list[float] = []
    loaded: list[float] = []
    watched: list[tuple[float, float]] = []
    for _ in range(plan.rounds):
        with probing(daemon.socket, ids[0]) as probe:
            select.select([], [], [], IDLE / plan.rounds)
        idle += probe.latencies
        with probing(daemon.socket, ids[0]) as probe:
            watched.append(_round(client, ids))
        loaded += probe.latencies
    return [*_rates(plan.vms, alone, watched), *_reads(idle, loaded)]


def _round(client: Connection, ids: list[str]) -> tuple[float, float]:
    """Starts and shutdowns a second."""
    started = operate(client, "VM.start", ids)
    return len(ids) / started, len(ids) / operate(client, "VM.shutdown", ids)


def _rates(
    vms: int, alone: list[tuple[float, float]], watched: list[tuple[float, float]]
) -> list[Row]:
    rows = []
    for n, verb in enumerate(("starts", "shutdowns")):
        rate = statistics.median(r[n] for r in alone)
        beside = statistics.median(r[n] for r in watched)
        note = f"{min(r[n] for r in alone):,.0f} to {max(r[n] for r in alone):,.0f}"
        note += f"; {beside:,.0f} while VM.stat is called"
        what = f"{verb} of {vms:,} VMs, pool of {WORKERS}"
        rows.append(Row(NAME, what, f"{verb}/s", rate, at_least(1000), note))
    return rows


def _reads(idle: list[float], loaded: list[float]) -> list[Row]:
    calm, busy = (percentile(values, 50) * 1e3 for values in (idle, loaded))
    note = f"{busy:.3f} ms, idle {calm:.3f} ms; {len(loaded):,} calls"
    slowest = percentile(loaded, 99) * 1e3
    calmest = percentile(idle, 99) * 1e3
    return [
        Row(NAME, "VM.stat meanwhile, p50 over idle", "times", busy / calm, at_most(2), note),
        Row(NAME, "VM.stat meanwhile, p99", "ms", slowest, at_most(25), f"idle {calmest:.3f} ms"),
    ]
