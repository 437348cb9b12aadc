"""What the daemon occupies with many VMs and many waiting polls, and after much churn."""

from bench.load import add, operate, vm_ids
from bench.plan import Plan
from bench.rows import Row, at_most, slope
from bench.server import Daemon, serving
from bench.subscribers import subscribed
from bench.wire import Connection

NAME = "memory"


def run(plan: Plan) -> list[Row]:
    with serving(plan.directory / NAME, "--workers", "4") as daemon, daemon.connect() as client:
        empty = daemon.process.rss()
        ids = vm_ids(plan.vms)
        add(client, ids)
        added = daemon.process.rss()
        operate(client, "VM.start", ids)
        started = daemon.process.rss()
        with subscribed(daemon, plan.vms):
            full = daemon.process.rss()
        note = f"{empty:.1f} empty, {added:.1f} with the VMs halted, {started:.1f} running"
        growth = _churned(plan, daemon, client, ids)
        with subscribed(daemon, plan.vms):
            churned = daemon.process.rss()
    what = f"resident with {plan.vms:,} running VMs and as many waiting polls"
    operations = f"after {2 * plan.vms * plan.churn:,} operations"
    return [
        Row(NAME, what, "MB", full, at_most(80), note),
        Row(NAME, f"{what}, {operations}", "MB", churned, at_most(80)),
        growth,
    ]


def _churned(plan: Plan, daemon: Daemon, client: Connection, ids: list[str]) -> Row:
    """Megabytes gained by 1,000 starts and shutdowns, once the daemon is warm."""
    points: list[tuple[float, float]] = []
    for round in range(plan.churn):
        operate(client, "VM.shutdown", ids)
        operate(client, "VM.start", ids)
        points.append((round * len(ids) / 1000, daemon.process.rss()))
    warm = points[len(points) // 2 :]
    note = f"{points[0][1]:.1f} MB after the first round, {points[-1][1]:.1f} after {plan.churn}"
    what = "growth with each 1,000 starts and shutdowns, second half"
    return Row(NAME, what, "MB", slope(warm), note=note)
