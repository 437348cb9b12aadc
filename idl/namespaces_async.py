"""Every call, for a client that awaits. Rendered by idl.generate: edit idl.calls instead."""
# The order of parameters is the wire's, so flags may come by position.
# ruff: noqa: FBT001, FBT002

import builtins
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from idl import calls
from idl.host import Diagnostics, ForeignDomain, HostQuery, HostStat, WorkerPool
from idl.ids import DeviceId, TaskId, VmId
from idl.metadata import Metadata
from idl.pci import Pci, PciRecord
from idl.task import Task
from idl.update import UpdateBatch
from idl.vbd import Disk, Vbd, VbdRecord
from idl.vif import Bridge, IpConfiguration, LockingMode, Rate, Vif, VifRecord
from idl.vm import Vm, VmMetrics, VmRecord
from idl.wire import Bytes, Seconds, Text

R = TypeVar("R")


class Transport(Protocol):
    """Carries a call to the daemon and its result back."""

    async def send(self, call: calls.Call[R]) -> R:
        """Raises what the daemon answers as an error."""


class Namespace:
    """Calls that share a part of their name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport


class RPCCalls(Namespace):
    """The interface itself."""

    async def discover(self) -> dict[str, Any]:
        """The OpenRPC document of everything here."""
        return await self._transport.send(calls.RpcDiscover())


class HostCalls(Namespace):
    """The daemon and the machine it runs on."""

    async def query(self) -> HostQuery:
        """Who answers: name, version, instance, backend, epoch, features, recovering."""
        return await self._transport.send(calls.HostQueryCall())

    async def stat(self) -> HostStat:
        """The machine: CPUs, memory in bytes, hypervisor, kernel, hostname."""
        return await self._transport.send(calls.HostStatCall())

    async def get_console_data(self) -> str:
        """The hypervisor's log as text, or Unimplemented."""
        return await self._transport.send(calls.HostGetConsoleData())

    async def list_foreign(self) -> builtins.list[ForeignDomain]:
        """Domains that were found and are not this instance's."""
        return await self._transport.send(calls.HostListForeign())

    async def get_worker_pool(self) -> WorkerPool:
        """The pool's size and what its workers do."""
        return await self._transport.send(calls.HostGetWorkerPool())

    async def set_worker_pool_size(self, size: int) -> None:
        """Resize the pool (1 to 1024); remembered over a restart."""
        await self._transport.send(calls.HostSetWorkerPoolSize(size=size))

    async def get_diagnostics(self) -> Diagnostics:
        """Queues, workers, tasks, updates, open intents, set-aside records, versions."""
        return await self._transport.send(calls.HostGetDiagnostics())


