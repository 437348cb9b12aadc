"""Every call, declared once: its fields are its parameters, its base says how it is carried out.

The server decodes parameters into these classes, the planner matches on them, the OpenRPC
document and the client are generated from them. Order of the fields is the order of
positional parameters; what the base adds (`debug_info`, `task`, `timeout`) comes last.

Bases, by what answers:
  `Read`        the daemon's own state, at once, on both sockets
  `PrivateRead` the same, but not on the read-only socket
  `Change`      at once, without waiting for any VM
  `Queued`      goes through the VM's queue and is awaited by the server (**Q**)
  `Operation`   queues an operation and answers its task id (**T**)
  `Debug`       only with --debug, for root and the daemon's own user
"""

from typing import Annotated, Any, ClassVar, Generic, TypeVar

from msgspec import Meta, Struct

from idl.host import Diagnostics, ForeignDomain, HostQuery, HostStat, WorkerPool
from idl.ids import AnyId, DeviceId, InstanceName, TaskId, VmId
from idl.metadata import Metadata
from idl.pci import Pci, PciRecord
from idl.task import Task
from idl.update import UpdateBatch
from idl.vbd import Disk, Vbd, VbdRecord
from idl.vif import Bridge, IpConfiguration, LockingMode, Rate, Vif, VifRecord
from idl.vm import Vm, VmMetrics, VmRecord
from idl.wire import Bytes, Seconds, Text

R = TypeVar("R")


