"""The daemon: what is built in which order, how it starts, recovers and stops.

The one place where everything is put together. Start: lock, store, journals, tasks, sockets;
then, beside the answering of reads, the backend is opened and every VM brought into a sensible
state on its own queue.
"""

import asyncio
import os
import platform
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import structlog

from backends.interface import Backend, Domain, Plugin, Settings
from idl import openrpc
from idl.calls import VmStart
from idl.errors import Interrupted, Unimplemented, XenopsError
from idl.host import ForeignDomain, HostStat, Hypervisor, Quarantined
from idl.metadata import Metadata
from idl.update import HOST_ID
from idl.vm import Attention, PowerState, VmMetrics
from journal.disk import Disk, RealDisk
from journal.documents import Kind
from journal.errors import JournalDamaged, StoreUnwritable
from journal.intents import VmJournal
from journal.records import Accepted
from journal.replay import OpenIntent
from journal.store import Damage, LoadedVm, SingleRecord, Store
from journal.tasklog import TaskLog
from xenopsd import config as configuration
from xenopsd import log as logging
from xenopsd.ballooning import Ballooning
from xenopsd.bridge import Bridge
from xenopsd.claims import Claims
from xenopsd.config import Config
from xenopsd.context import Context, Deadlines
from xenopsd.errands import start
from xenopsd.execution import Execution, Recover
from xenopsd.executor import Executor
from xenopsd.intake import Intake
from xenopsd.inventory import Entry, Inventory
from xenopsd.killpoints import KillPoints
from xenopsd.memory import Memory
from xenopsd.metrics import Metrics, Sources
from xenopsd.notify import Notifier, drop_from_children
from xenopsd.operations import UNKNOWN, Operations, Places
from xenopsd.perform import Performer
from xenopsd.plan.plan import Limits
from xenopsd.record import VmExtra
from xenopsd.rpc.listener import Listener
from xenopsd.rpc.server import Server, raise_descriptor_limit
from xenopsd.service import Service, fresh_epoch
from xenopsd.state import Remembered, State
from xenopsd.tasks import TaskEntry, Tasks
from xenopsd.updatelog import UpdateLog
from xenopsd.updates import Updates
from xenopsd.workers import WorkerPool

log = structlog.get_logger(__name__)

#: Seconds between looks at the host, and between attempts to reach it.
OBSERVE = 10.0
RETRY = 2.0
#: How long the line that says "ready" waits for the backend.
PATIENCE = 1.0

KINDS: dict[str, Kind[Any]] = {
    "config": Kind(Metadata, version=1),
    "extra": Kind(VmExtra, version=1),
}


