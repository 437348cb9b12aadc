"""How long a change is on its way to those who wait for it.

The event is a call by one client (UPDATES.refresh_vm), and begins when it is sent; the end is the
moment when another client has read the answer of its long poll. Beside it what a guest does by
itself: there the daemon looks at the VM first, and tears down what is left of it.
"""

import statistics
import time

from bench.load import add, operate, vm_ids
from bench.plan import Plan
from bench.rows import Row, at_most, percentile
from bench.server import Daemon, serving
from bench.subscribers import subscribed
from bench.wire import Connection, request

NAME = "updates"


def run(plan: Plan) -> list[Row]:
    with serving(plan.directory / NAME, "--debug") as daemon, daemon.connect() as client:
        ids = vm_ids(plan.vms)
        add(client, ids)
        operate(client, "VM.start", ids)
        few = max(3, plan.calls // 20)
        one = latencies(daemon, 1, few, ids[0])
        many = latencies(daemon, plan.vms, plan.rounds * 6, ids[0])
        with daemon.connect() as subscriber:
            crashes = [_crash(client, subscriber, id) for id in ids[: max(3, few // 4)]]
    return [
        _row("update, event to answered long poll, one subscriber", one, 2),
        _row(f"update, event to the last of {plan.vms:,} answered long polls", many, 8),
        _row("a guest crashes, until a subscriber has seen it halted", crashes),
    ]


def latencies(daemon: Daemon, subscribers: int, rounds: int, vm: str) -> list[float]:
    """Seconds from the event until the last of so many has its answer, for each round."""
    line = request("UPDATES.refresh_vm", {"id": vm})
    found = []
    with subscribed(daemon, subscribers) as waiting, daemon.connect() as client:
        for _ in range(rounds + 1):
            began = time.perf_counter()
            client.socket.sendall(line)
            found.append(waiting.woken() - began)
            client.receive()
            waiting.wait()
    return found[1:]


def _crash(client: Connection, subscriber: Connection, vm: str) -> float:
    """Seconds from a guest's crash until a client that follows updates knows that it is halted."""
    token = subscriber.call("UPDATES.last_id")
    subscriber.send("UPDATES.get", since=token)
    began = time.perf_counter()
    client.call("DEBUG.trigger", cmd="crash", args=[vm])
    while True:
        found = subscriber.receive()
        if not found["updates"]:
            raise TimeoutError(f"the crash of {vm} went unnoticed")
        if client.call("VM.stat", id=vm)["state"]["power_state"] == "halted":
            return time.perf_counter() - began
        subscriber.send("UPDATES.get", since=found["next"])


def _row(what: str, seconds: list[float], bar: float | None = None) -> Row:
    note = f"p99 {percentile(seconds, 99) * 1e3:.2f} ms, of {len(seconds)}"
    median = statistics.median(seconds) * 1e3
    limit = at_most(bar) if bar is not None else None
    return Row(NAME, f"{what}, median", "ms", median, limit, note)
