"""What the daemon occupies with many VMs and many waiting polls, and after much churn."""

from contextlib import ExitStack

from bench.load import add, operate, vm_ids
from bench.plan import Plan
from bench.rows import Row, at_most, slope
from bench.server import Daemon, serving
from bench.wire import Connection

NAME = "memory"
#: Seconds for which a poll waits: longer than the scenario.
PATIENCE = 3000.0


def run(plan: Plan) -> list[Row]:
    with serving(plan.directory / NAME, "--workers", "4") as daemon, daemon.connect() as client:
        empty = daemon.process.rss()
        ids = vm_ids(plan.vms)
        add(client, ids)
        added = daemon.process.rss()
        operate(client, "VM.start", ids)
        started = daemon.process.rss()
        with ExitStack() as polls:
            waiting(daemon, client, plan.vms, polls)
            full = daemon.process.rss()
        note = f"{empty:.1f} empty, {added:.1f} with the VMs halted, {started:.1f} running"
        what = f"resident with {plan.vms:,} running VMs and as many waiting polls"
        return [
            Row(NAME, what, "MB", full, at_most(80), note),
            _churned(plan, daemon, client, ids),
        ]


def waiting(daemon: Daemon, client: Connection, count: int, stack: ExitStack) -> list[Connection]:
    """So many clients that wait for what happens next, each seen to be waiting."""
    token = client.call("UPDATES.last_id")
    polls = [stack.enter_context(daemon.connect()) for _ in range(count)]
    for poll in polls:
        poll.send("UPDATES.get", since=token, timeout=PATIENCE)
    # Answered after what was sent before it: a connection is read in order.
    for poll in polls:
        poll.send("HOST.query")
        poll.receive()
    return polls


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