class Daemon:
    """One life of the daemon, on the running event loop."""

    def __init__(
        self,
        config: Config,
        backend: tuple[str, Plugin],
        listeners: Sequence[Listener],
        *,
        disk: Disk | None = None,
    ) -> None:
        self.config = config
        self._backend_name, self._plugin = backend
        self._listeners = listeners
        self._disk = disk or RealDisk()
        self._loop = asyncio.get_running_loop()
        self._bridge = Bridge(self._loop)
        self._stopping = asyncio.Event()
        self._open = asyncio.Event()
        self._notifier = Notifier(os.environ)
        drop_from_children()
        self._killpoints = KillPoints(os.environ)
        self.epoch = fresh_epoch()
        self._recovering_lock = threading.Lock()
        self._found: dict[str, Domain] = {}
        #: VMs of ours that run without a record.
        self._lost: set[str] = set()
        self._ending = threading.Event()
        self._rebooted = False
        #: `auto_start` VMs of this boot that are being started.
        self._starting = 0
        self._backend: Backend | None = None
        self._build()

    # Building

    def _build(self) -> None:
        config = self.config
        state_dir = config.state_dir
        self._remembered = SingleRecord(
            self._disk, state_dir / "remembered.json", Kind(Remembered, version=1)
        )
        found = self._remembered.read()
        self._memory_of_old = found if isinstance(found, Remembered) else Remembered()
        self._updates = Updates(UpdateLog(self.epoch))
        self._store = Store(self._disk, state_dir / "vm", KINDS)
        self._tasklog = TaskLog(self._disk, state_dir / "tasks.log", keep=config.tasks.keep)
        self._inventory = Inventory()
        self._metrics = Metrics(self._sources())
        tasks = Tasks(
            self._bridge,
            keep=config.tasks.keep,
            forgotten=partial(self._updates.forget, "task"),
        )
        self._memory = Memory()
        self._context = context = Context(
            inventory=self._inventory,
            store=self._store,
            tasklog=self._tasklog,
            tasks=tasks,
            updates=self._updates,
            bridge=self._bridge,
            killpoints=self._killpoints,
            memory=self._memory,
            metrics=self._metrics,
            always_fsync=config.journal.fsync == "always",
            deadlines=_deadlines(config),
            limits=_limits(config),
            job_limit=config.jobs,
        )
        self._executor = Executor(context, begin=self._begin, after=self._after)
        self._claims = Claims(config.run_dir, config.instance, state_dir)
        self._operations = Operations(
            executor=self._executor,
            claims=self._claims,
            ballooning=Ballooning(self._executor),
            places=Places(
                images=state_dir / "suspend",
                cores=state_dir / "cores",
                hooks=config.hooks.directory,
            ),
            journal=self._journal,
        )
        size = configuration.pool_size(config, self._memory_of_old.pool_size)
        self._pool: WorkerPool[Execution] = WorkerPool(
            self._executor.step,
            size=size,
            lane=2,
            grace=config.deadlines.stuck_grace,
            on_overdue=self._executor.kill_lane.overdue,
            on_written_off=self._executor.kill_lane.written_off,
            on_returned=self._executor.kill_lane.returned,
            on_crashed=self._executor.kill_lane.crashed,
        )
        self._context.workers = self._pool
        self._intake = Intake(
            self._tasklog, self._bridge, enqueue=self._executor.enqueue, refused=self._refused
        )
        release = version("xenopsd")
        self.state = State(
            instance=config.instance,
            epoch=self.epoch,
            version=release,
            versions={"xenopsd": release, "python": platform.python_version()},
            backend_name=self._backend_name,
            features=frozenset(),
            host=_this_host(self._backend_name),
            executor=self._executor,
            pool=self._pool,
            intake=self._intake,
            memory=self._memory,
            metrics=self._metrics,
            resize=self._resize,
            debug=self._debug,
        )
        document = openrpc.document(debug=config.debug, version=release)
        encoded = msgspec.json.encode(document)
        self._service = Service(
            self.state, debug=config.debug, openrpc=lambda: encoded, shutdown=self.stop
        )

    def _sources(self) -> Sources:
        return Sources(
            queue_depth=lambda: self.state.accepted,
            vms=self._by_power_state,
            workers=lambda: {
                "busy": self._pool.busy,
                "idle": self._pool.idle,
                "parked": self._pool.parked,
                "written_off": self._pool.written_off,
            },
            updates=lambda: self._updates.stats()["number"],
            update_waiters=lambda: self._updates.stats()["waiters"],
            open_intents=lambda: sum(e.journal.intent is not None for e in self._inventory),
            quarantined=lambda: sum(len(e.damaged) for e in self._inventory)
            + len(self.state.quarantined),
            connections=lambda: self._server.connections,
        )

    def _by_power_state(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for entry in self._inventory:
            state = str(entry.power_state)
            counts[state] = counts.get(state, 0) + 1
        return counts

    def _journal(self, vm: str) -> VmJournal:
        return VmJournal(
            self._disk,
            self.config.state_dir / "vm" / vm / "journal",
            passing=self._journal_passing,
        )

    def _journal_passing(self, point: str) -> None:
        if point == "journal:append":
            self._metrics.journal_appended()
        self._killpoints.passing(point)

    # Life

    async def run(self) -> None:
        """Serve until told to stop."""
        self.load()
        raise_descriptor_limit()
        self._server = Server(self._service)
        for listener in self._listeners:
            self._server.serve(listener)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGINT, self.stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        start("recovery", self._recover)
        # The sockets answer already; most backends are open in a moment, and who reads the line
        # below then finds features and memory in what it asks first.
        await self._opened_within(PATIENCE)
        print(  # noqa: T201  # the one line that says it is ready
            f"xenopsd {self.state.version}: instance {self.config.instance} "
            f"({self._backend_name}) is ready at {self._listeners[0].path}",
            flush=True,
        )
        self._notifier.tell("READY=1", f"STATUS=recovering {self.state.recovering} VMs")
        await self._stopping.wait()
        await self._stop()

    def stop(self) -> None:
        """Begin to stop."""
        self._stopping.set()

    async def _stop(self) -> None:
        """No new work; running micro-ops get `deadlines.drain`; every VM stays as it is."""
        log.info("stopping", epoch=self.epoch)
        self._ending.set()
        self._notifier.tell("STOPPING=1")
        drain = self.config.deadlines.drain
        await asyncio.to_thread(self._pool.stop, drain)
        await asyncio.to_thread(self._intake.close, 1.0)
        try:
            await asyncio.wait_for(self._server.close(), 2.0)
        except TimeoutError:
            log.warning("connections_cut")
        if self._backend is not None:
            self._backend.close()

    # Start

    def load(self) -> None:
        """Read the store, the journals and the task log; queue a repair of every VM."""
        self._killpoints.passing("recovery:load")
        for directory in ("vm", "images", "suspend", "cores"):
            self._disk.mkdir(self.config.state_dir / directory)
        boot = _boot_id_of_kernel()
        loaded = self._store.load()
        tasks = self._tasklog.load()
        for line, reason in tasks.damaged:
            path = self.config.state_dir / "tasks.log"
            reason = f"line {line}: {reason}"
            self.state.quarantined.append(Quarantined(vm=None, path=str(path), reason=reason))
        for id, (accepted, ended) in tasks.ended.items():
            call = bytes(accepted.call) if accepted else b""
            self._context.tasks.restore(id, bytes(ended.task), call)
            self._updates.touch("task", id)
        # The journals of another boot may be torn anywhere. Only the backend knows its boot
        # for sure, but it may not be reached yet: the kernel's is what journals are read by.
        self._rebooted_kernel = self._memory_of_old.kernel_boot not in (None, boot)
        self._kernel_boot = boot
        others = self._claims.keep(loaded)
        for id, records in loaded.items():
            self._load_vm(id, records, others.get(id))
        self._end_unbegun(tasks.open)
        # The host itself: until its backend is open, not even its features are known.
        self.state.recovering = 1
        self._updates.touch("host", HOST_ID)
        for entry in self._inventory:
            for kind, id in entry.objects():
                self._updates.touch(kind, id)
            self._queue_recovery(entry, tasks.open)

    def _load_vm(self, id: str, loaded: LoadedVm, owner: str | None) -> None:
        entry = Entry(id, self._journal(id))
        damaged = list(loaded.damaged)
        extra_damaged = any(d.path.name == "extra.json" for d in damaged)
        if self._rebooted_kernel and extra_damaged:
            # It was not written durably, so the host's crash may have torn it; and what ran
            # then runs no more.
            damaged = [d for d in damaged if d.path.name != "extra.json"]
            self._store.write(id, "extra", VmExtra(), durable=False, repair=True)
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
        if owner is not None:
            entry.claimed_by = owner
            reason = f"the instance {owner} of this host claims it too"
            entry.attention = Attention(reason=reason, since=self._context.wall())
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

    def _queue_recovery(self, entry: Entry, open_tasks: dict[str, Accepted]) -> None:
        intent = entry.journal.intent
        task: TaskEntry | None = None
        if intent is not None and intent.task is not None:
            accepted = open_tasks.get(intent.task)
            known = self._context.tasks.known_call(intent.task)
            if accepted is None and known is not None:
                # It was answered: all that its journal still owed was to be truncated.
                self._executor.endings.cross_out(entry)
            else:
                task = _task(accepted) if accepted else _task_of(entry.id, intent)
                self._context.tasks.add(task)
                self._updates.touch("task", task.id)
        with self._recovering_lock:
            self.state.recovering += 1
        execution = Execution(Recover(entry.id), entry.id, task=task)
        self.state.accept(execution)
        entry.operations.append(execution)
        self._pool.push(entry.id, execution, limited=False)

    def _recover(self) -> None:
        """In a thread of its own: open the backend, look at the host, then let queues go.

        As long as the backend cannot be reached, reads answer and operations wait.
        """
        while not self._ending.is_set():
            try:
                self._take_over(self._open_backend())
            except XenopsError as error:
                log.error("backend_unreachable", backend=self._backend_name, error=str(error))
                self._bridge.post(partial(self._unreachable, str(error)))
                self._ending.wait(RETRY)
            else:
                return

    def _take_over(self, backend: Backend) -> None:
        boot = backend.host.boot_id()
        self._rebooted = self._memory_of_old.boot not in (None, boot)
        host = backend.host.stat()
        self._memory.set_total(
            host.memory_total,
            host_reserve=self.config.memory.host_reserve,
            overcommit=self.config.memory.overcommit,
        )
        # Before the host is looked at: what happens between is looked at again.
        backend.watch(self._executor.check)
        self._backend = backend
        self._take_stock(backend.host.domains())
        self._killpoints.passing("recovery:stock")
        self._operations.found = self._found
        self._operations.take_stock = partial(self._restock, backend)
        self._context.opened = self._performer(backend, boot)
        self._bridge.post(partial(self._opened, backend, host, _console_data(backend)))
        for queue in self._pool.snapshots():
            self._pool.wake(queue.key)
        start("observer", self._observe, backend)

    def _open_backend(self) -> Backend:
        options = configuration.section(self.config, self._backend_name, self._plugin.options)
        return self._plugin.open(
            Settings(
                instance=self.config.instance,
                state_dir=self.config.state_dir,
                run_dir=self.config.run_dir,
                options=options,
            )
        )

    def _restock(self, backend: Backend) -> None:
        try:
            self._take_stock(backend.host.domains())
        except XenopsError as error:
            log.warning("host_not_observed", error=str(error))

    def _take_stock(self, domains: Sequence[Domain]) -> None:
        """What exists: ours by mark and record, all else foreign."""
        foreign: list[ForeignDomain] = []
        found: dict[str, Domain] = {}
        lost: set[str] = set()
        for domain in domains:
            ours = domain.instance == self.config.instance and domain.vm is not None
            if ours and domain.vm is not None and self._inventory.get(domain.vm) is not None:
                found[domain.vm] = domain
                continue
            if ours and domain.vm is not None:
                self._memory.set(domain.vm, max(domain.memory_target, domain.memory_actual))
                lost.add(domain.vm)
            why = "no record of this instance has it" if ours else "it bears no mark of this one"
            foreign.append(ForeignDomain(id=domain.id, name=domain.name, why=why))
        self.state.foreign = foreign
        self._found = found
        for vm in self._lost - lost:
            if self._inventory.get(vm) is None:
                self._memory.release(vm)
        self._lost = lost

    def _performer(self, backend: Backend, boot: str) -> Performer:
        return Performer(
            backend=backend,
            store=self._store,
            instance=self.config.instance,
            boot=boot,
            wall=self._context.wall,
            reserve=self._operations.ballooning.reserve,
            release=self._operations.ballooning.release,
            grow=self._memory.grow,
            resized=self._memory.set,
            forget=self._operations.forgotten,
        )

    def _opened(self, backend: Backend, host: HostStat, console: str | None) -> None:
        self.state.features = backend.features
        self.state.host = host
        self.state.console_data = console
        self._open.set()
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

    def _observe(self, backend: Backend) -> None:
        """Every few seconds: counters of running VMs, and a look for what no event told of."""
        while not self._ending.wait(OBSERVE):
            try:
                self._take_stock(backend.host.domains())
            except XenopsError as error:
                log.warning("host_not_observed", error=str(error))
                continue
            for entry in self._inventory:
                if entry.running is None and _differs(entry.domain, self._found.get(entry.id)):
                    self._executor.check(entry.id)
            self.state.vm_metrics = dict(self._sample(backend))

    def _sample(self, backend: Backend) -> Iterator[tuple[str, VmMetrics]]:
        for id in self._found:
            try:
                yield id, backend.host.metrics(id)
            except XenopsError as error:
                log.debug("metrics_missing", vm=id, error=str(error))

    # Operations begin and end

    def _begin(self, execution: Execution, entry: Entry | None) -> Any:
        return self._operations.begin(execution, entry)

    def _after(self, execution: Execution, task: str | None) -> None:
        """After each operation, from the thread that ended it."""
        self.state.ended(execution, task)
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
        with self._recovering_lock:
            self.state.recovering -= 1
            self._starting += 1 if starts else 0
            left, starting = self.state.recovering, self._starting
        if left == 0:
            self._updates.touch("host", HOST_ID)
            self._notifier.tell(f"STATUS={len(self._inventory)} VMs")
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
        self.state.accept(execution)
        entry.operations.append(execution)
        self._executor.enqueue(execution)
        return True

    def _started_with_host(self) -> None:
        with self._recovering_lock:
            self._starting -= 1
            settled = self._starting == 0 and self.state.recovering == 0
        if settled:
            self._all_settled()

    def _all_settled(self) -> None:
        """Only now is this boot remembered: a crash before has the next start do the same."""
        performer = self._context.opened
        if performer is not None:
            self._remember(boot=performer.boot, kernel_boot=self._kernel_boot)

    def _refused(self, execution: Execution) -> None:
        """An acceptance that could not be written is taken back."""
        if execution.task is not None:
            self._context.tasks.withdraw(execution.task.id)
            self._updates.remove("task", execution.task.id)
        entry = self._inventory.get(execution.vm)
        if entry is not None and execution in entry.operations:
            entry.operations.remove(execution)
            entry.changed()
        self.state.ended(execution, execution.task.id if execution.task else None)

    # What calls ask of the daemon

    def _resize(self, size: int) -> Any:
        # Thread starts and a small file: not on the loop.
        return asyncio.ensure_future(asyncio.to_thread(self._set_pool_size, size))

    def _set_pool_size(self, size: int) -> None:
        self._pool.set_size(size)
        self._remember(pool_size=size)

    def _remember(self, **changes: Any) -> None:
        with self._recovering_lock:
            self._memory_of_old = msgspec.structs.replace(self._memory_of_old, **changes)
            try:
                self._remembered.write(self._memory_of_old, durable=True)
            except StoreUnwritable as error:
                log.error("not_remembered", reason=str(error))

    def _debug(self, cmd: str, args: Sequence[str]) -> Any:
        return asyncio.ensure_future(self._trigger(cmd, list(args)))

    async def _trigger(self, cmd: str, args: list[str]) -> None:
        await self._opened_within(self.config.deadlines.short)
        backend = self._backend
        if backend is None:
            raise Unimplemented(what=f"{cmd} before the backend is open", backend="none")
        await asyncio.to_thread(backend.debug, cmd, args)

    async def _opened_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._open.wait(), seconds)

    def _reload(self) -> None:
        log.info("reload_requested")
        self.reload()

    def reload(self) -> None:
        """Re-read the configuration; replaced by the main module, which knows its sources."""

    def apply(self, config: Config) -> None:
        """Take what a new configuration may change of a running daemon."""
        if config.workers != self.config.workers and self._memory_of_old.pool_size is None:
            self._executor.kill_lane.later(partial(self._pool.set_size, config.workers))
        self.config = config
        logging.setup(config.log.level)
        context = self._context
        context.deadlines = _deadlines(config)
        context.limits = _limits(config)
        places = self._operations.places
        self._operations.places = replace(places, hooks=config.hooks.directory)
        self._memory.set_total(
            self.state.host.memory_total,
            host_reserve=config.memory.host_reserve,
            overcommit=config.memory.overcommit,
        )


def _differs(known: Domain | None, found: Domain | None) -> bool:
    """Whether what was observed is another domain, or one that has stopped since."""
    if known is None or found is None:
        return known is not found
    return (known.incarnation, known.stopped) != (found.incarnation, found.stopped)


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


def _deadlines(config: Config) -> Deadlines:
    given = config.deadlines
    return Deadlines(
        short=given.short,
        job=given.job,
        hook=given.hook,
        hotplug=given.hotplug,
        kill=given.kill,
        grace=given.stuck_grace,
    )


def _limits(config: Config) -> Limits:
    return Limits(
        shutdown_ack=config.deadlines.shutdown_ack,
        crash_window=config.crash_loop.window,
        reboot_delay=config.reboot.delay,
    )


def _boot_id_of_kernel() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _this_host(backend: str) -> HostStat:
    """What can be said of the host before the backend is open."""
    return HostStat(
        cpu_count=os.cpu_count() or 1,
        memory_total=0,
        memory_free=0,
        hypervisor=Hypervisor(name=backend, version="", capabilities=[]),
        kernel=platform.release(),
        hostname=platform.node(),
    )
