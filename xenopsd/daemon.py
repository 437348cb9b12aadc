"""The daemon: what is built in which order, how it starts, recovers and stops.

The one place where everything is put together. Start: what lies on the disk is loaded, the
sockets are served, then `xenopsd.recovery` goes on beside the answering of reads.
"""

import asyncio
import os
import platform
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
import structlog

from backends.interface import Plugin
from idl import openrpc
from idl.errors import Unimplemented
from idl.host import HostStat, Hypervisor
from idl.metadata import Metadata
from journal.disk import Disk, RealDisk
from journal.documents import Kind
from journal.intents import VmJournal
from journal.store import Store
from journal.tasklog import TaskLog
from xenopsd import collector
from xenopsd import config as configuration
from xenopsd import log as logging
from xenopsd.ballooning import Ballooning
from xenopsd.bridge import Bridge
from xenopsd.claims import Claims
from xenopsd.config import Config
from xenopsd.context import Context, Deadlines
from xenopsd.errands import start
from xenopsd.execution import Execution
from xenopsd.executor import Executor
from xenopsd.intake import Intake
from xenopsd.inventory import Entry, Inventory
from xenopsd.killpoints import KillPoints
from xenopsd.memory import Memory
from xenopsd.metrics import Metrics, Sources
from xenopsd.notify import Notifier, drop_from_children
from xenopsd.operations import Operations, Places
from xenopsd.plan.handover import INCOMING
from xenopsd.plan.plan import Limits
from xenopsd.record import VmExtra
from xenopsd.recovery import Recovery
from xenopsd.remembering import Remembering
from xenopsd.rpc.listener import Listener
from xenopsd.rpc.server import Server, raise_descriptor_limit
from xenopsd.service import Service, fresh_epoch
from xenopsd.state import State
from xenopsd.supervision import Supervision
from xenopsd.tasks import Tasks
from xenopsd.updatelog import UpdateLog
from xenopsd.updates import Updates
from xenopsd.watchdog import patience
from xenopsd.workers import WorkerPool

log = structlog.get_logger(__name__)

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
        self._plugin = backend
        self._backend_name = backend[0]
        self._listeners = listeners
        self._disk = disk or RealDisk()
        self._loop = asyncio.get_running_loop()
        self._bridge = Bridge(self._loop)
        self._stopping = asyncio.Event()
        self._open = asyncio.Event()
        self._killpoints = KillPoints(os.environ)
        self.epoch = fresh_epoch()
        self._ending = threading.Event()
        self._build()
        self._supervision = Supervision(
            Notifier(os.environ),
            self._doing,
            (self._pool, self._intake),
            patience(os.environ, os.getpid()),
        )
        drop_from_children()

    # Building

    def _build(self) -> None:
        config = self.config
        state_dir = config.state_dir
        self._remembering = Remembering(self._disk, state_dir)
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
                incoming=state_dir / INCOMING,
                run=config.run_dir,
                hooks=config.hooks.directory,
            ),
            journal=self._journal,
        )
        size = configuration.pool_size(config, self._remembering.value.pool_size)
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
            places={"state_dir": str(state_dir), "run_dir": str(config.run_dir)},
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
        self.recovery = Recovery(
            config,
            self._plugin,
            self._disk,
            executor=self._executor,
            operations=self._operations,
            claims=self._claims,
            state=self.state,
            remembering=self._remembering,
            ending=self._ending,
            opened=self._open.set,
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
        self.recovery.load()
        collector.spare()
        raise_descriptor_limit()
        self._server = Server(self._service)
        for listener in self._listeners:
            self._server.serve(listener)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGINT, self.stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        start("recovery", self.recovery.run)
        # The sockets answer already; most backends are open in a moment, and who reads the line
        # below then finds features and memory in what it asks first.
        await self._opened_within(PATIENCE)
        print(  # noqa: T201  # the one line that says it is ready
            f"xenopsd {self.state.version}: instance {self.config.instance} "
            f"({self._backend_name}) is ready at {self._listeners[0].path}",
            flush=True,
        )
        self._supervision.ready()
        supervised = asyncio.create_task(self._supervision.run())
        await self._stopping.wait()
        supervised.cancel()
        await self._stop()

    def stop(self) -> None:
        """Begin to stop."""
        self._stopping.set()

    async def _stop(self) -> None:
        """No new work; running micro-ops get `deadlines.drain`; every VM stays as it is."""
        log.info("stopping", epoch=self.epoch)
        self._ending.set()
        self._supervision.stopping()
        drain = self.config.deadlines.drain
        await asyncio.to_thread(self._pool.stop, drain)
        await asyncio.to_thread(self._intake.close, 1.0)
        try:
            await asyncio.wait_for(self._server.close(), 2.0)
        except TimeoutError:
            log.warning("connections_cut")
        if self.recovery.backend is not None:
            self.recovery.backend.close()

    # Operations begin and end

    def _begin(self, execution: Execution, entry: Entry | None) -> Any:
        return self._operations.begin(execution, entry)

    def _after(self, execution: Execution, task: str | None) -> None:
        self.state.ended(execution, task)
        self.recovery.after(execution)

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
        self._remembering.change(pool_size=size)

    def _debug(self, cmd: str, args: Sequence[str]) -> Any:
        return asyncio.ensure_future(self._trigger(cmd, list(args)))

    async def _trigger(self, cmd: str, args: list[str]) -> None:
        await self._opened_within(self.config.deadlines.short)
        backend = self.recovery.backend
        if backend is None:
            raise Unimplemented(what=f"{cmd} before the backend is open", backend="none")
        await asyncio.to_thread(backend.debug, cmd, args)

    async def _opened_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._open.wait(), seconds)

    def _doing(self) -> str:
        if self.state.recovering:
            return f"recovering {self.state.recovering} VMs"
        return f"{len(self._inventory)} VMs, {self.state.accepted} operations"

    def _reload(self) -> None:
        log.info("reload_requested")
        with self._supervision.reloading() as reload:
            reload.note = self.reload()

    def reload(self) -> str:
        """Read the configuration again and say what is to be known of that; replaced by the main
        module, which knows its sources."""
        return ""

    def apply(self, config: Config) -> None:
        """Take what a new configuration may change of a running daemon."""
        if config.workers != self.config.workers and self._remembering.value.pool_size is None:
            self._executor.kill_lane.later(partial(self._pool.set_size, config.workers))
        self.config = self.recovery.config = config
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
