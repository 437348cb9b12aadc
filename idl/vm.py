"""VM: its configuration (what the next start uses) and its state (what is observed)."""

import uuid as uuids
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias, cast

from msgspec import UNSET, Meta, field
from msgspec.structs import force_setattr

from idl.ids import VmId
from idl.wire import Bytes, Config, Count, Fact, Text, Timestamp

DEFAULT_MEMORY = 268_435_456

#: Ids that are no UUIDs get one derived from them in this namespace: stable for ever.
UUID_NAMESPACE = uuids.UUID("8f3c5a52-6c0f-5a86-9f0e-0d6f1f7f2a11")

Memory: TypeAlias = Annotated[int, Meta(ge=1, le=2**62, description="bytes")]
Vcpus: TypeAlias = Annotated[int, Meta(ge=1, le=4096)]


class PowerState(StrEnum):
    """What a VM is doing, as observed."""

    RUNNING = "running"
    HALTED = "halted"
    SUSPENDED = "suspended"
    PAUSED = "paused"


class Action(StrEnum):
    """What to do after a guest stopped by itself."""

    SHUTDOWN = "shutdown"
    START = "start"
    PAUSE = "pause"
    COREDUMP = "coredump"


class Hvm(Config, frozen=True, kw_only=True, tag="hvm"):
    """A fully virtual machine: firmware, or a kernel given directly."""

    #: what the machine boots from
    firmware: Literal["bios", "uefi"] = "bios"
    #: where it looks for something to boot, in this order
    boot_order: list[Literal["disk", "cdrom", "network"]] = field(
        default_factory=lambda: ["disk", "cdrom", "network"]
    )
    #: path of a kernel to boot instead of a disk
    kernel: Text | None = None
    #: path of its ramdisk
    ramdisk: Text | None = None
    #: its command line
    cmdline: Text | None = None


class Pv(Config, frozen=True, kw_only=True, tag="pv"):
    """A paravirtual guest."""

    #: path of the kernel
    kernel: Text
    #: path of its ramdisk
    ramdisk: Text | None = None
    #: its command line
    cmdline: Text | None = None


class Pvh(Config, frozen=True, kw_only=True, tag="pvh"):
    """A PVH guest: paravirtual devices in a hardware container."""

    #: path of the kernel
    kernel: Text
    #: path of its ramdisk
    ramdisk: Text | None = None
    #: its command line
    cmdline: Text | None = None


class Container(Config, frozen=True, kw_only=True, tag="container"):
    """A system container."""

    #: program and arguments of its first process; null: the image's own
    init: list[Text] | None = None
    #: variables of its first process
    environment: dict[str, Text] = {}
    #: its host name; null: the id
    hostname: Text | None = None
    #: root within is root of the host
    privileged: bool = False
    #: it may have containers of its own
    nesting: bool = False


Guest: TypeAlias = Hvm | Pv | Pvh | Container


class Scheduler(Config, frozen=True, kw_only=True):
    """CPU shares: weight (256 is one share), cap (percent of one CPU, 0: none), affinity
    (a list of CPU numbers for each vCPU)."""

    #: share of the CPUs, against other VMs
    weight: Annotated[int, Meta(ge=1, le=65535)] = 256
    #: percent of one CPU; 0: no limit
    cap: Count = 0
    #: for each vCPU the CPUs that it may use; []: any
    affinity: list[list[Count]] = []


class Vm(Config, frozen=True, kw_only=True):
    """The configuration that the next start uses."""

    #: its name for ever
    id: VmId
    #: "": the id if it is one, else derived from it
    uuid: Annotated[str, Meta(pattern=r"^$|^[0-9a-fA-F-]{36}(?!\n)$", description="a UUID")] = ""
    #: a name for people
    name: Text = ""
    #: what kind of guest it is
    guest: Guest = field(default_factory=Hvm)
    #: the most memory that it can ever have; fixed at its start
    memory_static_max: Memory = DEFAULT_MEMORY
    #: the most that the balloon gives; left out: memory_static_max
    memory_dynamic_max: Memory = cast("int", UNSET)
    #: the least that the balloon leaves; left out: memory_static_max
    memory_dynamic_min: Memory = cast("int", UNSET)
    #: the most vCPUs that it can have while it runs
    vcpu_max: Vcpus = 1
    #: vCPUs that it has; left out: vcpu_max
    vcpus: Vcpus = cast("int", UNSET)
    #: what to do, in order, after the guest has crashed
    on_crash: list[Action] = field(default_factory=lambda: [Action.SHUTDOWN])
    #: what to do, in order, after the guest has shut itself down
    on_shutdown: list[Action] = field(default_factory=lambda: [Action.SHUTDOWN])
    #: what to do, in order, after the guest has asked for a reboot
    on_reboot: list[Action] = field(default_factory=lambda: [Action.START])
    #: its share of the CPUs
    scheduler: Scheduler = field(default_factory=Scheduler)
    #: keys and values that the guest can read
    xsdata: dict[str, Text] = {}
    #: details of the machine: `machine`, `cpu`, `video`, `rtc_offset`, …; kept from its start on
    platform: dict[str, Text | int | float | bool] = {}
    #: start it when the host has started
    auto_start: bool = False

    def __post_init__(self) -> None:
        """Fill in what defaults to another field."""
        if cast("Any", self.memory_dynamic_max) is UNSET:
            force_setattr(self, "memory_dynamic_max", self.memory_static_max)
        if cast("Any", self.memory_dynamic_min) is UNSET:
            force_setattr(self, "memory_dynamic_min", self.memory_static_max)
        if cast("Any", self.vcpus) is UNSET:
            force_setattr(self, "vcpus", self.vcpu_max)
        if not self.uuid:
            force_setattr(self, "uuid", derived_uuid(self.id))


