"""What every call does: reads from the daemon's state, operations onto queues.

Everything here runs on the event loop and never waits for a VM, a worker or a hypervisor.
"""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from idl import calls
from idl.calls import Call
from idl.errors import (
    DeadlineExceeded,
    DoesNotExist,
    InvalidParameter,
    MetadataCorrupt,
    TooManyRequests,
    Unimplemented,
    XenopsError,
)
from idl.host import (
    HostQuery,
    HostStat,
)
from idl.ids import vm_of
from idl.metadata import Metadata
from idl.vm import VmMetrics, VmRecord
from xenopsd.diagnostics import diagnostics, worker_pool
from xenopsd.execution import Execution
from xenopsd.forthcoming import Forthcoming
from xenopsd.inventory import Entry, Inventory
from xenopsd.redact import redacted
from xenopsd.rpc.service import Caller, Subscription
from xenopsd.state import State
from xenopsd.tasks import TaskEntry, Tasks
from xenopsd.updates import Updates

#: Operations that may wait on one VM, and in all.
PER_VM = 256
IN_ALL = 100_000

_encode = msgspec.json.Encoder().encode
Answer = Callable[[Any, Caller], Any]


class Service:
    """`xenopsd.rpc.service.Service` on the daemon's state."""

    def __init__(
        self,
        state: State,
        *,
        debug: bool,
        openrpc: Callable[[], bytes],
        shutdown: Callable[[], None],
    ) -> None:
        self._state = state
        self.debug = debug
        self._openrpc = openrpc
        self._shutdown = shutdown
        self._forthcoming = Forthcoming(self._change, PER_VM)
        self._reads: dict[type[Call[Any]], Answer] = {
            calls.HostQueryCall: self._host_query,
            calls.HostStatCall: lambda _c, _w: self._host_stat(),
            calls.HostGetConsoleData: lambda _c, _w: self._console_data(),
            calls.HostListForeign: lambda _c, _w: list(self._state.foreign),
            calls.HostGetWorkerPool: lambda _c, _w: worker_pool(self._state),
            calls.HostSetWorkerPoolSize: self._set_pool_size,
            calls.HostGetDiagnostics: lambda _c, _w: diagnostics(self._state),
            calls.VmStat: self._vm_stat,
            calls.VmList: self._vm_list,
            calls.VmExists: lambda c, _w: self._inventory.get(c.id) is not None,
            calls.VmExportMetadata: self._export,
            calls.VmMetricsCall: self._metrics,
            calls.VbdStat: self._vbd_stat,
            calls.VbdList: lambda c, _w: self._listed(c.vm, "vbds", Entry.vbd),
            calls.VifStat: self._vif_stat,
            calls.VifList: lambda c, _w: self._listed(c.vm, "vifs", Entry.vif),
            calls.PciStat: self._pci_stat,
            calls.PciList: lambda c, _w: self._listed(c.vm, "pcis", Entry.pci),
            calls.TaskStat: lambda c, _w: self._tasks.encoded(c.id),
            calls.TaskList: lambda _c, _w: self._tasks.encoded_list(),
            calls.TaskWait: self._task_wait,
            calls.TaskCancel: self._task_cancel,
            calls.TaskDestroy: self._task_destroy,
            calls.UpdatesGet: lambda c, _w: self._updates.get(c.since, c.timeout),
            calls.UpdatesLastId: lambda _c, _w: self._updates.last_id(),
            calls.UpdatesInjectBarrier: self._inject_barrier,
            calls.UpdatesRemoveBarrier: self._remove_barrier,
            calls.UpdatesRefreshVm: self._refresh_vm,
            calls.DebugTrigger: self._trigger,
            calls.DebugShutdown: lambda _c, _w: self._shutdown(),
        }

    # xenopsd.rpc.service.Service

    def answer(self, call: Call[Any], caller: Caller) -> Any:
        """The result of a call, or a future of it. Raises XenopsError."""
        read = self._reads.get(type(call))
        if read is not None:
            return read(call, caller)
        return self._forthcoming.keep(call) or self._change(call)

    def _change(self, call: Call[Any]) -> Any:
        if isinstance(call, calls.Operation):
            return self._accept(call)
        return self._queue(call)

    def openrpc(self) -> bytes:
        """The OpenRPC document."""
        return self._openrpc()

    def metrics(self) -> bytes:
        """Prometheus' text."""
        return self._state.metrics.render()

    def health(self) -> tuple[bool, bytes]:
        """Alive; and whether VMs are still being recovered."""
        recovering = self._state.recovering > 0
        attention = sum(1 for e in self._inventory if e.attention is not None)
        return True, _encode({"recovering": recovering, "attention": attention})

    def subscribe(self, since: str | None) -> Subscription:
        """Follow the updates."""
        return self._updates.subscribe(since)

    # Acceptance

    def _accept(self, call: calls.Operation) -> Any:
        known = self._known_task(call)
        if known is not None:
            return known
        if isinstance(call, calls.VmMigrate):
            raise Unimplemented(what=call.method, backend=self._state.backend_name)
        subject, entry = self._subject(call)
        self._admit(call, entry)
        state = self._state
        id = call.task or self._fresh_task()
        task = TaskEntry(
            id=id,
            vm=entry.id,
            operation=call.method,
            object=subject,
            debug_info=call.debug_info,
            created=state.executor.context.wall(),
            call=_identity(call),
        )
        execution = Execution(call, entry.id, task=task)
        execution.cancel_at = state.cancel_trigger(call.debug_info)
        self._tasks.add(task)
        self._updates.touch("task", id)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._submit(execution, entry, future)
        return future

    def _fresh_task(self) -> str:
        """An id for a task; one that a client has chosen in the meantime is left to it."""
        while True:
            id = f"{self._state.epoch}-{self._state.next_task()}"
            if self._tasks.known_call(id) is None:
                return id

    def _known_task(self, call: calls.Operation) -> Any:
        """The id of a task that is known already, or a future of it while it is being logged."""
        if call.task is None:
            return None
        known = self._tasks.known_call(call.task)
        if known is None:
            return None
        if known != _identity(call):
            raise InvalidParameter(
                name="task", reason=f"{call.task} is the id of another call; choose a new one"
            )
        return self._state.intake.repeated(call.task) or call.task

    def _subject(self, call: Any) -> tuple[str, Entry]:
        """The VM or device that a call is about, and its VM. Raises DoesNotExist."""
        kind = call.method.partition(".")[0]
        if kind == "VM":
            entry = self._inventory.require(call.id)
            if entry.damaged and not isinstance(call, calls.VmForget):
                raise MetadataCorrupt(path=str(entry.damaged[0].path))
            return call.id, entry
        return call.id, self._inventory.device_owner(kind, call.id)

    def _admit(self, call: Call[Any], entry: Entry) -> None:
        hard = isinstance(call, calls.VmShutdown) and call.timeout is None
        if entry.stuck and not hard:
            raise DeadlineExceeded(
                what=f"A call to the hypervisor for VM {entry.id} does not return; until it does "
                "only a hard shutdown is possible. It",
                seconds=self._state.executor.context.deadlines.short,
            )
        if len(entry.operations) >= PER_VM and not hard:
            raise TooManyRequests(limit=PER_VM, queued=len(entry.operations))
        if self._state.accepted >= IN_ALL and not hard:
            raise TooManyRequests(limit=IN_ALL, queued=self._state.accepted)

    def _submit(
        self, execution: Execution, entry: Entry | None, accepted: "asyncio.Future[str] | None"
    ) -> None:
        self._state.accept(execution)
        if entry is not None:
            entry.operations.append(execution)
            entry.changed()
            self._updates.touch("vm", entry.id)
        self._state.intake.submit(execution, accepted)

    def _queue(self, call: Any) -> Any:
        vm, entry = self._queue_of(call)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if entry is not None:
            self._admit(call, entry)
        else:
            self._forthcoming.expect(vm, future)
        execution = Execution(call, vm, future=future)
        self._submit(execution, entry, None)
        timer = loop.call_later(call.timeout, self._withdraw, execution, call)
        future.add_done_callback(lambda _: timer.cancel())
        return future

    def _queue_of(self, call: Any) -> tuple[str, Entry | None]:
        """The VM whose queue a Q call goes through. Raises DoesNotExist, MetadataCorrupt."""
        match call:
            case calls.VmAdd():
                return call.vm.id, self._inventory.get(call.vm.id)
            case calls.VmImportMetadata():
                return call.metadata.vm.id, self._inventory.get(call.metadata.vm.id)
            case calls.VbdAdd() | calls.VifAdd() | calls.PciAdd():
                device = next(getattr(call, f) for f in ("vbd", "vif", "pci") if hasattr(call, f))
                entry = self._inventory.require(vm_of(device.id))
                entry.metadata()
                return entry.id, entry
            case _:
                _subject, entry = self._subject(call)
                return entry.id, entry

    def _withdraw(self, execution: Execution, call: calls.Queued[Any]) -> None:
        error = DeadlineExceeded(
            what=f"Waiting for the queue of VM {execution.vm} to begin {call.method}",
            seconds=call.timeout,
        )
        executor = self._state.executor
        lane = executor.kill_lane
        lane.later(lambda: lane.expire(execution, error))

    # HOST

    def _host_query(self, _call: calls.HostQueryCall, _caller: Caller) -> HostQuery:
        state = self._state
        return HostQuery(
            name="xenopsd",
            version=state.version,
            instance=state.instance,
            backend=state.backend_name,
            epoch=state.epoch,
            features=sorted(state.features),
            recovering=state.recovering > 0,
        )

    def _host_stat(self) -> HostStat:
        return replace(self._state.host, memory_free=self._state.memory.free)

    def _console_data(self) -> str:
        if self._state.console_data is None:
            raise Unimplemented(what="console data", backend=self._state.backend_name)
        return self._state.console_data

    def _set_pool_size(self, call: calls.HostSetWorkerPoolSize, _caller: Caller) -> Any:
        if not 1 <= call.size <= 1024:
            raise InvalidParameter(name="size", reason=f"{call.size} is not from 1 to 1024")
        return self._state.resize(call.size)

    # VM and devices

    def _vm_stat(self, call: calls.VmStat, caller: Caller) -> Any:
        entry = self._inventory.require(call.id)
        return redacted(entry.record()) if caller.readonly else entry.encoded()

    def _vm_list(self, _call: calls.VmList, caller: Caller) -> list[Raw] | list[VmRecord]:
        if caller.readonly:
            return [redacted(entry.record()) for entry in self._inventory]
        return [entry.encoded() for entry in self._inventory]

    def _export(self, call: calls.VmExportMetadata, _caller: Caller) -> Metadata:
        entry = self._inventory.require(call.id)
        return replace(entry.metadata(), extra=msgspec.to_builtins(entry.extra))

    def _metrics(self, call: calls.VmMetricsCall, _caller: Caller) -> list[VmMetrics]:
        if call.id is not None:
            self._inventory.require(call.id)
        known = self._state.vm_metrics
        ids = [call.id] if call.id is not None else [entry.id for entry in self._inventory]
        return [known.get(id) or VmMetrics(id=id) for id in ids]

    def _vbd_stat(self, call: calls.VbdStat, _caller: Caller) -> Any:
        entry = self._inventory.device_owner("VBD", call.id)
        return next(entry.vbd(v) for v in entry.metadata().vbds if v.id == call.id)

    def _vif_stat(self, call: calls.VifStat, _caller: Caller) -> Any:
        entry = self._inventory.device_owner("VIF", call.id)
        return next(entry.vif(v) for v in entry.metadata().vifs if v.id == call.id)

    def _pci_stat(self, call: calls.PciStat, _caller: Caller) -> Any:
        entry = self._inventory.device_owner("PCI", call.id)
        return next(entry.pci(p) for p in entry.metadata().pcis if p.id == call.id)

    def _listed(self, vm: str, devices: str, record: Callable[[Entry, Any], Any]) -> list[Any]:
        entry = self._inventory.require(vm)
        found = getattr(entry.metadata(), devices)
        return [record(entry, d) for d in sorted(found, key=lambda d: d.position or 0)]

    # TASK

    def _task_wait(self, call: calls.TaskWait, _caller: Caller) -> Any:
        waiting = self._tasks.wait(call.id, call.timeout)
        if waiting is None:
            return self._tasks.encoded(call.id)
        return _then(waiting, lambda: self._tasks.encoded(call.id))

    def _task_cancel(self, call: calls.TaskCancel, _caller: Caller) -> Any:
        task = self._tasks.open(call.id)
        if task is None:
            self._tasks.encoded(call.id)
            return None
        execution = self._state.execution_of(call.id)
        if execution is None:
            return None
        # Ending a queued task writes the task log: not on the loop, but before the answer.
        return asyncio.ensure_future(
            asyncio.to_thread(self._state.executor.kill_lane.cancel, execution)
        )

    def _task_destroy(self, call: calls.TaskDestroy, _caller: Caller) -> "asyncio.Future[None]":
        self._tasks.destroy(call.id)
        self._updates.remove("task", call.id)
        # Answered once it is written: what a client has destroyed does not come back.
        forgotten: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._state.intake.destroyed(call.id, forgotten)
        return forgotten

    # UPDATES

    def _inject_barrier(self, call: calls.UpdatesInjectBarrier, _caller: Caller) -> None:
        self._inventory.require(call.vm)
        self._updates.inject_barrier(call.id, call.vm)

    def _remove_barrier(self, call: calls.UpdatesRemoveBarrier, _caller: Caller) -> None:
        try:
            self._updates.remove_barrier(call.id)
        except KeyError:
            raise DoesNotExist(kind="barrier", id=str(call.id)) from None

    def _refresh_vm(self, call: calls.UpdatesRefreshVm, _caller: Caller) -> None:
        self._inventory.require(call.id)
        self._updates.refresh(call.id)

    # DEBUG

    def _trigger(self, call: calls.DebugTrigger, _caller: Caller) -> Any:
        arguments = call.args
        match call.cmd:
            case "kill-at":
                point, n = _arguments(arguments, ("point", "n"))
                self._state.executor.context.killpoints.arm(point, n)
            case "set-cancel-trigger":
                debug_info, n = _arguments(arguments, ("debug_info", "n"))
                if not n.isdecimal() or int(n) < 1:
                    raise InvalidParameter(name="n", reason=f"'{n}' is not a number from 1")
                self._state.set_cancel_trigger(debug_info, int(n))
            case _:
                return self._state.debug(call.cmd, arguments)
        return None

    @property
    def _inventory(self) -> Inventory:
        return self._state.executor.context.inventory

    @property
    def _tasks(self) -> Tasks:
        return self._state.executor.context.tasks

    @property
    def _updates(self) -> Updates:
        return self._state.executor.context.updates


def _identity(call: Call[Any]) -> bytes:
    """Method and parameters, without the task id: what makes two calls the same."""
    plain = msgspec.to_builtins(call)
    plain.pop("task", None)
    return _encode([call.method, plain])


def _arguments(args: list[str], names: tuple[str, ...]) -> list[str]:
    if len(args) != len(names):
        raise InvalidParameter(name="args", reason=f"give {', '.join(names)}; got {len(args)}")
    return args


def _then(waiting: "asyncio.Future[None]", answer: Callable[[], Any]) -> "asyncio.Future[Any]":
    """A future of the answer once the wait is over; cancelling it ends the wait."""
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def over(_: object) -> None:
        if result.done() or waiting.cancelled():
            return
        try:
            result.set_result(answer())
        except XenopsError as error:
            result.set_exception(error)

    def withdrawn(future: "asyncio.Future[Any]") -> None:
        if future.cancelled():
            waiting.cancel()

    waiting.add_done_callback(over)
    result.add_done_callback(withdrawn)
    return result


def fresh_epoch() -> str:
    """A name for this life of the daemon; with a number it names a task, unique for ever."""
    return uuid.uuid4().hex[:12]
