"""From what lies on the disk to a daemon whose every VM is in a sensible state.

At start: the store, the journals and the task log are loaded and a repair of every VM queued, so
that reads can be answered; then, beside the answering, the backend is opened, the host looked at
and the queues let go. What a repair does is decided in `xenopsd.reconcile`.
"""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from backends.interface import Backend, Plugin, Settings
from idl.calls import VmStart
from idl.errors import Interrupted, XenopsError
from idl.host import HostStat, Quarantined
from idl.metadata import Metadata
from idl.update import HOST_ID
from idl.vm import Attention, PowerState
from journal.disk import Disk
from journal.errors import JournalDamaged
from journal.records import Accepted
from journal.replay import OpenIntent
from journal.store import Damage, LoadedVm
from journal.tasklog import LoadedTasks
from xenopsd import config as configuration
from xenopsd.claims import Claims
from xenopsd.config import Config
from xenopsd.errands import start
from xenopsd.execution import Execution, Recover
from xenopsd.executor import Executor
from xenopsd.inventory import Entry
from xenopsd.operations import Operations
from xenopsd.perform import Performer
from xenopsd.record import VmExtra
from xenopsd.remembering import Remembering
from xenopsd.repairs import UNKNOWN
from xenopsd.state import State
from xenopsd.stock import Stock
from xenopsd.tasks import TaskEntry

log = structlog.get_logger(__name__)

#: Seconds between attempts to reach the host.
RETRY = 2.0