class VMCalls(Namespace):
    """Virtual machines and containers."""

    async def add(self, vm: Vm, replace: bool = False, *, timeout: Seconds = 60.0) -> VmId:
        """Record a VM; with `replace` as VM.set of every field."""
        return await self._transport.send(calls.VmAdd(vm=vm, replace=replace, timeout=timeout))

    async def remove(
        self, id: VmId, keep_layers: bool = False, *, timeout: Seconds = 60.0
    ) -> None:
        """Drop a halted or suspended VM with its devices, suspend image and layers."""
        await self._transport.send(calls.VmRemove(id=id, keep_layers=keep_layers, timeout=timeout))

    async def set(self, id: VmId, changes: dict[str, Any], *, timeout: Seconds = 60.0) -> Vm:
        """Replace whole top-level fields of the configuration; answers the new one."""
        return await self._transport.send(calls.VmSet(id=id, changes=changes, timeout=timeout))

    async def stat(self, id: VmId) -> VmRecord:
        """One VM: configuration, state, pending changes."""
        return await self._transport.send(calls.VmStat(id=id))

    async def list(self) -> builtins.list[VmRecord]:
        """Every VM."""
        return await self._transport.send(calls.VmList())

    async def exists(self, id: VmId) -> bool:
        """Whether there is a record of this VM, readable or not."""
        return await self._transport.send(calls.VmExists(id=id))

    async def start(
        self, id: VmId, paused: bool = False, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Start a halted VM; it ends running, or paused."""
        return await self._transport.send(
            calls.VmStart(id=id, paused=paused, debug_info=debug_info, task=task)
        )

    async def shutdown(
        self,
        id: VmId,
        timeout: Seconds | None = None,
        force: bool = False,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Stop a VM: hard without a timeout; else ask the guest, wait that long, then fail (or
        use force).
        """
        return await self._transport.send(
            calls.VmShutdown(id=id, timeout=timeout, force=force, debug_info=debug_info, task=task)
        )

    async def reboot(
        self,
        id: VmId,
        timeout: Seconds | None = None,
        force: bool = False,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Stop a VM as VM.shutdown does and start it again with its present configuration."""
        return await self._transport.send(
            calls.VmReboot(id=id, timeout=timeout, force=force, debug_info=debug_info, task=task)
        )

    async def pause(self, id: VmId, *, debug_info: str = "", task: TaskId | None = None) -> TaskId:
        """Stop a VM's vCPUs."""
        return await self._transport.send(calls.VmPause(id=id, debug_info=debug_info, task=task))

    async def unpause(
        self, id: VmId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Let a paused VM's vCPUs run."""
        return await self._transport.send(calls.VmUnpause(id=id, debug_info=debug_info, task=task))

    async def suspend(
        self,
        id: VmId,
        image: Text | None = None,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Write a running VM to an image and free its domain; on failure it still runs."""
        return await self._transport.send(
            calls.VmSuspend(id=id, image=image, debug_info=debug_info, task=task)
        )

    async def resume(
        self,
        id: VmId,
        image: Text | None = None,
        paused: bool = False,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Bring a suspended VM back from its image."""
        return await self._transport.send(
            calls.VmResume(id=id, image=image, paused=paused, debug_info=debug_info, task=task)
        )

    async def migrate(
        self,
        id: VmId,
        destination: Text,
        live: bool = True,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Move a VM to another host; exactly one copy runs at every moment."""
        return await self._transport.send(
            calls.VmMigrate(
                id=id, destination=destination, live=live, debug_info=debug_info, task=task
            )
        )

    async def create(
        self, id: VmId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Make the empty domain; the first of the single micro-ops."""
        return await self._transport.send(calls.VmCreate(id=id, debug_info=debug_info, task=task))

    async def build(self, id: VmId, *, debug_info: str = "", task: TaskId | None = None) -> TaskId:
        """Fill the domain with memory and kernel."""
        return await self._transport.send(calls.VmBuild(id=id, debug_info=debug_info, task=task))

    async def create_device_model(
        self, id: VmId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Start the device model."""
        return await self._transport.send(
            calls.VmCreateDeviceModel(id=id, debug_info=debug_info, task=task)
        )

    async def destroy(
        self, id: VmId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Remove the domain and what was plugged into it; without a domain it succeeds."""
        return await self._transport.send(calls.VmDestroy(id=id, debug_info=debug_info, task=task))

    async def set_vcpus(
        self, id: VmId, vcpus: int, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Change the number of vCPUs online, from 1 to vcpu_max."""
        return await self._transport.send(
            calls.VmSetVcpus(id=id, vcpus=vcpus, debug_info=debug_info, task=task)
        )

    async def set_memory_dynamic_range(
        self,
        id: VmId,
        minimum: Bytes,
        maximum: Bytes,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Change the balloon range, in bytes."""
        return await self._transport.send(
            calls.VmSetMemoryDynamicRange(
                id=id, minimum=minimum, maximum=maximum, debug_info=debug_info, task=task
            )
        )

    async def set_xsdata(
        self,
        id: VmId,
        xsdata: dict[str, Text],
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Replace the guest-visible key-value pairs."""
        return await self._transport.send(
            calls.VmSetXsdata(id=id, xsdata=xsdata, debug_info=debug_info, task=task)
        )

    async def delay(
        self, id: VmId, seconds: Seconds, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Hold the VM's queue for so long, but no worker."""
        return await self._transport.send(
            calls.VmDelay(id=id, seconds=seconds, debug_info=debug_info, task=task)
        )

    async def export_metadata(self, id: VmId) -> Metadata:
        """The VM with its devices and its running configuration."""
        return await self._transport.send(calls.VmExportMetadata(id=id))

    async def import_metadata(self, metadata: Metadata, *, timeout: Seconds = 60.0) -> VmId:
        """Record a VM with its devices, wholly or not at all; replaces what was there."""
        return await self._transport.send(
            calls.VmImportMetadata(metadata=metadata, timeout=timeout)
        )

    async def adopt(
        self, id: VmId, domain: Text, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Take a foreign domain under this record."""
        return await self._transport.send(
            calls.VmAdopt(id=id, domain=domain, debug_info=debug_info, task=task)
        )

    async def forget(
        self, id: VmId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Drop the record and touch nothing else."""
        return await self._transport.send(calls.VmForget(id=id, debug_info=debug_info, task=task))

    async def release(self, id: VmId, instance: VmId, *, timeout: Seconds = 60.0) -> None:
        """Hand a halted VM with its layers to another instance of this host."""
        await self._transport.send(calls.VmRelease(id=id, instance=instance, timeout=timeout))

    async def metrics(self, id: VmId | None = None) -> builtins.list[VmMetrics]:
        """Counters of one VM, or of all."""
        return await self._transport.send(calls.VmMetricsCall(id=id))


class VBDCalls(Namespace):
    """Virtual block devices."""

    async def add(self, vbd: Vbd, *, timeout: Seconds = 60.0) -> DeviceId:
        """Record a VBD of a VM."""
        return await self._transport.send(calls.VbdAdd(vbd=vbd, timeout=timeout))

    async def remove(self, id: DeviceId, *, timeout: Seconds = 60.0) -> None:
        """Drop an unplugged VBD with its layer."""
        await self._transport.send(calls.VbdRemove(id=id, timeout=timeout))

    async def stat(self, id: DeviceId) -> VbdRecord:
        """One VBD."""
        return await self._transport.send(calls.VbdStat(id=id))

    async def list(self, vm: VmId) -> builtins.list[VbdRecord]:
        """The VBDs of a VM, by position."""
        return await self._transport.send(calls.VbdList(vm=vm))

    async def plug(
        self, id: DeviceId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Plug into a VM that has a domain."""
        return await self._transport.send(calls.VbdPlug(id=id, debug_info=debug_info, task=task))

    async def unplug(
        self,
        id: DeviceId,
        force: bool = False,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Unplug; succeeds only once the device was seen gone."""
        return await self._transport.send(
            calls.VbdUnplug(id=id, force=force, debug_info=debug_info, task=task)
        )

    async def insert(
        self, id: DeviceId, backend: Disk, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Put a medium into a drive."""
        return await self._transport.send(
            calls.VbdInsert(id=id, backend=backend, debug_info=debug_info, task=task)
        )

    async def eject(
        self, id: DeviceId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Take the medium out of a drive."""
        return await self._transport.send(calls.VbdEject(id=id, debug_info=debug_info, task=task))


class VIFCalls(Namespace):
    """Virtual network interfaces."""

    async def add(self, vif: Vif, *, timeout: Seconds = 60.0) -> DeviceId:
        """Record a VIF of a VM."""
        return await self._transport.send(calls.VifAdd(vif=vif, timeout=timeout))

    async def remove(self, id: DeviceId, *, timeout: Seconds = 60.0) -> None:
        """Drop an unplugged VIF."""
        await self._transport.send(calls.VifRemove(id=id, timeout=timeout))

    async def stat(self, id: DeviceId) -> VifRecord:
        """One VIF."""
        return await self._transport.send(calls.VifStat(id=id))

    async def list(self, vm: VmId) -> builtins.list[VifRecord]:
        """The VIFs of a VM, by position."""
        return await self._transport.send(calls.VifList(vm=vm))

    async def plug(
        self, id: DeviceId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Plug into a VM that has a domain."""
        return await self._transport.send(calls.VifPlug(id=id, debug_info=debug_info, task=task))

    async def unplug(
        self,
        id: DeviceId,
        force: bool = False,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Unplug; succeeds only once the device was seen gone."""
        return await self._transport.send(
            calls.VifUnplug(id=id, force=force, debug_info=debug_info, task=task)
        )

    async def move(
        self, id: DeviceId, backend: Bridge, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Move to another bridge, plugged or not."""
        return await self._transport.send(
            calls.VifMove(id=id, backend=backend, debug_info=debug_info, task=task)
        )

    async def set_carrier(
        self, id: DeviceId, carrier: bool, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Plug or pull the virtual cable."""
        return await self._transport.send(
            calls.VifSetCarrier(id=id, carrier=carrier, debug_info=debug_info, task=task)
        )

    async def set_locking_mode(
        self,
        id: DeviceId,
        locking_mode: LockingMode,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Say which addresses the guest may use."""
        return await self._transport.send(
            calls.VifSetLockingMode(
                id=id, locking_mode=locking_mode, debug_info=debug_info, task=task
            )
        )

    async def set_ipv4_configuration(
        self,
        id: DeviceId,
        ipv4: IpConfiguration,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """How the guest gets its IPv4 addresses."""
        return await self._transport.send(
            calls.VifSetIpv4Configuration(id=id, ipv4=ipv4, debug_info=debug_info, task=task)
        )

    async def set_ipv6_configuration(
        self,
        id: DeviceId,
        ipv6: IpConfiguration,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """How the guest gets its IPv6 addresses."""
        return await self._transport.send(
            calls.VifSetIpv6Configuration(id=id, ipv6=ipv6, debug_info=debug_info, task=task)
        )

    async def set_rate(
        self, id: DeviceId, rate: Rate | None, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Limit the rate; null is unlimited."""
        return await self._transport.send(
            calls.VifSetRate(id=id, rate=rate, debug_info=debug_info, task=task)
        )


class PCICalls(Namespace):
    """Devices of the host passed through."""

    async def add(self, pci: Pci, *, timeout: Seconds = 60.0) -> DeviceId:
        """Record a PCI device of a VM."""
        return await self._transport.send(calls.PciAdd(pci=pci, timeout=timeout))

    async def remove(self, id: DeviceId, *, timeout: Seconds = 60.0) -> None:
        """Drop an unplugged PCI device."""
        await self._transport.send(calls.PciRemove(id=id, timeout=timeout))

    async def stat(self, id: DeviceId) -> PciRecord:
        """One PCI device."""
        return await self._transport.send(calls.PciStat(id=id))

    async def list(self, vm: VmId) -> builtins.list[PciRecord]:
        """The PCI devices of a VM, by position."""
        return await self._transport.send(calls.PciList(vm=vm))

    async def plug(
        self, id: DeviceId, *, debug_info: str = "", task: TaskId | None = None
    ) -> TaskId:
        """Plug into a VM that has a domain."""
        return await self._transport.send(calls.PciPlug(id=id, debug_info=debug_info, task=task))

    async def unplug(
        self,
        id: DeviceId,
        force: bool = False,
        *,
        debug_info: str = "",
        task: TaskId | None = None,
    ) -> TaskId:
        """Unplug; succeeds only once the device was seen gone."""
        return await self._transport.send(
            calls.PciUnplug(id=id, force=force, debug_info=debug_info, task=task)
        )


class TaskCalls(Namespace):
    """Operations as their callers follow them."""

    async def stat(self, id: str) -> Task:
        """One task."""
        return await self._transport.send(calls.TaskStat(id=id))

    async def list(self) -> builtins.list[Task]:
        """Every task that is queued, running, or among the newest ended."""
        return await self._transport.send(calls.TaskList())

    async def wait(self, id: str, timeout: Seconds = 30.0) -> Task:
        """The task, when it has ended or the time is over."""
        return await self._transport.send(calls.TaskWait(id=id, timeout=timeout))

    async def cancel(self, id: str) -> None:
        """Ask a task to end; of an ended one nothing."""
        await self._transport.send(calls.TaskCancel(id=id))

    async def destroy(self, id: str) -> None:
        """Drop an ended task."""
        await self._transport.send(calls.TaskDestroy(id=id))


class UpdatesCalls(Namespace):
    """What to look at again."""

    async def get(self, since: str | None = None, timeout: Seconds = 30.0) -> UpdateBatch:
        """Wait until something has changed since the token."""
        return await self._transport.send(calls.UpdatesGet(since=since, timeout=timeout))

    async def last_id(self) -> str:
        """The token of now."""
        return await self._transport.send(calls.UpdatesLastId())

    async def inject_barrier(self, vm: VmId, id: int) -> None:
        """Inject a barrier with an id that the client chooses; replaces an earlier one of that
        id.
        """
        await self._transport.send(calls.UpdatesInjectBarrier(vm=vm, id=id))

    async def remove_barrier(self, id: int) -> None:
        """Remove a barrier."""
        await self._transport.send(calls.UpdatesRemoveBarrier(id=id))

    async def refresh_vm(self, id: VmId) -> None:
        """Announce a VM and its devices again."""
        await self._transport.send(calls.UpdatesRefreshVm(id=id))


class DebugCalls(Namespace):
    """Only with --debug, for tests."""

    async def trigger(self, cmd: str, args: Sequence[str] = ()) -> None:
        """Make something happen that tests and toolstack authors need."""
        await self._transport.send(calls.DebugTrigger(cmd=cmd, args=list(args)))

    async def shutdown(self) -> None:
        """Stop the daemon as SIGTERM does."""
        await self._transport.send(calls.DebugShutdown())


class Namespaces:
    """One attribute a namespace; updates is the client's own."""

    def __init__(self, transport: Transport) -> None:
        self.rpc = RPCCalls(transport)
        self.host = HostCalls(transport)
        self.vm = VMCalls(transport)
        self.vbd = VBDCalls(transport)
        self.vif = VIFCalls(transport)
        self.pci = PCICalls(transport)
        self.task = TaskCalls(transport)
        self.debug = DebugCalls(transport)
