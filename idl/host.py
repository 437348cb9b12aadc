"""HOST: the daemon and the machine it runs on."""

from typing import Any

from idl.wire import Bytes, Count, Fact, Timestamp

#: What a backend may say it can do (`HOST.query.features`).
FEATURES = frozenset(
    {
        "guest:hvm",
        "guest:pv",
        "guest:pvh",
        "guest:container",
        "suspend",
        "migrate",
        "vbd_hotplug",
        "vbd_force_unplug",
        "vif_hotplug",
        "pci",
        "vcpu_hotplug",
        "balloon",
        "console",
        "vnc",
        "guest_agent",
    }
)


class HostQuery(Fact, frozen=True, kw_only=True):
    """Who answers. `epoch` is new at each start of the daemon."""

    name: str
    version: str
    instance: str
    backend: str
    epoch: str
    features: list[str]
    recovering: bool


class Hypervisor(Fact, frozen=True, kw_only=True):
    """The hypervisor underneath."""

    name: str
    version: str
    capabilities: list[str] = []


class HostStat(Fact, frozen=True, kw_only=True):
    """The machine; `facts` are the backend's own."""

    cpu_count: Count
    memory_total: Bytes
    memory_free: Bytes
    hypervisor: Hypervisor
    kernel: str
    hostname: str
    facts: dict[str, Any] = {}


class ForeignDomain(Fact, frozen=True, kw_only=True):
    """A domain that is not this instance's."""

    id: str
    name: str
    why: str


class WorkerPool(Fact, frozen=True, kw_only=True):
    """The pool; `parked` are queues that wait without a worker, `queued` all operations."""

    size: Count
    busy: Count
    idle: Count
    parked: Count
    queued: Count


class RunningMicroOp(Fact, frozen=True, kw_only=True):
    """A micro-op under way: who holds it, for how long, until when it may."""

    name: str
    object: str
    holder: str
    age: float
    deadline: float | None
    written_off: bool = False


class QueuedOperation(Fact, frozen=True, kw_only=True):
    """An operation on a VM's queue."""

    name: str
    task: str | None
    state: str
    micro_ops: list[str] = []


class QueueDiagnostics(Fact, frozen=True, kw_only=True):
    """One VM's queue."""

    vm: str
    state: str
    operations: list[QueuedOperation]
    running: RunningMicroOp | None
    deadline: float | None


class Quarantined(Fact, frozen=True, kw_only=True):
    """A record that could not be read and was set aside."""

    vm: str | None
    path: str
    reason: str


class OpenIntent(Fact, frozen=True, kw_only=True):
    """An operation that the journal says has begun and not ended."""

    vm: str
    task: str | None
    operation: str
    direction: str
    done: int
    intended: str | None
    since: Timestamp | None = None


class Diagnostics(Fact, frozen=True, kw_only=True):
    """Everything that explains why something does not move."""

    queues: list[QueueDiagnostics]
    workers: dict[str, Any]
    tasks: dict[str, Any]
    updates: dict[str, Any]
    journal: list[OpenIntent]
    quarantined: list[Quarantined]
    versions: dict[str, str]