class Call(Struct, Generic[R], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call; `R` is the type of its result."""

    method: ClassVar[str] = ""


class Read(Call[R], frozen=True, kw_only=True):
    """Answered from the daemon's own state, on both sockets."""


class PrivateRead(Call[R], frozen=True, kw_only=True):
    """Answered from the daemon's own state, not on the read-only socket."""


class Change(Call[R], frozen=True, kw_only=True):
    """Carried out at once."""


class Queued(Call[R], frozen=True, kw_only=True):
    """Goes through the VM's queue; withdrawn if not begun within `timeout`."""

    #: withdrawn if not begun by then
    timeout: Seconds = 60.0


class Operation(Call[TaskId], frozen=True, kw_only=True):
    """Queues an operation on the VM's queue and answers its task."""

    #: a tag for logs
    debug_info: Annotated[str, Meta(max_length=1024)] = ""
    #: an id of the client's choice; repeating the call with it queues nothing
    task: TaskId | None = None


class Debug(Call[R], frozen=True, kw_only=True):
    """Only with --debug."""


class RpcDiscover(Read[dict[str, Any]], frozen=True, kw_only=True):
    """The OpenRPC document of everything here."""

    method = "rpc.discover"


# HOST


class HostQueryCall(Read[HostQuery], frozen=True, kw_only=True):
    """Who answers: name, version, instance, backend, epoch, features, recovering."""

    method = "HOST.query"


class HostStatCall(Read[HostStat], frozen=True, kw_only=True):
    """The machine: CPUs, memory in bytes, hypervisor, kernel, hostname."""

    method = "HOST.stat"


class HostGetConsoleData(PrivateRead[str], frozen=True, kw_only=True):
    """The hypervisor's log as text, or Unimplemented."""

    method = "HOST.get_console_data"


class HostListForeign(Read[list[ForeignDomain]], frozen=True, kw_only=True):
    """Domains that were found and are not this instance's."""

    method = "HOST.list_foreign"


class HostGetWorkerPool(Read[WorkerPool], frozen=True, kw_only=True):
    """The pool's size and what its workers do."""

    method = "HOST.get_worker_pool"


class HostSetWorkerPoolSize(Change[None], frozen=True, kw_only=True):
    """Resize the pool (1 to 1024); remembered over a restart."""

    method = "HOST.set_worker_pool_size"
    #: workers, 1 to 1024
    size: int


class HostGetDiagnostics(PrivateRead[Diagnostics], frozen=True, kw_only=True):
    """Queues, workers, tasks, updates, open intents, set-aside records, versions."""

    method = "HOST.get_diagnostics"


# VM


class VmAdd(Queued[VmId], frozen=True, kw_only=True):
    """Record a VM; with `replace` as VM.set of every field."""

    method = "VM.add"
    #: the VM
    vm: Vm
    #: of a VM that exists, replace every field
    replace: bool = False


class VmRemove(Queued[None], frozen=True, kw_only=True):
    """Drop a halted or suspended VM with its devices, suspend image and layers."""

    method = "VM.remove"
    #: the VM
    id: VmId
    #: keep what its overlays have written
    keep_layers: bool = False


class VmSet(Queued[Vm], frozen=True, kw_only=True):
    """Replace whole top-level fields of the configuration; answers the new one."""

    method = "VM.set"
    #: the VM
    id: VmId
    #: whole top-level fields with their new values
    changes: dict[str, Any]


class VmStat(Read[VmRecord], frozen=True, kw_only=True):
    """One VM: configuration, state, pending changes."""

    method = "VM.stat"
    #: the VM
    id: VmId


class VmList(Read[list[VmRecord]], frozen=True, kw_only=True):
    """Every VM."""

    method = "VM.list"


class VmExists(Read[bool], frozen=True, kw_only=True):
    """Whether there is a record of this VM, readable or not."""

    method = "VM.exists"
    #: the VM
    id: VmId


class VmStart(Operation, frozen=True, kw_only=True):
    """Start a halted VM; it ends running, or paused."""

    method = "VM.start"
    #: the VM
    id: VmId
    #: leave it paused
    paused: bool = False


class VmShutdown(Operation, frozen=True, kw_only=True):
    """Stop a VM: hard without a timeout; else ask the guest, wait that long, then fail
    (or use force).
    """

    method = "VM.shutdown"
    #: the VM
    id: VmId
    #: how long the guest may take; null: do not ask it
    timeout: Seconds | None = None
    #: go the hard way where the guest does not
    force: bool = False


class VmReboot(Operation, frozen=True, kw_only=True):
    """Stop a VM as VM.shutdown does and start it again with its present configuration."""

    method = "VM.reboot"
    #: the VM
    id: VmId
    #: how long the guest may take; null: do not ask it
    timeout: Seconds | None = None
    #: go the hard way where the guest does not
    force: bool = False


class VmPause(Operation, frozen=True, kw_only=True):
    """Stop a VM's vCPUs."""

    method = "VM.pause"
    #: the VM
    id: VmId


class VmUnpause(Operation, frozen=True, kw_only=True):
    """Let a paused VM's vCPUs run."""

    method = "VM.unpause"
    #: the VM
    id: VmId


class VmSuspend(Operation, frozen=True, kw_only=True):
    """Write a running VM to an image and free its domain; on failure it still runs."""

    method = "VM.suspend"
    #: the VM
    id: VmId
    #: path of the suspend image; null: the instance's own place
    image: Text | None = None


class VmResume(Operation, frozen=True, kw_only=True):
    """Bring a suspended VM back from its image."""

    method = "VM.resume"
    #: the VM
    id: VmId
    #: path of the suspend image; null: the instance's own place
    image: Text | None = None
    #: leave it paused
    paused: bool = False


class VmMigrate(Operation, frozen=True, kw_only=True):
    """Move a VM to another host; exactly one copy runs at every moment."""

    method = "VM.migrate"
    #: the VM
    id: VmId
    #: URL of the other host
    destination: Text
    #: keep it running meanwhile
    live: bool = True


class VmCreate(Operation, frozen=True, kw_only=True):
    """Make the empty domain; the first of the single micro-ops."""

    method = "VM.create"
    #: the VM
    id: VmId


class VmBuild(Operation, frozen=True, kw_only=True):
    """Fill the domain with memory and kernel."""

    method = "VM.build"
    #: the VM
    id: VmId


class VmCreateDeviceModel(Operation, frozen=True, kw_only=True):
    """Start the device model."""

    method = "VM.create_device_model"
    #: the VM
    id: VmId


class VmDestroy(Operation, frozen=True, kw_only=True):
    """Remove the domain and what was plugged into it; without a domain it succeeds."""

    method = "VM.destroy"
    #: the VM
    id: VmId


class VmSetVcpus(Operation, frozen=True, kw_only=True):
    """Change the number of vCPUs online, from 1 to vcpu_max."""

    method = "VM.set_vcpus"
    #: the VM
    id: VmId
    #: 1 to its vcpu_max
    vcpus: int


class VmSetMemoryDynamicRange(Operation, frozen=True, kw_only=True):
    """Change the balloon range, in bytes."""

    method = "VM.set_memory_dynamic_range"
    #: the VM
    id: VmId
    #: what the balloon leaves
    minimum: Bytes
    #: what the balloon gives
    maximum: Bytes


class VmSetXsdata(Operation, frozen=True, kw_only=True):
    """Replace the guest-visible key-value pairs."""

    method = "VM.set_xsdata"
    #: the VM
    id: VmId
    #: keys and values that the guest can read
    xsdata: dict[str, Text]


class VmDelay(Operation, frozen=True, kw_only=True):
    """Hold the VM's queue for so long, but no worker."""

    method = "VM.delay"
    #: the VM
    id: VmId
    #: how long
    seconds: Seconds


class VmExportMetadata(PrivateRead[Metadata], frozen=True, kw_only=True):
    """The VM with its devices and its running configuration."""

    method = "VM.export_metadata"
    #: the VM
    id: VmId


class VmImportMetadata(Queued[VmId], frozen=True, kw_only=True):
    """Record a VM with its devices, wholly or not at all; replaces what was there."""

    method = "VM.import_metadata"
    #: what VM.export_metadata has answered
    metadata: Metadata


class VmAdopt(Operation, frozen=True, kw_only=True):
    """Take a foreign domain under this record."""

    method = "VM.adopt"
    #: the VM
    id: VmId
    #: an id that HOST.list_foreign has answered
    domain: Text


class VmForget(Operation, frozen=True, kw_only=True):
    """Drop the record and touch nothing else."""

    method = "VM.forget"
    #: the VM
    id: VmId


class VmRelease(Queued[None], frozen=True, kw_only=True):
    """Hand a halted VM with its layers to another instance of this host."""

    method = "VM.release"
    #: the VM
    id: VmId
    #: another instance of this host
    instance: InstanceName


class VmMetricsCall(Read[list[VmMetrics]], frozen=True, kw_only=True):
    """Counters of one VM, or of all."""

    method = "VM.metrics"
    #: null: all
    id: VmId | None = None


# VBD


class VbdAdd(Queued[DeviceId], frozen=True, kw_only=True):
    """Record a VBD of a VM."""

    method = "VBD.add"
    #: the VBD
    vbd: Vbd


class VbdRemove(Queued[None], frozen=True, kw_only=True):
    """Drop an unplugged VBD with its layer."""

    method = "VBD.remove"
    #: the VBD
    id: DeviceId


class VbdStat(Read[VbdRecord], frozen=True, kw_only=True):
    """One VBD."""

    method = "VBD.stat"
    #: the VBD
    id: DeviceId


class VbdList(Read[list[VbdRecord]], frozen=True, kw_only=True):
    """The VBDs of a VM, by position."""

    method = "VBD.list"
    #: the VM
    vm: VmId


class VbdPlug(Operation, frozen=True, kw_only=True):
    """Plug into a VM that has a domain."""

    method = "VBD.plug"
    #: the VBD
    id: DeviceId


class VbdUnplug(Operation, frozen=True, kw_only=True):
    """Unplug; succeeds only once the device was seen gone."""

    method = "VBD.unplug"
    #: the VBD
    id: DeviceId
    #: go the hard way where the guest does not
    force: bool = False


class VbdInsert(Operation, frozen=True, kw_only=True):
    """Put a medium into a drive."""

    method = "VBD.insert"
    #: the VBD
    id: DeviceId
    #: the medium
    backend: Disk


class VbdEject(Operation, frozen=True, kw_only=True):
    """Take the medium out of a drive."""

    method = "VBD.eject"
    #: the VBD
    id: DeviceId


# VIF


class VifAdd(Queued[DeviceId], frozen=True, kw_only=True):
    """Record a VIF of a VM."""

    method = "VIF.add"
    #: the VIF
    vif: Vif


class VifRemove(Queued[None], frozen=True, kw_only=True):
    """Drop an unplugged VIF."""

    method = "VIF.remove"
    #: the VIF
    id: DeviceId


class VifStat(Read[VifRecord], frozen=True, kw_only=True):
    """One VIF."""

    method = "VIF.stat"
    #: the VIF
    id: DeviceId


class VifList(Read[list[VifRecord]], frozen=True, kw_only=True):
    """The VIFs of a VM, by position."""

    method = "VIF.list"
    #: the VM
    vm: VmId


class VifPlug(Operation, frozen=True, kw_only=True):
    """Plug into a VM that has a domain."""

    method = "VIF.plug"
    #: the VIF
    id: DeviceId


class VifUnplug(Operation, frozen=True, kw_only=True):
    """Unplug; succeeds only once the device was seen gone."""

    method = "VIF.unplug"
    #: the VIF
    id: DeviceId
    #: go the hard way where the guest does not
    force: bool = False


class VifMove(Operation, frozen=True, kw_only=True):
    """Move to another bridge, plugged or not."""

    method = "VIF.move"
    #: the VIF
    id: DeviceId
    #: the bridge
    backend: Bridge


class VifSetCarrier(Operation, frozen=True, kw_only=True):
    """Plug or pull the virtual cable."""

    method = "VIF.set_carrier"
    #: the VIF
    id: DeviceId
    #: whether the cable is in
    carrier: bool


class VifSetLockingMode(Operation, frozen=True, kw_only=True):
    """Say which addresses the guest may use."""

    method = "VIF.set_locking_mode"
    #: the VIF
    id: DeviceId
    #: which packets pass
    locking_mode: LockingMode


class VifSetIpv4Configuration(Operation, frozen=True, kw_only=True):
    """How the guest gets its IPv4 addresses."""

    method = "VIF.set_ipv4_configuration"
    #: the VIF
    id: DeviceId
    #: what the guest is told to use
    ipv4: IpConfiguration


class VifSetIpv6Configuration(Operation, frozen=True, kw_only=True):
    """How the guest gets its IPv6 addresses."""

    method = "VIF.set_ipv6_configuration"
    #: the VIF
    id: DeviceId
    #: what the guest is told to use
    ipv6: IpConfiguration


class VifSetRate(Operation, frozen=True, kw_only=True):
    """Limit the rate; null is unlimited."""

    method = "VIF.set_rate"
    #: the VIF
    id: DeviceId
    #: a limit; null: none
    rate: Rate | None


# PCI


class PciAdd(Queued[DeviceId], frozen=True, kw_only=True):
    """Record a PCI device of a VM."""

    method = "PCI.add"
    #: the device
    pci: Pci


class PciRemove(Queued[None], frozen=True, kw_only=True):
    """Drop an unplugged PCI device."""

    method = "PCI.remove"
    #: the device
    id: DeviceId


class PciStat(Read[PciRecord], frozen=True, kw_only=True):
    """One PCI device."""

    method = "PCI.stat"
    #: the device
    id: DeviceId


class PciList(Read[list[PciRecord]], frozen=True, kw_only=True):
    """The PCI devices of a VM, by position."""

    method = "PCI.list"
    #: the VM
    vm: VmId


class PciPlug(Operation, frozen=True, kw_only=True):
    """Plug into a VM that has a domain."""

    method = "PCI.plug"
    #: the device
    id: DeviceId


class PciUnplug(Operation, frozen=True, kw_only=True):
    """Unplug; succeeds only once the device was seen gone."""

    method = "PCI.unplug"
    #: the device
    id: DeviceId
    #: go the hard way where the guest does not
    force: bool = False


# TASK


class TaskStat(Read[Task], frozen=True, kw_only=True):
    """One task."""

    method = "TASK.stat"
    #: the task
    id: AnyId


class TaskList(Read[list[Task]], frozen=True, kw_only=True):
    """Every task that is queued, running, or among the newest ended."""

    method = "TASK.list"


class TaskWait(Read[Task], frozen=True, kw_only=True):
    """The task, when it has ended or the time is over."""

    method = "TASK.wait"
    #: the task
    id: AnyId
    #: answer then in any case
    timeout: Seconds = 30.0


class TaskCancel(Change[None], frozen=True, kw_only=True):
    """Ask a task to end; of an ended one nothing."""

    method = "TASK.cancel"
    #: the task
    id: AnyId


class TaskDestroy(Change[None], frozen=True, kw_only=True):
    """Drop an ended task."""

    method = "TASK.destroy"
    #: the task
    id: AnyId


# UPDATES


class UpdatesGet(Read[UpdateBatch], frozen=True, kw_only=True):
    """Wait until something has changed since the token."""

    method = "UPDATES.get"
    #: a token; null: from the beginning
    since: str | None = None
    #: answer then in any case
    timeout: Seconds = 30.0


class UpdatesLastId(Read[str], frozen=True, kw_only=True):
    """The token of now."""

    method = "UPDATES.last_id"


class UpdatesInjectBarrier(Change[None], frozen=True, kw_only=True):
    """Inject a barrier with an id that the client chooses; replaces an earlier one of
    that id.
    """

    method = "UPDATES.inject_barrier"
    #: the VM
    vm: VmId
    #: a number of the client's choice
    id: int


class UpdatesRemoveBarrier(Change[None], frozen=True, kw_only=True):
    """Remove a barrier."""

    method = "UPDATES.remove_barrier"
    #: the barrier
    id: int


class UpdatesRefreshVm(Change[None], frozen=True, kw_only=True):
    """Announce a VM and its devices again."""

    method = "UPDATES.refresh_vm"
    #: the VM
    id: VmId


class UpdatesSubscribe(Read[str], frozen=True, kw_only=True):
    """From now on, notifications `updates` on this connection."""

    method = "UPDATES.subscribe"
    #: a token; null: from the beginning
    since: str | None = None


# DEBUG


class DebugTrigger(Debug[None], frozen=True, kw_only=True):
    """Make something happen that tests and toolstack authors need."""

    method = "DEBUG.trigger"
    #: what should happen
    cmd: str
    #: to whom or what, and how
    args: list[str] = []


class DebugShutdown(Debug[None], frozen=True, kw_only=True):
    """Stop the daemon as SIGTERM does."""

    method = "DEBUG.shutdown"


def _leaves(root: type[Call[Any]]) -> list[type[Call[Any]]]:
    found: list[type[Call[Any]]] = []
    for sub in root.__subclasses__():
        found += [sub] if sub.method else _leaves(sub)
    return found


#: Every call by its name.
CALLS: dict[str, type[Call[Any]]] = {cls.method: cls for cls in _leaves(Call)}


def parameters(call: type[Call[Any]]) -> tuple[str, ...]:
    """The names of a call's parameters, in positional order: its own first, its base's last."""
    own = [name for name in call.__struct_fields__ if name in call.__annotations__]
    return (*own, *(name for name in call.__struct_fields__ if name not in own))


def result_type(call: type[Call[Any]]) -> Any:
    """The type of a call's result."""
    for klass in call.__mro__:
        for base in getattr(klass, "__orig_bases__", ()):
            args = getattr(base, "__args__", ())
            if args and not isinstance(args[0], TypeVar):
                return args[0]
    raise TypeError(f"{call.method} declares no result")
