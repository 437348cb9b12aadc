"""The heart of the daemon without its sockets: real executor, operations, pool and simulator.

The store, the task log and the journals each lie on a disk in memory that can be made to fail;
the simulator's world is files below a directory.
"""

import asyncio
import copy
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from fakes.disk import FaultyDisk

from backends.interface import Settings
from backends.simulator.plugin import Options, Plugin
from idl.calls import Operation
from idl.errors import XenopsError
from idl.metadata import Metadata
from idl.task import Completed, Failed, Task
from journal.documents import Kind
from journal.intents import VmJournal
from journal.records import Accepted
from journal.store import Store
from journal.tasklog import TaskLog
from xenopsd.ballooning import Ballooning
from xenopsd.bridge import Bridge
from xenopsd.claims import Claims
from xenopsd.context import Context, Deadlines
from xenopsd.execution import Execution, Recover
from xenopsd.executor import Executor
from xenopsd.inventory import Entry, Inventory
from xenopsd.killpoints import KillPoints
from xenopsd.memory import Memory
from xenopsd.metrics import Metrics, Sources
from xenopsd.operations import Operations, Places
from xenopsd.perform import Performer
from xenopsd.plan.plan import Limits
from xenopsd.record import VmExtra
from xenopsd.tasks import TaskEntry, Tasks
from xenopsd.updatelog import UpdateLog
from xenopsd.updates import Updates
from xenopsd.workers import WorkerPool

DEADLINE = 20.0
STATE = Path("/state")
KINDS: dict[str, Kind[Any]] = {
    "config": Kind(Metadata, version=1),
    "extra": Kind(VmExtra, version=1),
}


