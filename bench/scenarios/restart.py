"""A crash of the daemon while many VMs run: how soon it answers, and how soon it has recovered."""

import select
import statistics
import time

from bench.load import add, operate, vm_ids
from bench.plan import Plan
from bench.rows import Bar, Row, at_most
from bench.server import DEADLINE, Daemon, serving

NAME = "restart"


def run(plan: Plan) -> list[Row]:
    with serving(plan.directory / NAME, "--workers", "4") as daemon:
        ids = vm_ids(plan.vms)
        with daemon.connect() as client:
            add(client, ids)
            operate(client, "VM.start", ids)
        times = [restart(daemon) for _ in range(plan.rounds)]
        with daemon.connect() as client:
            running = [vm["state"]["power_state"] for vm in client.call("VM.list")]
    if running != ["running"] * plan.vms:
        raise RuntimeError("not every VM is running after the restarts")
    what = f"SIGKILL and restart with {plan.vms:,} running VMs"
    answered, recovered = ([t[n] for t in times] for n in range(2))
    return [
        Row(NAME, f"{what}: sockets answer", "s", *_median(answered, 0.5)),
        Row(NAME, f"{what}: recovered", "s", *_median(recovered, 2.0)),
    ]


def restart(daemon: Daemon) -> tuple[float, float]:
    """Kill it and start it; the seconds until its socket answers, and until it has recovered."""
    daemon.process.kill()
    began = time.perf_counter()
    process = daemon.spawn()
    with daemon.connect_at_once() as client:
        recovering = client.call("HOST.query")["recovering"]
        answered = time.perf_counter() - began
        while recovering:
            if time.perf_counter() - began > DEADLINE:
                raise TimeoutError(f"it has not recovered in {DEADLINE} s")
            select.select([], [], [], 0.005)
            recovering = client.call("HOST.query")["recovering"]
        recovered = time.perf_counter() - began
    process.say()
    return answered, recovered


def _median(seconds: list[float], bar: float) -> tuple[float, Bar, str]:
    note = f"of {len(seconds)}, {min(seconds):.3f} to {max(seconds):.3f}"
    return statistics.median(seconds), at_most(bar), note