def derived_uuid(id: VmId) -> str:
    """The UUID of a VM that was given none: its id if that is one, else derived from it."""
    try:
        return str(uuids.UUID(id))
    except ValueError:
        return str(uuids.uuid5(UUID_NAMESPACE, id))


class Console(Fact, frozen=True, kw_only=True):
    """Where a console of a running VM is: a TCP port on loopback, or a socket's path."""

    #: how to talk to it, such as vnc or text
    protocol: str
    #: TCP port on loopback
    port: int | None = None
    #: path of a socket or terminal
    path: str | None = None


class Attention(Fact, frozen=True, kw_only=True):
    """The daemon is in doubt about a VM and has touched nothing."""

    #: what is in doubt
    reason: str
    #: when the doubt arose
    since: Timestamp


class RunningOperation(Fact, frozen=True, kw_only=True):
    """The operation at the head of a VM's queue."""

    #: its task; null for checks and repairs
    task: str | None
    #: the call, or what the daemon does by itself
    name: str
    #: the step under way
    micro_op: str | None
    #: when it began
    since: Timestamp


class VmState(Fact, frozen=True, kw_only=True):
    """What is observed of a VM."""

    #: what it is doing
    power_state: PowerState
    #: the hypervisor's ids; new at each start; [] without a domain
    domain_ids: list[str] = []
    #: names this one start; null without a domain
    incarnation: str | None = None
    #: when it was last looked at; null: not since the daemon's start
    observed_at: Timestamp | None = None
    #: where its consoles are
    consoles: list[Console] = []
    #: what the balloon was told
    memory_target: Bytes = 0
    #: what it has
    memory_actual: Bytes = 0
    #: the most that the hypervisor allows it now
    memory_limit: Bytes = 0
    #: vCPUs that it was told to use
    vcpu_target: Count = 0
    #: what its agent tells
    guest_agent: dict[str, Any] = {}
    #: its drivers know the hypervisor
    pv_drivers_detected: bool = False
    #: it does not give memory back that it was asked for
    uncooperative_balloon: bool = False
    #: when it was started
    last_start_time: Timestamp | None = None
    #: why it is in this power state
    reason: str = ""
    #: null, or why the daemon touches nothing
    attention: Attention | None = None
    #: null, or what goes on
    operation: RunningOperation | None = None
    #: operations that wait or go on
    queue_depth: Count = 0


class Difference(Fact, frozen=True, kw_only=True):
    """A field whose running value differs from the configured one."""

    #: the value that counts until the next start
    running: Any
    #: the value from then on
    configured: Any


class VmRecord(Fact, frozen=True, kw_only=True):
    """What VM.stat and VM.list answer; `config` is null where the record is damaged."""

    #: its id
    id: str
    #: its configuration; null where the record is damaged
    config: Vm | None
    #: what is observed
    state: VmState
    #: fields that count from the next start on
    pending: dict[str, Difference] = {}


class VmMetrics(Fact, frozen=True, kw_only=True):
    """Counters of one VM: CPU seconds since its start, bytes of memory, device throughput."""

    #: its id
    id: str
    #: when they were read; null: not yet
    observed_at: Timestamp | None = None
    #: CPU time since its start
    cpu_seconds: float = 0.0
    #: memory that it has
    memory: Bytes = 0
    #: counters of each VBD
    disks: dict[str, dict[str, int]] = {}
    #: counters of each VIF
    networks: dict[str, dict[str, int]] = {}