class Core:
    """One life; `next_life` is what starts after a crash of this one."""

    def __init__(
        self,
        directory: Path,
        *,
        disks: "dict[str, FaultyDisk] | None" = None,
        workers: int = 2,
        passing: Callable[[str], None] = lambda _point: None,
        deadlines: Deadlines | None = None,
        memory: int = 2**40,
        performing: bool = True,
    ) -> None:
        self.directory = directory
        self.disks = disks or {name: FaultyDisk() for name in ("store", "tasks", "journal")}
        for disk in self.disks.values():
            disk.mkdir(STATE / "vm")
        (directory / "suspend").mkdir(exist_ok=True)
        self.passing = passing
        self.ended = threading.Condition()
        self.over: list[Execution] = []
        self.loop = asyncio.new_event_loop()
        self._looping = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._looping.start()
        bridge = Bridge(self.loop)
        self.inventory = Inventory()
        self.store = Store(self.disks["store"], STATE / "vm", KINDS)
        self.tasklog = TaskLog(self.disks["tasks"], STATE / "tasks.log")
        self.updates = Updates(UpdateLog("epoch"))
        self.tasks = Tasks(bridge, keep=100, forgotten=lambda _id: None)
        self.memory = Memory()
        self.memory.set_total(memory, host_reserve=0, overcommit=1.0)
        self.executor = Executor(
            Context(
                inventory=self.inventory,
                store=self.store,
                tasklog=self.tasklog,
                tasks=self.tasks,
                updates=self.updates,
                bridge=bridge,
                killpoints=KillPoints({}),
                metrics=Metrics(_no_sources()),
                memory=self.memory,
                deadlines=deadlines or Deadlines(),
                limits=Limits(reboot_delay=0.0),
            ),
            begin=self._begin,
            after=self._after,
        )
        self.operations = Operations(
            executor=self.executor,
            claims=Claims(directory / "run", "default", directory),
            ballooning=Ballooning(self.executor),
            places=Places(
                images=directory / "suspend",
                cores=directory / "cores",
                incoming=directory / "incoming",
                run=directory / "run",
            ),
            journal=self.journal,
        )
        self.backend = Plugin().open(
            Settings(
                instance="default", state_dir=directory, run_dir=directory, options=Options()
            )
        )
        if performing:
            self.perform()
        self.pool: WorkerPool[Execution] = WorkerPool(
            self.executor.step,
            size=workers,
            lane=1,
            grace=0.2,
            on_overdue=self.executor.kill_lane.overdue,
            on_written_off=self.executor.kill_lane.written_off,
            on_returned=self.executor.kill_lane.returned,
            on_crashed=self.executor.kill_lane.crashed,
        )
        self.executor.context.workers = self.pool
        self.backend.watch(self.executor.check)

    def perform(self) -> None:
        """The backend has been observed."""
        self.executor.context.opened = Performer(
            backend=self.backend,
            store=self.store,
            instance="default",
            boot=self.backend.host.boot_id(),
            wall=self.executor.context.wall,
            reserve=self.operations.ballooning.reserve,
            release=self.operations.ballooning.release,
            grow=self.memory.grow,
            resized=self.memory.set,
            forget=self.operations.forgotten,
            memory_timeout=0.3,
        )

    def journal(self, vm: str) -> VmJournal:
        """The journal of a VM."""
        self.disks["journal"].mkdir(STATE / "vm" / vm)
        return VmJournal(
            self.disks["journal"],
            STATE / "vm" / vm / "journal",
            passing=self._passing,
        )

    def add(self, meta: Metadata) -> Entry:
        """A VM with its devices, recorded."""
        id = meta.vm.id
        self.store.write(id, "config", meta, durable=True)
        entry = Entry(id, self.journal(id))
        entry.meta = meta
        self.inventory.put(entry)
        self.executor.observation.observed(entry, self.backend.host.domain(id))
        return entry

    def submit(self, request: Any, task: str | None = None, future: Any = None) -> Execution:
        """Accept a call as the service does, and queue it."""
        about = next(
            getattr(request, name).id if name != "id" else request.id
            for name in ("id", "vm", "vbd", "vif", "pci")
            if hasattr(request, name)
        )
        vm = about.partition("/")[0]
        entry = self.inventory.get(vm)
        held: TaskEntry | None = None
        if isinstance(request, Operation):
            id = task or f"task-{len(self.over)}-{id_of(request)}"
            held = TaskEntry(
                id=id,
                vm=vm,
                operation=request.method,
                object=request.id,  # type: ignore[attr-defined]  # all have one
                debug_info="",
                created=self.executor.context.wall(),
                call=b"null",
            )
            self.tasks.add(held)
            self._log_acceptance(held)
        execution = Execution(request, vm, task=held, future=future)
        if entry is not None:
            entry.operations.append(execution)
        self.executor.enqueue(execution)
        return execution

    def _log_acceptance(self, task: TaskEntry) -> None:
        accepted = Accepted(
            id=task.id,
            call=msgspec.Raw(b"null"),
            vm=task.vm,
            operation=task.operation,
            object=task.object,
            debug_info="",
            created=task.created,
        )
        self.tasklog.append([accepted])

    def run(self, request: Any, task: str | None = None) -> Task:
        """Carry a T call out; its task, ended."""
        execution = self.submit(request, task)
        id = execution.task.id if execution.task else ""
        self.wait(execution)
        return self.task(id)

    def completed(self, request: Any) -> Task:
        """The same; fails unless it completes."""
        task = self.run(request)
        assert isinstance(task.state, Completed), task.state
        return task

    def failed(self, request: Any) -> Any:
        """The same; the error object it fails with."""
        task = self.run(request)
        assert isinstance(task.state, Failed), task.state
        return task.state.error

    def done(self, request: Any) -> Execution:
        """Carry a Q call out."""
        execution = self.submit(request)
        self.wait(execution)
        return execution

    def task(self, id: str) -> Task:
        """What TASK.stat answers."""
        return msgspec.json.decode(self.tasks.encoded(id), type=Task)

    def wait(self, execution: Execution) -> None:
        """Until it has ended, its queue released."""
        with self.ended:
            assert self.ended.wait_for(lambda: execution in self.over, DEADLINE), execution.name
        self.quiet(execution.vm)

    def quiet(self, vm: str) -> None:
        """Until nothing is left on the VM's queue."""
        self.until(lambda: self.pool.depth(vm) == 0)

    def until(self, holds: Callable[[], bool]) -> None:
        """Until it holds; looked at whenever something has ended, and now and then."""
        with self.ended:
            for _ in range(int(DEADLINE / 0.002)):
                if holds():
                    return
                self.ended.wait(0.002)
        raise AssertionError("it never held")

    def under_way(self, execution: Execution, micro_op: str) -> None:
        """Until its present step is that micro-op, and the backend has it."""
        self.until(lambda: execution.micro_op == micro_op and execution.call is not None)

    def repair(self, vm: str, task: TaskEntry | None = None) -> Execution:
        """Queue what a start of the daemon does for this VM."""
        self.operations.repairs.found = {d.vm: d for d in self.backend.host.domains() if d.vm is not None}
        if task is not None:
            self.tasks.add(task)
        execution = Execution(Recover(vm), vm, task=task)
        entry = self.inventory.require(vm)
        entry.operations.append(execution)
        self.pool.push(vm, execution, limited=False)
        return execution

    def recover(self, vm: str, task: TaskEntry | None = None) -> Execution:
        """The same, to its end."""
        execution = self.repair(vm, task)
        self.wait(execution)
        return execution

    def after_kill(self, **options: Any) -> "Core":
        """The next life, had this one been killed now: on copies of its disks and its world."""
        directory = self.directory.with_name(f"{self.directory.name}-again")
        shutil.copytree(self.directory, directory, ignore=shutil.ignore_patterns("events"))
        disks = copy.deepcopy(self.disks)
        for disk in disks.values():
            disk.restart()
        born = Core(directory, disks=disks, **options)
        for id, records in born.store.load().items():
            entry = Entry(id, born.journal(id))
            entry.meta = records.records["config"]
            extra = records.records.get("extra")
            if isinstance(extra, VmExtra):
                entry.extra = entry.recorded = extra
            entry.journal.open(rebooted=False)
            born.inventory.put(entry)
        return born

    def arm(self, command: str, *args: str) -> None:
        """DEBUG.trigger."""
        self.backend.debug(command, list(args))

    def leftovers(self, vm: str) -> list[str]:
        """What is left of dead incarnations."""
        return self.backend.host.leftovers(vm)

    def journal_of(self, vm: str) -> bytes:
        """The journal as it lies on the disk."""
        disk = self.disks["journal"]
        path = STATE / "vm" / vm / "journal"
        return disk.read(path) if disk.exists(path) else b""

    def task_log(self) -> bytes:
        """The task log as it lies on the disk."""
        return self.disks["tasks"].read(STATE / "tasks.log")

    def close(self) -> None:
        """Let every thread go."""
        self.backend.debug("undeaf", [])
        self.pool.stop(5.0)
        self.backend.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._looping.join(DEADLINE)
        self.loop.close()

    def _begin(self, execution: Execution, entry: Entry | None) -> Any:
        return self.operations.begin(execution, entry)

    def _passing(self, point: str) -> None:
        self.passing(point)

    def _after(self, execution: Execution, _task: str | None) -> None:
        with self.ended:
            self.over.append(execution)
            self.ended.notify_all()


def id_of(request: Any) -> str:
    """A part of a task's id that tells requests apart."""
    return f"{request.method}-{id(request)}"


def error_of(execution: Execution) -> XenopsError:
    """The error that an execution ended with."""
    assert execution.error is not None
    return execution.error


def _no_sources() -> Sources:
    return Sources(
        queue_depth=lambda: 0,
        vms=dict,
        workers=dict,
        updates=lambda: 0,
        update_waiters=lambda: 0,
        open_intents=lambda: 0,
        quarantined=lambda: 0,
        connections=lambda: 0,
    )
