"""What `xenops top` knows, and the rows that it shows of it. Pure.

The feed puts answers of the daemon in; the screen takes rows out. Rates come from counters
that the daemon samples more seldom than it is asked, so a rate holds until its counter moves.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from idl.host import Diagnostics, HostQuery, QueueDiagnostics, WorkerPool
from idl.task import Failed, Pending, Task
from idl.vm import VmMetrics, VmRecord
from xenopsd.cli.follow import fraction
from xenopsd.cli.metrics import total
from xenopsd.cli.output import size, span

#: Ended tasks that stay on the board.
KEPT = 100
#: A counter that has not moved for so long, in seconds, stands still.
STALE = 15.0

Rows = dict[str, tuple[str, ...]]

VM_TITLES = ("VM", "STATE", "OPERATION", "CPU", "MEMORY", "DISK/S", "NET/S", "NAME")
QUEUE_TITLES = ("QUEUE", "STATE", "DEPTH", "OPERATION", "RUNNING", "AGE", "HOLDER")
TASK_TITLES = ("TASK", "OPERATION", "OBJECT", "STATE", "PROGRESS", "STEP", "ERROR")
WORKER_TITLES = ("HOLDER", "QUEUE", "RUNNING", "AGE", "DEADLINE")

ORDERS = ("vm", "cpu", "memory", "state")


@dataclass(frozen=True, slots=True)
class Look:
    """What was asked at one moment, in seconds of the feed's clock."""

    at: float
    query: HostQuery
    pool: WorkerPool
    diagnostics: Diagnostics
    metrics: list[VmMetrics]


@dataclass(frozen=True, slots=True)
class Rate:
    """Counters of a VM (CPU seconds, disk and network bytes), when they were last seen to move,
    and how fast they then did, each a second."""

    counters: tuple[float, float, float]
    at: float | None = None
    speed: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def moved(self, counters: tuple[float, float, float], now: float) -> "Rate":
        """The rate after another sample."""
        if self.at is None:
            # How long ago the daemon took the first sample, nobody knows.
            return self if counters == self.counters else Rate(counters, now)
        if counters == self.counters:
            return Rate(counters, self.at) if now - self.at > STALE else self
        took = max(now - self.at, 0.001)
        speed = tuple(max(b - a, 0.0) / took for a, b in zip(self.counters, counters, strict=True))
        return Rate(counters, now, (speed[0], speed[1], speed[2]))


