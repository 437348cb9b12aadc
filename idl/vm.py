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

    firmware: Literal["bios", "uefi"] = "bios"
    boot_order: list[Literal["disk", "cdrom", "network"]] = field(
        default_factory=lambda: ["disk", "cdrom", "network"]
    )
    kernel: Text | None = None
    ramdisk: Text | None = None
    cmdline: Text | None = None


class Pv(Config, frozen=True, kw_only=True, tag="pv"):
    """A paravirtual guest."""

    kernel: Text
    ramdisk: Text | None = None
    cmdline: Text | None = None


class Pvh(Config, frozen=True, kw_only=True, tag="pvh"):
    """A PVH guest: paravirtual devices in a hardware container."""

    kernel: Text
    ramdisk: Text | None = None
    cmdline: Text | None = None


class Container(Config, frozen=True, kw_only=True, tag="container"):
    """A system container."""

    init: list[Text] | None = None
    environment: dict[str, Text] = {}
    hostname: Text | None = None
    privileged: bool = False
    nesting: bool = False


Guest: TypeAlias = Hvm | Pv | Pvh | Container


class Scheduler(Config, frozen=True, kw_only=True):
    """CPU shares: weight (256 is one share), cap (percent of one CPU, 0: none), affinity
    (a list of CPU numbers for each vCPU)."""

    weight: Annotated[int, Meta(ge=1, le=65535)] = 256
    cap: Count = 0
    affinity: list[list[Count]] = []


class Vm(Config, frozen=True, kw_only=True):
    """The configuration that the next start uses."""

    id: VmId
    #: "": the id if it is a UUID, else derived from it.
    uuid: Annotated[str, Meta(pattern=r"^$|^[0-9a-fA-F-]{36}(?!\n)$", description="a UUID")] = ""
    name: Text = ""
    guest: Guest = field(default_factory=Hvm)
    memory_static_max: Memory = DEFAULT_MEMORY
    memory_dynamic_max: Memory = cast("int", UNSET)
    memory_dynamic_min: Memory = cast("int", UNSET)
    vcpu_max: Vcpus = 1
    vcpus: Vcpus = cast("int", UNSET)
    on_crash: list[Action] = field(default_factory=lambda: [Action.SHUTDOWN])
    on_shutdown: list[Action] = field(default_factory=lambda: [Action.SHUTDOWN])
    on_reboot: list[Action] = field(default_factory=lambda: [Action.START])
    scheduler: Scheduler = field(default_factory=Scheduler)
    xsdata: dict[str, Text] = {}
    platform: dict[str, Text | int | float | bool] = {}
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

    protocol: str
    port: int | None = None
    path: str | None = None


class Attention(Fact, frozen=True, kw_only=True):
    """The daemon is in doubt about a VM and has touched nothing."""

    reason: str
    since: Timestamp


class RunningOperation(Fact, frozen=True, kw_only=True):
    """The operation at the head of a VM's queue."""

    task: str | None
    name: str
    micro_op: str | None
    since: Timestamp


class VmState(Fact, frozen=True, kw_only=True):
    """What is observed of a VM."""

    power_state: PowerState
    domain_ids: list[str] = []
    incarnation: str | None = None
    observed_at: Timestamp | None = None
    consoles: list[Console] = []
    memory_target: Bytes = 0
    memory_actual: Bytes = 0
    memory_limit: Bytes = 0
    vcpu_target: Count = 0
    guest_agent: dict[str, Any] = {}
    pv_drivers_detected: bool = False
    uncooperative_balloon: bool = False
    last_start_time: Timestamp | None = None
    reason: str = ""
    attention: Attention | None = None
    operation: RunningOperation | None = None
    queue_depth: Count = 0


class Difference(Fact, frozen=True, kw_only=True):
    """A field whose running value differs from the configured one."""

    running: Any
    configured: Any


class VmRecord(Fact, frozen=True, kw_only=True):
    """What VM.stat and VM.list answer; `config` is null where the record is damaged."""

    id: str
    config: Vm | None
    state: VmState
    pending: dict[str, Difference] = {}


class VmMetrics(Fact, frozen=True, kw_only=True):
    """Counters of one VM: CPU seconds since its start, bytes of memory, device throughput."""

    id: str
    cpu_seconds: float = 0.0
    memory: Bytes = 0
    disks: dict[str, dict[str, int]] = {}
    networks: dict[str, dict[str, int]] = {}