class Recovery:
    """The beginning of one life of the daemon.

    `ending` is set when the daemon stops; `opened` is called on the event loop once the backend
    is there.
    """

    def __init__(  # it brings together what the daemon has built
        self,
        config: Config,
        backend: tuple[str, Plugin],
        disk: Disk,
        *,
        executor: Executor,
        operations: Operations,
        claims: Claims,
        state: State,
        remembering: Remembering,
        ending: threading.Event,
        opened: Callable[[], None],
    ) -> None:
        self.config = config
        self._backend_name, self._plugin = backend
        self._disk = disk
        self._executor = executor
        self._operations = operations
        self._claims = claims
        self._state = state
        self._remembering = remembering
        self._ending = ending
        self._tell_opened = opened
        self._context = executor.context
        self._inventory = executor.context.inventory
        self._updates = executor.context.updates
        self._killpoints = executor.context.killpoints
        self._stock = Stock(executor, state)
        #: Guards `recovering` and `_starting`.
        self._lock = threading.Lock()
        self._rebooted = False
        #: `auto_start` VMs of this boot that are being started.
        self._starting = 0
        #: Once it is open.
        self.backend: Backend | None = None

    # Loading

    def load(self) -> None:
        """Read the store, the journals and the task log; queue a repair of every VM."""
        self._killpoints.passing("recovery:load")
        for directory in ("vm", "images", "suspend", "cores"):
            self._disk.mkdir(self.config.state_dir / directory)
        boot = _boot_id_of_kernel()
        loaded = self._context.store.load()
        tasks = self._context.tasklog.load()
        for line, reason in tasks.damaged:
            path = self.config.state_dir / "tasks.log"
            reason = f"line {line}: {reason}"
            self._state.quarantined.append(Quarantined(vm=None, path=str(path), reason=reason))
        for id, (accepted, ended) in tasks.ended.items():
            call = bytes(accepted.call) if accepted else b""
            self._context.tasks.restore(id, bytes(ended.task), call)
            self._updates.touch("task", id)
        # The journals of another boot may be torn anywhere. Only the backend knows its boot
        # for sure, but it may not be reached yet: the kernel's is what journals are read by.
        self._rebooted_kernel = self._remembering.value.kernel_boot not in (None, boot)
        self._kernel_boot = boot
        contested = self._claims.keep(loaded)
        for id, records in loaded.items():
            self._load_vm(id, records, contested.get(id))
        self._end_unbegun(tasks.open)
        # The host itself: until its backend is open, not even its features are known.
        self._state.recovering = 1
        self._updates.touch("host", HOST_ID)
        for entry in self._inventory:
            for kind, id in entry.objects():
                self._updates.touch(kind, id)
            self._queue_recovery(entry, tasks)

    def _load_vm(self, id: str, loaded: LoadedVm, contested: str | None) -> None:
        entry = Entry(id, self._operations.journal(id))
        damaged = list(loaded.damaged)
        extra_damaged = any(d.path.name == "extra.json" for d in damaged)
        if self._rebooted_kernel and extra_damaged:
            # It was not written durably, so the host's crash may have torn it; and what ran
            # then runs no more.
            damaged = [d for d in damaged if d.path.name != "extra.json"]
            self._context.store.write(id, "extra", VmExtra(), durable=False, repair=True)
        meta, extra = loaded.records.get("config"), loaded.records.get("extra")
        if isinstance(extra, VmExtra):
            entry.extra = entry.recorded = extra
        if isinstance(meta, Metadata):
            entry.meta = meta
        elif not damaged:
            path = self.config.state_dir / "vm" / id / "config.json"
            damaged.append(Damage(path, "it is missing"))
        try:
            entry.journal.open(rebooted=self._rebooted_kernel)
        except JournalDamaged as error:
            damaged.append(Damage(entry.journal.path, error.reason))
        if damaged:
            self._set_aside(entry, damaged)
        if contested is not None:
            entry.contested = contested
            entry.attention = Attention(reason=contested, since=self._context.wall())
        self._inventory.put(entry)

    def _set_aside(self, entry: Entry, damaged: list[Damage]) -> None:
        entry.damaged = tuple(damaged)
        entry.meta = None
        words = "; ".join(f"{d.path}: {d.reason}" for d in damaged)
        entry.attention = Attention(reason=words, since=self._context.wall())
        log.error("record_quarantined", vm=entry.id, damaged=words)

    def _end_unbegun(self, open_tasks: dict[str, Accepted]) -> None:
        """Tasks that had not begun end; those that had are ended by their VM's repair."""
        intents = [e.journal.intent for e in self._inventory if e.journal.intent is not None]
        begun = {intent.task for intent in intents}
        # Cut just before their answer, which the journal need not wait for.
        given_up = {intent.begun.task for intent in intents if intent.task is None}
        for id, accepted in open_tasks.items():
            if id in begun:
                continue
            execution = Execution(Recover(accepted.vm or ""), "", task=_task(accepted))
            forgotten = accepted.operation == "VM.forget" and not self._inventory.get(
                accepted.vm or ""
            )
            execution.interrupted = True
            if id in given_up:
                execution.error = Interrupted(task=id, begun=True, recovered_to=UNKNOWN)
            elif not forgotten:
                execution.error = Interrupted(task=id, begun=False)
            self._executor.endings.answer(execution)

    def _queue_recovery(self, entry: Entry, tasks: LoadedTasks) -> None:
        intent = entry.journal.intent
        task: TaskEntry | None = None
        if intent is not None and intent.task is not None:
            accepted = tasks.open.get(intent.task)
            known = self._context.tasks.known_call(intent.task) is not None
            if accepted is None and (known or intent.task in tasks.gone):
                # It was answered (only then can it be destroyed): all that its journal still owed
                # was to be truncated.
                self._executor.endings.cross_out(entry)
            else:
                task = _task(accepted) if accepted else _task_of(entry.id, intent)
                self._context.tasks.add(task)
                self._updates.touch("task", task.id)
        with self._lock:
            self._state.recovering += 1
        execution = Execution(Recover(entry.id), entry.id, task=task)
        self._state.accept(execution)
        entry.operations.append(execution)
        self._context.pool.push(entry.id, execution, limited=False)
    # Opening

    def run(self) -> None:
        """In a thread of its own: open the backend, look at the host, then let queues go.

        As long as the backend cannot be reached, reads answer and operations wait.
        """
        while not self._ending.is_set():
            try:
                self._take_over(self._open_backend())
            except XenopsError as error:
                log.error("backend_unreachable", backend=self._backend_name, error=str(error))
                self._context.bridge.post(partial(self._unreachable, str(error)))
                self._ending.wait(RETRY)
            else:
                return

    def _take_over(self, backend: Backend) -> None:
        boot = backend.host.boot_id()
        self._rebooted = self._remembering.value.boot not in (None, boot)
        host = backend.host.stat()
        self._context.memory.set_total(
            host.memory_total,
            host_reserve=self.config.memory.host_reserve,
            overcommit=self.config.memory.overcommit,
        )
        # Before the host is looked at: what happens between is looked at again.
        backend.watch(self._executor.check)
        self.backend = backend
        self._stock.take(backend.host.domains())
        self._killpoints.passing("recovery:stock")
        self._operations.repairs.found = self._stock.found
        self._operations.take_stock = partial(self._stock.retake, backend)
        self._context.opened = self._performer(backend, boot)
        self._context.bridge.post(partial(self._opened, backend, host, _console_data(backend)))
        for queue in self._context.pool.snapshots():
            self._context.pool.wake(queue.key)
        start("observer", self._stock.observe, backend, self._ending)

    def _open_backend(self) -> Backend:
        options = configuration.section(self.config, self._backend_name, self._plugin.options)
        return self._plugin.open(
            Settings(
                instance=self.config.instance,
                state_dir=self.config.state_dir,
                run_dir=self.config.run_dir,
                options=options,
                disks=[Path(root) for root in self.config.paths.disks],
                kernels=[Path(root) for root in self.config.paths.kernels],
            )
        )

    def _performer(self, backend: Backend, boot: str) -> Performer:
        return Performer(
            backend=backend,
            store=self._context.store,
            instance=self.config.instance,
            boot=boot,
            wall=self._context.wall,
            reserve=self._operations.ballooning.reserve,
            release=self._operations.ballooning.release,
            grow=self._context.memory.grow,
            resized=self._context.memory.set,
            forget=self._operations.forgotten,
            confirm=self._claims.confirm,
            hand_over=self._operations.hand_over,
            restock=partial(self._stock.retake, backend),
        )

    def _opened(self, backend: Backend, host: HostStat, console: str | None) -> None:
        self._state.features = backend.features
        self._state.host = host
        self._state.console_data = console
        self._tell_opened()
        self._updates.touch("host", HOST_ID)
        # Off the loop: it writes a file.
        self._executor.kill_lane.later(self._one_recovered)

    def _unreachable(self, reason: str) -> None:
        now = self._context.wall()
        for entry in self._inventory:
            if entry.attention is None:
                entry.attention = Attention(
                    reason=f"the backend cannot be reached: {reason}", since=now
                )
                entry.changed()
                self._updates.touch("vm", entry.id)
    # Operations end

    def after(self, execution: Execution) -> None:
        """After each operation, from the thread that ended it."""
        if execution.with_host:
            self._started_with_host()
        if not isinstance(execution.request, Recover) or not execution.vm:
            return
        self._killpoints.passing("recovery:ended")
        entry = self._inventory.get(execution.vm)
        if entry is not None and entry.domain is not None and entry.domain.stopped is not None:
            self._executor.check(entry.id)
        self._one_recovered(starts=entry is not None and self._start_with_host(entry))

    def _one_recovered(self, *, starts: bool = False) -> None:
        """A VM's repair has ended (and it `starts` with the host), or the backend is open."""
        with self._lock:
            self._state.recovering -= 1
            self._starting += 1 if starts else 0
            left, starting = self._state.recovering, self._starting
        if left == 0:
            self._updates.touch("host", HOST_ID)
            log.info("recovered", vms=len(self._inventory))
            if starting == 0:
                self._all_settled()

    def _start_with_host(self, entry: Entry) -> bool:
        """After a restart of the host, an `auto_start` VM starts; whether this one does."""
        performer = self._context.opened
        if not self._rebooted or performer is None or entry.meta is None:
            return False
        halted = entry.power_state is PowerState.HALTED and entry.attention is None
        # Started in this boot already: somebody has stopped it since.
        known = entry.extra.boot == performer.boot
        if known or not halted or not entry.meta.vm.auto_start:
            return False
        execution = Execution(VmStart(id=entry.id), entry.id)
        execution.with_host = True
        self._state.accept(execution)
        entry.operations.append(execution)
        self._executor.enqueue(execution)
        return True

    def _started_with_host(self) -> None:
        with self._lock:
            self._starting -= 1
            settled = self._starting == 0 and self._state.recovering == 0
        if settled:
            self._all_settled()

    def _all_settled(self) -> None:
        """Only now is this boot remembered: a crash before has the next start do the same."""
        performer = self._context.opened
        if performer is not None:
            self._remembering.change(boot=performer.boot, kernel_boot=self._kernel_boot)


def _console_data(backend: Backend) -> str | None:
    """The hypervisor's log; None where it cannot be had. It may block: never on the loop."""
    try:
        return backend.host.console_data()
    except XenopsError as error:
        log.info("console_data_missing", reason=str(error))
        return None


def _task(accepted: Accepted) -> TaskEntry:
    return TaskEntry(
        id=accepted.id,
        vm=accepted.vm or "",
        operation=accepted.operation,
        object=accepted.object,
        debug_info=accepted.debug_info or "",
        created=accepted.created,
        call=bytes(accepted.call),
    )


def _task_of(vm: str, intent: OpenIntent) -> TaskEntry:
    """The task of a journal whose acceptance the task log has lost."""
    begun = intent.begun
    return TaskEntry(
        id=intent.task or "",
        vm=vm,
        operation=begun.operation,
        object=vm,
        debug_info="",
        created=begun.at,
        call=b"null",
    )


def _boot_id_of_kernel() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