@dataclass(slots=True)
class Board:
    """The present picture; one thread writes and reads it."""

    vms: dict[str, VmRecord] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    look: Look | None = None
    rates: dict[str, Rate] = field(default_factory=dict)
    updates: float = 0.0

    def put_vms(self, records: Iterable[VmRecord], gone: Iterable[str], *, whole: bool) -> None:
        """VMs that changed; with `whole` they are all that there are."""
        if whole:
            self.vms.clear()
        self.vms.update({record.id: record for record in records})
        for id in gone:
            self.vms.pop(id, None)

    def put_tasks(self, tasks: Iterable[Task], *, whole: bool) -> None:
        """Tasks that changed, newest last; of the ended ones the newest stay."""
        if whole:
            self.tasks.clear()
        for task in tasks:
            self.tasks.pop(task.id, None)
            self.tasks[task.id] = task
        ended = [id for id, task in self.tasks.items() if task.ended]
        for id in ended[: max(0, len(ended) - KEPT)]:
            del self.tasks[id]

    def put_look(self, look: Look) -> None:
        """A look at everything that announces no change."""
        before, self.look = self.look, look
        if before is not None:
            number = _number(look) - _number(before)
            self.updates = max(number, 0) / max(look.at - before.at, 0.001)
        self.rates = {
            one.id: self._rate(one.id, (one.cpu_seconds, _disk(one), _network(one)), look.at)
            for one in look.metrics
        }

    def _rate(self, id: str, counters: tuple[float, float, float], now: float) -> Rate:
        known = self.rates.get(id)
        return Rate(counters) if known is None else known.moved(counters, now)

    # Rows

    def vm_rows(self, wanted: str = "", order: str = "vm") -> Rows:
        """The VMs whose id, name or state has `wanted` in it, in this order."""
        found = (record for record in self.vms.values() if wanted in _searched(record))
        ordered = sorted(found, key=lambda record: (*self._rank(record, order), record.id))
        return {record.id: self._vm(record) for record in ordered}

    def _rank(self, record: VmRecord, order: str) -> tuple[float | str, ...]:
        match order:
            case "cpu":
                return (-self._speed(record.id)[0],)
            case "memory":
                return (-record.state.memory_actual,)
            case "state":
                return (0 if record.state.attention else 1, str(record.state.power_state))
            case _:
                return ()

    def _speed(self, id: str) -> tuple[float, float, float]:
        rate = self.rates.get(id)
        return (0.0, 0.0, 0.0) if rate is None else rate.speed

    def _vm(self, record: VmRecord) -> tuple[str, ...]:
        state, (cpu, disk, network) = record.state, self._speed(record.id)
        operation = state.operation
        step = f"{operation.name} {operation.micro_op or ''}".strip() if operation else ""
        return (
            record.id,
            "attention" if state.attention else str(state.power_state),
            step,
            f"{cpu:.0%}" if cpu else "",
            size(state.memory_actual) if state.memory_actual else "",
            size(int(disk)) if disk else "",
            size(int(network)) if network else "",
            "" if record.config is None else record.config.name,
        )

    def queue_rows(self) -> Rows:
        """The queues that are not empty, the longest held first."""
        return {queue.vm: _queue(queue) for queue in sorted(self._queues(), key=_age)}

    def worker_rows(self) -> Rows:
        """Who holds a queue, by name."""
        rows = [_worker(queue) for queue in self._queues() if queue.running is not None]
        return {f"{row[0]} {row[1]}": row for row in sorted(rows)}

    def task_rows(self) -> Rows:
        """Open tasks, then ended ones, the newest first."""
        newest_first = list(self.tasks.values())[::-1]
        ordered = sorted(newest_first, key=lambda task: task.ended)
        return {task.id: _task(task) for task in ordered}

    def _queues(self) -> list[QueueDiagnostics]:
        return [] if self.look is None else self.look.diagnostics.queues

    # The head of the screen

    def head(self) -> tuple[str, str]:
        """Two lines about the whole."""
        if self.look is None:
            return "", ""
        return _who(self.look.query, self.vms), self._load(self.look)

    def _load(self, look: Look) -> str:
        pool = look.pool
        cpu, disk, network = (sum(rate.speed[n] for rate in self.rates.values()) for n in range(3))
        tasks = sum(1 for task in self.tasks.values() if not task.ended)
        return (
            f"workers {pool.size}: {pool.busy} busy, {pool.idle} idle, {pool.parked} parked"
            f" · queued {pool.queued} · tasks {tasks} · updates {self.updates:.0f}/s"
            f" · CPU {cpu:.0%} · disk {size(int(disk))}/s · net {size(int(network))}/s"
        )


def _who(query: HostQuery, vms: Mapping[str, VmRecord]) -> str:
    states = Counter(str(record.state.power_state) for record in vms.values())
    doubt = sum(1 for record in vms.values() if record.state.attention is not None)
    told = [f"{count} {state}" for state, count in sorted(states.items())]
    told += [f"{doubt} need attention"] if doubt else []
    recovering = " · recovering" if query.recovering else ""
    return (
        f"{query.instance} ({query.backend}) · {len(vms)} VMs: {', '.join(told) or 'none'}"
        f"{recovering}"
    )


def _number(look: Look) -> int:
    return int(look.diagnostics.updates.get("number", 0))


def _disk(found: VmMetrics) -> float:
    return total(found.disks, "read_bytes") + total(found.disks, "write_bytes")


def _network(found: VmMetrics) -> float:
    return total(found.networks, "rx_bytes") + total(found.networks, "tx_bytes")


def _searched(record: VmRecord) -> str:
    name = "" if record.config is None else record.config.name
    return f"{record.id}\n{name}\n{record.state.power_state}"


def _age(queue: QueueDiagnostics) -> tuple[float, str]:
    return (0.0 if queue.running is None else -queue.running.age), queue.vm


def _queue(queue: QueueDiagnostics) -> tuple[str, ...]:
    running, operations = queue.running, queue.operations
    return (
        queue.vm,
        queue.state,
        str(len(operations)),
        operations[0].name if operations else "",
        "" if running is None else f"{running.name} {running.object}",
        "" if running is None else span(running.age),
        "" if running is None else running.holder,
    )


def _worker(queue: QueueDiagnostics) -> tuple[str, ...]:
    running = queue.running
    assert running is not None
    left = "" if running.deadline is None else span(running.deadline)
    if running.written_off:
        left = "written off"
    what = f"{running.name} {running.object}"
    return running.holder, queue.vm, what, span(running.age), left


def _task(task: Task) -> tuple[str, ...]:
    pending = isinstance(task.state, Pending)
    return (
        task.id,
        task.operation,
        task.object,
        str(task.state.__struct_config__.tag),
        f"{fraction(task):.0%}" if pending else "",
        task.subtasks[-1].name if pending and task.subtasks else "",
        task.state.error.message if isinstance(task.state, Failed) else "",
    )
